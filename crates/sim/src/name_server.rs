//! The simulated name servers. They have no disk, so the faults are to stop, isolate or pause one, and to make its answers stale
//! or slow.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Mutex;

use conclave_dns::config::NameServer as Named;
use conclave_dns::{Config, Faults};
use conclave_proto::admin_token::AdminToken;
use conclave_proto::mac::Secret;
use conclave_server::Member;
use tokio::sync::Notify;

use crate::life::HostState;

pub(crate) const ZONE: &str = "conclave.internal";
const DNS: u16 = 7453;
const REGISTER: u16 = 7454;
const HTTP: u16 = 7455;

/// What one name server did, over all its restarts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Served {
    /// Questions answered.
    pub(crate) answers: u64,
    /// Records received from nodes.
    pub(crate) registrations: u64,
}

/// One name server.
#[derive(Debug)]
pub(crate) struct NameServer {
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
    pub(crate) faults: Faults,
    pub(crate) stop: Notify,
    pub(crate) state: Mutex<HostState>,
    pub(crate) served: Mutex<Served>,
    pub(crate) config: Config,
}

impl NameServer {
    /// Name servers at these addresses that have not started, of a cluster with these nodes.
    pub(crate) fn all(
        ips: &[IpAddr],
        nodes: &[Member],
        secret: &Secret,
        admin_token: &AdminToken,
    ) -> Vec<Self> {
        let named = |(number, ip): (usize, &IpAddr)| Named { name: format!("ns{number}"), ips: vec![*ip] };
        let name_servers: Vec<Named> = (1..).zip(ips).map(named).collect();
        let at = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        let server = |(named, ip): (&Named, &IpAddr)| {
            let faults = Faults::default();
            let config = Config {
                zone: ZONE.to_owned(),
                listen: vec![at(DNS)],
                grpc_listen: at(REGISTER),
                http_listen: at(HTTP),
                name_servers: name_servers.clone(),
                secret: secret.clone(),
                nodes: nodes.iter().map(|node| node.client.clone()).collect(),
                transfer_to: Vec::new(),
                tls: None,
                insecure: true,
                forward_for: Vec::new(),
                forward_to: Vec::new(),
                export: None,
                admin_token: Some(admin_token.clone()),
                faults: Some(faults.clone()),
            };
            Self {
                name: named.name.clone(),
                ip: *ip,
                faults,
                stop: Notify::new(),
                state: Mutex::new(HostState::up()),
                served: Mutex::default(),
                config,
            }
        };
        name_servers.iter().zip(ips).map(server).collect()
    }

    /// The address at which nodes register.
    pub(crate) fn registry(ip: IpAddr) -> String {
        SocketAddr::new(ip, REGISTER).to_string()
    }

    pub(crate) fn dns(&self) -> SocketAddr {
        SocketAddr::new(self.ip, DNS)
    }
}

/// The address by which clients find the cluster; `None` without name servers.
pub(crate) fn zone(servers: &[NameServer]) -> Option<String> {
    let mut zone = format!("conclave+srv://{ZONE}");
    for (number, server) in servers.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = write!(zone, "{}{}", if number == 0 { "?ns=" } else { "," }, server.dns());
    }
    (!servers.is_empty()).then_some(zone)
}
