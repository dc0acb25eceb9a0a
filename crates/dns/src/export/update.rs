//! Builds the messages of a dynamic update (RFC 2136). Pure.

use std::collections::BTreeMap;

use hickory_proto::ProtoError;
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::SRV;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::zone::Zone;

/// Bytes of records in one message. The message with its signature must fit into 64 KiB.
const UPDATE_BYTES: usize = 32 * 1024;

/// The wanted record sets by name and type. An empty set is deleted.
pub(super) type Sets = BTreeMap<(Name, RecordType), Vec<Record>>;

/// The record sets of a zone below `target`: the SRV records of every server set and the addresses of every node. If
/// the zone is below `target` already, names stay as they are.
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
            // Not the addresses of our name servers: the site may have its own under the same names.
            RData::A(_) | RData::AAAA(_) if nodes.zone_of(&record.name) => record.data.clone(),
            _ => continue,
        };
        let set = sets.entry((name.clone(), record.record_type())).or_default();
        set.push(Record::from_rdata(name, record.ttl, data));
    }
    sets
}

/// Replaces the zone `from` at the end of a name by the zone `to`.
fn rebase(name: &Name, from: &Name, to: &Name) -> Option<Name> {
    let own = usize::from(name.num_labels().checked_sub(from.num_labels())?);
    Name::from_labels(name.iter().take(own)).ok()?.append_domain(to).ok()
}

/// The messages that replace each of these record sets as a whole.
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
