//! The arguments of `conclave admin`.

use clap::{Args as ClapArgs, Subcommand};

const ADMIN_HELP: &str = "\
Any server accepts these commands and forwards them to the server concerned.

Examples:
  conclave admin drain node2           before node2 is stopped or its machine is restarted
  conclave admin rebalance             after many servers came back";

const DRAIN_HELP: &str = "\
The server is no longer ready, redirects its clients to other servers, and hands over its leaderships. It keeps its \
replicas, and stays drained until it is restarted. Nothing is lost and no send fails.

Ends with 0 when the server has no clients and no leaderships left, with 1 when some are left after the timeout.";

const REBALANCE_HELP: &str = "\
Asks servers with more clients than others to redirect some of them there. Servers do this by themselves when the spread \
has been uneven for a while; this command does it now. Clients continue without a gap.";

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
    /// Move a server's clients and leaderships to others before it is stopped
    #[command(after_help = DRAIN_HELP)]
    Drain {
        /// The server's name, as `conclave status` shows it
        node: String,
    },
    /// Spread the clients evenly over the servers, now
    #[command(after_help = REBALANCE_HELP)]
    Rebalance,
}
