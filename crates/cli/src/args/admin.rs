//! `conclave admin`: what operators do to a running cluster.

use clap::{Args as ClapArgs, Subcommand};

const ADMIN_HELP: &str = "\
Any server takes these commands and passes them on to the one that they are for.

Examples:
  conclave admin drain node2           before node2 is stopped or its machine is restarted
  conclave admin rebalance             after many servers came back";

const DRAIN_HELP: &str = "\
The server is no longer ready, tells its clients where to go, and hands over what it leads. It keeps its replicas, and \
stays drained until it is restarted. Nothing is lost and no send fails.

Ends with 0 when nothing is left on it, with 1 when some clients or leaderships would not go in time.";

const REBALANCE_HELP: &str = "\
Asks servers with more clients than others to send some of them there. Servers do this by themselves when the spread is \
bad for a while; this does it now. Clients continue without a gap.";

/// `conclave admin`
#[derive(Debug, ClapArgs)]
#[command(after_help = ADMIN_HELP)]
pub(crate) struct AdminArgs {
    #[command(subcommand)]
    pub(crate) command: AdminCommand,
}

/// `conclave admin …`
#[derive(Debug, Subcommand)]
pub(crate) enum AdminCommand {
    /// Give a server's work away before it is stopped
    #[command(after_help = DRAIN_HELP)]
    Drain {
        /// The server's name, as `conclave status` shows it
        node: String,
    },
    /// Spread the clients evenly over the servers, now
    #[command(after_help = REBALANCE_HELP)]
    Rebalance,
}
