//! The input of a zone.

use conclave_proto::cluster::NodeRecord;
use hickory_proto::rr::Name;

use crate::names::NameServer;

/// The input of a zone. Equal views make equal zones, on every name server.
#[derive(Clone, Debug, PartialEq)]
pub struct ZoneInput {
    /// The zone's name: lower case and absolute, as [`zone_name`](crate::names::zone_name) makes it.
    pub zone: Name,
    /// The name servers, for the NS and SOA records.
    pub name_servers: Vec<NameServer>,
    /// Every member, live or not, in any order.
    pub nodes: Vec<NodeView>,
    /// This name server is cut off, and these are the last known records.
    pub stale: bool,
    /// The zone's serial: the same for the same content.
    pub serial: u32,
}

/// A member as this name server knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeView {
    /// The node's record. If it had no `ips`, they are those that the node registered from, if known.
    pub record: NodeRecord,
    /// Whether the node counts as live.
    pub live: bool,
}
