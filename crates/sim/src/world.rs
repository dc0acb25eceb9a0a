//! Simulated time and randomness for the whole process.
//!
//! All randomness of a process comes from `getrandom`, and all time from `clock_gettime`: the order of a hash map, a retry's
//! jitter, an election's timeout, the task that the runtime polls first. This module replaces both functions, by the
//! simulation's clock and by a generator with the seed. So the simulated code needs no changes, and cannot bypass the
//! simulation: all time and randomness in this process is simulated.
//!
//! The simulation has one thread. [`real_ms`] reads real time, to measure how long a run takes.

#![expect(unsafe_code, reason = "replacing functions of the C library has no safe interface")]

use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use libc::{clockid_t, size_t, ssize_t, timespec};

/// The beginning of simulated time: 2026-01-01, in nanoseconds since 1970. Used for monotonic clocks as well, so that subtracting
/// a duration from a reading cannot fall below zero.
const EPOCH_NS: u64 = 1_767_225_600_000_000_000;

static NOW_NS: AtomicU64 = AtomicU64::new(EPOCH_NS);
static STATE: AtomicU64 = AtomicU64::new(0);

/// Seeds all randomness from now on.
pub(crate) fn seed(seed: u64) {
    STATE.store(seed, Ordering::Relaxed);
}

/// Advances the time to this, from the beginning of the simulation. Time never goes back.
pub(crate) fn set_now(elapsed: Duration) {
    let now = EPOCH_NS + u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX / 2);
    NOW_NS.fetch_max(now, Ordering::Relaxed);
}

/// Milliseconds of the machine's monotonic clock.
pub(crate) fn real_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let millis = now.tv_sec.saturating_mul(1_000).saturating_add(now.tv_nsec / 1_000_000);
    u64::try_from(millis).unwrap_or(0)
}

/// The next number of the seed, by SplitMix64 (Steele, Lea, Flood 2014).
fn draw() -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut z = STATE.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Replaces the C library's function: fills the buffer with numbers of the seed.
///
/// # Safety
/// As for the original: `buffer` must be valid for writing `len` bytes.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn getrandom(buffer: *mut c_void, len: size_t, _flags: c_uint) -> ssize_t {
    if len == 0 {
        return 0;
    }
    // SAFETY: the caller guarantees it, see above.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), len) };
    for part in bytes.chunks_mut(8) {
        part.copy_from_slice(&draw().to_le_bytes()[..part.len()]);
    }
    ssize_t::try_from(len).unwrap_or(ssize_t::MAX)
}

/// Replaces the C library's function: returns the simulated time for every clock. Each reading is a nanosecond later than the one
/// before, so that readings are ordered as the calls are.
///
/// # Safety
/// As for the original: `time` must be valid for writing.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn clock_gettime(_clock: clockid_t, time: *mut timespec) -> c_int {
    let now = NOW_NS.fetch_add(1, Ordering::Relaxed);
    let part = |n: u64| i64::try_from(n).unwrap_or(0);
    let read = timespec { tv_sec: part(now / 1_000_000_000), tv_nsec: part(now % 1_000_000_000) };
    // SAFETY: the caller guarantees it, see above.
    unsafe { time.write(read) };
    0
}
