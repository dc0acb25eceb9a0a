//! The arguments of `conclave server` and `conclave up`, as flags or environment variables.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use conclave_client::find::CLIENT_PORT;
use conclave_core::level::FEATURE_LEVEL;
use conclave_core::limits::{CLIENTS_MAX_DEFAULT, LOG_TAIL_BYTES_DEFAULT, NODES_MAX, SHARDS_MAX};
use conclave_net::PublicFiles;
use conclave_server::{CONNECTIONS_PER_ADDRESS_MAX_DEFAULT, Config, Faults, Member, NodeTls, Timing};

use super::run::{AdminTokenArgs, LOG_DEFAULT, RunArgs, SecretArgs, TlsMode};
use crate::parse;

/// The default port for other nodes.
const PEER_PORT: u16 = 7401;
/// The default port for health and metrics.
const HTTP_PORT: u16 = 7480;

const SERVER_HELP: &str = "\
Every flag can also be given as an environment variable. SIGTERM or SIGINT drains: the server moves its clients and its \
leaderships to other servers, then stops; a second signal stops it at once. A node's name and directory belong together \
for ever: never start an empty directory under a name that the cluster knows.

Examples:
  conclave server --dir data                     a cluster of one
  conclave server --name n1 --dir data --listen [::]:7400 --peer-listen [::]:7401 \\
      --tls-dir pki/n1 --initial-cluster 'n1=10.0.0.1;n2=10.0.0.2;n3=10.0.0.3'
  conclave server --name n1 --initial-cluster 'n1=a:7400,a:7401,a:7480;n2=b:7400,b:7401,b:7480' ...
  conclave server ... --resolvers 10.0.0.53:7454,10.0.1.53:7454 --secret-file /run/secrets/conclave";

/// `conclave server`
#[derive(Debug, ClapArgs)]
#[command(after_help = SERVER_HELP)]
pub(crate) struct ServerArgs {
    /// This node's name, one of --initial-cluster
    #[arg(long, env = "CONCLAVE_NAME", default_value = "node1")]
    pub(crate) name: String,
    /// The data directory; created if it does not exist
    #[arg(long, env = "CONCLAVE_DIR", default_value = "conclave-data")]
    pub(crate) dir: PathBuf,
    /// The cluster's name; nodes of another cluster are refused
    #[arg(long, env = "CONCLAVE_CLUSTER", default_value = "conclave")]
    pub(crate) cluster: String,
    /// The nodes that the cluster begins with, the same at each of them: NAME=HOST or NAME=CLIENT,PEER,HTTP with
    /// host:port each, separated by ; [default: this node alone]
    #[arg(long, env = "CONCLAVE_INITIAL_CLUSTER", value_name = "NODES", value_delimiter = ';')]
    #[arg(value_parser = member)]
    pub(crate) initial_cluster: Vec<Member>,
    /// Where clients connect
    #[arg(long, env = "CONCLAVE_LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:7400")]
    pub(crate) listen: SocketAddr,
    /// Where other nodes connect
    #[arg(long, env = "CONCLAVE_PEER_LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:7401")]
    pub(crate) peer_listen: SocketAddr,
    /// Where health and metrics are
    #[arg(long, env = "CONCLAVE_HTTP_LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:7480")]
    pub(crate) http_listen: SocketAddr,
    /// Where people's browsers connect, for example 127.0.0.1:7490: a web client, and the HTTP API [default: nowhere]
    #[arg(long, env = "CONCLAVE_WEB", value_name = "IP:PORT")]
    pub(crate) web: Option<SocketAddr>,
    /// The origin at which browsers reach --web, for example `https://chat.example:7490` [default: the host of this node's client
    /// address in --initial-cluster, with the port of --web]
    #[arg(long, env = "CONCLAVE_WEB_ORIGIN", value_name = "URL", requires = "web")]
    pub(crate) web_origin: Option<String>,
    /// Number of shards of the rooms; fixed when the cluster is created
    #[arg(long, env = "CONCLAVE_SHARDS", default_value_t = 8)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(SHARDS_MAX)))]
    pub(crate) shards: u32,
    /// Replicas of each shard [default: all initial nodes, at most 7]
    #[arg(long, env = "CONCLAVE_REPLICAS")]
    pub(crate) replicas: Option<usize>,
    /// How soon a silent leader is replaced
    #[arg(long, env = "CONCLAVE_TIMING", value_enum, default_value_t = TimingArg::Auto)]
    pub(crate) timing: TimingArg,
    /// Log kept after snapshots for followers that lag, for example 64MiB
    #[arg(long, env = "CONCLAVE_LOG_TAIL", value_name = "SIZE", value_parser = parse::size)]
    #[arg(default_value_t = LOG_TAIL_BYTES_DEFAULT)]
    pub(crate) log_tail: u64,
    /// Space to keep free on the disk, for example 1GiB: with less, the server refuses writes, and leads only what nobody
    /// else can. 0 is none [default: 5 % of the disk, 64MiB to 1GiB]
    #[arg(long, env = "CONCLAVE_DISK_RESERVE", value_name = "SIZE", value_parser = parse::size)]
    pub(crate) disk_reserve: Option<u64>,
    /// Name servers to register with: host:port of their gRPC API, port 7454; repeat it or separate by commas
    #[arg(long, env = "CONCLAVE_RESOLVERS", value_name = "HOST:PORT", value_delimiter = ',')]
    #[arg(value_parser = parse::name_server_grpc)]
    pub(crate) resolvers: Vec<String>,
    #[command(flatten)]
    pub(crate) secret: SecretArgs,
    #[command(flatten)]
    pub(crate) admin_token: AdminTokenArgs,
    /// The directory with this node's certificate (ca.pem, node.pem, node.key): nodes prove themselves to each other, to name
    /// servers and to clients, and encrypt what they say; pages beyond this machine have TLS, too. A new cluster's id is that of
    /// its certificate authority
    #[arg(long, env = "CONCLAVE_TLS_DIR", value_name = "DIR")]
    pub(crate) tls_dir: Option<PathBuf>,
    /// What to do with other nodes, name servers and clients that do not use TLS
    #[arg(long, env = "CONCLAVE_TLS", value_enum, default_value_t = TlsMode::Require, requires = "tls_dir")]
    pub(crate) tls: TlsMode,
    /// Listen beyond this machine although there is no --tls-dir: anybody on the way can read and change what is said
    #[arg(long, env = "CONCLAVE_LISTEN_INSECURE")]
    pub(crate) listen_insecure: bool,
    /// A certificate for a public name, in PEM, with those of the authorities behind it: clients that connect by this name and do
    /// not know the cluster yet are shown it, and believe it if their system knows the authority. A new file is used within 30 s
    #[arg(long, env = "CONCLAVE_TLS_CERT", value_name = "FILE", requires_all = ["tls_dir", "tls_key"])]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert, readable by its user alone
    #[arg(long, env = "CONCLAVE_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Clients that may subscribe here at the same time; further ones are redirected to other servers
    #[arg(long, env = "CONCLAVE_MAX_CLIENTS", value_name = "N", default_value_t = CLIENTS_MAX_DEFAULT)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_clients: u32,
    /// Connections that one address may have to the client port; one /64 of IPv6 counts as one address, and this machine may
    /// have more. Raise it where clients come through a proxy or by address translation
    #[arg(long, env = "CONCLAVE_MAX_CONNECTIONS_PER_ADDRESS", value_name = "N")]
    #[arg(default_value_t = CONNECTIONS_PER_ADDRESS_MAX_DEFAULT, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_connections_per_address: u32,
    /// Highest feature level to offer; a lower one than the default holds the cluster back, so that every server can go back
    /// to the version before
    #[arg(long, env = "CONCLAVE_FEATURE_LEVEL", value_name = "N", default_value_t = FEATURE_LEVEL)]
    pub(crate) feature_level: u32,
    /// Whether to announce the server on the local network by multicast DNS
    #[arg(long, env = "CONCLAVE_MDNS", value_enum, default_value_t = Mdns::Auto)]
    pub(crate) mdns: Mdns,
    /// Enable fault injection (see conclave-chaos), for testing only: operators may isolate this server, slow it down, fail
    /// its disk, and move its clock. Needs --admin-token-file unless --listen is a loopback address
    #[arg(long, env = "CONCLAVE_ALLOW_FAULTS")]
    pub(crate) allow_faults: bool,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// [`Timing`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TimingArg {
    /// Within 300 ms, and up to 2 s where heartbeats come late, such as on a busy machine: nodes near each other
    Auto,
    /// Within 150 to 300 ms: nodes near each other
    Lan,
    /// Within 1.5 to 3 s: nodes far from each other
    Wan,
}

/// Whether a server is announced on the local network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mdns {
    /// Yes, but not with --timing wan, nor if --listen is a loopback address
    Auto,
    /// Yes
    On,
    /// No
    Off,
}

impl Mdns {
    /// The word on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

impl ServerArgs {
    /// The server's configuration.
    pub(crate) fn config(&self) -> Config {
        let listen = [self.listen, self.peer_listen, self.http_listen];
        let initial = if self.initial_cluster.is_empty() {
            let [client, peer, http] = listen.map(|address| address.to_string());
            vec![Member { name: self.name.clone(), peer, client, http }]
        } else {
            self.initial_cluster.clone()
        };
        let mut config = Config::new(self.name.clone(), self.dir.clone(), initial, listen);
        config.cluster_name.clone_from(&self.cluster);
        config.web_listen = self.web;
        config.web_origin.clone_from(&self.web_origin);
        config.shards = self.shards;
        config.replicas = self.replicas;
        config.timing = match self.timing {
            TimingArg::Auto => Timing::Auto,
            TimingArg::Lan => Timing::Lan,
            TimingArg::Wan => Timing::Wan,
        };
        config.log_tail_bytes = self.log_tail;
        config.disk_reserve = self.disk_reserve;
        config.max_clients = self.max_clients;
        config.connections_per_address_max = self.max_connections_per_address;
        config.feature_level = self.feature_level;
        config.name_servers.clone_from(&self.resolvers);
        let public = self.tls_cert.clone().zip(self.tls_key.clone());
        let public = public.map(|(certificate, key)| PublicFiles { certificate, key });
        config.tls = self.tls_dir.clone().map(|dir| NodeTls { dir, plain: self.tls.plain(), public });
        config.insecure = self.listen_insecure;
        config.faults = self.allow_faults.then(Faults::default);
        config
    }

    /// Whether to announce the server on the local network.
    pub(crate) fn announces(&self) -> bool {
        match self.mdns {
            Mdns::Auto => self.timing != TimingArg::Wan && !self.listen.ip().is_loopback(),
            Mdns::On => true,
            Mdns::Off => false,
        }
    }
}

/// `NAME=HOST` or `NAME=CLIENT,PEER,HTTP`.
fn member(text: &str) -> Result<Member, String> {
    let wrong = || format!("{text:?} is neither NAME=HOST nor NAME=CLIENT,PEER,HTTP with host:port each");
    let (name, addresses) = text.trim().split_once('=').ok_or_else(wrong)?;
    let addresses: Vec<&str> = addresses.split(',').map(str::trim).collect();
    let (client, peer, http) = match addresses.as_slice() {
        [host] if !host.is_empty() && (!host.contains(':') || host.ends_with(']')) => {
            let at = |port: u16| format!("{host}:{port}");
            (at(CLIENT_PORT), at(PEER_PORT), at(HTTP_PORT))
        }
        [client, peer, http] => ((*client).to_owned(), (*peer).to_owned(), (*http).to_owned()),
        _ => return Err(wrong()),
    };
    if name.is_empty() {
        return Err(wrong());
    }
    Ok(Member { name: name.to_owned(), peer, client, http })
}

const UP_HELP: &str = "\
Starts real server processes, each with its own directory and ports, waits until every shard has a leader, and prints \
commands to try next. Node i listens at base-port + 10 * (i - 1) for clients, at the next two ports for peers and HTTP, and 6 ports above its first \
for browsers. \
A name server (`conclave dns`) runs beside them: DNS at base-port + 53, where servers register and HTTP at the next two. \
A process that dies is restarted after 3 s. Ctrl-C stops all of them; so does the end of this command, even by kill -9.

The same --dir continues the same cluster, with the number of nodes and shards that it began with.

A new cluster is for you and whom you invite: at the first start you become its admin, without a password, and `conclave invite NAME` \
prints how somebody else joins. With --open or --ephemeral everybody on this machine may use it under any name.

Examples:
  conclave up
  conclave up --ephemeral --nodes 5               nothing is kept
  conclave up --open --dir /tmp/play              names without passwords
  conclave up restart node2                       in another terminal; `conclave stop` stops all
  conclave up --no-restart                        to kill -9 a server and watch the failover
  conclave up --json --base-port 9000 --dir /tmp/demo";

/// `conclave up`
#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = UP_HELP, args_conflicts_with_subcommands = true)]
pub(crate) struct UpArgs {
    #[command(subcommand)]
    pub(crate) command: Option<UpCommand>,
    /// The number of servers [default: 3, or the one saved in the directory]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=NODES_MAX as i64))]
    pub(crate) nodes: Option<u16>,
    /// The directory of the cluster [default: $XDG_DATA_HOME/conclave/up]
    #[arg(long, value_name = "DIR", conflicts_with = "ephemeral")]
    pub(crate) dir: Option<PathBuf>,
    /// Use a temporary directory, removed at the end
    #[arg(long)]
    pub(crate) ephemeral: bool,
    /// The first port [default: 7400, or the one saved in the directory]
    #[arg(long, value_name = "PORT")]
    pub(crate) base_port: Option<u16>,
    /// Number of shards of the rooms [default: 8, or the number saved in the directory]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(SHARDS_MAX)))]
    pub(crate) shards: Option<u32>,
    /// Let everybody on this machine use a new cluster under any name, without accounts. Has no effect on one that is there already
    #[arg(long)]
    pub(crate) open: bool,
    /// Do not restart servers that exit
    #[arg(long)]
    pub(crate) no_restart: bool,
    /// Start no name server: clients need the servers' addresses
    #[arg(long)]
    pub(crate) no_dns: bool,
    /// Enable fault injection in the servers, for testing only: see conclave-chaos
    #[arg(long)]
    pub(crate) allow_faults: bool,
    /// Whether to announce the servers on the local network by multicast DNS
    #[arg(long, value_enum, default_value_t = Mdns::Auto)]
    pub(crate) mdns: Mdns,
    /// Stop when stdin closes, so that the cluster never outlives the script that started it
    #[arg(long)]
    pub(crate) exit_with_stdin: bool,
    /// What the servers write to their log files
    #[arg(long, env = "RUST_LOG", value_name = "FILTER", default_value = LOG_DEFAULT)]
    pub(crate) log: String,
}

/// `conclave up …`
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum UpCommand {
    /// Restart one server of an `up` that runs, drained first
    #[command(after_help = UP_RESTART_HELP)]
    Restart(UpRestartArgs),
}

const UP_RESTART_HELP: &str = "\
Drains the server, stops it, and waits until `up` has started it again and it is ready: nothing is lost and no send fails. \
Ends with 1, and restarts nothing, if too few of the others are ready, unless --force is given.

Examples:
  conclave up restart node2
  conclave up restart node2 --dir /tmp/demo";

/// `conclave up restart`
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct UpRestartArgs {
    /// The server's name, as `conclave status` shows it
    pub(crate) node: String,
    /// Restart it even if too few other servers are ready for a majority
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) which: WhichUp,
}

/// Which `conclave up` a command is about.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct WhichUp {
    /// The directory of the cluster, as its `up` prints it [default: $XDG_DATA_HOME/conclave/up]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// `conclave stop`
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    pub(crate) which: WhichUp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_by_host_or_by_all_addresses() {
        let short = member("n1=10.0.0.1").unwrap();
        assert_eq!(short.client, "10.0.0.1:7400");
        assert_eq!((short.peer.as_str(), short.http.as_str()), ("10.0.0.1:7401", "10.0.0.1:7480"));
        assert_eq!(member("n1=[::1]").unwrap().peer, "[::1]:7401");
        let long = member("n2=a:1,b:2,c:3").unwrap();
        assert_eq!([long.client.as_str(), &long.peer, &long.http], ["a:1", "b:2", "c:3"]);
        for bad in ["", "n1", "n1=", "=h", "n1=h:1", "n1=a:1,b:2", "n1=a:1,b:2,c:3,d:4"] {
            assert!(member(bad).is_err(), "{bad}");
        }
    }
}
