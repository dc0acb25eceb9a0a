//! The configuration of a name server, and its validation.

use std::net::SocketAddr;
use std::path::PathBuf;

use conclave_core::limits::{NAME_SERVERS_MAX, NODE_IPS_MAX, NODES_MAX};
use conclave_net::{Plain, beyond_loopback, refuse_without_tls};
use conclave_proto::admin_token::AdminToken;
use conclave_proto::mac::Secret;
use conclave_telemetry::operators::faults_without_token;
use data_encoding::BASE64;
use ipnet::IpNet;

use crate::faults::Faults;
use crate::limits::{FORWARD_SERVERS_MAX, LISTEN_ADDRESSES_MAX};
pub use crate::names::NameServer;
use crate::names::{host_port, is_label, zone_name};

/// The configuration of one name server of a zone.
#[derive(Clone, Debug)]
pub struct Config {
    /// The zone's name without the last dot: `conclave.internal`.
    pub zone: String,
    /// Addresses of DNS, UDP and TCP. The default port is 7453.
    pub listen: Vec<SocketAddr>,
    /// Address of `DNSService`, where nodes register. The default port is 7454.
    pub grpc_listen: SocketAddr,
    /// Address of the HTTP pages for health and metrics. The default port is 7455.
    pub http_listen: SocketAddr,
    /// Every name server of the zone, including this one: the NS records. Must be the same at each of them.
    pub name_servers: Vec<NameServer>,
    /// The cluster's secret: the key of the MACs of nodes' messages.
    pub secret: Secret,
    /// `host:port` of nodes' client APIs, to fetch the cluster's records from before any node has registered.
    pub nodes: Vec<String>,
    /// TLS with the nodes, and for all who call `grpc_listen` or read the pages. `None` if the cluster has none.
    pub tls: Option<NameServerTls>,
    /// Lets the name server listen beyond this machine without TLS, on a network that is trusted. DNS itself has none.
    pub insecure: bool,
    /// Networks whose clients may transfer the zone (AXFR). None, if empty.
    pub transfer_to: Vec<IpNet>,
    /// Networks whose clients' questions outside the zone are forwarded. None, if empty.
    pub forward_for: Vec<IpNet>,
    /// The name servers that those questions are forwarded to, in order.
    pub forward_to: Vec<SocketAddr>,
    /// A site's own DNS that gets the zone's records by dynamic update.
    pub export: Option<Export>,
    /// The token of the cluster's operators. Without it, operators call from this machine only.
    pub admin_token: Option<AdminToken>,
    /// Enables fault injection by operators, at `grpc_listen`. For tests only.
    pub faults: Option<Faults>,
}

/// TLS of a name server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServerTls {
    /// The directory with the authority's certificate (`ca.pem`) and the name server's own certificate and key (`node.pem`,
    /// `node.key`).
    pub dir: PathBuf,
    /// Whether nodes and others without TLS are served, and nodes without TLS asked, too.
    pub plain: Plain,
}

/// The target of an export by dynamic update (RFC 2136), and its TSIG key (RFC 8945).
#[derive(Clone, Debug)]
pub struct Export {
    /// The primary name server of the site's zone.
    pub server: SocketAddr,
    /// The site's zone, below which our records are written.
    pub zone: String,
    /// The key's name.
    pub key_name: String,
    /// The HMAC-SHA-256 key, in base64.
    pub key: Secret,
}

impl Config {
    /// Checks the whole configuration.
    ///
    /// # Errors
    /// Every mistake, each in a sentence that says what to do.
    pub fn validate(&self) -> Result<(), Vec<String>> {
        let mut wrong = Vec::new();
        wrong.extend(zone_name(&self.zone).err());
        self.validate_listening(&mut wrong);
        self.validate_name_servers(&mut wrong);
        if self.nodes.len() > NODES_MAX {
            wrong.push(format!(
                "{} nodes are more than a cluster has; name at most {NODES_MAX}",
                self.nodes.len()
            ));
        }
        for node in self.nodes.iter().filter(|node| host_port(node).is_none()) {
            wrong.push(format!("the node's address {node:?} is not host:port, such as n1.example.org:7400"));
        }
        self.validate_forwarding(&mut wrong);
        if let Some(export) = &self.export {
            self.validate_export(export, &mut wrong);
        }
        if self.faults.is_some() {
            wrong.extend(faults_without_token(self.grpc_listen.ip(), self.admin_token.as_ref()));
        }
        if self.tls.is_none() && !self.insecure {
            wrong.extend(refuse_without_tls(&self.ports(), "--tls-dir"));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// The ports that would have TLS, with what they are for.
    fn ports(&self) -> [(&'static str, SocketAddr); 2] {
        [("registrations", self.grpc_listen), ("health and metrics", self.http_listen)]
    }

    /// The ports that are reached from beyond this machine without TLS although they might have it.
    pub(crate) fn without_tls(&self) -> Option<String> {
        if self.tls.is_some() { None } else { beyond_loopback(&self.ports()) }
    }

    fn validate_listening(&self, wrong: &mut Vec<String>) {
        if self.listen.is_empty() || self.listen.len() > LISTEN_ADDRESSES_MAX {
            wrong.push(format!(
                "a name server listens for DNS on 1 to {LISTEN_ADDRESSES_MAX} addresses, not {}; 127.0.0.1:7453 is the \
                 usual one",
                self.listen.len()
            ));
        }
        let mut all: Vec<_> = self.listen.iter().chain([&self.grpc_listen, &self.http_listen]).collect();
        all.retain(|address| address.port() != 0);
        all.sort();
        for pair in all.windows(2).filter(|pair| pair[0] == pair[1]) {
            wrong.push(format!("the address {} is listened on twice; choose another port", pair[0]));
        }
    }

    fn validate_name_servers(&self, wrong: &mut Vec<String>) {
        if self.name_servers.is_empty() || self.name_servers.len() > NAME_SERVERS_MAX {
            wrong.push(format!(
                "a zone has 1 to {NAME_SERVERS_MAX} name servers, not {}; list all of them, including this one, such \
                 as ns1=10.0.0.53",
                self.name_servers.len()
            ));
        }
        for (index, NameServer { name, ips }) in self.name_servers.iter().enumerate() {
            if !is_label(name) || name == "node" {
                wrong.push(format!(
                    "the name server's name {name:?} must be 1 to 63 of a-z, 0-9 and -, not begin or end with -, and not \
                     be \"node\", below which the nodes are"
                ));
            }
            if self.name_servers[..index].iter().any(|other| other.name == *name) {
                wrong.push(format!("two name servers are called {name:?}; rename one"));
            }
            if ips.is_empty() || ips.len() > NODE_IPS_MAX {
                wrong.push(format!(
                    "the name server {name:?} has {} addresses; give it 1 to {NODE_IPS_MAX}",
                    ips.len()
                ));
            }
            for ip in ips.iter().filter(|ip| ip.is_unspecified() || ip.is_multicast()) {
                wrong.push(format!(
                    "{ip} of the name server {name:?} is not an address that others can reach it at"
                ));
            }
        }
    }

    fn validate_forwarding(&self, wrong: &mut Vec<String>) {
        if self.forward_to.is_empty() != self.forward_for.is_empty() {
            wrong.push(
                "forwarding needs both, the name servers to ask and the networks of clients; give both or neither"
                    .to_owned(),
            );
        }
        if self.forward_to.len() > FORWARD_SERVERS_MAX {
            wrong.push(format!(
                "{} name servers to forward to are too many; {FORWARD_SERVERS_MAX} are the most",
                self.forward_to.len()
            ));
        }
        for server in &self.forward_to {
            if server.port() == 0 || server.ip().is_unspecified() {
                wrong.push(format!("cannot forward to {server}: it is not the address of a name server"));
            }
            if self.is_me(*server) {
                wrong.push(format!(
                    "cannot forward to {server}: it is this name server itself; give another one"
                ));
            }
        }
        for network in self.forward_for.iter().filter(|network| network.prefix_len() == 0) {
            wrong.push(format!(
                "forwarding for {network} would answer the whole internet, which attackers use to flood others; list the \
                 networks of your own clients"
            ));
        }
    }

    fn validate_export(&self, export: &Export, wrong: &mut Vec<String>) {
        if export.server.port() == 0 || export.server.ip().is_unspecified() || self.is_me(export.server) {
            wrong.push(format!(
                "cannot export to {}: it is not the address of another name server",
                export.server
            ));
        }
        wrong.extend(zone_name(&export.zone).err().map(|why| format!("the zone to export to: {why}")));
        if export.key_name.len() > 253 || zone_name(&export.key_name).is_err() {
            wrong.push(format!(
                "{:?} is not the name of a TSIG key; give a DNS name, such as conclave-export",
                export.key_name
            ));
        }
        if export.key_bytes().is_none() {
            wrong.push(
                "the TSIG key is not base64; give a file with the value that tsig-keygen prints as secret"
                    .to_owned(),
            );
        }
    }

    /// Whether this name server itself receives what is sent to an address.
    fn is_me(&self, server: SocketAddr) -> bool {
        let mine = |ip| self.name_servers.iter().any(|server| server.ips.contains(&ip)) || ip.is_loopback();
        self.listen.iter().any(|listen| {
            listen.port() == server.port()
                && (listen.ip() == server.ip() || listen.ip().is_unspecified() && mine(server.ip()))
        })
    }
}

impl Export {
    /// The decoded key; `None` if it is not base64.
    pub(crate) fn key_bytes(&self) -> Option<Vec<u8>> {
        BASE64.decode(self.key.bytes()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            zone: "conclave.internal".to_owned(),
            listen: vec!["127.0.0.1:7453".parse().unwrap()],
            grpc_listen: "127.0.0.1:7454".parse().unwrap(),
            http_listen: "127.0.0.1:7455".parse().unwrap(),
            name_servers: vec![NameServer {
                name: "ns1".to_owned(),
                ips: vec!["127.0.0.1".parse().unwrap()],
            }],
            secret: Secret::new(b"0123456789abcdef").unwrap(),
            nodes: vec!["n1:7400".to_owned()],
            tls: None,
            insecure: false,
            transfer_to: Vec::new(),
            forward_for: vec!["10.0.0.0/8".parse().unwrap()],
            forward_to: vec!["127.0.0.11:53".parse().unwrap()],
            export: Some(Export {
                server: "10.0.0.1:53".parse().unwrap(),
                zone: "example.org".to_owned(),
                key_name: "conclave-export".to_owned(),
                key: Secret::new(b"MDEyMzQ1Njc4OWFiY2RlZg==").unwrap(),
            }),
            admin_token: None,
            faults: None,
        }
    }

    #[test]
    fn validation_reports_all_mistakes_at_once() {
        assert_eq!(config().validate(), Ok(()));
        let mut bad = config();
        bad.zone = "-.internal".to_owned();
        bad.grpc_listen = bad.listen[0];
        bad.name_servers[0].ips = vec!["0.0.0.0".parse().unwrap()];
        bad.name_servers
            .extend([bad.name_servers[0].clone(), NameServer { name: "node".to_owned(), ips: Vec::new() }]);
        bad.nodes = vec!["n1".to_owned()];
        bad.forward_for = vec!["0.0.0.0/0".parse().unwrap()];
        bad.forward_to = vec![bad.listen[0]; 9];
        let export = bad.export.as_mut().unwrap();
        export.server = "0.0.0.0:53".parse().unwrap();
        export.zone = String::new();
        export.key_name = "a b".to_owned();
        export.key = Secret::new(b"this is not base64").unwrap();
        let wrong = bad.validate().unwrap_err().join("\n");
        for part in [
            "zone `-.internal`",
            "listened on twice",
            "not an address that others can reach",
            "two name servers",
            "not be \"node\"",
            "0 addresses",
            "not host:port",
            "whole internet",
            "are too many",
            "itself",
            "another name server",
            "the zone to export to: zone",
            "not the name of a TSIG key",
            "not base64",
        ] {
            assert!(wrong.contains(part), "{part}: {wrong}");
        }
    }

    #[test]
    fn registrations_and_pages_beyond_loopback_need_tls() {
        let mut plain = config();
        // DNS has no TLS.
        plain.listen = vec!["10.0.0.53:53".parse().unwrap()];
        assert_eq!((plain.validate(), plain.without_tls()), (Ok(()), None));
        plain.grpc_listen = "10.0.0.53:7454".parse().unwrap();
        plain.http_listen = "[::]:7455".parse().unwrap();
        let wrong = plain.validate().unwrap_err().join("\n");
        let named = "registrations at 10.0.0.53:7454, health and metrics at [::]:7455";
        assert!(
            wrong.contains(&format!("{named}: give --tls-dir")) && wrong.contains("--listen-insecure"),
            "{wrong}"
        );
        let tls = Some(NameServerTls { dir: PathBuf::new(), plain: Plain::Accept });
        let secured = Config { tls, ..plain.clone() };
        assert_eq!((secured.validate(), secured.without_tls()), (Ok(()), None));
        plain.insecure = true;
        assert_eq!((plain.validate(), plain.without_tls().as_deref()), (Ok(()), Some(named)));
    }

    #[test]
    fn forwarding_needs_servers_and_networks_and_never_targets_itself() {
        let mut bad = config();
        bad.forward_for.clear();
        assert!(bad.validate().unwrap_err()[0].contains("give both or neither"));
        let mut bad = config();
        bad.listen = vec!["0.0.0.0:53".parse().unwrap()];
        assert!(
            bad.validate().unwrap_err()[0].contains("this name server itself"),
            "a wildcard address listens on 127.0.0.11, too"
        );
        bad.forward_to = vec!["10.9.9.9:53".parse().unwrap()];
        assert_eq!(bad.validate(), Ok(()));
        bad.listen.clear();
        bad.name_servers.clear();
        assert_eq!(bad.validate().unwrap_err().len(), 2);
    }
}
