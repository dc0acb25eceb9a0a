//! The arguments of `conclave admin`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

const ADMIN_HELP: &str = "\
Any server accepts drain and rebalance from an operator, and forwards them to the server concerned. An operator is who has the cluster's admin token; for the cluster of your own `conclave up` it is found by itself. A server without a token accepts operators of its own machine.

Examples:
  conclave admin ca init --dir pki     before the first start of a cluster with TLS between its servers
  conclave admin drain node2           before node2 is stopped or its machine is restarted
  conclave admin rebalance             after many servers came back
  conclave admin --admin-token-file /run/secrets/admin drain node2";

const DRAIN_HELP: &str = "\
The server is no longer ready, redirects its clients to other servers, and hands over its leaderships. It keeps its \
replicas, and stays drained until it is restarted. Nothing is lost and no send fails.

The last ready server is drained only with --force: nobody could join a room then until a server is restarted.

Ends with 0 when the server has no clients and no leaderships left, with 1 when some are left after the timeout.";

const REBALANCE_HELP: &str = "\
Asks servers with more clients than others to redirect some of them there. Servers do this by themselves when the spread \
has been uneven for a while; this command does it now. Clients continue without a gap.";

const CA_INIT_HELP: &str = "\
Prints the id of the authority, which becomes the id of a cluster that begins with it. Keep ca.key where only you can read \
it: whoever has it can act as any server. Servers never read it.";

const CA_ISSUE_HELP: &str = "\
Give the names of all servers that the cluster begins with, as in --initial-cluster. Each gets a directory of its name in \
--dir, for its --tls-dir. A certificate is valid for 90 days; issue again, daily if you like: only what has less than 30 \
days left is renewed, and servers use the new files within 30 s.

Examples:
  conclave admin ca issue --dir pki n1 n2 n3
  conclave server --name n1 --tls-dir pki/n1 ...";

/// `conclave admin`
#[derive(Debug, ClapArgs)]
#[command(after_help = ADMIN_HELP)]
pub(crate) struct AdminArgs {
    /// A file with the cluster's admin token [default: the one of your own `conclave up`]
    #[arg(
        long,
        env = "CONCLAVE_ADMIN_TOKEN_FILE",
        value_name = "FILE",
        global = true,
        hide_env_values = true
    )]
    pub(crate) admin_token_file: Option<PathBuf>,
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
        /// Drain it even if no other server is ready
        #[arg(long)]
        force: bool,
    },
    /// Make the certificates with which servers prove themselves to each other
    Ca {
        #[command(subcommand)]
        command: CaCommand,
    },
    /// Spread the clients evenly over the servers, now
    #[command(after_help = REBALANCE_HELP)]
    Rebalance,
}

/// `conclave admin ca …`
#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Make a certificate authority
    #[command(after_help = CA_INIT_HELP)]
    Init {
        /// Directory of its key and certificate; created if it does not exist
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Leave an authority that is there already as it is
        #[arg(long)]
        if_missing: bool,
    },
    /// Issue or renew the certificates of the servers
    #[command(after_help = CA_ISSUE_HELP)]
    Issue {
        /// The directory of the authority
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The names of all servers that the cluster begins with
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}
