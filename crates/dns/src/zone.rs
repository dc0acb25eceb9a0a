//! The zone: names and records as a pure function of the node table.
//!
//! A zone is built once and queried often, so everything that an answer needs is encoded when it is built: every record
//! set once alone and once with the addresses of its targets. So it is known beforehand what fits into which answer.

mod body;
mod content;
mod members;
#[cfg(test)]
mod tests;
pub mod view;

use std::collections::{BTreeMap, HashMap};

use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinEncodable as _;

pub(crate) use body::{Body, HEADER_BYTES};
pub use members::Target;
pub use view::{NodeView, ZoneInput};

use content::Content;

/// Bytes of records in one message of a transfer. Names can only be compressed within the first 16 KiB of a message.
const TRANSFER_BYTES: usize = 12 * 1024;

/// One version of the zone.
#[derive(Debug)]
pub struct Zone {
    name: Name,
    /// The name as [`key`] makes it.
    key: Box<[u8]>,
    serial: u32,
    stale: bool,
    names: HashMap<Box<[u8]>, Entry>,
    /// Targets by the short name of `Lookup`, and by the full name that has the SRV records.
    targets: HashMap<String, Vec<Target>>,
    absence: Body,
    order: Vec<Box<[u8]>>,
}

/// A name of the zone. It has no record sets if it only has names below it, or if its server set is empty.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    sets: Vec<RecordSet>,
}

/// The records of one type at one name.
#[derive(Debug)]
pub(crate) struct RecordSet {
    kind: RecordType,
    records: Vec<Record>,
    pub(crate) alone: Body,
    /// With additional records (the addresses of the targets). `None` if there are none.
    pub(crate) with_additional: Option<Body>,
}

impl Zone {
    /// Builds the zone of a view.
    #[must_use]
    pub fn build(view: &ZoneInput) -> Self {
        let members = members::members(view);
        let sets = members::sets(&members);
        let content = Content::new(view, &members, &sets);
        let mut zone = Self {
            key: key(&view.zone),
            name: view.zone.clone(),
            serial: view.serial,
            stale: view.stale,
            names: HashMap::with_capacity(content.names.len()),
            targets: HashMap::with_capacity(2 * sets.len() + members.len()),
            absence: Body::default(),
            order: content.names.keys().map(key).collect(),
        };
        for (name, types) in &content.names {
            let sets =
                types.iter().filter_map(|(kind, records)| record_set(&content.names, name, *kind, records));
            zone.names.insert(key(name), Entry { sets: sets.collect() });
        }
        let soa = zone.set_at_apex(RecordType::SOA).and_then(|soa| soa.records.first());
        zone.absence = soa.and_then(Body::absence).unwrap_or_default();
        let below = |labels: &str| format!("{labels}.{}", view.zone.to_ascii().trim_end_matches('.'));
        for member in &members {
            let name = &member.record.name;
            let targets = |priority, weight| {
                member.target(members::Port::Client, priority, weight).into_iter().collect()
            };
            zone.targets.insert(name.clone(), targets(10, 1));
            zone.targets.insert(below(&format!("{name}._conclave._tcp")), targets(0, 0));
        }
        // After the nodes: a node named `leader` must not replace the leader's set.
        for set in sets {
            zone.targets.insert(below(&set.labels), set.targets.clone());
            zone.targets.insert(set.short, set.targets);
        }
        zone
    }

    /// The zone's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The zone's serial.
    #[must_use]
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// Whether the records are the last known ones of a name server that is cut off.
    #[must_use]
    pub fn stale(&self) -> bool {
        self.stale
    }

    /// The targets of a server set, best first. The name is `""` for every healthy node, `leader`, `shard-<n>`,
    /// `peers`, `metrics`, a node's name, or the full name of an `SRV` record set. `None` if there is no such set; a
    /// set may be empty.
    #[must_use]
    pub fn targets(&self, name: &str) -> Option<&[Target]> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        self.targets.get(&name).map(Vec::as_slice)
    }

    /// Every record, in the order of the names. The first name is the zone's own, with the SOA.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        let entries = self.order.iter().filter_map(|key| self.names.get(key));
        entries.flat_map(|entry| &entry.sets).flat_map(|set| &set.records)
    }

    /// The entry of a name, given as [`key`] makes it.
    pub(crate) fn find(&self, key: &[u8]) -> Option<&Entry> {
        self.names.get(key)
    }

    /// Whether the name, given as [`key`] makes it, is the zone's own name.
    pub(crate) fn is_apex(&self, key: &[u8]) -> bool {
        *self.key == *key
    }

    /// The SOA for negative answers, which bounds how long they may be cached.
    pub(crate) fn absence(&self) -> &Body {
        &self.absence
    }

    /// The SOA record set.
    pub(crate) fn soa(&self) -> Option<&RecordSet> {
        self.set_at_apex(RecordType::SOA)
    }

    /// The messages of a zone transfer: every record, between two copies of the SOA (RFC 5936).
    pub(crate) fn transfer(&self) -> Vec<Body> {
        let soa = self.soa().and_then(|soa| soa.records.first());
        let rest = self.records().filter(|record| record.record_type() != RecordType::SOA);
        let mut bodies = Vec::new();
        let mut batch: Vec<&Record> = Vec::new();
        let mut bytes = 0;
        let mut close = |batch: &mut Vec<&Record>| {
            bodies.extend(Body::answer(&self.name, RecordType::AXFR, batch.iter().copied(), [].iter()));
            batch.clear();
        };
        for record in soa.into_iter().chain(rest).chain(soa) {
            // An upper bound: names are compressed in the message.
            let size = encoded_size(record);
            if bytes + size > TRANSFER_BYTES && !batch.is_empty() {
                close(&mut batch);
                bytes = 0;
            }
            batch.push(record);
            bytes += size;
        }
        close(&mut batch);
        bodies
    }

    fn set_at_apex(&self, kind: RecordType) -> Option<&RecordSet> {
        self.names.get(&self.key)?.set(kind)
    }
}

impl Entry {
    /// The records of one type.
    pub(crate) fn set(&self, kind: RecordType) -> Option<&RecordSet> {
        self.sets.iter().find(|set| set.kind == kind)
    }

    /// The smallest record set, which answers questions of type ANY (RFC 8482).
    pub(crate) fn smallest(&self) -> Option<&RecordSet> {
        self.sets.iter().min_by_key(|set| set.alone.bytes.len())
    }
}

/// The key of a name: its wire format in lower case.
pub(crate) fn key(name: &Name) -> Box<[u8]> {
    let mut key = Vec::with_capacity(name.len() + 1);
    for label in name {
        // The length fits into one byte: a label has at most 63 bytes.
        let [.., length] = label.len().to_be_bytes();
        key.push(length);
        key.extend(label.iter().map(u8::to_ascii_lowercase));
    }
    key.push(0);
    key.into()
}

/// Whether a name is `parent` or below it. Both as [`key`] makes them.
pub(crate) fn is_below(mut name: &[u8], parent: &[u8]) -> bool {
    while name.len() > parent.len() {
        let Some(rest) = name.get(1 + usize::from(name[0])..) else { return false };
        name = rest;
    }
    name == parent
}

const ADDRESS_TYPES: &[RecordType] = &[RecordType::A, RecordType::AAAA];
const INSTANCE_TYPES: &[RecordType] = &[RecordType::SRV, RecordType::TXT];

type Names = BTreeMap<Name, BTreeMap<RecordType, Vec<Record>>>;

/// Encodes a record set, alone and with its additional records.
fn record_set(names: &Names, name: &Name, kind: RecordType, records: &[Record]) -> Option<RecordSet> {
    let additional = additional_records(names, records);
    let alone = Body::answer(name, kind, records.iter(), [].iter())?;
    let with_additional = if additional.is_empty() {
        None
    } else {
        Body::answer(name, kind, records.iter(), additional.iter().copied())
    };
    Some(RecordSet { kind, records: records.to_vec(), alone, with_additional })
}

/// The additional records of a record set: addresses of SRV and NS targets, SRV and TXT of DNS-SD instances; each once.
fn additional_records<'a>(names: &'a Names, records: &[Record]) -> Vec<&'a Record> {
    let is_instance = |name: &Name| names.get(name).is_some_and(|sets| sets.contains_key(&RecordType::TXT));
    let mut additional = Vec::new();
    let mut seen: Vec<&Name> = Vec::new();
    for record in records {
        let (name, kinds) = match &record.data {
            RData::SRV(srv) => (&srv.target, ADDRESS_TYPES),
            RData::NS(host) => (&host.0, ADDRESS_TYPES),
            RData::PTR(instance) if is_instance(&instance.0) => (&instance.0, INSTANCE_TYPES),
            _ => continue,
        };
        if seen.contains(&name) {
            continue;
        }
        seen.push(name);
        if let Some(sets) = names.get(name) {
            additional.extend(kinds.iter().filter_map(|kind| sets.get(kind)).flatten());
        }
    }
    additional
}

fn encoded_size(record: &Record) -> usize {
    record.to_bytes().map_or(0, |bytes| bytes.len())
}
