//! The bounds of a public gRPC port, and of the log.

use std::time::Duration;

/// Open HTTP/2 streams on one client connection.
pub(crate) const STREAMS_PER_CONNECTION_MAX: u32 = 1_024;
/// Log lines that wait to be written: a burst, such as a start or a change of leader in every shard.
pub(crate) const LOG_LINES_MAX: usize = 4_096;
/// Size of the log lines that wait to be written, bytes; a longer line is dropped.
pub(crate) const LOG_BYTES_MAX: usize = 1024 * 1024;
/// Room beyond [`LOG_LINES_MAX`] for texts that must not get lost: a process has few of them.
pub(crate) const LOG_LINES_RESERVED: usize = 64;
/// Room beyond [`LOG_BYTES_MAX`] for such texts, bytes: a panic with its backtrace, which is at most half of it, and an error.
pub(crate) const LOG_BYTES_RESERVED: usize = 64 * 1024;
/// A process that ends waits this long for its last log lines to be written: they say why it ended.
pub(crate) const LOG_FINISH_DEADLINE: Duration = Duration::from_secs(1);
/// Delay before a write is tried again at a log that takes nothing at the moment and does not let a write wait.
pub(crate) const LOG_WRITE_AGAIN_AFTER: Duration = Duration::from_millis(20);
