//! The bounds of a long-running controller's API, and of what faults leave on the disk.

/// Body of a request, bytes: the largest one is a fault with its parameters, a few hundred bytes.
pub const BODY_BYTES_MAX: usize = 16 * 1024;
/// Requests that wait for the keeper, which works through them one at a time.
pub const REQUESTS_MAX: usize = 16;
/// Open subscriptions to events.
pub const WATCHERS_MAX: usize = 32;
/// Events that a watcher may be behind before it loses some: a run has one a second and a few for each fault.
pub const EVENTS_BEHIND_MAX: usize = 256;
/// The shortest token, bytes: shorter ones can be guessed.
pub const TOKEN_BYTES_MIN: usize = 16;
/// The longest token, bytes.
pub const TOKEN_BYTES_MAX: usize = 1_024;
/// The most that the file of a token has, bytes: the longest token, and lines behind it.
pub(crate) const TOKEN_FILE_BYTES_MAX: u64 = 4 * 1_024;
/// Runs in one answer, unless the request says how many.
pub const RUNS_LISTED: usize = 50;
/// The most runs in one answer: a run takes a few hundred bytes, and a few hundred kilobytes are no burden to anyone.
pub const RUNS_LISTED_MAX: usize = 200;
/// The most bytes of a data dir that is copied: the server stands still meanwhile, and the copy takes room on its disk.
pub const COPY_BYTES_MAX: u64 = 1024 * 1024 * 1024;
