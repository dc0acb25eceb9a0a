//! What the zone is made of.

use conclave_proto::cluster::NodeRecord;
use hickory_proto::rr::Name;

use crate::names::NameServer;

/// Everything that the zone is a function of. Equal views make equal zones, whichever resolver makes them.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The zone's name: lower case and absolute, as [`zone_name`](crate::names::zone_name) makes it.
    pub zone: Name,
    /// The resolvers, for NS and SOA.
    pub name_servers: Vec<NameServer>,
    /// Every member, live or not, in any order.
    pub nodes: Vec<NodeView>,
    /// The resolver is cut off and this is the last good set.
    pub stale: bool,
    /// The zone's serial: the same for the same content.
    pub serial: u32,
}

/// A member as the resolver knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeView {
    /// Its record, with `ips` filled in if anybody knows them.
    pub record: NodeRecord,
    /// Its lease has not lapsed.
    pub live: bool,
}
