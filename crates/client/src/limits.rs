//! The bounds of the client library that no other crate shares.

use std::time::Duration;

/// Content of the requests in one frame of `SendMessages`, bytes.
pub const SEND_BATCH_BYTES_MAX: usize = 512 * 1024;
/// Unsettled requests in a client's outbox; `submit` waits while there are this many.
pub const OUTBOX_REQUESTS_MAX: usize = 65_536;
/// Settled requests whose records are not synced to the outbox file; with this many, they are.
pub const OUTBOX_UNSYNCED_SETTLED_MAX: u64 = 64;
/// Records of settled requests are synced when nothing else was queued for this long: other processes read the file, and show
/// an acked request as waiting until then. Longer than a sender who waits for each answer takes for its next request, so that
/// the sync is not in its way.
pub const OUTBOX_SETTLED_IDLE: Duration = Duration::from_millis(100);
/// Size from which on an outbox file is rewritten once half of it is obsolete, bytes.
pub const OUTBOX_COMPACT_BYTES: u64 = 1024 * 1024;
/// From this size on records go into the next frame of the outbox file, bytes.
pub const OUTBOX_FRAME_BYTES: usize = 8 * 1024 * 1024;
/// Maximum size of a frame of the outbox file, bytes.
pub const OUTBOX_FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Pause after the cluster has refused to open a session: each try is an entry of its log.
pub const SESSION_REFUSED_PAUSE: Duration = Duration::from_secs(30);
/// Refused requests that nobody waited for, of which a client keeps the content until it is asked for them. The others
/// are in the log alone.
pub const REFUSED_KEPT_MAX: usize = 1_024;
/// Room names that a client caches.
pub const ROOM_NAMES_MAX: usize = 65_536;
/// HTTP/2 window of one stream at a client, bytes.
pub const CLIENT_STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// HTTP/2 window of one connection at a client, bytes.
pub const CLIENT_CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// Timeout for connecting to a node.
pub const CLIENT_CONNECT_TIMEOUT: Duration = Duration::from_millis(750);
/// Timeout for opening a subscription.
pub const CLIENT_OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection with open streams that is silent for this long gets an HTTP/2 ping.
pub const CLIENT_PING_INTERVAL: Duration = Duration::from_millis(700);
/// Timeout for the answer to an HTTP/2 ping; then the connection is closed.
pub const CLIENT_PING_TIMEOUT: Duration = Duration::from_millis(400);
/// How long a client with a durable outbox waits for its first session before it starts without one. An election takes at
/// most 3 s with the timing of a wide network.
pub(crate) const FIRST_SESSION_PATIENCE: Duration = Duration::from_secs(4);
/// How long a client with a log-in waits for the answer whether the session of its outbox is still open. Without an answer it
/// is taken for open.
pub(crate) const SESSION_CHECK_PATIENCE: Duration = Duration::from_secs(1);
/// A call without an answer for this long is made at another node as well.
pub const CALL_RACE_AFTER: Duration = Duration::from_millis(250);
/// Nodes at which one call is made at the same time.
pub const CALL_RACERS_MAX: usize = 3;
/// The default timeout for a call over all attempts.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests on a link without any result for this long, or for eight times the usual round trip if that is longer, are
/// also sent to another node.
pub const SEND_RACE_AFTER: Duration = Duration::from_millis(150);
/// The longest time before requests are sent to another node as well; the time doubles while that brings no result.
pub const SEND_RACE_AFTER_MAX: Duration = Duration::from_secs(5);
/// A node that said it is leaving is avoided for this long.
pub const AVOID_LEAVING_NODE: Duration = Duration::from_secs(30);
/// Name servers that are asked at the same time.
pub const NAME_SERVERS_MAX: usize = 8;
/// Timeout for one DNS query; then it is repeated.
pub const DNS_TIMEOUT: Duration = Duration::from_millis(250);
/// How often a DNS query is repeated.
pub const DNS_ATTEMPTS: usize = 2;
/// Total timeout over all DNS attempts at one name server.
pub const DNS_TOTAL_TIMEOUT: Duration = Duration::from_millis(600);
/// Timeout over all name servers if the members of an earlier connection are known.
pub const DNS_TIMEOUT_WITH_MEMBERS: Duration = Duration::from_millis(300);
/// The longest time for which a DNS answer is fresh.
pub const DNS_ANSWER_FRESH_MAX: Duration = Duration::from_secs(2);
/// The local network is browsed as well if no name server has answered after this time.
pub const MDNS_HEAD_START: Duration = Duration::from_millis(50);
/// Timeout for browsing the local network. A responder does not repeat a multicast answer within a second (RFC 6762),
/// so a client that asks just after another one gets the answer to its second query.
pub const MDNS_TIMEOUT: Duration = Duration::from_millis(1_500);
/// The same if the members of an earlier connection are known.
pub const MDNS_TIMEOUT_WITH_MEMBERS: Duration = Duration::from_millis(400);
/// After an answer on the local network, other answers are awaited for this long.
pub const MDNS_SETTLED_AFTER: Duration = Duration::from_millis(150);
/// Searches whose members are kept in the file of members.
pub const MEMBERS_CLUSTERS_MAX: usize = 8;
/// The file of members, bytes; the rest of a longer file is ignored.
pub const MEMBERS_FILE_BYTES_MAX: u64 = 256 * 1024;
/// The shortest time between two searches for servers.
pub const FIND_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// The longest time between two searches for servers while they fail.
pub const FIND_INTERVAL_MAX: Duration = Duration::from_secs(30);
/// A full node gets no new subscription for about this long.
pub const AVOID_FULL_NODE: Duration = Duration::from_secs(5);
/// Timeout for moving a subscription to another node; a node that asks for the move may grant more.
pub const MOVE_TIMEOUT: Duration = Duration::from_secs(5);
/// A client that sends to leaders refreshes them this often if nothing else does.
pub const LEADERS_REFRESH_INTERVAL: Duration = Duration::from_secs(5);
