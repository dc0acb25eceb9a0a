//! Validation of records. Records are checked once, here; everything behind this relies on it.

use std::net::IpAddr;

use conclave_core::limits::{NODE_IPS_MAX, SHARDS_MAX};
use conclave_proto::cluster::{MemberRole, NodeRecord};

use crate::limits::NODE_VERSION_BYTES_MAX;
use crate::names::{host_port, is_label};

/// Highest revision. Revisions are tenths of a second since 1970: this one is due in the year 225,000, and four times
/// this fits into 64 bits.
const REVISION_MAX: u64 = 1 << 46;

/// Why a record is rejected, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RecordError(pub(crate) String);

/// Rejects a record that cannot become part of a zone.
pub(super) fn validate(record: &NodeRecord) -> Result<(), RecordError> {
    let name = &record.name;
    if !is_label(name) {
        return refuse(format!(
            "the node's name {:?} must be 1 to 63 of a-z, 0-9 and -, and not begin or end with -",
            shortened(name)
        ));
    }
    let cluster = &record.cluster_id;
    if cluster.len() != 32 || !cluster.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return refuse(format!("the cluster's id {:?} is not 32 of 0-9 and a-f", shortened(cluster)));
    }
    if record.node_id == 0 {
        return refuse(format!("the node {name:?} has the id 0; ids begin at 1"));
    }
    if !(1..=REVISION_MAX).contains(&record.revision) {
        return refuse(format!(
            "the revision {} of {name:?} must be 1 to {REVISION_MAX}; is its clock right?",
            record.revision
        ));
    }
    for (what, address) in [("client", &record.client), ("peer", &record.peer), ("http", &record.http)] {
        if host_port(address).is_none() {
            return refuse(format!(
                "the {what} address {:?} of {name:?} is not host:port with a port from 1 to 65535",
                shortened(address)
            ));
        }
    }
    addresses(record)?;
    if record.version.len() > NODE_VERSION_BYTES_MAX || !record.version.bytes().all(|b| b.is_ascii_graphic())
    {
        return refuse(format!(
            "the version of {name:?} must have at most {NODE_VERSION_BYTES_MAX} visible ASCII characters"
        ));
    }
    if !(1..=100).contains(&record.weight) {
        return refuse(format!("the weight {} of {name:?} must be 1 to 100", record.weight));
    }
    if matches!(MemberRole::try_from(record.role), Err(_) | Ok(MemberRole::Unspecified)) {
        return refuse(format!("the role {} of {name:?} is not known to this version", record.role));
    }
    let leads = record.leads.iter().map(|lead| lead.shard);
    if !ascending_shards(leads) || !ascending_shards(record.votes_in.iter().copied()) {
        return refuse(format!("the shards of {name:?} must ascend from 0 to at most {SHARDS_MAX}"));
    }
    Ok(())
}

fn addresses(record: &NodeRecord) -> Result<(), RecordError> {
    let name = &record.name;
    if record.ips.len() > NODE_IPS_MAX {
        return refuse(format!("{name:?} has {} addresses; {NODE_IPS_MAX} are the most", record.ips.len()));
    }
    for ip in &record.ips {
        match ip.parse::<IpAddr>() {
            Ok(ip) if !ip.is_unspecified() && !ip.is_multicast() => {}
            _ => {
                return refuse(format!("the address {:?} of {name:?} is not one of a host", shortened(ip)));
            }
        }
    }
    Ok(())
}

fn ascending_shards(shards: impl Iterator<Item = u32> + Clone) -> bool {
    shards.clone().all(|shard| shard <= SHARDS_MAX) && shards.is_sorted_by(|a, b| a < b)
}

fn refuse<T>(why: String) -> Result<T, RecordError> {
    Err(RecordError(why))
}

/// The first 80 characters, enough to recognize the text.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}
