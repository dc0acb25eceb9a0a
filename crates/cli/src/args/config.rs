//! The arguments of `conclave config`.

use clap::{Args as ClapArgs, Subcommand};

const CONFIG_HELP: &str = "\
A file of --config FILE (CONCLAVE_CONFIG) has values for flags, in TOML; its keys are the long names of flags:

  timeout = \"30s\"
  server = [\"10.0.0.1:7400\", \"10.0.0.2:7400\"]

It may have every flag of `conclave server` and `conclave dns`, the global options, and those of other commands that have an \
environment variable. A flag on the command line comes first, then an environment variable, then the file, then the default. A \
command passes over keys that only other commands have; a key that no command has is an error. Relative paths begin where the \
command runs.";

const SHOW_HELP: &str = "\
Values that name a secret are printed as (set).

Examples:
  conclave config show                                    the settings of client commands
  conclave --config /etc/conclave/n1.toml config show server
  conclave config show server --timing wan                as if this command ran
  conclave config show dns --json | jq 'select(.from != \"default\")'";

/// `conclave config`
#[derive(Debug, ClapArgs)]
#[command(after_help = CONFIG_HELP)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

/// `conclave config …`
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print each setting, its value, and where the value comes from
    #[command(after_help = SHOW_HELP)]
    Show(ShowArgs),
}

/// `conclave config show`
#[derive(Debug, ClapArgs)]
pub(crate) struct ShowArgs {
    /// The command to show the settings of, and flags of it [default: those that all client commands share]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub(crate) words: Vec<String>,
}
