//! What everything that runs until it is stopped takes: servers and resolvers.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};

/// What a server and a resolver log unless they are told otherwise: not two lines for each DNS query.
pub(crate) const LOG_DEFAULT: &str = "info,openraft=warn,hickory_server=warn";

/// How it logs and when it stops.
#[derive(Debug, ClapArgs)]
pub(crate) struct RunArgs {
    /// What to log: a level, or directives such as info,openraft=warn
    #[arg(long, env = "RUST_LOG", value_name = "FILTER", default_value = LOG_DEFAULT)]
    pub(crate) log: String,
    /// How to log
    #[arg(long, env = "CONCLAVE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// Stop in an orderly way when stdin closes, so that this process never outlives what started it
    #[arg(long, env = "CONCLAVE_EXIT_WITH_STDIN")]
    pub(crate) exit_with_stdin: bool,
}

/// How the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// For programs, one object a line
    Json,
}

/// Where the cluster's secret is.
#[derive(Debug, ClapArgs)]
pub(crate) struct SecretArgs {
    /// A file with the cluster's secret, the same at every server and every resolver: only who knows it is believed.
    /// Make one with: (umask 077; head -c 32 /dev/urandom | base64 > FILE)
    #[arg(long, env = "CONCLAVE_SECRET_FILE", value_name = "FILE")]
    pub(crate) secret_file: Option<PathBuf>,
}
