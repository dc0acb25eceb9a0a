//! Every bound of the commands that nothing else shares.

use std::time::Duration;

use conclave_core::limits::{DRAIN_DEADLINE, STORED_REPLIES_MAX};

/// Commands of one user that can have a session of their own at the same time, on one machine.
pub(crate) const CLI_SLOTS_MAX: usize = 64;
/// A command asks its servers this long which cluster they are before it believes what was there last.
pub(crate) const CLI_WHICH_CLUSTER: Duration = Duration::from_secs(2);
/// Lines read ahead from stdin.
pub(crate) const CLI_LINES_AHEAD_MAX: usize = 256;
/// Messages of `send -` that wait for their tick.
pub(crate) const CLI_SENDS_IN_FLIGHT_MAX: usize = STORED_REPLIES_MAX;
/// A chat shows a message of its own with a clock once it has waited this long for its tick.
pub(crate) const CHAT_CLOCK_AFTER: Duration = Duration::from_millis(300);
/// Lines of a chat that wait to be printed; then nothing more is read from the network.
pub(crate) const CHAT_LINES_UNPRINTED_MAX: usize = 1_024;
/// Bytes at which a resume file is written anew instead of appended to.
pub(crate) const RESUME_FILE_BYTES_MAX: u64 = 64 * 1024;
/// `conclave up` waits this long for every shard to have a leader.
pub(crate) const UP_READY_DEADLINE: Duration = Duration::from_secs(120);
/// `conclave up` starts a dead server again after this long.
pub(crate) const UP_RESTART_DELAY: Duration = Duration::from_secs(3);
/// `conclave up` kills a server that has not stopped this long after it was asked to.
pub(crate) const UP_STOP_DEADLINE: Duration = Duration::from_secs(10);
/// A second signal so soon after the first one is the same one: `timeout` and some supervisors send it twice.
pub(crate) const SECOND_SIGNAL_AFTER: Duration = Duration::from_millis(300);
/// `conclave up` looks this often whether its cluster is ready.
pub(crate) const UP_POLL_INTERVAL: Duration = Duration::from_millis(50);

const _: () = assert!(DRAIN_DEADLINE.as_millis() < UP_STOP_DEADLINE.as_millis(), "a drain can end by itself");
