//! The bounds of a node that no other crate shares.

use std::time::Duration;

use conclave_core::limits::{LOG_COMMIT_BYTES_MAX, NODES_MAX, SESSIONS_PER_COMMAND_MAX, TEXT_BYTES_MAX};

// ---- Serving ---------------------------------------------------------------------------------------

/// A gateway retries a request for this long before it answers "unknown".
pub(crate) const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Maximum number of record streams that one node serves.
pub(crate) const RECORDS_STREAMS_MAX: usize = 64;

/// Maximum size of a client's message, bytes: a subscription of the maximum number of rooms with a token fits.
pub(crate) const CALL_BYTES_MAX: usize = 192 * 1024;
/// Maximum size of a message of a call that needs no session, bytes: the largest ping fits.
pub(crate) const PUBLIC_CALL_BYTES_MAX: usize = 8 * 1024;
/// Maximum duration of a call with one answer; its client may send its body slowly. Longer than any call needs.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// Maximum size of the single requests that are received and not decided yet, bytes, at [`CALL_BYTES_MAX`] for each.
pub(crate) const CALLS_BYTES_MAX: usize = 48 * 1024 * 1024;
/// A session may have this many of those at a time.
pub(crate) const CALLS_PER_SESSION_MAX: u32 = 64;
/// Maximum size of the answers with a page of events or rooms that wait for their clients, bytes, at the largest page for
/// each.
pub(crate) const ANSWERS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A session may have this many of those at a time.
pub(crate) const ANSWERS_PER_SESSION_MAX: u32 = 8;
/// A piece of such an answer, bytes: this much of an answer is in the transport before its client takes anything.
pub(crate) const ANSWER_PIECE_BYTES: usize = 16 * 1024;
/// An answer that its client has not taken after this long is dropped.
pub(crate) const ANSWER_UNREAD_MAX: Duration = Duration::from_secs(30);
/// When a client whose call met a used-up budget may try again.
pub(crate) const BUSY_RETRY: Duration = Duration::from_millis(500);
/// Maximum size of a message of a send stream, bytes. The client library sends half of it.
pub(crate) const SENDS_FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Maximum size of the requests of all clients that are received and not decided yet, bytes.
pub(crate) const SENDS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Maximum size of the requests of one stream that are received and not decided yet, bytes. One more frame may exceed it.
pub(crate) const STREAM_SENDS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Rooms that a `SendMessages` stream remembers to have joined. A session has request numbers in 4,096 rooms of a shard.
pub(crate) const STREAM_ROOMS_MAX: usize = 4_096;
/// Maximum size of all pages of events that wait to be sent and are larger than [`PAGE_BYTES_MIN`], bytes.
pub(crate) const PAGES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Size of a small page of events, bytes.
pub(crate) const PAGE_BYTES_MIN: usize = 16 * 1024;
/// A subscription gets large pages after this many bytes in small ones. More than HTTP/2's usual window of 64 KiB, so that
/// a reader that takes nothing gets no large page.
pub(crate) const PAGES_GROW_AFTER: usize = 256 * 1024;
/// Maximum size of the body of a request over HTTP, and of a frame that a WebSocket's client sends, bytes. A message of the
/// maximum size fits, however it is escaped, unless most of it is quotes.
pub(crate) const WEB_BODY_BYTES_MAX: usize = 64 * 1024;
/// How often a WebSocket's client is asked whether it is there.
pub(crate) const WEB_PING_INTERVAL: Duration = Duration::from_secs(10);
/// A WebSocket whose client has answered nothing for this long is closed.
pub(crate) const WEB_SILENCE_MAX: Duration = Duration::from_secs(25);
/// Every session may have this many streams of a kind on a node.
pub(crate) const STREAMS_PER_SESSION_MIN: u32 = 8;
/// A session may have this part of the node's maximum number of sessions as streams of a kind.
pub(crate) const STREAMS_PER_SESSION_SHARE: u32 = 16;
/// When a session that has too many streams may try again.
pub(crate) const STREAMS_RETRY: Duration = Duration::from_secs(1);

// ---- Accounts and sessions --------------------------------------------------------------------------

/// Maximum number of passwords that are hashed at a time: each takes 19 MiB and a processor.
pub(crate) const PASSWORD_THREADS_MAX: usize = 4;
/// Maximum number of passwords that wait to be hashed. The last one waits some seconds.
pub(crate) const PASSWORD_WAITING_MAX: usize = 64;
/// Wrong passwords of one address for one user without a wait.
pub(crate) const ATTEMPTS_OF_USER_FREE: u32 = 5;
/// Wrong passwords of one address without a wait: an office behind one address.
pub(crate) const ATTEMPTS_OF_ADDRESS_FREE: u32 = 50;
/// The longest wait after a wrong password.
pub(crate) const ATTEMPT_WAIT_MAX: Duration = Duration::from_mins(1);
/// Maximum number of addresses, and of users at addresses, whose wrong passwords are counted.
pub(crate) const ATTEMPTS_KEPT_MAX: usize = 4_096;
/// How often the meta shard is told which sessions were seen.
pub(crate) const SEEN_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum number of sessions in one such report.
pub(crate) const SEEN_WAITING_MAX: usize = SESSIONS_PER_COMMAND_MAX;
/// How often the meta shard's leader looks for sessions that were closed.
pub(crate) const ENDINGS_INTERVAL: Duration = Duration::from_millis(500);
/// Maximum number of closed sessions that the shards hear of at a time.
pub(crate) const ENDINGS_AT_ONCE: usize = 256;
/// The meta shard's leader looks for sessions that time has ended once in this many of these intervals.
pub(crate) const SWEEP_INTERVAL_TICKS: u32 = 4;
/// How far two clocks of a cluster may differ for one to confirm the other, milliseconds: a day, because a report may be old.
pub(crate) const CLOCKS_DIFFER_MAX_MS: u64 = 86_400_000;
/// Maximum number of sessions, and of invites, that it looks at each time.
pub(crate) const SWEEP_AT_ONCE: usize = 1_000;

// ---- Elections -------------------------------------------------------------------------------------

/// A follower of the first rank waits at least this long for a message from its leader before it stands for election. A little
/// less than openraft's own wait, which is not lengthened where heartbeats are regular.
pub(crate) const ELECTION_WAIT_MIN: Duration = Duration::from_millis(275);
/// A follower of the first rank waits at most this long, however late heartbeats come.
pub(crate) const ELECTION_WAIT_MAX: Duration = Duration::from_secs(2);
/// How often it is checked whether a follower has waited long enough.
pub(crate) const ELECTION_WAIT_CHECKED_EVERY: Duration = Duration::from_millis(25);

// ---- Connections -----------------------------------------------------------------------------------

/// Connections for each client that may subscribe: one to follow rooms, one for a command beside it.
pub(crate) const CONNECTIONS_PER_CLIENT: usize = 2;
/// Default maximum number of client connections from one address: an office behind one address, and no more.
pub const CONNECTIONS_PER_ADDRESS_MAX_DEFAULT: u32 = 256;
/// Maximum number of connections from other nodes: a node has a few to each other one, and strangers' silent ones must
/// not cost much.
pub(crate) const PEER_CONNECTIONS_MAX: usize = 16 * NODES_MAX;
/// Maximum number of connections to the pages for health and metrics: probes and a few scrapers.
pub(crate) const HTTP_CONNECTIONS_MAX: usize = 256;
/// Maximum number of those from one address.
pub(crate) const HTTP_CONNECTIONS_PER_ADDRESS_MAX: usize = 64;
/// A connection that has made no request for this long after it was accepted is closed. A good client makes one at once;
/// this leaves time for bad networks.
pub(crate) const FIRST_REQUEST_MAX: Duration = Duration::from_secs(10);
/// A client's connection without an open call for this long is closed. A subscription is an open call.
pub(crate) const CLIENT_IDLE_MAX: Duration = Duration::from_mins(5);
/// A peer's connection without an open call for this long is closed. Links between nodes are open calls.
pub(crate) const PEER_IDLE_MAX: Duration = Duration::from_mins(5);
/// A connection to the pages without a request for this long is closed: longer than usual intervals of scrapes.
pub(crate) const HTTP_IDLE_MAX: Duration = Duration::from_mins(2);

// ---- Proposals and entries -------------------------------------------------------------------------

/// Maximum number of commands waiting to be proposed at one shard's leader.
pub(crate) const PROPOSAL_QUEUE_MAX: usize = 8_192;
/// Maximum number of commands in one Raft entry.
pub(crate) const ENTRY_COMMANDS_MAX: usize = 4_096;
/// Size at which a Raft entry is closed, in bytes. One command always fits.
pub(crate) const ENTRY_BYTES_MAX: usize = 256 * 1024;
/// Maximum number of Raft entries that a leader has in flight in one shard. A small number: commands that arrive
/// meanwhile are collected into the next entry.
pub(crate) const ENTRIES_IN_FLIGHT_MAX: usize = 4;

// ---- Between nodes ---------------------------------------------------------------------------------

/// Maximum size of a Raft message between nodes, in bytes.
pub(crate) const PEER_MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Maximum number of batches of proposals forwarded to one peer and not yet answered.
pub(crate) const FORWARD_QUEUE_MAX: usize = 4_096;
/// The highest term of a Raft group. Elections every 50 ms would reach it after seven years; a higher one is an attack on
/// the counter, which cannot be lowered again.
pub(crate) const TERM_MAX: u64 = 1 << 32;
/// An address of a node that a name server named counts for this long: as long as resolvers commonly cache an address.
pub(crate) const PEER_HINT_AGE_MAX: Duration = Duration::from_secs(30);
/// Addresses of one node that name servers named: two name servers may see it at two addresses, before and after a move.
pub(crate) const PEER_HINTS_MAX: usize = 4;
/// How far a peer's term may be ahead of this replica's: a replica that was cut off meets elections that it missed.
pub(crate) const TERM_AHEAD_MAX: u64 = 1_000_000;
/// A follower whose disk has no room for a leader's entries waits for room this long before it ends their stream.
pub(crate) const ROOM_WAIT: Duration = Duration::from_secs(1);
/// A snapshot transfer is abandoned when the receiver takes nothing for this long; it is retried later.
pub(crate) const SNAPSHOT_STALL: Duration = Duration::from_secs(30);
/// Maximum chunk that a connection with injected faults carries at once, in bytes.
pub(crate) const FAULTY_CHUNK_BYTES: usize = 16 * 1024;
/// Maximum number of bytes in flight in a connection with injected faults; then the sender waits.
pub(crate) const FAULTY_QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Maximum number of calls to one peer waiting to be repeated by fault injection; as many again may be in flight.
pub(crate) const ECHOES_MAX: usize = 256;

// ---- Load and placement ----------------------------------------------------------------------------

/// How often the load of a node is sampled.
pub(crate) const LOAD_INTERVAL: Duration = Duration::from_secs(1);
/// Number of samples that the load is taken over.
pub(crate) const LOAD_SAMPLES: usize = 10;
/// A node whose 99th percentile of send latencies is this high is at its limit.
pub(crate) const SEND_P99_MAX: Duration = Duration::from_secs(1);
/// Maximum number of other nodes that a client is given when it is sent elsewhere.
pub(crate) const BETTER_NODES_MAX: usize = 8;
/// Clients that a draining node asks to move per batch.
pub(crate) const DRAIN_BATCH: u32 = 64;
/// Pause between two batches.
pub(crate) const DRAIN_PAUSE: Duration = Duration::from_millis(10);
/// How often the spread of clients over the nodes is checked.
pub(crate) const PLACEMENT_INTERVAL: Duration = Duration::from_secs(1);
/// A client that was asked to move and has not moved is not asked again for this long.
pub(crate) const MOVE_ASKED_AGAIN: Duration = Duration::from_secs(30);
/// Maximum number of targets in one request to move clients.
pub(crate) const MOVE_TARGETS_MAX: usize = 256;

const _: () = assert!(TEXT_BYTES_MAX < ENTRY_BYTES_MAX, "one command always fits an entry");
const _: () = assert!(ENTRY_BYTES_MAX < LOG_COMMIT_BYTES_MAX, "one entry always fits a commit");
const _: () = assert!(LOG_COMMIT_BYTES_MAX < PEER_MESSAGE_BYTES_MAX, "what is logged can be sent");
