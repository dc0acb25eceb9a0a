//! The bounds of the commands that no other crate shares.

use std::time::Duration;

use conclave_core::limits::{DRAIN_DEADLINE, STORED_REPLIES_MAX, TEXT_BYTES_MAX};

/// From this gap between two messages of a leader on, milliseconds, `status` and `doctor` say that heartbeats are late. Above
/// the 250 ms between heartbeats of `--timing wan`.
pub(crate) const HEARTBEAT_GAP_MS_MAX: u32 = 400;
/// Commands of one user that can each have a session at the same time on one machine.
pub(crate) const CLI_SLOTS_MAX: usize = 64;
/// Timeout for asking the servers for their cluster id; then the recorded id is used.
pub(crate) const CLI_WHICH_CLUSTER: Duration = Duration::from_secs(2);
/// Maximum number of servers whose authorities are remembered, beside those written last.
pub(crate) const KNOWN_SERVERS_MAX: usize = 256;
/// Maximum number of clusters of one state directory that are looked at.
pub(crate) const KNOWN_CLUSTERS_MAX: usize = 256;
/// Maximum number of other clusters that are named when the own one does not answer.
pub(crate) const OTHER_CLUSTERS_MAX: usize = 8;
/// Maximum number of lists of servers whose clusters are remembered. All of them fit [`KNOWN_FILE_BYTES_MAX`].
pub(crate) const KNOWN_RECORDS_MAX: usize = 64;
/// The longest of these lists, bytes: 64 servers with names of 60 bytes.
pub(crate) const KNOWN_RECORD_BYTES_MAX: usize = 4 * 1024;
/// Maximum size of a file about known identities, bytes.
pub(crate) const KNOWN_FILE_BYTES_MAX: u64 = 256 * 1024;
/// Interval at which `status --wait` asks.
pub(crate) const STATUS_WAIT_INTERVAL: Duration = Duration::from_millis(200);
/// Timeout for one answer to `status --wait`, and for the question whether there is a majority after a failure.
pub(crate) const STATUS_WAIT_PATIENCE: Duration = Duration::from_secs(2);
/// Maximum size of a configuration file, bytes: each flag a hundred times.
pub(crate) const CONFIG_FILE_BYTES_MAX: u64 = 64 * 1024;
/// Lines read ahead from stdin.
pub(crate) const CLI_LINES_AHEAD_MAX: usize = 256;
/// Messages of `send -` in flight.
pub(crate) const CLI_SENDS_IN_FLIGHT_MAX: usize = STORED_REPLIES_MAX;
/// Lines that one run of a bot's command may print.
pub(crate) const BOT_REPLIES_MAX: usize = 256;
/// Size of what one run of a bot's command may print, bytes.
pub(crate) const BOT_OUTPUT_BYTES_MAX: u64 = 1024 * 1024;
/// The body of a webhook, bytes: a few hundred alerts. `max_alerts` of Alertmanager's receiver bounds it there.
pub(crate) const ALERTS_BODY_BYTES_MAX: usize = 1024 * 1024;
/// Webhooks that are read or wait to be queued at the same time. One more is asked to come again.
pub(crate) const ALERTS_REQUESTS_MAX: usize = 8;
/// How long a webhook may take until it is queued on disk. Alertmanager repeats it after that.
pub(crate) const ALERTS_REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Alerts whose last state is remembered. Of more, those that began first are forgotten, resolved ones before others.
pub(crate) const ALERTS_KNOWN_MAX: usize = 16 * 1024;
/// Alerts of one name that a message shows.
pub(crate) const ALERTS_SHOWN_MAX: usize = 10;
/// The text of one alert in a message, characters.
pub(crate) const ALERT_SUMMARY_CHARS_MAX: usize = 300;
/// The text of a message about alerts, bytes.
pub(crate) const ALERTS_TEXT_BYTES_MAX: usize = 4 * 1024;
/// Pause before the room is looked for again, at the start.
pub(crate) const ALERTS_ROOM_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Connections to the webhook: those of a few Alertmanagers, and of probes.
pub(crate) const ALERTS_CONNECTIONS_MAX: usize = 64;
/// A connection to the webhook that has made no request for this long after it was accepted is closed.
pub(crate) const ALERTS_FIRST_REQUEST_MAX: Duration = Duration::from_secs(10);
/// A connection to the webhook without a request for this long is closed.
pub(crate) const ALERTS_IDLE_MAX: Duration = Duration::from_mins(2);
/// The shortest token of the webhook, bytes: shorter ones can be guessed.
pub(crate) const ALERTS_TOKEN_BYTES_MIN: usize = 16;
/// The longest token of the webhook, bytes.
pub(crate) const ALERTS_TOKEN_BYTES_MAX: usize = 1_024;
/// Allowed size of a password, bytes of UTF-8, as servers check it.
pub(crate) const PASSWORD_BYTES: std::ops::RangeInclusive<usize> = 8..=1024;
/// Maximum size of the file with the name as which commands act in a cluster, bytes.
pub(crate) const USER_FILE_BYTES_MAX: u64 = 256;
/// Users that are asked for at once.
pub(crate) const USERS_PAGE: u32 = 1_000;
/// Outboxes of one user in one cluster that are looked at.
pub(crate) const OUTBOXES_MAX: usize = 1024;
/// Interval at which a running command looks for messages that other commands have left.
pub(crate) const LEFTOVERS_INTERVAL: Duration = Duration::from_secs(5);
/// Delay before an outbox that is in use is tried again.
pub(crate) const LOCKED_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// A chat shows the user's own message with a clock after it has waited this long for its ack.
pub(crate) const CHAT_CLOCK_AFTER: Duration = Duration::from_millis(300);
/// Lines of a chat that wait to be printed; with this many, nothing is read from the network.
pub(crate) const CHAT_LINES_UNPRINTED_MAX: usize = 1_024;
/// Size from which on a resume file is rewritten instead of appended to, bytes.
pub(crate) const RESUME_FILE_BYTES_MAX: u64 = 64 * 1024;
/// `conclave up` waits this long for its cluster to become ready.
pub(crate) const UP_READY_DEADLINE: Duration = Duration::from_secs(120);
/// Size of a process's log from which on `conclave up` moves it to an older file, of which it keeps two, bytes.
pub(crate) const UP_LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Interval at which `conclave up` checks the sizes of the logs.
pub(crate) const UP_LOG_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Delay before `conclave up` restarts a dead server.
pub(crate) const UP_RESTART_DELAY: Duration = Duration::from_secs(3);
/// `conclave up` kills a server that has not stopped this long after SIGTERM.
pub(crate) const UP_STOP_DEADLINE: Duration = Duration::from_secs(10);
/// `conclave up` gives up on processes of an earlier one that still run this long after SIGKILL: a disk may hold them up for ever.
pub(crate) const UP_KILL_PATIENCE: Duration = Duration::from_secs(5);
/// `conclave up` waits this long for the lock of its directory: the system may still be taking down an `up` that was killed.
pub(crate) const UP_LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// `conclave up` asks servers that an earlier `up` has left behind to stop this often; the second time ends one that waits for its clients.
pub(crate) const UP_STOP_AGAIN_INTERVAL: Duration = Duration::from_millis(500);
/// A second signal within this time after the first is ignored: `timeout` and some supervisors send a signal twice.
pub(crate) const SECOND_SIGNAL_AFTER: Duration = Duration::from_millis(300);
/// Timeout for one answer to `conclave up restart`: a drain waits for clients to move.
pub(crate) const UP_DRAIN_PATIENCE: Duration = Duration::from_secs(15);
/// `conclave up` waits this long until a new cluster takes accounts: its feature level rises once all servers have told theirs.
pub(crate) const UP_ACCOUNTS_PATIENCE: Duration = Duration::from_secs(10);
/// The same for what `up --json` says of a cluster that is there already, and may be held at an earlier level.
pub(crate) const UP_REGISTRATION_PATIENCE: Duration = Duration::from_secs(2);
/// Interval at which `conclave up` checks whether its cluster is ready.
pub(crate) const UP_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Interval at which `conclave up` renews the certificates that are due; due ones are valid for 30 more days.
pub(crate) const UP_RENEW_INTERVAL: Duration = Duration::from_secs(60 * 60);

const _: () = assert!(ALERTS_TEXT_BYTES_MAX <= TEXT_BYTES_MAX, "a message about alerts is a message");
const _: () =
    assert!(SECOND_SIGNAL_AFTER.as_millis() < UP_STOP_AGAIN_INTERVAL.as_millis(), "the second signal counts");
const _: () = assert!(DRAIN_DEADLINE.as_millis() < UP_STOP_DEADLINE.as_millis(), "a drain can end by itself");
