//! The records of a zone, by name.

use std::collections::BTreeMap;
use std::net::IpAddr;

use conclave_proto::cluster::MemberRole;
use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::View;
use super::members::{Member, Port, ServerSet, Target};
use crate::names::is_label;

/// Also how long an absence may be remembered: who asked during a failover must not stay blind.
const SOA_TTL: u32 = 1;
/// What changes only when the site does.
const FIXED_TTL: u32 = 60;
const NODE_TTL: u32 = 2;
/// Of one string in a TXT record.
const TXT_BYTES_MAX: usize = 255;

/// All records of a zone: each name with its sets, also the names that only have others below them.
#[derive(Debug)]
pub(super) struct Content {
    zone: Name,
    pub(super) names: BTreeMap<Name, BTreeMap<RecordType, Vec<Record>>>,
}

impl Content {
    /// The zone that these members and sets make up.
    pub(super) fn new(view: &View, members: &[Member<'_>], sets: &[ServerSet]) -> Self {
        let mut content = Self { zone: view.zone.clone(), names: BTreeMap::new() };
        content.apex(view);
        for set in sets {
            content.set(set);
        }
        for member in members {
            content.node(member, view.stale);
        }
        content.dns_sd(members);
        // They are there before there is anything below them.
        for parent in ["node", "shard"] {
            if let Some(name) = content.subname(parent) {
                content.add_name(name);
            }
        }
        content
    }

    /// The SOA and NS records, with the addresses of the name servers.
    fn apex(&mut self, view: &View) {
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

    /// One set of servers. Its name is there even when nobody is in it.
    fn set(&mut self, set: &ServerSet) {
        let Some(owner) = self.subname(&set.labels) else { return };
        self.add_name(owner.clone());
        for target in &set.targets {
            self.srv(&owner, set.ttl, target);
        }
    }

    /// What is known of one node.
    fn node(&mut self, member: &Member<'_>, stale: bool) {
        self.add_name(member.host.clone());
        self.addresses(&member.host, NODE_TTL, &member.ips);
        self.add(member.host.clone(), NODE_TTL, RData::TXT(TXT::new(txt_strings(member, stale))));
    }

    /// What DNS-SD (RFC 6763) asks for. Every member is listed: the list may be remembered for long.
    fn dns_sd(&mut self, members: &[Member<'_>]) {
        let (Some(types), Some(service)) =
            (self.subname("_services._dns-sd._udp"), self.subname("_conclave._tcp"))
        else {
            return;
        };
        self.add(types, FIXED_TTL, RData::PTR(PTR(service.clone())));
        for member in members {
            let Ok(instance) = service.prepend_label(member.record.name.as_bytes()) else { continue };
            // An instance is one host and one port: there is nothing to weigh, and both numbers are 0 by custom.
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

    /// The name is there, and so is every name between it and the zone's own (RFC 8020).
    fn add_name(&mut self, mut name: Name) {
        while self.zone.zone_of(&name) && !self.names.contains_key(&name) {
            let parent = name.base_name();
            self.names.insert(name, BTreeMap::new());
            name = parent;
        }
    }

    /// A name in the zone; none if it would be too long.
    fn subname(&self, labels: &str) -> Option<Name> {
        // As bytes: as text, labels are taken for words of some language.
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
        () if !record.ready => "starting",
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

/// As much as one string of a TXT record holds.
fn truncate_txt(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TXT_BYTES_MAX));
    text
}
