//! What `conclave up` is going to run: how many servers, where, at which ports, and the resolver beside them. Kept in the
//! directory, so that the next run continues the same cluster.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use conclave_client::find::CLIENT_PORT;
use serde::{Deserialize, Serialize};

use super::cannot_use;
use crate::args::server::UpArgs;
use crate::exit::{Exit, Failed};

const FORMAT: u32 = 1;
const NODES_DEFAULT: u16 = 3;
const SHARDS_DEFAULT: u32 = 8;
/// Between the ports of one node and the next.
const PORTS_EACH: u16 = 10;
/// The resolver's ports begin so far above the first one, where no node has one.
const RESOLVER_OFFSET: u16 = 53;
/// What the resolver is called.
const RESOLVER: &str = "resolver";
/// What the cluster is called, before a part of its own: see [`reconcile`].
const CLUSTER: &str = "local";

/// What is kept. Servers and shards are what the cluster began with and cannot be changed this way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    format: u32,
    cluster: String,
    nodes: u16,
    shards: u32,
    base_port: u16,
}

/// The servers of a cluster.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) dir: PathBuf,
    pub(super) nodes: Vec<Node>,
    pub(super) resolver: Option<Resolver>,
    kept: Kept,
}

/// The resolver.
#[derive(Clone, Debug)]
pub(super) struct Resolver {
    pub(super) zone: String,
    pub(super) dns: SocketAddr,
    pub(super) grpc: SocketAddr,
    pub(super) http: SocketAddr,
    secret: PathBuf,
    log: PathBuf,
}

/// A process to start and to keep running.
#[derive(Clone, Debug)]
pub(super) struct Process {
    /// For people.
    pub(super) name: String,
    pub(super) log: PathBuf,
    /// Its command line.
    pub(super) arguments: Vec<String>,
}

/// One server.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) dir: PathBuf,
    pub(super) log: PathBuf,
    pub(super) client: SocketAddr,
    pub(super) peer: SocketAddr,
    pub(super) http: SocketAddr,
}

impl Plan {
    /// Puts what was typed over what the directory has over the defaults.
    pub(super) fn make(dir: &Path, args: &UpArgs, zone: &str) -> Result<Self, Failed> {
        let path = file(dir);
        let kept = match fs::read_to_string(&path) {
            Ok(text) => Some(parse(&text).map_err(|what| {
                let what = format!("{} {what}", path.display());
                Failed::new(Exit::Refused, what, "give another --dir, or --ephemeral")
            })?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(cannot_use(dir, &error)),
        };
        let kept = reconcile(dir, kept, args)?;
        let beyond = || {
            let what =
                format!("{} servers from port {} on need ports beyond 65535", kept.nodes, kept.base_port);
            Failed::new(Exit::Usage, what, "give a smaller --base-port")
        };
        let nodes = (0..kept.nodes).map(|index| node(dir, kept.base_port, index)).collect::<Option<_>>();
        let nodes = nodes.ok_or_else(beyond)?;
        let resolver = match args.no_dns {
            true => None,
            false => Some(resolver(dir, kept.base_port, zone).ok_or_else(beyond)?),
        };
        Ok(Self { dir: dir.to_owned(), nodes, resolver, kept })
    }

    pub(super) fn cluster(&self) -> &str {
        &self.kept.cluster
    }

    pub(super) fn shards(&self) -> u32 {
        self.kept.shards
    }

    /// Whether a client finds the cluster without being told where it is.
    pub(super) fn at_default_ports(&self) -> bool {
        self.kept.base_port == CLIENT_PORT
    }

    /// Client addresses, separated by commas.
    pub(super) fn servers(&self) -> String {
        self.nodes.iter().map(|node| node.client.to_string()).collect::<Vec<_>>().join(",")
    }

    /// Writes it down for the next run, before anything is started with it.
    pub(super) fn save(&self) -> Result<(), Failed> {
        let write = || -> io::Result<()> {
            let path = file(&self.dir);
            let temporary = path.with_extension("json.new");
            let mut out = File::create(&temporary)?;
            serde_json::to_writer_pretty(&mut out, &self.kept)?;
            out.write_all(b"\n")?;
            out.sync_all()?;
            fs::rename(&temporary, &path)?;
            if let Some(resolver) = &self.resolver {
                make_secret(&resolver.secret)?;
            }
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|error| cannot_use(&self.dir, &error))
    }

    /// Says which port is taken, before a process does so in its log.
    pub(super) fn free_ports(
        &self,
        tcp: impl Fn(SocketAddr) -> io::Result<()>,
        udp: impl Fn(SocketAddr) -> io::Result<()>,
    ) -> Result<(), Failed> {
        let taken = |address: SocketAddr, name: &str, error: &io::Error| {
            let port = address.port();
            let what = if error.kind() == io::ErrorKind::AddrInUse {
                format!("port {port} (for {name}) is in use, perhaps by another cluster")
            } else {
                format!("port {port} (for {name}) cannot be used: {error}")
            };
            Failed::new(Exit::Refused, what, "stop what uses it, or give another --base-port")
        };
        for node in &self.nodes {
            for address in [node.client, node.peer, node.http] {
                tcp(address).map_err(|error| taken(address, &node.name, &error))?;
            }
        }
        if let Some(resolver) = &self.resolver {
            for address in [resolver.dns, resolver.grpc, resolver.http] {
                tcp(address).map_err(|error| taken(address, "the resolver", &error))?;
            }
            udp(resolver.dns).map_err(|error| taken(resolver.dns, "the resolver", &error))?;
        }
        Ok(())
    }

    /// Everything to start: the servers, then the resolver.
    pub(super) fn processes(&self, log: &str) -> Vec<Process> {
        let server = |node: &Node| Process {
            name: node.name.clone(),
            log: node.log.clone(),
            arguments: self.server(node, log),
        };
        let resolver = |resolver: &Resolver| Process {
            name: format!("the {RESOLVER}"),
            log: resolver.log.clone(),
            arguments: self.resolver(resolver, log),
        };
        self.nodes.iter().map(server).chain(self.resolver.as_ref().map(resolver)).collect()
    }

    /// The command line of a server.
    fn server(&self, node: &Node, log: &str) -> Vec<String> {
        let initial: Vec<String> = self
            .nodes
            .iter()
            .map(|node| format!("{}={},{},{}", node.name, node.client, node.peer, node.http))
            .collect();
        let mut flags = vec![
            ("--name", node.name.clone()),
            ("--dir", node.dir.display().to_string()),
            ("--cluster", self.kept.cluster.clone()),
            ("--initial-cluster", initial.join(";")),
            ("--listen", node.client.to_string()),
            ("--peer-listen", node.peer.to_string()),
            ("--http-listen", node.http.to_string()),
            ("--shards", self.kept.shards.to_string()),
            ("--mdns", "on".to_owned()),
            ("--log", log.to_owned()),
        ];
        if let Some(resolver) = &self.resolver {
            flags.push(("--resolvers", resolver.grpc.to_string()));
            flags.push(("--secret-file", resolver.secret.display().to_string()));
        }
        command_line("server", flags)
    }

    /// The command line of the resolver.
    fn resolver(&self, resolver: &Resolver, log: &str) -> Vec<String> {
        let flags = vec![
            ("--zone", resolver.zone.clone()),
            ("--listen", resolver.dns.to_string()),
            ("--grpc-listen", resolver.grpc.to_string()),
            ("--http-listen", resolver.http.to_string()),
            ("--name-servers", format!("ns1={}", resolver.dns.ip())),
            ("--secret-file", resolver.secret.display().to_string()),
            ("--nodes", self.servers()),
            ("--log", log.to_owned()),
        ];
        command_line("dns", flags)
    }
}

fn command_line(command: &str, flags: Vec<(&str, String)>) -> Vec<String> {
    let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
    [command.to_owned(), "--exit-with-stdin".to_owned()].into_iter().chain(flags).collect()
}

/// Makes the cluster's secret, if it is not there, readable by its owner only.
fn make_secret(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    // Only a whole one ever has the name.
    let temporary = path.with_extension("new");
    let secret: [u8; 32] = rand::random();
    let mut text: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    text.push('\n');
    let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    out.set_permissions(Permissions::from_mode(0o600))?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    fs::rename(&temporary, path)
}

fn file(dir: &Path) -> PathBuf {
    dir.join("up.json")
}

fn parse(text: &str) -> Result<Kept, String> {
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|error| format!("is damaged: {error}"))?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if format == u64::from(FORMAT) => {}
        Some(_) => return Err("was written by a newer version of conclave".to_owned()),
        None => return Err("is not what `conclave up` writes".to_owned()),
    }
    serde_json::from_value(value).map_err(|error| format!("is damaged: {error}"))
}

/// A new directory is a new cluster, with a name that no other one has: a cluster's id follows from its name, and
/// a client's session and unsent messages must never go to a cluster that only looks like the one they are for.
fn reconcile(dir: &Path, kept: Option<Kept>, args: &UpArgs) -> Result<Kept, Failed> {
    let Some(mut kept) = kept else {
        return Ok(Kept {
            format: FORMAT,
            cluster: format!("{CLUSTER}-{:08x}", rand::random::<u32>()),
            nodes: args.nodes.unwrap_or(NODES_DEFAULT),
            shards: args.shards.unwrap_or(SHARDS_DEFAULT),
            base_port: args.base_port.unwrap_or(CLIENT_PORT),
        });
    };
    let differs = |what: &str, flag: &str, has: u32, wants: u32| {
        let what = format!("the cluster in {} began with {has} {what} and not with {wants}", dir.display());
        Failed::new(Exit::Refused, what, format!("leave out {flag}, or give another --dir"))
    };
    if let Some(nodes) = args.nodes.filter(|nodes| *nodes != kept.nodes) {
        return Err(differs("servers", "--nodes", u32::from(kept.nodes), u32::from(nodes)));
    }
    if let Some(shards) = args.shards.filter(|shards| *shards != kept.shards) {
        return Err(differs("shards", "--shards", kept.shards, shards));
    }
    kept.base_port = args.base_port.unwrap_or(kept.base_port);
    Ok(kept)
}

fn node(dir: &Path, base_port: u16, index: u16) -> Option<Node> {
    let port = base_port.checked_add(PORTS_EACH.checked_mul(index)?)?;
    // Ports are fixed, so that a second terminal finds the cluster; 0 would be a different one each time.
    let at = |offset: u16| {
        let port = port.checked_add(offset).filter(|port| *port != 0)?;
        Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    };
    let name = format!("node{}", index + 1);
    Some(Node {
        dir: dir.join(&name),
        log: dir.join(format!("{name}.log")),
        client: at(0)?,
        peer: at(1)?,
        http: at(2)?,
        name,
    })
}

fn resolver(dir: &Path, base_port: u16, zone: &str) -> Option<Resolver> {
    let at = |offset: u16| {
        let port = base_port.checked_add(RESOLVER_OFFSET)?.checked_add(offset)?;
        Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    };
    Some(Resolver {
        zone: zone.to_owned(),
        dns: at(0)?,
        grpc: at(1)?,
        http: at(2)?,
        secret: dir.join("secret"),
        log: dir.join(format!("{RESOLVER}.log")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(nodes: Option<u16>, shards: Option<u32>, base_port: Option<u16>) -> UpArgs {
        UpArgs {
            nodes,
            dir: None,
            ephemeral: false,
            base_port,
            shards,
            no_restart: false,
            no_dns: false,
            exit_with_stdin: false,
            log: "info".into(),
        }
    }

    fn make(dir: &Path, args: &UpArgs) -> Result<Plan, Failed> {
        Plan::make(dir, args, "conclave.internal")
    }

    #[test]
    fn ports_are_where_the_help_says() {
        let dir = tempfile::tempdir().unwrap();
        let plan = make(dir.path(), &args(None, None, None)).unwrap();
        assert_eq!(plan.servers(), "127.0.0.1:7400,127.0.0.1:7410,127.0.0.1:7420");
        assert_eq!((plan.nodes[2].peer.port(), plan.nodes[2].http.port()), (7421, 7422));
        let resolver = plan.resolver.unwrap();
        assert_eq!([resolver.dns, resolver.grpc, resolver.http].map(|at| at.port()), [7453, 7454, 7455]);
        // However many nodes there are, none of them is where the resolver is.
        let many = make(dir.path(), &args(Some(9), None, None)).unwrap();
        assert_eq!([5, 6].map(|node: usize| many.nodes[node].client.port()), [7450, 7460]);
        let none = make(dir.path(), &UpArgs { no_dns: true, ..args(None, None, None) }).unwrap();
        assert!(none.resolver.is_none());
        assert!(
            !none
                .processes("info")
                .iter()
                .any(|process| process.arguments.iter().any(|a| a == "--resolvers"))
        );
        assert!(make(dir.path(), &args(None, None, Some(65_530))).is_err());
    }

    #[test]
    fn the_next_run_continues_what_was_begun() {
        let dir = tempfile::tempdir().unwrap();
        let first = make(dir.path(), &args(Some(5), Some(2), Some(9000))).unwrap();
        first.save().unwrap();
        let same = make(dir.path(), &args(None, None, None)).unwrap();
        assert_eq!((same.nodes.len(), same.shards(), same.nodes[0].client.port()), (5, 2, 9000));
        assert_eq!(same.cluster(), first.cluster());
        let moved = make(dir.path(), &args(Some(5), None, Some(9500))).unwrap();
        assert_eq!(moved.nodes[0].client.port(), 9500);
        let nodes = make(dir.path(), &args(Some(3), None, None)).unwrap_err();
        assert!(nodes.what.contains("began with 5 servers and not with 3"), "{nodes}");
        assert!(nodes.next.contains("--nodes"), "{nodes}");
        let shards = make(dir.path(), &args(None, Some(8), None)).unwrap_err();
        assert!(shards.what.contains("began with 2 shards and not with 8"), "{shards}");
        assert!(shards.next.contains("--shards"), "{shards}");
    }

    #[test]
    fn two_clusters_never_have_the_same_name() {
        let plan = || make(tempfile::tempdir().unwrap().path(), &args(None, None, None)).unwrap();
        assert_ne!(plan().cluster(), plan().cluster());
    }

    #[test]
    fn a_file_of_something_else_is_left_alone() {
        for text in ["", "{}", "[1]", r#"{"format":2}"#, r#"{"format":1}"#] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_port_in_use_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let plan = make(dir.path(), &args(None, None, None)).unwrap();
        let busy = |address: SocketAddr| match address.port() {
            7411 => Err(io::Error::from(io::ErrorKind::AddrInUse)),
            _ => Ok(()),
        };
        let free = |_: SocketAddr| Ok(());
        let failed = plan.free_ports(busy, free).unwrap_err();
        assert_eq!(failed.what, "port 7411 (for node2) is in use, perhaps by another cluster");
        assert!(plan.free_ports(free, free).is_ok());
        let failed = plan.free_ports(free, |_| Err(io::Error::from(io::ErrorKind::AddrInUse))).unwrap_err();
        assert_eq!(failed.what, "port 7453 (for the resolver) is in use, perhaps by another cluster");
    }

    fn parsed(process: &Process) -> crate::args::Args {
        use clap::Parser as _;
        let words = ["conclave".to_owned()].into_iter().chain(process.arguments.clone());
        crate::args::Args::try_parse_from(words).unwrap()
    }

    #[test]
    fn processes_accept_their_command_lines() {
        let dir = tempfile::tempdir().unwrap();
        let plan = make(dir.path(), &args(None, None, None)).unwrap();
        plan.save().unwrap();
        let processes = plan.processes("info");
        let crate::args::Command::Server(server) = parsed(&processes[1]).command else {
            panic!("not a server")
        };
        let mut config = server.config();
        let file = server.secret.secret_file.as_deref().unwrap();
        config.secret = Some(crate::secret::read(file, "secret").unwrap());
        assert_eq!(config.validate(), Ok(()));
        assert_eq!((config.name.as_str(), config.cluster_name.as_str()), ("node2", plan.cluster()));
        assert_eq!(config.resolvers, ["127.0.0.1:7454"]);
        assert!(server.run.exit_with_stdin && server.announces());

        let resolver = parsed(&processes[3]);
        let zone = resolver.global.zone.clone();
        let crate::args::Command::Dns(dns) = resolver.command else { panic!("not a resolver") };
        let secret = crate::secret::read(dns.secret.secret_file.as_deref().unwrap(), "secret").unwrap();
        let config = dns.config(&zone, secret).unwrap();
        assert_eq!(config.validate(), Ok(()));
        assert_eq!((config.zone.as_str(), config.nodes.len()), ("conclave.internal", 3));
        assert!(dns.run.exit_with_stdin);
    }

    #[test]
    fn the_secret_is_made_once_and_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let plan = make(dir.path(), &args(None, None, None)).unwrap();
        plan.save().unwrap();
        let path = dir.path().join("secret");
        let first = fs::read_to_string(&path).unwrap();
        assert_eq!(first.trim().len(), 64);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        plan.save().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), first);
    }
}
