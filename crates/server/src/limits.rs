//! Every bound of a node that nothing else shares.

use std::time::Duration;

use conclave_core::limits::{LOG_COMMIT_BYTES_MAX, TEXT_BYTES_MAX};

// ---- Serving ---------------------------------------------------------------------------------------

/// A gateway keeps trying to get a request decided this long before it answers "unknown".
pub(crate) const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Streams of records that one node serves.
pub(crate) const RECORDS_STREAMS_MAX: usize = 64;

// ---- Proposals and entries -------------------------------------------------------------------------

/// Proposals waiting at one shard's leader, in commands.
pub(crate) const PROPOSAL_QUEUE_MAX: usize = 8_192;
/// Commands of one Raft entry.
pub(crate) const ENTRY_COMMANDS_MAX: usize = 4_096;
/// Bytes at which a Raft entry is closed. One command always fits.
pub(crate) const ENTRY_BYTES_MAX: usize = 256 * 1024;
/// Raft entries that a leader has in flight in one shard. Small on purpose: what arrives meanwhile
/// is collected into the next one.
pub(crate) const ENTRIES_IN_FLIGHT_MAX: usize = 4;

// ---- Between nodes ---------------------------------------------------------------------------------

/// Raft messages between nodes, bytes.
pub(crate) const PEER_MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Proposals forwarded to one peer and not yet answered, in batches.
pub(crate) const FORWARD_QUEUE_MAX: usize = 4_096;
/// A snapshot of which the receiver takes nothing for this long is given up, and sent again later.
pub(crate) const SNAPSHOT_STALL: Duration = Duration::from_secs(30);
/// Bytes that a connection with faults on purpose takes at once.
pub(crate) const FAULTY_CHUNK_BYTES: usize = 16 * 1024;
/// Bytes on their way in such a connection; then whoever sends waits.
pub(crate) const FAULTY_QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Calls to one other node that wait to be repeated on purpose; as many may be under way.
pub(crate) const ECHOES_MAX: usize = 256;

// ---- Load and placement ----------------------------------------------------------------------------

/// How busy a node is, is looked at this often.
pub(crate) const LOAD_INTERVAL: Duration = Duration::from_secs(1);
/// And taken over so many looks.
pub(crate) const LOAD_SAMPLES: usize = 10;
/// A node whose sends take this long, in the 99th percentile, is at its limit.
pub(crate) const SEND_P99_MAX: Duration = Duration::from_secs(1);
/// Better nodes that a client is told of when it is sent elsewhere.
pub(crate) const BETTER_NODES_MAX: usize = 8;
/// A node that drains asks so many clients to go at once,
pub(crate) const DRAIN_BATCH: u32 = 64;
/// and then waits this long before it asks the next ones.
pub(crate) const DRAIN_PAUSE: Duration = Duration::from_millis(10);
/// The spread of clients over the nodes is looked at this often.
pub(crate) const PLACEMENT_INTERVAL: Duration = Duration::from_secs(1);
/// A client that was asked to go elsewhere and did not is left alone for this long.
pub(crate) const MOVE_ASKED_AGAIN: Duration = Duration::from_secs(30);
/// How many targets a node is given for the clients that it shall move.
pub(crate) const MOVE_TARGETS_MAX: usize = 256;

const _: () = assert!(TEXT_BYTES_MAX < ENTRY_BYTES_MAX, "one command always fits an entry");
const _: () = assert!(ENTRY_BYTES_MAX < LOG_COMMIT_BYTES_MAX, "one entry always fits a commit");
const _: () = assert!(LOG_COMMIT_BYTES_MAX < PEER_MESSAGE_BYTES_MAX, "what is logged can be sent");
