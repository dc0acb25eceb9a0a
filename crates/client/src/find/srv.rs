//! Looks up SRV records: asks all name servers at once and takes the first answer that has the service.
//!
//! Each name server has its own hickory resolver. A pool would take a quick "no" of one name server (a site's own one
//! that does not know the zone, or one that has just started) for the answer of all.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use conclave_core::limits::NODES_MAX;
use conclave_net::{Net, socket_address};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hickory_resolver::Resolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData};

use super::dns_net::DnsNet;
use super::{Candidate, NAME_SERVER_PORT, PRIORITY_LAST, order};
use crate::limits::{DNS_ANSWER_FRESH_MAX, DNS_ATTEMPTS, DNS_TIMEOUT, DNS_TOTAL_TIMEOUT, NAME_SERVERS_MAX};

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The service of the nodes that accept clients.
#[must_use]
pub fn clients(zone: &str) -> String {
    format!("_conclave._tcp.{zone}.")
}

/// The service of the meta shard's leader.
#[must_use]
pub fn leader(zone: &str) -> String {
    format!("_conclave._tcp.leader.{zone}.")
}

/// The service of all members, ready or not, at their ports for other nodes.
#[must_use]
pub fn peers(zone: &str) -> String {
    format!("_conclave-peer._tcp.{zone}.")
}

/// The name server of `conclave up` on this machine, then the system's name servers.
#[must_use]
pub fn usual_name_servers() -> Vec<SocketAddr> {
    let mut servers = vec![SocketAddr::from(([127, 0, 0, 1], NAME_SERVER_PORT))];
    servers.extend(system_name_servers());
    servers.dedup();
    servers.truncate(NAME_SERVERS_MAX);
    servers
}

fn system_name_servers() -> Vec<SocketAddr> {
    // hickory forgets the interface of a link-local address.
    let written = std::fs::read_to_string(RESOLV_CONF).map(|conf| name_servers_in(&conf)).unwrap_or_default();
    if !written.is_empty() {
        return written;
    }
    let Ok((config, _)) = hickory_resolver::system_conf::read_system_conf() else { return Vec::new() };
    let port =
        |connections: &[ConnectionConfig]| connections.first().map_or(53, |connection| connection.port);
    config.name_servers().iter().map(|server| SocketAddr::new(server.ip, port(&server.connections))).collect()
}

/// The name servers of a resolv.conf. Lines that are not understood are skipped, as the C library does.
fn name_servers_in(conf: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
        let is_one = words.next() == Some("nameserver");
        let address = words.next().filter(|_| is_one)?;
        socket_address(address, Some(53))
            .inspect_err(|why| tracing::debug!(why, "name server of {RESOLV_CONF} skipped"))
            .ok()
    };
    conf.lines().filter_map(server).collect()
}

/// The answer of one name server.
#[derive(Clone, Debug)]
pub struct NameServerAnswer {
    /// The name server's address.
    pub name_server: SocketAddr,
    /// How long the answer took.
    pub took: Duration,
    /// The service, or why there is none, in a sentence.
    pub result: Result<Service, String>,
}

/// A service's nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// At least one, in the order to try them.
    pub candidates: Vec<Candidate>,
    /// How long the answer is fresh.
    pub fresh_for: Duration,
}

/// Asks all name servers at once for a service such as [`clients`]. Returns the first answer that has it.
///
/// # Errors
/// Why each name server has no answer, in a sentence each.
pub async fn ask(net: &Net, name_servers: &[SocketAddr], service: &str) -> Result<Service, Vec<String>> {
    let mut answers = answers(net, name_servers, service);
    let mut notes = Vec::new();
    while let Some(answer) = answers.next().await {
        match answer.result {
            Ok(service) => return Ok(service),
            Err(note) => notes.push(note),
        }
    }
    if notes.is_empty() {
        notes.push("there is no name server to ask".to_owned());
    }
    Err(notes)
}

/// Asks all name servers at once and waits for all answers, at most a second.
pub async fn ask_each(net: &Net, name_servers: &[SocketAddr], service: &str) -> Vec<NameServerAnswer> {
    let mut answers: Vec<_> = answers(net, name_servers, service).collect().await;
    let place =
        |answer: &NameServerAnswer| name_servers.iter().position(|server| *server == answer.name_server);
    answers.sort_by_key(place);
    answers
}

fn answers(
    net: &Net,
    name_servers: &[SocketAddr],
    service: &str,
) -> FuturesUnordered<impl Future<Output = NameServerAnswer>> {
    let servers = name_servers.iter().take(NAME_SERVERS_MAX);
    servers.map(|server| ask_one(net.clone(), *server, service.to_owned())).collect()
}

async fn ask_one(net: Net, name_server: SocketAddr, service: String) -> NameServerAnswer {
    let begun = Instant::now();
    let result = match tokio::time::timeout(DNS_TOTAL_TIMEOUT, look_up(net, name_server, &service)).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(why)) => Err(format!("the name server {name_server} {why}")),
        Err(_) => Err(format!("the name server {name_server} does not answer")),
    };
    NameServerAnswer { name_server, took: begun.elapsed(), result }
}

async fn look_up(net: Net, name_server: SocketAddr, service: &str) -> Result<Service, String> {
    let name =
        Name::from_ascii(service).map_err(|error| format!("cannot be asked for {service:?}: {error}"))?;
    let resolver = resolver(net, name_server).map_err(|error| format!("cannot be asked: {error}"))?;
    let lookup = resolver.srv_lookup(name).await.map_err(|error| explain(&error, service))?;
    let mut addresses = glue(&lookup);
    let records: Vec<&SRV> = srv_records(&lookup).take(NODES_MAX).collect();
    if records.is_empty() {
        return Err(format!("has no servers for {service}"));
    }
    // Usually none is missing: conclave's name server sends the addresses along.
    let missing: FuturesUnordered<_> = records
        .iter()
        .map(|record| &record.target)
        .filter(|target| !addresses.contains_key(*target))
        .map(|target| async { (target.clone(), resolver.lookup_ip(target.clone()).await) })
        .collect();
    for (target, found) in missing.collect::<Vec<_>>().await {
        if let Ok(found) = found {
            addresses.insert(target, found.iter().collect());
        }
    }
    let candidates = records.iter().flat_map(|record| candidates(record, addresses.get(&record.target)));
    let random = |max| rand::random_range(0..=max);
    let candidates = order::by_priority_and_weight(candidates.collect(), random);
    let fresh_for = lookup.valid_until().saturating_duration_since(Instant::now());
    Ok(Service { candidates, fresh_for })
}

/// The records of the service. The target "." means that the service does not exist (RFC 2782).
fn srv_records(lookup: &Lookup) -> impl Iterator<Item = &SRV> {
    lookup.answers().iter().filter_map(|record| match &record.data {
        RData::SRV(srv) if !srv.target.is_root() && srv.port > 0 => Some(srv),
        _ => None,
    })
}

/// The addresses in the additional section of the answer.
fn glue(lookup: &Lookup) -> HashMap<Name, Vec<IpAddr>> {
    let mut addresses: HashMap<Name, Vec<IpAddr>> = HashMap::new();
    for record in lookup.additionals() {
        if let Some(ip) = record.data.ip_addr() {
            addresses.entry(record.name.clone()).or_default().push(ip);
        }
    }
    addresses
}

/// The candidates of one record: the target's first address, and its other addresses as fallbacks.
fn candidates(record: &SRV, ips: Option<&Vec<IpAddr>>) -> Vec<Candidate> {
    let name = record.target.iter().next().map(|label| String::from_utf8_lossy(label).into_owned());
    let candidate = |address: String| Candidate {
        address,
        name: name.clone().unwrap_or_default(),
        priority: record.priority,
        weight: record.weight,
    };
    let mut ips = ips.cloned().unwrap_or_default();
    ips.sort_by_key(IpAddr::is_ipv6);
    if ips.is_empty() {
        let host = record.target.to_ascii();
        return vec![candidate(format!("{}:{}", host.trim_end_matches('.'), record.port))];
    }
    let mut all: Vec<_> =
        ips.into_iter().map(|ip| candidate(SocketAddr::new(ip, record.port).to_string())).collect();
    for other in all.iter_mut().skip(1) {
        other.priority = other.priority.max(PRIORITY_LAST + 1);
    }
    all
}

fn resolver(net: Net, name_server: SocketAddr) -> Result<Resolver<DnsNet>, NetError> {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = name_server.port();
        connection
    });
    let server = NameServerConfig::new(name_server.ip(), true, connections.to_vec());
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    let mut builder = Resolver::builder_with_config(config, DnsNet::new(net, name_server));
    let options = builder.options_mut();
    options.timeout = DNS_TIMEOUT;
    options.attempts = DNS_ATTEMPTS;
    options.use_hosts_file = ResolveHosts::Never;
    options.positive_max_ttl = Some(DNS_ANSWER_FRESH_MAX);
    // A search needs the current records.
    options.cache_size = 0;
    builder.build()
}

/// The reason of a failure, as the end of a sentence that begins with "the name server X".
fn explain(error: &NetError, service: &str) -> String {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, .. })) => match response_code {
            ResponseCode::NXDomain => format!("does not know the name {service}"),
            ResponseCode::ServFail => "knows no node yet (SERVFAIL)".to_owned(),
            _ => format!("has no servers for {service} now"),
        },
        NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail)) => {
            "has not heard of any node yet (SERVFAIL)".to_owned()
        }
        NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)) => {
            format!("does not answer for {service} (REFUSED)")
        }
        NetError::Timeout => "does not answer".to_owned(),
        other => format!("cannot be asked: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_of_resolv_conf_keep_their_interfaces() {
        let conf = "# nameserver 192.0.2.9\nsearch example.org\n  nameserver\t192.0.2.1 # of the site\n\
                    nameserver fd00::53\nnameserver fe80::1%lo\nnameserver fe80::1%no-such\nnameserver\nnameservers 192.0.2.8\n";
        let lo: u32 = std::fs::read_to_string("/sys/class/net/lo/ifindex").unwrap().trim().parse().unwrap();
        let written: Vec<String> = name_servers_in(conf).iter().map(ToString::to_string).collect();
        assert_eq!(written, ["192.0.2.1:53", "[fd00::53]:53", &format!("[fe80::1%{lo}]:53")]);
    }
}
