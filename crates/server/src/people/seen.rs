//! On which day sessions were seen: noted here at their calls, and in the meta shard now and then, once a day for each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use conclave_core::people::day_of;
use conclave_core::record::SessionRecord;
use conclave_core::{Command, SessionId, ShardId, level};
use tokio_util::sync::CancellationToken;

use crate::limits::{SEEN_INTERVAL, SEEN_WAITING_MAX};
use crate::router::Router;

/// The sessions that were seen, and of which the meta shard does not know it yet. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen(Arc<Mutex<BTreeMap<SessionId, u32>>>);

impl Seen {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<SessionId, u32>> {
        // No code under this lock can panic half-way, so a poisoned one is still consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a session was seen. One beyond the bound is noted at a later call.
    pub(crate) fn note(&self, session: &SessionRecord, now_ms: i64) {
        let day = day_of(now_ms);
        if session.seen_day >= day {
            return;
        }
        let mut waiting = self.waiting();
        if waiting.len() < SEEN_WAITING_MAX {
            waiting.insert(session.session, day);
        }
    }

    /// Reports the sessions to the meta shard until the node stops.
    pub(crate) async fn run(self, router: Router, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(SEEN_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            if router.shards.topology.feature_level() < level::ACCOUNTS {
                continue;
            }
            let seen: Vec<_> = std::mem::take(&mut *self.waiting()).into_iter().collect();
            if seen.is_empty() {
                continue;
            }
            // Not repeated here: a session that is seen again is noted again.
            let command = Command::SeenSessions(seen);
            tokio::select! {
                decided = router.decide(ShardId::META, &command) => {
                    if let Err(failure) = decided {
                        tracing::debug!(%failure, "failed to note on which days sessions were seen");
                    }
                }
                () = stop.cancelled() => return,
            }
        }
    }
}
