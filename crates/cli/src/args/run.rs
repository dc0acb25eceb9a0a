//! The arguments that servers and name servers share.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};
use conclave_net::Plain;

/// The default log filter of servers and name servers. Without openraft's warnings: it logs each heartbeat and each vote that
/// does not arrive, hundreds of lines a second while a node is dead, where "link lost" and "link up" of the server say the
/// same in one line for each change. Without the two lines that hickory logs for each DNS query.
pub(crate) const LOG_DEFAULT: &str = "info,openraft=error,hickory_server=warn";

/// Logging and shutdown.
#[derive(Debug, ClapArgs)]
pub(crate) struct RunArgs {
    /// What to log: a level, or directives such as info,openraft=warn
    #[arg(long, env = "RUST_LOG", value_name = "FILTER", default_value = LOG_DEFAULT)]
    pub(crate) log: String,
    /// The format of the log
    #[arg(long, env = "CONCLAVE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// Shut down when stdin closes, so that this process never outlives the one that started it
    #[arg(long, env = "CONCLAVE_EXIT_WITH_STDIN")]
    pub(crate) exit_with_stdin: bool,
}

/// The format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// For programs, one object a line
    Json,
}

/// The file with the admin token.
#[derive(Clone, Debug, Default, ClapArgs)]
pub(crate) struct AdminTokenArgs {
    /// A file with the cluster's admin token, the same at every server and name server. With it, the calls of operators
    /// (conclave admin, fault injection, reflection) need the token; without it, they are accepted from this machine only
    #[arg(long, env = "CONCLAVE_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub(crate) admin_token_file: Option<PathBuf>,
}

/// The file with the cluster's secret.
#[derive(Debug, ClapArgs)]
pub(crate) struct SecretArgs {
    /// A file with the cluster's secret, the same at every server and name server: messages without it are refused.
    /// Make one with: (umask 077; head -c 32 /dev/urandom | base64 > FILE)
    #[arg(long, env = "CONCLAVE_SECRET_FILE", value_name = "FILE")]
    pub(crate) secret_file: Option<PathBuf>,
}

/// What a server or name server does with those who do not use TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TlsMode {
    /// Refuse them
    Require,
    /// Speak to them without TLS: only while a cluster is changed over to TLS
    Accept,
}

impl TlsMode {
    pub(crate) fn plain(self) -> Plain {
        match self {
            Self::Require => Plain::Refuse,
            Self::Accept => Plain::Accept,
        }
    }
}
