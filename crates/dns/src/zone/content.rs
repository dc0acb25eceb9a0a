//! The records of a zone, by name.

use std::collections::BTreeMap;
use std::net::IpAddr;

use conclave_proto::cluster::MemberRole;
use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::ZoneInput;
use super::members::{Member, Port, ServerSet, Target};
use crate::names::is_label;

/// Also the TTL of negative answers: a client that asked during a failover must soon see the new leader.
const SOA_TTL: u32 = 1;
/// TTL of records that change only with the configuration.
const FIXED_TTL: u32 = 60;
const NODE_TTL: u32 = 2;
/// Longest string of a TXT record, bytes.
const TXT_BYTES_MAX: usize = 255;

/// All records of a zone by name and type, with the names that only have others below them.
#[derive(Debug)]
pub(super) struct Content {
    zone: Name,
    pub(super) names: BTreeMap<Name, BTreeMap<RecordType, Vec<Record>>>,
}

impl Content {
    /// The records of these members and server sets.
    pub(super) fn new(view: &ZoneInput, members: &[Member<'_>], sets: &[ServerSet]) -> Self {
        let mut content = Self { zone: view.zone.clone(), names: BTreeMap::new() };
        content.apex(view);
        for set in sets {
            content.set(set);
        }
        for member in members {
            content.node(member, view.stale);
        }
        content.dns_sd(members);
        // These names exist even when nothing is below them.
        for parent in ["node", "shard"] {
            if let Some(name) = content.subname(parent) {
                content.add_name(name);
            }
        }
        content
    }

    /// Adds the SOA and NS records and the addresses of the name servers.
    fn apex(&mut self, view: &ZoneInput) {
        let mut first = None;
        for server in view.name_servers.iter().filter(|server| is_label(&server.name)) {
            let Some(host) = self.subname(&server.name) else { continue };
            self.add(view.zone.clone(), FIXED_TTL, RData::NS(NS(host.clone())));
            self.addresses(&host, FIXED_TTL, &server.ips);
            first.get_or_insert(host);
        }
        let first = first.unwrap_or_else(|| view.zone.clone());
        let contact = self.subname("hostmaster").unwrap_or_else(|| view.zone.clone());
        let soa = SOA::new(first, contact, view.serial, 60, 10, 86_400, SOA_TTL);
        self.add(view.zone.clone(), SOA_TTL, RData::SOA(soa));
    }

    /// Adds the SRV records of a server set. Its name exists even when the set is empty.
    fn set(&mut self, set: &ServerSet) {
        let Some(owner) = self.subname(&set.labels) else { return };
        self.add_name(owner.clone());
        for target in &set.targets {
            self.srv(&owner, set.ttl, target);
        }
    }

    /// Adds the addresses and the TXT record of a node.
    fn node(&mut self, member: &Member<'_>, stale: bool) {
        self.add_name(member.host.clone());
        self.addresses(&member.host, NODE_TTL, &member.ips);
        self.add(member.host.clone(), NODE_TTL, RData::TXT(TXT::new(txt_strings(member, stale))));
    }

    /// Adds the records of DNS-SD (RFC 6763). Every member is listed, also if it is not live: clients cache the list
    /// for long.
    fn dns_sd(&mut self, members: &[Member<'_>]) {
        let (Some(types), Some(service)) =
            (self.subname("_services._dns-sd._udp"), self.subname("_conclave._tcp"))
        else {
            return;
        };
        self.add(types, FIXED_TTL, RData::PTR(PTR(service.clone())));
        for member in members {
            let Ok(instance) = service.prepend_label(member.record.name.as_bytes()) else { continue };
            // An instance is one host and one port, so priority and weight are 0 by convention.
            let Some(target) = member.target(Port::Client, 0, 0) else { continue };
            self.add(service.clone(), FIXED_TTL, RData::PTR(PTR(instance.clone())));
            self.srv(&instance, NODE_TTL, &target);
            let about = vec![
                format!("id={}", member.record.node_id),
                truncate_txt(format!("version={}", member.record.version)),
            ];
            self.add(instance, NODE_TTL, RData::TXT(TXT::new(about)));
        }
    }

    fn srv(&mut self, owner: &Name, ttl: u32, target: &Target) {
        let Some(host) = self.subname(&format!("{}.node", target.node)) else { return };
        let data = SRV::new(target.priority, target.weight, target.port, host);
        self.add(owner.clone(), ttl, RData::SRV(data));
    }

    fn addresses(&mut self, host: &Name, ttl: u32, ips: &[IpAddr]) {
        for ip in ips {
            let data = match ip {
                IpAddr::V4(ip) => RData::A(A(*ip)),
                IpAddr::V6(ip) => RData::AAAA(AAAA(*ip)),
            };
            self.add(host.clone(), ttl, data);
        }
    }

    fn add(&mut self, owner: Name, ttl: u32, data: RData) {
        self.add_name(owner.clone());
        let set = self.names.entry(owner.clone()).or_default().entry(data.record_type()).or_default();
        let record = Record::from_rdata(owner, ttl, data);
        if !set.contains(&record) {
            set.push(record);
        }
    }

    /// Adds a name and every name between it and the zone's own (RFC 8020).
    fn add_name(&mut self, mut name: Name) {
        while self.zone.zone_of(&name) && !self.names.contains_key(&name) {
            let parent = name.base_name();
            self.names.insert(name, BTreeMap::new());
            name = parent;
        }
    }

    /// A name below the zone; `None` if it would be too long.
    fn subname(&self, labels: &str) -> Option<Name> {
        // As bytes: as text, hickory would apply IDNA to the labels.
        labels
            .rsplit('.')
            .try_fold(self.zone.clone(), |name, label| name.prepend_label(label.as_bytes()))
            .ok()
    }
}

fn txt_strings(member: &Member<'_>, stale: bool) -> Vec<String> {
    let record = member.record;
    let role = match record.role() {
        MemberRole::Unspecified => "none",
        MemberRole::Voter => "voter",
        MemberRole::Learner => "learner",
        MemberRole::Witness => "witness",
    };
    let state = match () {
        () if !member.live => "silent",
        () if record.draining => "draining",
        () if !record.ready => "not-ready",
        () if record.full => "full",
        () => "ready",
    };
    vec![
        format!("id={}", record.node_id),
        truncate_txt(format!("cluster={}", record.cluster_id)),
        truncate_txt(format!("version={}", record.version)),
        format!("role={role}"),
        format!("state={state}"),
        format!("weight={}", record.weight),
        format!("revision={}", record.revision),
        format!("stale={}", u8::from(stale)),
    ]
}

/// Truncates a text to what one string of a TXT record holds.
fn truncate_txt(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TXT_BYTES_MAX));
    text
}
