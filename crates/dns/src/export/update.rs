//! What has to be said to a site's own name server, RFC 2136. Pure.

use std::collections::BTreeMap;

use hickory_proto::ProtoError;
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::SRV;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::zone::Zone;

/// Bytes of records in one message. All of it, with a signature, has to fit into 64 KiB.
const UPDATE_BYTES: usize = 32 * 1024;

/// The sets of records to be there, by name and type. An empty set is to be taken away.
pub(super) type Sets = BTreeMap<(Name, RecordType), Vec<Record>>;

/// What a zone looks like below `target`: the servers of every set and the addresses of every node. Whatever is below
/// `target` already keeps its name.
pub(super) fn sets(zone: &Zone, target: &Name) -> Sets {
    let mut sets = Sets::new();
    let in_target = target.zone_of(zone.name());
    let moved = |name: &Name| if in_target { Some(name.clone()) } else { rebase(name, zone.name(), target) };
    let nodes = Name::from_ascii("node").and_then(|node| node.append_domain(zone.name()));
    let Ok(nodes) = nodes else { return sets };
    for record in zone.records() {
        let Some(name) = moved(&record.name) else { continue };
        let data = match &record.data {
            RData::SRV(srv) => match moved(&srv.target) {
                Some(target) => RData::SRV(SRV::new(srv.priority, srv.weight, srv.port, target)),
                None => continue,
            },
            // Not those of the name servers: the site has its own, perhaps of the same names.
            RData::A(_) | RData::AAAA(_) if nodes.zone_of(&record.name) => record.data.clone(),
            _ => continue,
        };
        let set = sets.entry((name.clone(), record.record_type())).or_default();
        set.push(Record::from_rdata(name, record.ttl, data));
    }
    sets
}

/// The name with another zone's in place of its own.
fn rebase(name: &Name, from: &Name, to: &Name) -> Option<Name> {
    let own = usize::from(name.num_labels().checked_sub(from.num_labels())?);
    Name::from_labels(name.iter().take(own)).ok()?.append_domain(to).ok()
}

/// The messages that replace each of these sets as a whole.
pub(super) fn messages(target: &Name, sets: &Sets) -> Result<Vec<Message>, ProtoError> {
    use hickory_proto::serialize::binary::BinEncodable as _;

    let mut messages = Vec::new();
    let mut bytes = UPDATE_BYTES;
    for ((name, kind), records) in sets {
        if bytes >= UPDATE_BYTES {
            bytes = 0;
            let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Update);
            message.add_query(Query::query(target.clone(), RecordType::SOA));
            messages.push(message);
        }
        let mut delete = Record::update0(name.clone(), 0, *kind);
        delete.dns_class = DNSClass::ANY;
        for record in [&delete].into_iter().chain(records) {
            bytes += record.to_bytes()?.len();
            if let Some(message) = messages.last_mut() {
                message.add_authority(record.clone());
            }
        }
    }
    Ok(messages)
}
