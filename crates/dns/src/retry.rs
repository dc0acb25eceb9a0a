//! Delays between retries.

use std::time::Duration;

use conclave_core::limits::{RETRY_DELAY_MAX, RETRY_DELAY_MIN};
use rand::RngExt as _;

/// The delay after this many failures in a row: doubled each time, with jitter.
pub(crate) fn delay(failures: u32) -> Duration {
    let most = (RETRY_DELAY_MIN * 2_u32.pow(failures.min(10))).min(RETRY_DELAY_MAX);
    most.mul_f64(rand::rng().random_range(0.5..1.0))
}
