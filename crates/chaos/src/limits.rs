//! The bounds of a long-running controller's API, and of what faults leave on the disk.

use std::time::Duration;

/// Body of a request, bytes: the largest one is a fault with its parameters, a few hundred bytes.
pub const BODY_BYTES_MAX: usize = 16 * 1024;
/// Requests that wait for the keeper, which works through them one at a time.
pub const REQUESTS_MAX: usize = 16;
/// Open subscriptions to events.
pub const WATCHERS_MAX: usize = 32;
/// Connections to the API and the pages: all watchers, a few scrapers, and requests.
pub const CONNECTIONS_MAX: usize = 128;
/// Connections from one address; from this machine there may be as many as in all.
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 64;
/// A connection that has made no request for this long after it was accepted is closed. A good client makes one at once;
/// this leaves time for bad networks.
pub const FIRST_REQUEST_MAX: Duration = Duration::from_secs(10);
/// A connection without a request for this long is closed: longer than usual intervals of scrapes.
pub const IDLE_MAX: Duration = Duration::from_mins(2);
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
