//! Every bound of the client library that nothing else shares.

use std::time::Duration;

/// Requests of one frame of `SendMessages`, bytes of content.
pub const SEND_BATCH_BYTES_MAX: usize = 512 * 1024;
/// Requests in a client's outbox that are not certain yet.
pub const OUTBOX_REQUESTS_MAX: usize = 65_536;
/// Settled requests whose record in the outbox file has not been synced yet; then it is.
pub const OUTBOX_UNSYNCED_SETTLED_MAX: u64 = 64;
/// Size of an outbox file from which on it is rewritten when half of it is no longer needed.
pub const OUTBOX_COMPACT_BYTES: u64 = 1024 * 1024;
/// A frame of the outbox file, bytes.
pub const OUTBOX_FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Names of rooms that a client remembers.
pub const ROOM_NAMES_MAX: usize = 65_536;
/// HTTP/2 window of one stream at a client, bytes.
pub const CLIENT_STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// HTTP/2 window of one connection at a client, bytes.
pub const CLIENT_CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// Connecting to a node.
pub const CLIENT_CONNECT_TIMEOUT: Duration = Duration::from_millis(750);
/// A subscription that is being opened.
pub const CLIENT_OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that is silent this long while something is expected of it is asked for a sign of life.
pub const CLIENT_PING_INTERVAL: Duration = Duration::from_millis(700);
/// And closed if there is none within this time.
pub const CLIENT_PING_TIMEOUT: Duration = Duration::from_millis(400);
/// A call without an answer is made at a second node, too, after this time.
pub const CALL_RACE_AFTER: Duration = Duration::from_millis(250);
/// Calls of one request under way at the same time.
pub const CALL_RACERS_MAX: usize = 3;
/// A call is tried this long unless the program says otherwise.
pub const CALL_PATIENCE: Duration = Duration::from_secs(10);
/// Sends without any answer on their connection are also made elsewhere after this time, or after
/// eight times the usual time if that is longer.
pub const SEND_RACE_AFTER: Duration = Duration::from_millis(150);
/// The longest that racing sends is put off when it brings nothing.
pub const SEND_RACE_AFTER_MAX: Duration = Duration::from_secs(5);
/// A node that said it is leaving is avoided for this long.
pub const AVOID_LEAVING_NODE: Duration = Duration::from_secs(30);
/// Name servers that are asked at once.
pub const NAME_SERVERS_MAX: usize = 8;
/// A name server that has not answered is asked again after this time.
pub const DNS_TIMEOUT: Duration = Duration::from_millis(250);
/// How often it is asked again.
pub const DNS_ATTEMPTS: usize = 2;
/// And this long together.
pub const DNS_PATIENCE: Duration = Duration::from_millis(600);
/// All name servers are given this long if the members of an earlier connection are known.
pub const DNS_PATIENCE_WITH_MEMBERS: Duration = Duration::from_millis(300);
/// What a name server says about servers holds at most this long.
pub const DNS_ANSWER_FRESH_MAX: Duration = Duration::from_secs(2);
/// The local network is asked, too, if no name server has answered after this time.
pub const MDNS_HEAD_START: Duration = Duration::from_millis(50);
/// The local network is given this long: nobody repeats an answer within a second (RFC 6762), so whoever asks just after
/// somebody else hears it at the second question.
pub const MDNS_PATIENCE: Duration = Duration::from_millis(1_500);
/// And this long if the members of an earlier connection are known.
pub const MDNS_PATIENCE_WITH_MEMBERS: Duration = Duration::from_millis(400);
/// Once somebody has answered there, others are waited for this long.
pub const MDNS_SETTLED_AFTER: Duration = Duration::from_millis(150);
/// Clusters whose members are remembered on disk.
pub const MEMBERS_CLUSTERS_MAX: usize = 8;
/// The file with them, bytes; what is longer was not written by us.
pub const MEMBERS_FILE_BYTES_MAX: u64 = 256 * 1024;
/// Servers are looked for again at most this often while there is one that can be asked, and also when there is none.
pub const FIND_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// The longest time between two tries to find servers while finding fails.
pub const FIND_INTERVAL_MAX: Duration = Duration::from_secs(30);
/// A full node is not asked to take a subscription for about this long.
pub const AVOID_FULL_NODE: Duration = Duration::from_secs(5);
/// Moving a subscription to another node is given this long, or as long as the node that asked for it says if that is
/// longer.
pub const MOVE_PATIENCE: Duration = Duration::from_secs(5);
/// How often a client that sends to leaders asks where they are when nothing else tells it.
pub const LEADERS_REFRESH_INTERVAL: Duration = Duration::from_secs(5);
