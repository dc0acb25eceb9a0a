//! The arguments of `conclave alerts`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::run::RunArgs;
use crate::parse;

pub(crate) const ALERTS_HELP: &str = "\
Takes the webhooks of an Alertmanager (version 4 of its payload) at /alerts and sends one line for each: which alerts of a \
group began to fire and which are resolved, with their summaries. It answers 200 once the line and the new states of the \
alerts are on disk here, written as one, and the line is sent, once, as soon as a majority takes it. So a webhook that is \
repeated, by an Alertmanager that missed the answer, after its repeat_interval, or by a second Alertmanager, adds nothing; \
an alert that fires again does.

On a loopback address it needs neither a token nor TLS. Beyond, it needs --token-file, and --tls-dir or --listen-insecure. \
/livez, /readyz and /metrics are at the same address.

Examples:
  conclave alerts --create ops
  conclave alerts ops --listen 0.0.0.0:9099 --tls-dir pki/alerts --token-file alerts-token

In alertmanager.yml:
  receivers:
    - name: conclave
      webhook_configs: [{url: 'http://127.0.0.1:9099/alerts'}]";

/// `conclave alerts`
#[derive(Debug, ClapArgs)]
pub(crate) struct AlertsArgs {
    /// The room, with or without its #
    #[arg(value_parser = parse::room)]
    pub(crate) room: String,
    /// Where to take webhooks
    #[arg(long, env = "CONCLAVE_ALERTS_LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:9099")]
    pub(crate) listen: SocketAddr,
    /// A file with the token that webhooks must send (http_config.authorization of the receiver). Make one with:
    /// (umask 077; openssl rand -hex 32 > FILE)
    #[arg(long, env = "CONCLAVE_ALERTS_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The directory with this receiver's certificate (ca.pem, node.pem, node.key; `conclave admin ca issue --alerts`), which
    /// is used beyond loopback
    #[arg(long, env = "CONCLAVE_ALERTS_TLS_DIR", value_name = "DIR")]
    pub(crate) tls_dir: Option<PathBuf>,
    /// Listen beyond loopback without TLS: anybody on the way can read the token and the alerts
    #[arg(long, env = "CONCLAVE_LISTEN_INSECURE")]
    pub(crate) listen_insecure: bool,
    /// The name under which the states of alerts are kept; give each receiver of a user its own
    #[arg(long, value_name = "NAME", default_value = "alerts", value_parser = parse::room)]
    pub(crate) name: String,
    /// Create the room if it does not exist
    #[arg(long)]
    pub(crate) create: bool,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}
