//! Every bound of the system, in one place.
//!
//! A bound that decides what the state machine accepts (the first group) is part of the replicated
//! contract: all replicas must agree on it, so it may only be changed behind a feature level.

use std::time::Duration;

// ---- Limits of the state machine ------------------------------------------------------------------

/// A message's text, bytes of UTF-8.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;
/// A room's topic, bytes of UTF-8.
pub const TOPIC_BYTES_MAX: usize = 1024;
/// A room's name, bytes (which are characters: names are ASCII).
pub const ROOM_NAME_BYTES_MAX: usize = 64;
/// A user's name, bytes (which are characters: names are ASCII).
pub const USER_NAME_BYTES_MAX: usize = 32;
/// A client's description of itself, bytes of UTF-8; a longer one is truncated.
pub const CLIENT_NAME_BYTES_MAX: usize = 64;
/// Rooms of the whole cluster.
pub const ROOMS_MAX: u64 = 1_000_000;
/// Rooms of one shard in which one session may have request numbers.
pub const ROOMS_PER_SESSION_MAX: u32 = 4_096;
/// Sessions that one user opens, ever. Up to feature level 1; later, [`SESSIONS_OPEN_MAX`] holds instead.
pub const SESSIONS_PER_USER_MAX: u32 = 65_536;
/// Open sessions of one user: with one more, the session that was not seen for longest ends. Feature level 2.
pub const SESSIONS_OPEN_MAX: usize = 1_024;
/// Days after which a session that was not seen ends. Feature level 2.
pub const SESSION_UNSEEN_DAYS_MAX: u32 = 180;
/// Invites that can be used at the same time. Feature level 2.
pub const INVITES_MAX: u32 = 10_000;
/// How often an invite can be used. Feature level 2.
pub const INVITE_USES_MAX: u32 = 10_000;
/// A hashed password with its parameters and salt, bytes. Feature level 2.
pub const PHC_BYTES_MAX: usize = 256;
/// A session's label, bytes of UTF-8. Feature level 2.
pub const LABEL_BYTES_MAX: usize = 64;
/// Sessions that one command forgets or reports as seen: further ones are not looked at. Feature level 2.
pub const SESSIONS_PER_COMMAND_MAX: usize = 1_024;
/// Replies kept for repeats, for each session and room. Also the most requests that a client may
/// have in flight in one room: with more, the answer of a repeat might be forgotten.
pub const STORED_REPLIES_MAX: usize = 256;
/// Shards of a cluster, not counting the meta shard.
pub const SHARDS_MAX: u32 = 64;
/// Replicas of a shard.
pub const REPLICAS_MAX: usize = 7;
/// Nodes of a cluster.
pub const NODES_MAX: usize = 64;
/// How far the time of a room may stay ahead of the leader's clock, milliseconds: clocks that differ by less make no
/// time fall. From feature level 2 on; see [`crate::Stamp`].
pub const ROOM_TIME_AHEAD_MAX_MS: i64 = 10_000;
/// Members of a room.
pub const MEMBERS_MAX: u32 = 100_000;
/// People of a direct conversation.
pub const DIRECT_PEOPLE_MAX: usize = 10;
/// Earlier memberships of a user in a room whose events the user may still see; the oldest ones are forgotten.
pub const PAST_SPANS_MAX: usize = 16;
/// The reason for removing somebody from a room, bytes of UTF-8.
pub const REASON_BYTES_MAX: usize = 512;
/// The longest time for which somebody is muted: a year, milliseconds.
pub const MUTE_MAX_MS: u64 = 365 * 24 * 3_600 * 1_000;
/// Edits of a message. Feature level 2, as the next three.
pub const EDITS_MAX: usize = 64;
/// A reaction's emoji, bytes of UTF-8.
pub const EMOJI_BYTES_MAX: usize = 64;
/// Different emoji among the reactions to a message.
pub const REACTION_KINDS_MAX: usize = 32;
/// Reactions to a message, of all users and emoji together: they are one row.
pub const REACTIONS_MAX: usize = 4_096;
/// Virtual nodes of each node on the ring. Part of the format: the places of shards depend on it.
pub const VIRTUAL_NODES: u32 = 128;

// ---- Limits of the API ----------------------------------------------------------------------------

/// Events of one history page.
pub const HISTORY_EVENTS_MAX: usize = 1_000;
/// Events of one history page when the request names no limit.
pub const HISTORY_EVENTS_DEFAULT: usize = 100;
/// Bytes at which a page of history or of a subscription ends.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Rooms of one page of the room directory.
pub const LIST_ROOMS_MAX: usize = 1_000;
/// Rooms of one page of the room directory when the request names no limit.
pub const LIST_ROOMS_DEFAULT: usize = 100;
/// Pages of the room directory that one call looks at, where the caller may not see most of its rooms.
pub const LIST_ROOMS_PAGES_MAX: usize = 8;
/// Members of one page.
pub const LIST_MEMBERS_MAX: usize = 1_000;
/// Members of one page when the request names no limit.
pub const LIST_MEMBERS_DEFAULT: usize = 100;
/// Rooms of which one call tells how much of them is unread.
pub const UNREAD_ROOMS_MAX: usize = 100;
/// Events behind a read marker that are looked at for unread messages.
pub const UNREAD_EVENTS_MAX: usize = 1_000;
/// Rooms of one subscription.
pub const SUBSCRIPTION_ROOMS_MAX: usize = 1_024;
/// Requests in one frame of `SendMessages`.
pub const SEND_BATCH_MAX: usize = 1_024;
/// Requests in flight on one `SendMessages` stream; at this number the node stops reading from the stream.
pub const SENDS_IN_FLIGHT_MAX: usize = 4_096;
/// A gRPC message from a client, bytes.
pub const CLIENT_MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// A resume token, bytes.
pub const RESUME_TOKEN_BYTES_MAX: usize = 64 * 1024;
/// A payload of `Ping`, bytes.
pub const PING_BYTES_MAX: usize = 4 * 1024;

// ---- Discovery and placement ----------------------------------------------------------------------

/// Sessions that subscribe to one node at the same time, unless it is configured otherwise.
pub const CLIENTS_MAX_DEFAULT: u32 = 10_000;
/// How often a node renews its record at an authoritative name server.
pub const REGISTER_INTERVAL: Duration = Duration::from_millis(500);
/// Addresses of one node.
pub const NODE_IPS_MAX: usize = 8;
/// Authoritative name servers that a node registers with.
pub const NAME_SERVERS_MAX: usize = 8;
/// Clients are moved only when the set of nodes has not changed for this long.
pub const PLACEMENT_QUIET: Duration = Duration::from_secs(2);
/// The smallest imbalance that moves clients. The imbalance is the client count above the wanted count of
/// the most overloaded node, plus the count missing at the most underloaded one.
pub const PLACEMENT_SPREAD_MIN: u64 = 8;
/// Clients that may be moved in one round, even if this is more than a twentieth of all clients.
pub const PLACEMENT_MOVES_MIN: u64 = 10;

// ---- Queues and batches of a node -----------------------------------------------------------------

/// Jobs waiting for the log writer.
pub const LOG_QUEUE_MAX: usize = 4_096;
/// Bytes waiting for the log writer; then appending waits.
pub const LOG_QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Log entries read at once for one follower or for one step of applying, bytes. A single entry may be larger.
pub const LOG_READ_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of one group commit.
pub const LOG_COMMIT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of a log row; a larger group commit is split.
pub const LOG_ROW_BYTES_MAX: usize = 16 * 1024;
/// Recent log entries kept in memory for replication and apply, bytes for each group.
pub const LOG_CACHE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Events applied but not yet written to the state file, bytes for each node; then apply waits.
pub const UNWRITTEN_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Recent events kept in memory for subscribers, bytes for each shard.
pub const TAIL_CACHE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Cached rooms and sessions for each shard; beyond that they are read from the state file.
pub const CACHED_ROWS_MAX: usize = 65_536;
/// Pages of history that a node reads from the state file at a time. More would not make the disk faster, and would take
/// memory and the threads that appends and snapshots need.
pub const HISTORY_READS_MAX: usize = 8;
/// Rows of members that one page reads, of members and of those who were members.
pub const MEMBER_ROWS_MAX: usize = 10_000;
/// Page cache of the state file, bytes.
pub const STATE_CACHE_BYTES: usize = 32 * 1024 * 1024;
/// Page cache of the log file, bytes.
pub const LOG_FILE_CACHE_BYTES: usize = 8 * 1024 * 1024;
/// A block of history in the state file, bytes. A block of a single event may be larger.
pub const HISTORY_BLOCK_BYTES_MAX: usize = 16 * 1024;
/// Bytes of unsynced state after which a checkpoint is made.
pub const CHECKPOINT_BYTES: u64 = 16 * 1024 * 1024;
/// A chunk of a snapshot, bytes.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 * 1024;
/// One transaction of a snapshot's installation, bytes.
pub const SNAPSHOT_INSTALL_BYTES: usize = 4 * 1024 * 1024;
/// The log's tail that is kept after snapshots for followers that lag, bytes for each node.
pub const LOG_TAIL_BYTES_DEFAULT: u64 = 32 * 1024 * 1024;

// ---- Retries of a client --------------------------------------------------------------------------

/// The longest delay before the second try (the first is immediate); doubled with each further try.
pub const RETRY_DELAY_MIN: Duration = Duration::from_millis(100);
/// The upper bound of the delay between tries.
pub const RETRY_DELAY_MAX: Duration = Duration::from_secs(5);

// ---- Time -----------------------------------------------------------------------------------------

/// The longest time that the state writer collects changes before it writes them.
pub const STATE_FLUSH_INTERVAL: Duration = Duration::from_millis(50);
/// The longest time between two checkpoints while unsynced state exists.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(2);
/// The time between two keepalive frames of a subscription.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long a drained node waits for its clients to leave.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

const _: () = assert!(PAGE_BYTES_MAX < CLIENT_MESSAGE_BYTES_MAX, "a page fits a client's message");
const _: () = assert!(TEXT_BYTES_MAX < PAGE_BYTES_MAX, "a page holds at least one event");
const _: () = assert!(SEND_BATCH_MAX <= SENDS_IN_FLIGHT_MAX, "one frame can always be taken");
