//! The bounds of a resolver. Those that nodes and clients share with it are in [`conclave_core::limits`].

use std::time::Duration;

use conclave_core::limits::{NODES_MAX, REGISTER_INTERVAL};

/// A record that is not renewed counts this long, on the resolver's monotonic clock.
pub const REGISTER_LEASE: Duration = Duration::from_secs(2);
/// Nodes whose records a resolver watches, beside what is registered with it.
pub const RECORDS_WATCHED: usize = 2;
/// What a node calls its version, bytes.
pub const NODE_VERSION_BYTES_MAX: usize = 64;
/// A sealed record of one node, bytes.
pub const REGISTER_MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// A sealed list of all nodes' records, bytes.
pub const RECORDS_MESSAGE_BYTES_MAX: usize = NODES_MAX * REGISTER_MESSAGE_BYTES_MAX;
/// Streams of nodes that one resolver holds open: old ones may linger when nodes connect anew.
pub const REGISTER_STREAMS_MAX: usize = 4 * NODES_MAX;
/// A node's stream without a message for so long is closed.
pub const REGISTER_IDLE_MAX: Duration = Duration::from_secs(10);
/// Records that wait for a resolver to look at them.
pub const RECORD_QUEUE_MAX: usize = 256;
/// Streams that one resolver tells of changes.
pub const LOOKUP_WATCHES_MAX: usize = 1_024;
/// An answer over UDP, bytes: what travels in one piece on any link.
pub const DNS_DATAGRAM_BYTES_MAX: u16 = 1_232;
/// Connections that one address of a resolver serves; more wait to be accepted.
pub const DNS_CONNECTIONS_MAX: usize = 256;
/// A connection without a question for so long is closed.
pub const DNS_CONNECTION_IDLE: Duration = Duration::from_secs(10);
/// Messages that wait to be sent on one connection: those of one transfer.
pub const DNS_REPLIES_WAITING_MAX: usize = 1_024;
/// Between two new zones at a resolver while changes keep coming.
pub const ZONE_INTERVAL_MIN: Duration = Duration::from_millis(5);
/// Addresses that one resolver listens on.
pub const LISTEN_ADDRESSES_MAX: usize = 16;
/// Questions about other names that a resolver has passed on and that are not answered yet.
pub const FORWARDS_IN_FLIGHT_MAX: usize = 256;
/// One name server to pass questions on to has so long to answer.
pub const FORWARD_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Name servers to pass questions on to.
pub const FORWARD_SERVERS_MAX: usize = 8;

const _: () = assert!(
    REGISTER_LEASE.as_millis() == 4 * REGISTER_INTERVAL.as_millis(),
    "a resolver that hears nobody sees all leases run out within a quarter of one"
);
