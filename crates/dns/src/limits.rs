//! The bounds of a name server. Those that nodes or clients share with it are in [`conclave_core::limits`].

use std::time::Duration;

use conclave_core::limits::{NODES_MAX, REGISTER_INTERVAL};

/// Lease of a registration: a node that does not renew it for this long, by this server's monotonic clock, lapses.
pub const REGISTER_LEASE: Duration = Duration::from_secs(2);
/// Nodes whose streams of records a name server watches at the same time.
pub const RECORDS_WATCHED: usize = 2;
/// Version in a node's record, bytes.
pub const NODE_VERSION_BYTES_MAX: usize = 64;
/// A registration message: one node's record with its MAC, bytes.
pub const REGISTER_MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// A message with all nodes' records and its MAC, bytes.
pub const RECORDS_MESSAGE_BYTES_MAX: usize = NODES_MAX * REGISTER_MESSAGE_BYTES_MAX;
/// Open registration streams of nodes: more than nodes, since old streams may linger when nodes reconnect. A stream
/// counts once its first record has shown that the node knows the secret.
pub const REGISTER_STREAMS_MAX: usize = 4 * NODES_MAX;
/// Open registration streams that have shown no secret yet. One more takes the place of the oldest.
pub const REGISTER_UNPROVEN_MAX: usize = 4 * NODES_MAX;
/// Those of one address: several nodes behind one address may begin at once, and strangers gain little.
pub const REGISTER_UNPROVEN_PER_ADDRESS_MAX: usize = 16;
/// A registration stream that has not shown the secret within this time is closed: two round trips, on a bad network.
pub const REGISTER_PROOF_MAX: Duration = Duration::from_secs(10);
/// Shortest time between two log lines about registration streams that ended: strangers can open as many as they like.
pub const REGISTER_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// A registration stream without a message for this long is closed.
pub const REGISTER_IDLE_MAX: Duration = Duration::from_secs(10);
/// Records that wait for the registry task.
pub const RECORD_QUEUE_MAX: usize = 256;
/// Open `Watch` streams.
pub const LOOKUP_WATCHES_MAX: usize = 1_024;
/// Largest answer over UDP, bytes: fits into one packet on any link.
pub const DNS_DATAGRAM_BYTES_MAX: u16 = 1_232;
/// Open TCP connections for DNS, over all listen addresses. DNS uses them for long answers and zone transfers only.
pub const DNS_CONNECTIONS_MAX: usize = 256;
/// Those of one address: a resolver needs one or two at a time (RFC 9210), and one client must not shut out others.
pub const DNS_CONNECTIONS_PER_ADDRESS_MAX: usize = 16;
/// Those of this machine: a local resolver or proxy asks for many clients.
pub const DNS_CONNECTIONS_LOOPBACK_MAX: usize = 64;
/// Open connections to the gRPC port: one or two of each node, and those of programs that watch names.
pub const GRPC_CONNECTIONS_MAX: usize = 2_048;
/// Open connections to the HTTP pages: probes and a few scrapers.
pub const HTTP_CONNECTIONS_MAX: usize = 256;
/// Connections of one address to the gRPC port, or to the HTTP pages: several nodes or programs may share an address.
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 64;
/// A connection to the gRPC port or the pages that has made no request for this long after it was accepted is closed.
pub const FIRST_REQUEST_MAX: Duration = Duration::from_secs(10);
/// A connection to the gRPC port or the pages without an open call for this long is closed. A registration and a watch
/// are open calls.
pub const CONNECTION_IDLE_MAX: Duration = Duration::from_mins(2);
/// A TCP connection without a question for this long is closed.
pub const DNS_CONNECTION_IDLE: Duration = Duration::from_secs(10);
/// Messages that wait to be sent on one TCP connection: those of one zone transfer.
pub const DNS_REPLIES_WAITING_MAX: usize = 1_024;
/// Shortest time between two published zones.
pub const ZONE_INTERVAL_MIN: Duration = Duration::from_millis(5);
/// Listen addresses of one name server.
pub const LISTEN_ADDRESSES_MAX: usize = 16;
/// Forwarded questions in flight; more are answered with SERVFAIL.
pub const FORWARDS_IN_FLIGHT_MAX: usize = 256;
/// Timeout for the answer of one name server to a forwarded question.
pub const FORWARD_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Name servers that questions are forwarded to.
pub const FORWARD_SERVERS_MAX: usize = 8;

const _: () = assert!(
    REGISTER_LEASE.as_millis() == 4 * REGISTER_INTERVAL.as_millis(),
    "when all nodes fall silent at once, all leases end within a quarter of a lease"
);
