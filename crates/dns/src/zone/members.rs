//! The members of each server set, and their priorities.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use conclave_core::limits::{NODE_IPS_MAX, NODES_MAX, SHARDS_MAX};
use conclave_proto::cluster::{MemberRole, NodeRecord};
use hickory_proto::rr::Name;

use super::ZoneInput;
use crate::names::is_label;

/// One server of a set, with the fields of an `SRV` record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The node's name.
    pub node: String,
    /// The node's id.
    pub node_id: u64,
    /// The target of the `SRV` record, without the last dot.
    pub host: String,
    /// The host's addresses; empty if unknown.
    pub ips: Vec<IpAddr>,
    /// The port.
    pub port: u16,
    /// Lower is preferred.
    pub priority: u16,
    /// The relative share among targets of equal priority, 1 to 100; 0 for DNS-SD instances.
    pub weight: u16,
}

/// A member with its host name and addresses.
#[derive(Clone, Debug)]
pub(super) struct Member<'a> {
    pub(super) record: &'a NodeRecord,
    pub(super) live: bool,
    /// `<name>.node.<zone>`
    pub(super) host: Name,
    pub(super) ips: Vec<IpAddr>,
}

/// The API of a member that a target leads to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Port {
    Client,
    Peer,
    Http,
}

/// A set of servers under one SRV name.
#[derive(Debug)]
pub(super) struct ServerSet {
    /// The labels below the zone, such as `_conclave._tcp.leader`.
    pub(super) labels: String,
    /// The name in `DNSService.Lookup`.
    pub(super) short: String,
    pub(super) ttl: u32,
    /// Preferred first.
    pub(super) targets: Vec<Target>,
}

const LEADER: u16 = 10;
const VOTER: u16 = 20;
const LEARNER: u16 = 30;
const LAST: u16 = 40;

/// Every member with a valid name, by name. Of two with the same name (a node that came back with another id), the live
/// one or else the later one.
pub(super) fn members(view: &ZoneInput) -> Vec<Member<'_>> {
    let mut by_name = BTreeMap::new();
    let Ok(parent) = view.zone.prepend_label(b"node".as_slice()) else { return Vec::new() };
    for node in &view.nodes {
        let record = &node.record;
        let Ok(host) = parent.prepend_label(record.name.as_bytes()) else { continue };
        if !is_label(&record.name) {
            continue;
        }
        let rank = (node.live, record.revision, record.node_id);
        let mut ips: Vec<IpAddr> = record.ips.iter().filter_map(|ip| ip.parse().ok()).collect();
        ips.sort_unstable();
        ips.dedup();
        ips.truncate(NODE_IPS_MAX);
        let member = Member { record, live: node.live, host, ips };
        let entry = by_name.entry(record.name.as_str());
        entry
            .and_modify(|(best, held)| {
                if rank > *best {
                    (*best, *held) = (rank, member.clone());
                }
            })
            .or_insert((rank, member));
    }
    by_name.into_values().map(|(_, member)| member).take(NODES_MAX).collect()
}

/// Every server set of these members.
pub(super) fn sets(members: &[Member<'_>]) -> Vec<ServerSet> {
    let leader = leader_of(members, 0);
    let set = |labels: &str, short: &str, ttl, targets| ServerSet {
        labels: labels.into(),
        short: short.into(),
        ttl,
        targets,
    };
    let mut sets = vec![
        set("_conclave._tcp", "", 2, client_targets(members, leader)),
        set("_conclave._tcp.leader", "leader", 1, leader_target(leader)),
        set("_conclave-peer._tcp", "peers", 10, member_targets(members, Port::Peer)),
        set("_conclave-metrics._tcp", "metrics", 10, member_targets(members, Port::Http)),
    ];
    for shard in shards(members) {
        let labels = format!("_conclave._tcp.shard-{shard}.shard");
        sets.push(ServerSet {
            labels,
            short: format!("shard-{shard}"),
            ttl: 1,
            targets: shard_targets(members, shard),
        });
    }
    sets
}

/// The nodes that take clients, then the other living ones: a node that is not ready, for instance because it hears no leader,
/// still answers what it knows, and others of the list may be dead. Full nodes are listed only if no other
/// node takes clients: a full node knows free ones sooner than a name server does.
fn client_targets(members: &[Member<'_>], leader: Option<&Member<'_>>) -> Vec<Target> {
    let takes_clients = |member: &Member<'_>| member.live && member.record.ready && !member.record.draining;
    let all_full = !members.iter().any(|member| takes_clients(member) && !member.record.full);
    let leader_id = leader.map(|leader| leader.record.node_id);
    let mut targets = Vec::new();
    for member in members {
        let role = member.record.role();
        let priority = if takes_clients(member) && !member.record.full {
            match role {
                _ if leader_id == Some(member.record.node_id) => LEADER,
                MemberRole::Voter => VOTER,
                MemberRole::Unspecified | MemberRole::Learner | MemberRole::Witness => LEARNER,
            }
        } else if member.live && (!takes_clients(member) || all_full) {
            LAST
        } else {
            continue;
        };
        let weight = if takes_clients(member) { member.weight() } else { 1 };
        targets.extend(member.target(Port::Client, priority, weight));
    }
    best_first(targets)
}

/// The leader of a shard: the member that claims it with the highest term. `None` if that member is not live.
fn leader_of<'m, 'a>(members: &'m [Member<'a>], shard: u32) -> Option<&'m Member<'a>> {
    let claims = members.iter().flat_map(|member| {
        let leads = member.record.leads.iter().filter(|lead| lead.shard == shard);
        leads.map(move |lead| (lead.term, member.live, member.record.revision, member))
    });
    let (_, live, _, member) = claims.max_by_key(|(term, live, revision, _)| (*term, *live, *revision))?;
    live.then_some(member)
}

/// The nodes of a shard: its leader, its other voters, then the voters that drain or are not ready.
fn shard_targets(members: &[Member<'_>], shard: u32) -> Vec<Target> {
    let leader = leader_of(members, shard).map(|leader| leader.record.node_id);
    let rank = |member: &Member<'_>| {
        let record = member.record;
        let votes = member.live && record.votes_in.contains(&shard);
        match () {
            () if leader == Some(record.node_id) => Some(LEADER),
            () if votes && record.ready && !record.draining => Some(VOTER),
            () if votes => Some(LAST),
            () => None,
        }
    };
    let target = |member: &Member<'_>| member.target(Port::Client, rank(member)?, member.weight());
    best_first(members.iter().filter_map(target).collect())
}

fn leader_target(leader: Option<&Member<'_>>) -> Vec<Target> {
    leader.and_then(|leader| leader.target(Port::Client, LEADER, leader.weight())).into_iter().collect()
}

/// Every member, live or not.
fn member_targets(members: &[Member<'_>], port: Port) -> Vec<Target> {
    members.iter().filter_map(|member| member.target(port, LEADER, 1)).collect()
}

/// Every shard that any record names.
fn shards(members: &[Member<'_>]) -> BTreeSet<u32> {
    let named = members.iter().flat_map(|member| {
        let leads = member.record.leads.iter().map(|lead| lead.shard);
        leads.chain(member.record.votes_in.iter().copied())
    });
    named.filter(|shard| *shard <= SHARDS_MAX).collect()
}

fn best_first(mut targets: Vec<Target>) -> Vec<Target> {
    // The sort is stable: equal targets stay in the order of their names.
    targets.sort_by_key(|target| (target.priority, Reverse(target.weight)));
    targets
}

impl Member<'_> {
    /// The SRV target of this member; `None` if its record has no port for this API.
    pub(super) fn target(&self, port: Port, priority: u16, weight: u16) -> Option<Target> {
        let address = match port {
            Port::Client => &self.record.client,
            Port::Peer => &self.record.peer,
            Port::Http => &self.record.http,
        };
        let port = address.rsplit_once(':')?.1.parse().ok().filter(|port| *port != 0)?;
        let mut host = self.host.to_ascii();
        host.truncate(host.trim_end_matches('.').len());
        Some(Target {
            node: self.record.name.clone(),
            node_id: self.record.node_id,
            host,
            ips: self.ips.clone(),
            port,
            priority,
            weight,
        })
    }

    fn weight(&self) -> u16 {
        u16::try_from(self.record.weight.clamp(1, 100)).unwrap_or(100)
    }
}
