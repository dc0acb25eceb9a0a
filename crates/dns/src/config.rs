//! What a resolver needs to know before it opens a port.

use std::net::{IpAddr, SocketAddr};

use conclave_proto::seal::Secret;
use ipnet::IpNet;

/// A resolver's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The zone, without the last dot: `conclave.internal`.
    pub zone: String,
    /// Where DNS is served, UDP and TCP. The default port is 7453.
    pub listen: Vec<SocketAddr>,
    /// Where `DNSService` is served. The default port is 7454.
    pub grpc_listen: SocketAddr,
    /// Where health and metrics are. The default port is 7455.
    pub http_listen: SocketAddr,
    /// Every resolver of the zone with its addresses, this one among them: the NS records, the same at each of them.
    pub name_servers: Vec<NameServer>,
    /// The cluster's secret.
    pub secret: Secret,
    /// `host:port` of client APIs of nodes to ask for the cluster's records before any has registered.
    pub nodes: Vec<String>,
    /// Who may transfer the zone (AXFR). Nobody, if empty.
    pub transfer_to: Vec<IpNet>,
    /// Who may ask for names outside the zone. Nobody, if empty.
    pub forward_for: Vec<IpNet>,
    /// Who is asked about them.
    pub forward_to: Vec<SocketAddr>,
    /// A site's own DNS that gets the zone's records by dynamic update.
    pub export: Option<Export>,
}

/// One resolver, for the NS records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServer {
    /// Its label, such as `ns1`.
    pub name: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
}

/// Where the zone is exported to (RFC 2136), and with which key (RFC 8945).
#[derive(Clone, Debug)]
pub struct Export {
    /// The primary of the site's zone.
    pub server: SocketAddr,
    /// The zone there under which ours is written.
    pub zone: String,
    /// The key's name.
    pub key_name: String,
    /// The key, HMAC-SHA-256.
    pub key: Secret,
}

impl Config {
    /// Everything that is wrong, each in a sentence that says what to do.
    ///
    /// # Errors
    /// The list, if it is not empty.
    pub fn validate(&self) -> Result<(), Vec<String>> {
        Ok(())
    }
}
