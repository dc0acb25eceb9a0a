//! The configuration of a node.

use std::net::SocketAddr;
use std::path::PathBuf;

use conclave_core::level::FEATURE_LEVEL;
use conclave_core::limits::{
    CLIENTS_MAX_DEFAULT, LOG_TAIL_BYTES_DEFAULT, NAME_SERVERS_MAX, NODES_MAX, REPLICAS_MAX, SHARDS_MAX,
};
use conclave_net::{Plain, PublicFiles, beyond_loopback, is_loopback, refuse_without_tls};
use conclave_proto::admin_token::AdminToken;
use conclave_proto::mac::Secret;
use conclave_telemetry::operators::faults_without_token;

use crate::faults::Faults;
use crate::limits::CONNECTIONS_PER_ADDRESS_MAX_DEFAULT;

/// A node's configuration. [`Config::validate`] reports all errors at once.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's name. Must be the name of a member of `initial`.
    pub name: String,
    /// The data dir. Created if it does not exist.
    pub dir: PathBuf,
    /// The cluster's name. Nodes of a cluster with another name are refused.
    pub cluster_name: String,
    /// The initial nodes of the cluster; the same list on each of them.
    pub initial: Vec<Member>,
    /// The listen address for clients.
    pub client_listen: SocketAddr,
    /// The listen address for other nodes.
    pub peer_listen: SocketAddr,
    /// The listen address for health and metrics.
    pub http_listen: SocketAddr,
    /// The listen address for people's browsers: the HTTP API and the web client. `None` serves neither.
    pub web_listen: Option<SocketAddr>,
    /// The origin at which browsers reach [`Config::web_listen`], such as `https://chat.example:7490`. `None` means the host of
    /// the node's client address, with the port of `web_listen`.
    pub web_origin: Option<String>,
    /// Number of data shards, fixed when the cluster is bootstrapped.
    pub shards: u32,
    /// Replicas of each shard; `None` means one on each initial node.
    pub replicas: Option<usize>,
    /// Raft's timers: how soon a silent leader is replaced.
    pub timing: Timing,
    /// Bytes of log kept behind a snapshot for lagging followers.
    pub log_tail_bytes: u64,
    /// Bytes of the data dir's file system to keep free: with less, the node refuses writes. 0 is none; `None` means a
    /// twentieth of the file system, at least 64 MiB and at most 1 GiB.
    pub disk_reserve: Option<u64>,
    /// Maximum number of sessions that subscribe on this node; further clients are sent to other nodes.
    pub max_clients: u32,
    /// Maximum number of client connections from one address; of one /64 for IPv6. More are allowed from this machine.
    pub connections_per_address_max: u32,
    /// `host:port` of the gRPC API of each name server to register with.
    pub name_servers: Vec<String>,
    /// The cluster's secret; name servers accept no records without it.
    pub secret: Option<Secret>,
    /// The token of the cluster's operators. Without it, operators call from this machine only.
    pub admin_token: Option<AdminToken>,
    /// TLS between the nodes and for clients; without it, whoever reaches the peer port is believed to be a node, and
    /// whoever is on the way reads the tokens of clients.
    pub tls: Option<NodeTls>,
    /// Lets the node listen beyond this machine without TLS, on a network that is trusted.
    pub insecure: bool,
    /// Enables fault injection over the node's `FaultService`.
    pub faults: Option<Faults>,
    /// The highest feature level that this node offers: 1 to [`FEATURE_LEVEL`]. Below [`FEATURE_LEVEL`], it holds back
    /// the whole cluster, so that its nodes can still return to the previous version.
    pub feature_level: u32,
}

/// TLS between nodes, and for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTls {
    /// The directory with the authority's certificate (`ca.pem`) and the node's own certificate and key (`node.pem`,
    /// `node.key`).
    pub dir: PathBuf,
    /// Whether nodes and clients without TLS are served, too.
    pub plain: Plain,
    /// A certificate for a public name, shown to clients that ask for this name.
    pub public: Option<PublicFiles>,
}

/// One of the initial nodes of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The node's name.
    pub name: String,
    /// `host:port` that other nodes connect to.
    pub peer: String,
    /// `host:port` that clients connect to.
    pub client: String,
    /// `host:port` of the health and metrics pages.
    pub http: String,
}

/// Raft's timers. openraft starts an election after its lease (the maximum) plus a timeout sampled between the two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timing {
    /// A silent leader is replaced in 300 ms where heartbeats are regular, and in up to 2 s where they come late, such as on
    /// a machine that has too little processor time.
    Auto,
    /// 75–150 ms and 25 ms heartbeats: a silent leader is replaced in 150–300 ms.
    #[default]
    Lan,
    /// 750–1,500 ms and 250 ms heartbeats: a silent leader is replaced in 1.5–3 s.
    Wan,
}

impl Config {
    /// A configuration with defaults for all optional values.
    #[must_use]
    pub fn new(name: String, dir: PathBuf, initial: Vec<Member>, listen: [SocketAddr; 3]) -> Self {
        let [client_listen, peer_listen, http_listen] = listen;
        Self {
            name,
            dir,
            cluster_name: "conclave".to_owned(),
            initial,
            client_listen,
            peer_listen,
            http_listen,
            web_listen: None,
            web_origin: None,
            shards: 8,
            replicas: None,
            timing: Timing::default(),
            log_tail_bytes: LOG_TAIL_BYTES_DEFAULT,
            disk_reserve: None,
            max_clients: CLIENTS_MAX_DEFAULT,
            connections_per_address_max: CONNECTIONS_PER_ADDRESS_MAX_DEFAULT,
            name_servers: Vec::new(),
            secret: None,
            admin_token: None,
            tls: None,
            insecure: false,
            faults: None,
            feature_level: FEATURE_LEVEL,
        }
    }

    /// Finds all errors; each message says what to do.
    ///
    /// # Errors
    /// All errors found.
    pub fn validate(&self) -> Result<(), Vec<String>> {
        let mut wrong = Vec::new();
        let members = self.initial.len();
        if members == 0 || members > NODES_MAX {
            wrong.push(format!("a cluster begins with 1 to {NODES_MAX} nodes, not {members}"));
        }
        if !self.initial.iter().any(|member| member.name == self.name) {
            wrong.push(format!("the node {:?} is not in the list of initial nodes; add it", self.name));
        }
        let mut names: Vec<_> = self.initial.iter().map(|member| &member.name).collect();
        names.sort();
        names.dedup();
        if names.len() != members {
            wrong.push("two initial nodes have the same name; rename one".to_owned());
        }
        if self.shards == 0 || self.shards > SHARDS_MAX {
            wrong.push(format!("a cluster has 1 to {SHARDS_MAX} shards, not {}", self.shards));
        }
        if members > REPLICAS_MAX || self.replicas() != members {
            wrong.push(format!(
                "every node holds a replica of every shard: start with at most {REPLICAS_MAX} nodes and as many \
                 replicas as nodes"
            ));
        }
        let own =
            self.initial.iter().flat_map(|m| [("peer", &m.peer), ("client", &m.client), ("http", &m.http)]);
        for (what, address) in own.chain(self.name_servers.iter().map(|resolver| ("name server", resolver))) {
            if !address
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
            {
                wrong.push(format!("the {what} address {address:?} is not host:port"));
            }
        }
        for name in self.initial.iter().map(|member| &member.name).filter(|name| !is_label(name)) {
            wrong.push(format!(
                "the node name {name:?} cannot be part of a DNS name: take 1 to 63 of a-z 0-9 -, with no - at the ends, and \
                 none of leader, peers, metrics, shard-<n>"
            ));
        }
        if let Some(origin) = self.web_origin.as_ref().filter(|origin| !is_origin(origin)) {
            wrong.push(format!(
                "the web origin {origin:?} is not http:// or https:// with a host and perhaps a port, and nothing behind it"
            ));
        }
        if self.feature_level == 0 || self.feature_level > FEATURE_LEVEL {
            wrong.push(format!(
                "this version understands the feature levels 1 to {FEATURE_LEVEL}, not {}",
                self.feature_level
            ));
        }
        if self.max_clients == 0 {
            wrong.push("the maximum number of clients must be at least 1 client, not 0".to_owned());
        }
        if self.connections_per_address_max == 0 {
            wrong.push("an address may have at least 1 connection, not 0".to_owned());
        }
        if self.name_servers.len() > NAME_SERVERS_MAX {
            wrong.push(format!(
                "a node registers with at most {NAME_SERVERS_MAX} name servers, not {}",
                self.name_servers.len()
            ));
        }
        if !self.name_servers.is_empty() && self.secret.is_none() {
            wrong.push(
                "name servers accept only nodes that have the cluster's secret; give --secret-file, or leave out --resolvers"
                    .to_owned(),
            );
        }
        if self.faults.is_some() {
            wrong.extend(faults_without_token(self.client_listen.ip(), self.admin_token.as_ref()));
        }
        if self.tls.is_none() && !self.insecure {
            wrong.extend(refuse_without_tls(&self.ports(), "--tls-dir"));
        }
        let mut addresses: Vec<_> = self.initial.iter().flat_map(|m| [&m.peer, &m.client, &m.http]).collect();
        addresses.sort();
        if let Some(pair) = addresses.windows(2).find(|pair| pair[0] == pair[1]) {
            wrong.push(format!("the address {:?} is used twice; give each node ports of its own", pair[0]));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// What the node listens for, and where.
    fn ports(&self) -> Vec<(&'static str, SocketAddr)> {
        let ports = [
            ("clients", self.client_listen),
            ("other nodes", self.peer_listen),
            ("health and metrics", self.http_listen),
        ];
        ports.into_iter().chain(self.web_listen.map(|address| ("browsers", address))).collect()
    }

    /// The origin at which browsers reach this node; `None` if it serves nothing for them.
    #[must_use]
    pub fn web_origin(&self) -> Option<String> {
        let listen = self.web_listen?;
        if let Some(origin) = &self.web_origin {
            return Some(origin.clone());
        }
        let scheme = if self.tls.is_some() && !is_loopback(listen.ip()) { "https" } else { "http" };
        let client = self.initial.iter().find(|member| member.name == self.name)?.client.as_str();
        let (host, _) = client.rsplit_once(':')?;
        Some(format!("{scheme}://{host}:{}", listen.port()))
    }

    /// The ports that are reached from beyond this machine without TLS.
    pub(crate) fn without_tls(&self) -> Option<String> {
        if self.tls.is_some() { None } else { beyond_loopback(&self.ports()) }
    }

    /// This node's id: its position among the initial nodes sorted by name, counted from 1.
    #[must_use]
    pub fn node_id(&self) -> u64 {
        1 + self.initial.iter().filter(|member| member.name < self.name).count() as u64
    }

    /// Number of replicas of each shard.
    #[must_use]
    pub fn replicas(&self) -> usize {
        self.replicas.unwrap_or(self.initial.len().min(REPLICAS_MAX))
    }
}

/// Whether the text is an origin as browsers write it: a scheme, a host, and a port unless it is the scheme's own.
fn is_origin(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) else {
        return false;
    };
    let allowed = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b':' | b'[' | b']')
    };
    !rest.is_empty() && rest.bytes().all(allowed)
}

/// Whether the name is a valid DNS label and does not collide with the other names of the cluster's zone.
fn is_label(name: &str) -> bool {
    let taken = matches!(name, "leader" | "peers" | "metrics")
        || name.strip_prefix("shard-").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, port: u16) -> Member {
        let [peer, client, http] = [0, 1, 2].map(|n| format!("127.0.0.1:{}", port + n));
        Member { name: name.to_owned(), peer, client, http }
    }

    fn config(initial: Vec<Member>) -> Config {
        Config::new("a".to_owned(), PathBuf::new(), initial, ["127.0.0.1:0".parse().unwrap(); 3])
    }

    #[test]
    fn all_errors_are_reported_at_once() {
        assert_eq!(config(vec![member("a", 1), member("b", 11)]).validate(), Ok(()));
        let mut bad = config(vec![member("b", 1), member("b", 2)]);
        bad.shards = 0;
        bad.replicas = Some(1);
        bad.initial[1].http = "nowhere".to_owned();
        bad.max_clients = 0;
        bad.faults = Some(Faults::default());
        bad.client_listen = "0.0.0.0:7400".parse().unwrap();
        bad.connections_per_address_max = 0;
        bad.name_servers = vec!["ns1:7454".to_owned(); 9];
        let wrong = bad.validate().unwrap_err().join("\n");
        for part in [
            "not in the list",
            "same name",
            "1 to 64 shards",
            "as many replicas",
            "not host:port",
            "used twice",
            "at least 1 client",
            "at least 1 connection",
            "at most 8 name servers",
            "cluster's secret",
            "give --admin-token-file",
            "clients at 0.0.0.0:7400: give --tls-dir",
        ] {
            assert!(wrong.contains(part), "{part}: {wrong}");
        }
    }

    #[test]
    fn ports_beyond_loopback_need_tls() {
        let mut plain = config(vec![member("a", 1)]);
        assert_eq!((plain.validate(), plain.without_tls()), (Ok(()), None));
        plain.peer_listen = "[::]:7401".parse().unwrap();
        let wrong = plain.validate().unwrap_err().join("\n");
        assert!(wrong.contains("other nodes at [::]:7401") && wrong.contains("--listen-insecure"), "{wrong}");
        let tls = Some(NodeTls { dir: PathBuf::new(), plain: Plain::Accept, public: None });
        let secured = Config { tls, ..plain.clone() };
        assert_eq!((secured.validate(), secured.without_tls()), (Ok(()), None));
        plain.insecure = true;
        assert_eq!(plain.validate(), Ok(()));
        assert_eq!(plain.without_tls().as_deref(), Some("other nodes at [::]:7401"));
    }

    #[test]
    fn browsers_reach_a_node_at_the_host_that_clients_use() {
        let mut node = config(vec![member("a", 1)]);
        assert_eq!(node.web_origin(), None);
        node.web_listen = Some("127.0.0.1:7490".parse().unwrap());
        assert_eq!(node.web_origin().as_deref(), Some("http://127.0.0.1:7490"));
        node.web_listen = Some("0.0.0.0:7490".parse().unwrap());
        let wrong = node.validate().unwrap_err().join("\n");
        assert!(wrong.contains("browsers at 0.0.0.0:7490: give --tls-dir"), "{wrong}");
        node.tls = Some(NodeTls { dir: PathBuf::new(), plain: Plain::Refuse, public: None });
        assert_eq!(node.web_origin().as_deref(), Some("https://127.0.0.1:7490"));
        node.web_origin = Some("https://chat.example".to_owned());
        assert_eq!((node.validate(), node.web_origin().as_deref()), (Ok(()), Some("https://chat.example")));
        for wrong in
            ["chat.example", "https://chat.example/", "https://", "ftp://a", "https://a; script-src *"]
        {
            node.web_origin = Some(wrong.to_owned());
            assert!(node.validate().is_err(), "{wrong}");
        }
    }

    #[test]
    fn node_names_are_dns_labels() {
        for good in ["a", "node1", "eu-west-1", "shard-a", &"x".repeat(63)] {
            assert!(is_label(good), "{good}");
        }
        for bad in
            ["", "Node1", "a_b", "a.b", "-a", "a-", "leader", "shard-3", "shard-", "ä", &"x".repeat(64)]
        {
            assert!(!is_label(bad), "{bad}");
        }
        let wrong = config(vec![member("a", 1), member("B_2", 11)]).validate().unwrap_err().join("\n");
        assert!(wrong.contains("\"B_2\" cannot be part of a DNS name"), "{wrong}");
    }
}
