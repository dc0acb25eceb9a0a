//! How a host is, and what it takes for it to die and to start.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conclave_store::simulated::Remains;

/// A node that dies in the middle of a write does so within this.
const DYING_MAX: Duration = Duration::from_millis(40);
/// A host that ended by itself starts again after this, as `conclave up` would start it.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// How a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// Its process is killed; the machine goes on.
    Killed,
    /// Its machine loses power: nobody is told, and what was not synced may be lost.
    Unpowered(Remains),
}

/// How a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It runs, or begins to.
    Up,
    /// It is about to die: at the next write to its disk, or soon.
    Dying(Death),
    /// It is dead, and stays so until it is healed.
    Dead(Death),
    /// It ended by itself and starts again when this much time has passed since the beginning.
    Ended(Duration),
}

/// What changes about one node.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) life: Life,
    /// It serves.
    pub(crate) started: bool,
    /// When it began to die, once the loop has seen that.
    pub(crate) dying_since: Option<Duration>,
    /// It is healed: it starts as soon as it is dead.
    pub(crate) revive: bool,
}

/// What has to be done to a host between two ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It ends here.
    Dies,
    /// It begins anew.
    Starts,
}

impl State {
    /// It is about to start for the first time.
    pub(crate) fn up() -> Self {
        Self { life: Life::Up, started: false, dying_since: None, revive: false }
    }

    /// Goes on to the next tick. `is_dead` says that nothing is left to wait for before it can die, which is done by `die`.
    pub(crate) fn go_on(
        &mut self,
        now: Duration,
        runs: bool,
        is_dead: bool,
        die: impl FnOnce(Death),
    ) -> Option<Change> {
        match self.life {
            Life::Up if !runs => {
                self.started = false;
                self.life = Life::Ended(now);
            }
            Life::Ended(at) if now >= at + RESTART_AFTER => {
                self.life = Life::Up;
                return Some(Change::Starts);
            }
            Life::Dying(death) => {
                let since = *self.dying_since.get_or_insert(now);
                if is_dead || !runs || now >= since + DYING_MAX {
                    die(death);
                    (self.life, self.started, self.dying_since) = (Life::Dead(death), false, None);
                    return Some(Change::Dies);
                }
            }
            Life::Dead(_) if self.revive => {
                (self.life, self.revive) = (Life::Up, false);
                return Some(Change::Starts);
            }
            Life::Up | Life::Ended(_) | Life::Dead(_) => {}
        }
        None
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
