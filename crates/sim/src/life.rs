//! The life cycle of a simulated host: running, dying, dead, restarting.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conclave_store::simulated::Remains;

/// A dying node waits this long at most for a write to die in.
const DYING_MAX: Duration = Duration::from_millis(40);
/// A host that ended by itself is restarted after this time, as `conclave up` would do.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// How a host dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// The process is killed; the machine keeps running.
    Killed,
    /// The machine loses power: connections are not closed, and unsynced writes may be lost.
    Unpowered(Remains),
}

/// The phase of a host's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// Running or starting.
    Up,
    /// About to die: at one of the next writes to its disk, or after [`DYING_MAX`].
    Dying(Death),
    /// Dead until the fault is healed.
    Dead(Death),
    /// Ended by itself at this time since the beginning; it restarts after [`RESTART_AFTER`].
    Ended(Duration),
}

/// The state of one host.
#[derive(Debug)]
pub(crate) struct HostState {
    pub(crate) life: Life,
    /// Whether the node or name server has started and serves.
    pub(crate) started: bool,
    /// When the loop first saw the host dying.
    pub(crate) dying_since: Option<Duration>,
    /// Whether the fault is healed: the host restarts as soon as it is dead.
    pub(crate) revive: bool,
}

/// A change of a host that the loop makes between two ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostChange {
    /// The host crashes.
    Dies,
    /// The host starts.
    Starts,
}

impl HostState {
    /// The state of a host that is about to start for the first time.
    pub(crate) fn up() -> Self {
        Self { life: Life::Up, started: false, dying_since: None, revive: false }
    }

    /// Advances the state to the next tick. `runs` tells whether the host runs, `is_dead` whether a dying host need not wait for a
    /// write. `die` is called when the host dies.
    pub(crate) fn advance(
        &mut self,
        now: Duration,
        runs: bool,
        is_dead: bool,
        die: impl FnOnce(Death),
    ) -> Option<HostChange> {
        match self.life {
            Life::Up if !runs => {
                self.started = false;
                self.life = Life::Ended(now);
            }
            Life::Ended(at) if now >= at + RESTART_AFTER => {
                self.life = Life::Up;
                return Some(HostChange::Starts);
            }
            Life::Dying(death) => {
                let since = *self.dying_since.get_or_insert(now);
                if is_dead || !runs || now >= since + DYING_MAX {
                    die(death);
                    (self.life, self.started, self.dying_since) = (Life::Dead(death), false, None);
                    return Some(HostChange::Dies);
                }
            }
            Life::Dead(_) if self.revive => {
                (self.life, self.revive) = (Life::Up, false);
                return Some(HostChange::Starts);
            }
            Life::Up | Life::Ended(_) | Life::Dead(_) => {}
        }
        None
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
