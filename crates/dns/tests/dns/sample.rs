//! A node's record, for the unit tests of the zone and the tests of the whole name server.

use conclave_proto::cluster::{MemberRole, NodeRecord};

/// The record of a healthy node that leads no shard.
pub(crate) fn record(id: u64) -> NodeRecord {
    NodeRecord {
        node_id: id,
        name: format!("n{id}"),
        cluster_id: "00112233445566778899aabbccddeeff".to_owned(),
        client: format!("10.0.0.{id}:7400"),
        peer: format!("10.0.0.{id}:7401"),
        http: format!("10.0.0.{id}:7480"),
        ips: vec![format!("10.0.0.{id}"), format!("fd00::{id}")],
        version: "0.1.0".to_owned(),
        revision: 100 + id,
        ready: true,
        draining: false,
        full: false,
        role: MemberRole::Voter.into(),
        weight: 50,
        leads: Vec::new(),
        votes_in: vec![0, 1],
    }
}
