//! The bounds of accepting connections. How many connections a port holds is each server's own matter: see
//! [`GateLimits`](crate::GateLimits).

use std::time::Duration;

/// The first pause after accepting failed.
pub(crate) const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest pause after accepting failed: each one is twice the one before.
pub(crate) const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Accepting counts as healthy again after this long without a failure, so that the log has one line for each change.
pub(crate) const ACCEPT_HEALTHY_AFTER: Duration = Duration::from_secs(10);
/// Connections that are accepted and closed between two pauses while no file descriptor is left, so that their clients
/// go to another server at once instead of waiting here.
pub(crate) const ACCEPT_CLOSED_AT_ONCE_MAX: usize = 128;
