//! The bounds of accepting connections and of TLS. How many connections a port holds is each server's own matter: see
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
/// A TLS handshake is given up after this long, at either end. An honest one takes two round trips.
pub(crate) const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Maximum number of TLS handshakes in flight at one listener. One more, and the oldest is given up: an honest handshake
/// is done within milliseconds, so the oldest is most likely one whose other end says nothing.
pub const HANDSHAKES_MAX: usize = 256;
/// Pause between two log lines about failed handshakes: a stranger must not fill the log.
pub(crate) const FAILURES_LOGGED_EVERY: Duration = Duration::from_secs(10);
/// Bytes that one read of an encrypted connection gets at most, and that a connection holds until they are decrypted: two
/// full TLS records (RFC 8446, section 5.2).
pub(crate) const READ_AHEAD_BYTES_MAX: usize = 2 * (5 + 16_384 + 256);
/// Maximum size of a key or certificate file, in bytes. A chain of a public authority has less than 16 KiB.
pub(crate) const PEM_BYTES_MAX: u64 = 256 * 1024;
/// Maximum number of certificates for a public name: its own, and those up to an authority that systems know.
pub(crate) const PUBLIC_CHAIN_MAX: usize = 8;
/// Pause between two looks at the files of a directory of credentials. They are renewed weeks before they expire.
pub(crate) const CREDENTIALS_READ_INTERVAL: Duration = Duration::from_secs(30);
/// Maximum number of certificates behind a peer's own that are looked at for the cluster's authority.
pub(crate) const CHAIN_MAX: usize = 4;
/// Number of sessions that a client keeps for each set of servers, so that reconnecting takes one round trip less and
/// no signature.
pub(crate) const SESSIONS_KEPT: usize = 256;
/// Refused connections that are told why at the same time. More of them are closed at once.
pub(crate) const FAREWELLS_MAX: usize = 64;
/// How long a refused connection may take to ask, and to hear why.
pub(crate) const FAREWELL_DEADLINE: Duration = Duration::from_secs(2);
/// Bytes that are read from a refused connection, before the answer and after it.
pub(crate) const FAREWELL_BYTES_MAX: u64 = 64 * 1024;
