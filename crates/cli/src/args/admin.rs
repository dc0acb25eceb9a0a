//! The arguments of `conclave admin`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};

use super::people::{Mode, REGISTRATION_HELP, USER_HELP, UserArgs};
use crate::certificates::Named;
use crate::parse;

const ADMIN_HELP: &str = "\
Any server accepts drain, undrain and rebalance from an operator, and forwards them to the server concerned. An operator is who has the cluster's admin token; for the cluster of your own `conclave up` it is found by itself. A server without a token accepts operators of its own machine.

Examples:
  conclave admin ca init --dir pki     before the first start of a cluster with TLS between its servers
  conclave admin drain node2           before node2 is stopped or its machine is restarted
  conclave admin undrain node2         when it is not stopped after all
  conclave admin rebalance             after many servers came back
  conclave admin user ada --role admin
  conclave admin registration invite   a name without a password opens to nobody any more
  conclave admin --admin-token-file /run/secrets/admin drain node2";

const DRAIN_HELP: &str = "\
The server is no longer ready, redirects its clients to other servers, and hands over its leaderships. It keeps its \
replicas, and stays drained until it is restarted or undrained. Nothing is lost and no send fails.

A server is drained only with --force if too few of the others are ready: once it is stopped, there is no majority, and \
nothing can be sent.

Ends with 0 when the server has no clients and no leaderships left, with 1 when some are left after the timeout.";

const UNDRAIN_HELP: &str = "\
The server is ready again and takes clients. It gets the leaderships for which it is the preferred server back within some \
seconds. A server that is not drained stays as it is.";

const REBALANCE_HELP: &str = "\
Asks servers with more clients than others to redirect some of them there. Servers do this by themselves when the spread \
has been uneven for a while; this command does it now. Clients continue without a gap.";

const CA_INIT_HELP: &str = "\
Prints the id of the authority, which becomes the id of a cluster that begins with it. Keep ca.key where only you can read \
it: whoever has it can act as any server. Servers never read it. An authority that is there already stays as it is, so a \
service may run this at each start.";

const CA_ISSUE_HELP: &str = "\
Give the names of all servers that the cluster begins with, as in --initial-cluster (its whole value can be given), and by \
--dns those of the name servers, whose names end with their numbers (the value of --name-servers can be given). Each gets a \
directory of its name in --dir, for its --tls-dir. Hosts are the names and addresses under which others reach it, such as \
Prometheus; without any, a certificate keeps those that it has. A certificate is valid for 90 days; issue or renew again, \
daily if you like: only what has less than 30 days left is renewed, and servers use the new files within 30 s.

Examples:
  conclave admin ca issue --dir pki n1 n2 n3 --dns ns1 --dns ns2
  conclave admin ca issue --dir pki 'n1=n1.example.org,10.0.0.1;n2=10.0.0.2' --dns 'ns1=10.0.0.53'
  conclave server --name n1 --tls-dir pki/n1 ...
  conclave dns --tls-dir pki/ns1 ...
  conclave admin ca issue --dir pki --chaos chaos=chaos.example.org
  conclave-chaos serve --listen [::]:9464 --pages-tls-dir pki/chaos ...";

const CA_RENEW_HELP: &str = "\
Renews every certificate of the authority that lies in a directory in --dir and has less than 30 days left, with the names \
that it has. Servers and name servers use the new files within 30 s.

Examples:
  conclave admin ca renew --dir pki                  once, from cron
  conclave admin ca renew --dir pki --every 12h      until it is stopped, as a service";

const CA_REQUEST_HELP: &str = "\
Run it where the server runs: the key stays there, and the request, which is printed, goes to the authority. Running it \
again makes a request for the same key.

Examples:
  conclave admin ca request --dir /etc/conclave/tls >n2.csr
  conclave admin ca sign --dir pki --request n2.csr --for n2 n1 n2 n3      where the authority is";

const CA_SIGN_HELP: &str = "\
The names in the certificate are those given here, never those of the request. Give the names as for `conclave admin ca \
issue`, and one of them by --for. Bring ca.pem and node.pem of the directory of that name to the owner of the request, \
beside its node.key. `renew` and `issue` renew the certificate for the same key; bring node.pem again then.

Examples:
  conclave admin ca sign --dir pki --request n2.csr --for n2 n1 n2=n2.example.org n3
  ssh ns1 conclave admin ca request --dir tls | conclave admin ca sign --dir pki --request - --for ns1 --dns ns1";

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
        /// Drain it even if too few other servers are ready for a majority
        #[arg(long)]
        force: bool,
    },
    /// Use a drained server again, without a restart
    #[command(after_help = UNDRAIN_HELP)]
    Undrain {
        /// The server's name, as `conclave status` shows it
        node: String,
    },
    /// Make the certificates with which servers prove themselves to each other
    Ca {
        #[command(subcommand)]
        command: CaCommand,
    },
    /// Show or set who may make accounts
    #[command(after_help = REGISTRATION_HELP)]
    Registration {
        /// Who may make accounts
        #[arg(value_enum)]
        mode: Option<Mode>,
    },
    /// Make an account, or change its kind and role, or disable it
    #[command(after_help = USER_HELP)]
    User(UserArgs),
    /// Spread the clients evenly over the servers, now
    #[command(after_help = REBALANCE_HELP)]
    Rebalance,
}

/// `conclave admin ca …`
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Make a certificate authority, unless there is one
    #[command(after_help = CA_INIT_HELP)]
    Init {
        /// Directory of its key and certificate; created if it does not exist
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Issue or renew the certificates of servers, name servers, chaos controllers and receivers of alerts
    #[command(after_help = CA_ISSUE_HELP)]
    Issue {
        /// The directory of the authority
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        #[command(flatten)]
        owners: Owners,
    },
    /// Renew all certificates that are due
    #[command(after_help = CA_RENEW_HELP)]
    Renew {
        /// The directory of the authority
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Look again and again, with this pause, until stopped
        #[arg(long, value_name = "TIME", value_parser = pause)]
        every: Option<Duration>,
    },
    /// Make a key, and a signing request for a certificate
    #[command(after_help = CA_REQUEST_HELP)]
    Request {
        /// The --tls-dir of the server or name server; created if it does not exist
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Sign the request of a server or name server that keeps its key
    #[command(after_help = CA_SIGN_HELP)]
    Sign {
        /// The directory of the authority
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The file with the request, or - for stdin
        #[arg(long, value_name = "FILE")]
        request: PathBuf,
        /// The name of the server or name server whose request it is
        #[arg(long = "for", value_name = "NAME")]
        name: String,
        #[command(flatten)]
        owners: Owners,
    },
}

/// The owners of certificates.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Owners {
    /// All servers that the cluster begins with: NAME or NAME=HOST,HOST, separated by spaces or ;
    #[arg(required_unless_present_any = ["dns", "chaos", "alerts"], value_name = "NAME", value_delimiter = ';', value_parser = named)]
    pub(crate) names: Vec<Named>,
    /// Name servers, whose names end with their numbers: NAME or NAME=HOST,HOST; repeat it or separate by ;
    #[arg(long, value_name = "NAME", value_delimiter = ';', value_parser = named)]
    pub(crate) dns: Vec<Named>,
    /// Chaos controllers (conclave-chaos), for the directory that --pages-tls-dir names: NAME or NAME=HOST,HOST
    #[arg(long, value_name = "NAME", value_delimiter = ';', value_parser = named)]
    pub(crate) chaos: Vec<Named>,
    /// Receivers of alerts (conclave alerts), for the directory that --tls-dir names: NAME or NAME=HOST,HOST
    #[arg(long, value_name = "NAME", value_delimiter = ';', value_parser = named)]
    pub(crate) alerts: Vec<Named>,
}

/// `NAME` or `NAME=HOST,HOST`; a host may be followed by a port, as in --initial-cluster.
fn named(text: &str) -> Result<Named, String> {
    let (name, hosts) = text.trim().split_once('=').unwrap_or((text.trim(), ""));
    if name.is_empty() {
        return Err(format!("{text:?} is neither NAME nor NAME=HOST,HOST"));
    }
    let hosts = hosts.split(',').map(str::trim).filter(|host| !host.is_empty());
    Ok(Named { name: name.to_owned(), hosts: hosts.map(|host| without_port(host).to_owned()).collect() })
}

fn without_port(host: &str) -> &str {
    if host.parse::<IpAddr>().is_ok() {
        return host;
    }
    let host = match host.rsplit_once(':') {
        Some((before, port)) if port.parse::<u16>().is_ok() => before,
        _ => host,
    };
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn pause(text: &str) -> Result<Duration, String> {
    let pause = parse::duration(text)?;
    if pause < RENEW_EVERY_MIN {
        return Err("--every must be at least 1s; 12h is frequent enough".to_owned());
    }
    Ok(pause)
}

/// Shortest pause between two renewals.
const RENEW_EVERY_MIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_named_as_in_the_initial_cluster() {
        let parsed = |text| named(text).map(|named| (named.name, named.hosts));
        let found = |name: &str, hosts: &[&str]| {
            Ok((name.to_owned(), hosts.iter().map(|host| (*host).to_owned()).collect()))
        };
        assert_eq!(parsed("n1"), found("n1", &[]));
        assert_eq!(parsed(" n1.a=10.0.0.1"), found("n1.a", &["10.0.0.1"]));
        assert_eq!(parsed("n1=a:7400,a:7401,[::1]:7480"), found("n1", &["a", "a", "::1"]));
        assert_eq!(parsed("ns1=10.0.0.53,fd00::53"), found("ns1", &["10.0.0.53", "fd00::53"]));
        assert!(parsed("").is_err() && parsed("=a").is_err());
    }
}
