//! Hashing and checking passwords: Argon2id, on a few threads for blocking work, never on a thread of the async runtime.
//!
//! One hash takes 19 MiB and some 20 ms of a processor. So only a few run at a time, few wait, and later ones are
//! asked to come again: log-ins cannot hold up the rest of the node.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use conclave_core::record::Phc;
use conclave_proto::status::{Failure, TOO_MANY_LOG_INS};
use conclave_store::Work;
use tokio::sync::Semaphore;
use tonic::Code;
use zeroize::Zeroizing;

use crate::limits::{PASSWORD_THREADS_MAX, PASSWORD_WAITING_MAX};

/// Bytes of a password. The longest costs no more than the shortest: Argon2 digests it first.
const LENGTH: std::ops::RangeInclusive<usize> = 8..=1024;
/// Memory of one hash, KiB. With [`PASSES`], the least that OWASP recommends.
const MEMORY_KIB: u32 = 19 * 1024;
/// Passes over the memory.
const PASSES: u32 = 2;
/// Lanes, which would be computed one after the other.
const LANES: u32 = 1;
/// The hash of a random password that nobody has, with the same parameters: to check a password against it takes as long as
/// against a user's.
const NOBODYS: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$Y29uY2xhdmUtbm9ib2R5cw$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

/// A password as a client sent it. Its memory is overwritten when it is dropped.
pub(crate) type Password = Zeroizing<String>;

/// Hashes and checks passwords, a few at a time. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Passwords {
    work: Work,
    running: Arc<Semaphore>,
    /// How many wait or run.
    here: Arc<AtomicUsize>,
    max: usize,
}

/// The place of one that waits or runs.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Passwords {
    pub(crate) fn new(work: Work) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = (processors / 2).clamp(1, PASSWORD_THREADS_MAX);
        Self::with(work, threads, PASSWORD_WAITING_MAX)
    }

    fn with(work: Work, threads: usize, waiting: usize) -> Self {
        let running = Arc::new(Semaphore::new(threads));
        Self { work, running, here: Arc::default(), max: threads + waiting }
    }

    /// Hashes a new password, with a new salt.
    ///
    /// # Errors
    /// `password_length`, or if too many wait.
    pub(crate) async fn hash(&self, password: Password) -> Result<Phc, Failure> {
        check_length(&password)?;
        let salt: [u8; 16] = rand::random();
        self.run(move || hash(&password, &salt)).await?
    }

    /// Whether the password is the one of this hash. Without a hash the answer is no, after as long.
    ///
    /// # Errors
    /// If too many wait.
    pub(crate) async fn check(&self, password: Password, phc: Option<Phc>) -> Result<bool, Failure> {
        if password.len() > *LENGTH.end() {
            return Ok(false);
        }
        self.run(move || {
            let real = phc.is_some();
            let phc = phc.map_or_else(|| NOBODYS.to_owned(), |Phc(phc)| phc);
            matches(&password, &phc) && real
        })
        .await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
        let before = self.here.fetch_add(1, Ordering::AcqRel);
        let place = Place(Arc::clone(&self.here));
        if before >= self.max {
            return Err(busy());
        }
        // The semaphore is never closed.
        let permit = Arc::clone(&self.running).acquire_owned().await.map_err(|_| busy())?;
        // The work goes on if its caller gives up, so the place and the permit belong to the work.
        let done = self.work.block(move || {
            let done = work();
            drop((permit, place));
            done
        });
        done.await.map_err(|error| Failure::unknown("undecided", format!("hashing was cut off: {error}")))
    }
}

fn busy() -> Failure {
    Failure::Denied {
        code: TOO_MANY_LOG_INS,
        status: Code::ResourceExhausted,
        message: "this node checks as many passwords as it can; nothing was done: try again in a second"
            .to_owned(),
    }
}

/// Refuses a password that is too short to be one, or too long.
pub(crate) fn check_length(password: &str) -> Result<(), Failure> {
    if LENGTH.contains(&password.len()) {
        return Ok(());
    }
    let why = format!("a password has {} to {} bytes", LENGTH.start(), LENGTH.end());
    Err(Failure::invalid("password_length", why))
}

fn argon2() -> Result<Argon2<'static>, Failure> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| internal(&error))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn hash(password: &str, salt: &[u8]) -> Result<Phc, Failure> {
    let hash: PasswordHash =
        argon2()?.hash_password_with_salt(password.as_bytes(), salt).map_err(|error| internal(&error))?;
    Ok(Phc(hash.to_string()))
}

/// Takes its parameters from the hash.
fn matches(password: &str, phc: &str) -> bool {
    let (Ok(phc), Ok(argon2)) = (PasswordHash::new(phc), argon2()) else { return false };
    argon2.verify_password(password.as_bytes(), &phc).is_ok()
}

fn internal(error: &dyn std::fmt::Display) -> Failure {
    Failure::invalid("password_not_hashed", format!("the password cannot be hashed: {error}"))
}

#[cfg(test)]
mod tests {
    use conclave_core::limits::PHC_BYTES_MAX;

    use super::*;

    fn password(text: &str) -> Password {
        Zeroizing::new(text.to_owned())
    }

    #[tokio::test]
    async fn a_password_matches_its_own_hash_alone() {
        let passwords = Passwords::with(Work::Threads, 1, 1);
        let phc = passwords.hash(password("correct horse")).await.unwrap();
        assert!(
            phc.0.starts_with("$argon2id$v=19$m=19456,t=2,p=1$") && phc.0.len() <= PHC_BYTES_MAX,
            "{}",
            phc.0
        );
        assert_ne!(passwords.hash(password("correct horse")).await.unwrap(), phc, "each has its own salt");
        assert!(passwords.check(password("correct horse"), Some(phc.clone())).await.unwrap());
        assert!(!passwords.check(password("correct hors"), Some(phc.clone())).await.unwrap());
        assert!(!passwords.check(password("correct horse"), None).await.unwrap());
        assert!(!passwords.check(password(&"x".repeat(1025)), Some(phc)).await.unwrap());
        assert!(PasswordHash::new(NOBODYS).is_ok(), "an unknown user costs the same time");
        for wrong in ["short", &"x".repeat(1025)] {
            assert_eq!(passwords.hash(password(wrong)).await.unwrap_err().code(), "password_length");
        }
    }

    #[tokio::test]
    async fn a_bounded_number_of_passwords_waits() {
        let passwords = Passwords::with(Work::Threads, 1, 1);
        let held = Arc::clone(&passwords.running).acquire_owned().await.unwrap();
        let wait = |passwords: &Passwords| {
            let passwords = passwords.clone();
            tokio::spawn(async move { passwords.check(password("12345678"), None).await })
        };
        let waiting = [wait(&passwords), wait(&passwords)];
        while passwords.here.load(Ordering::Acquire) < 2 {
            tokio::task::yield_now().await;
        }
        let refused = passwords.check(password("12345678"), None).await.unwrap_err();
        assert_eq!(refused.code(), TOO_MANY_LOG_INS);
        drop(held);
        for waiting in waiting {
            assert!(!waiting.await.unwrap().unwrap());
        }
        assert_eq!(passwords.here.load(Ordering::Acquire), 0);
    }
}
