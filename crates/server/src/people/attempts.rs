//! Slows down those who guess passwords: after some failures, a pair of user and address waits longer from failure to
//! failure, and so does an address that tries many users.
//!
//! Never the user alone: whoever knows a name could lock its user out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conclave_proto::status::{Failure, TOO_MANY_LOG_INS};
use tokio::time::Instant;
use tonic::Code;

use crate::limits::{ATTEMPT_WAIT_MAX, ATTEMPTS_KEPT_MAX, ATTEMPTS_OF_ADDRESS_FREE, ATTEMPTS_OF_USER_FREE};

/// The failed log-ins of the last time, on this node. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attempts(Arc<Mutex<Table>>);

/// Whose failures are counted: those of an address, or those of an address for one user.
type Key = (Option<IpAddr>, Option<String>);

#[derive(Debug, Default)]
struct Table {
    failures: HashMap<Key, Failures>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    /// When the next attempt is allowed, after so many that are free.
    fn next(self, free: u32) -> Instant {
        let Some(beyond) = self.count.checked_sub(free) else { return self.last };
        self.last + Duration::from_secs(1 << beyond.min(16)).min(ATTEMPT_WAIT_MAX)
    }
}

impl Attempts {
    fn table(&self) -> MutexGuard<'_, Table> {
        // No code under this lock can panic half-way, so a poisoned one is still consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses an attempt that comes too early.
    ///
    /// # Errors
    /// `too_many_log_ins`, with the seconds to wait.
    pub(crate) fn check(&self, from: Option<IpAddr>, user: &str, now: Instant) -> Result<(), Failure> {
        let table = self.table();
        let next = keys(from, user).into_iter().filter_map(|(key, free)| {
            let failures = table.failures.get(&key)?;
            Some(failures.next(free))
        });
        let wait = next.max().map_or(Duration::ZERO, |next| next.saturating_duration_since(now));
        if wait.is_zero() {
            return Ok(());
        }
        Err(Failure::Denied {
            code: TOO_MANY_LOG_INS,
            status: Code::ResourceExhausted,
            message: format!(
                "too many wrong passwords from here; try again in {} s",
                wait.as_millis().div_ceil(1_000)
            ),
        })
    }

    /// Counts a failed attempt.
    pub(crate) fn failed(&self, from: Option<IpAddr>, user: &str, now: Instant) {
        let mut table = self.table();
        for (key, _) in keys(from, user) {
            if !table.failures.contains_key(&key) {
                table.make_room(now);
            }
            let failures = table.failures.entry(key).or_insert(Failures { count: 0, last: now });
            // Forgotten after the longest wait without another one.
            if now.saturating_duration_since(failures.last) > 2 * ATTEMPT_WAIT_MAX {
                failures.count = 0;
            }
            failures.count = failures.count.saturating_add(1);
            failures.last = now;
        }
    }

    /// The user has the right password: earlier failures are forgotten, but for those of the address.
    pub(crate) fn succeeded(&self, from: Option<IpAddr>, user: &str) {
        self.table().failures.remove(&(from, Some(user.to_owned())));
    }
}

impl Table {
    /// Drops what is over; then, if the table is still full, the oldest.
    fn make_room(&mut self, now: Instant) {
        if self.failures.len() < ATTEMPTS_KEPT_MAX {
            return;
        }
        self.failures
            .retain(|_, failures| now.saturating_duration_since(failures.last) <= 2 * ATTEMPT_WAIT_MAX);
        if self.failures.len() >= ATTEMPTS_KEPT_MAX
            && let Some(oldest) =
                self.failures.iter().min_by_key(|(_, failures)| failures.last).map(|(key, _)| key.clone())
        {
            self.failures.remove(&oldest);
        }
    }
}

fn keys(from: Option<IpAddr>, user: &str) -> [(Key, u32); 2] {
    [((from, Some(user.to_owned())), ATTEMPTS_OF_USER_FREE), ((from, None), ATTEMPTS_OF_ADDRESS_FREE)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)));
    const THERE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)));

    #[test]
    fn who_guesses_waits_and_nobody_else_does() {
        let attempts = Attempts::default();
        let begin = Instant::now();
        for _ in 0..ATTEMPTS_OF_USER_FREE {
            attempts.check(HERE, "ana", begin).unwrap();
            attempts.failed(HERE, "ana", begin);
        }
        let refused = attempts.check(HERE, "ana", begin).unwrap_err();
        assert_eq!(refused.code(), TOO_MANY_LOG_INS);
        attempts.check(THERE, "ana", begin).unwrap();
        attempts.check(HERE, "bo", begin).unwrap();
        attempts.check(HERE, "ana", begin + Duration::from_secs(1)).unwrap();
        attempts.failed(HERE, "ana", begin + Duration::from_secs(1));
        assert!(attempts.check(HERE, "ana", begin + Duration::from_secs(2)).is_err(), "twice as long");
        attempts.succeeded(HERE, "ana");
        attempts.check(HERE, "ana", begin + Duration::from_secs(2)).unwrap();
    }

    #[test]
    fn an_address_that_tries_many_users_waits() {
        let attempts = Attempts::default();
        let now = Instant::now();
        for user in 0..ATTEMPTS_OF_ADDRESS_FREE {
            attempts.check(HERE, &format!("user{user}"), now).unwrap();
            attempts.failed(HERE, &format!("user{user}"), now);
        }
        assert!(attempts.check(HERE, "another", now).is_err());
        attempts.check(THERE, "another", now).unwrap();
    }

    #[test]
    fn the_table_is_bounded() {
        let attempts = Attempts::default();
        let now = Instant::now();
        for user in 0..2 * ATTEMPTS_KEPT_MAX {
            attempts.failed(HERE, &format!("user{user}"), now);
        }
        assert!(attempts.table().failures.len() <= ATTEMPTS_KEPT_MAX);
    }
}
