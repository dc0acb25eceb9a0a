//! The bounds of certificates.

use std::time::Duration;

/// A day, the unit of the lifetimes below.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Lifetime of an authority's certificate. Nobody checks its end; the key itself is what clients know.
pub const CA_LIFETIME: Duration = DAY.saturating_mul(3_652);
/// Lifetime of all other certificates. Each is renewed when two thirds are over, so an outage of a month harms nothing.
pub const CERTIFICATE_LIFETIME: Duration = DAY.saturating_mul(90);
/// Validity begins this long before the certificate is made, for machines whose clocks are behind.
pub const CLOCK_ERROR: Duration = Duration::from_secs(60 * 60);
/// Maximum number of host names and addresses in one certificate: a machine has a handful.
pub const HOSTS_MAX: usize = 32;
/// Maximum size of a key or certificate file, in bytes. A chain of ours has less than 4 KiB.
pub const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Maximum size of a signing request, in bytes. Ours have less than 1 KiB.
pub const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// The latest time since 1970 that certificates are made for: the year 8970.
pub const CLOCK_LATEST: Duration = DAY.saturating_mul(7_000 * 365);
