//! The supervisor: opens streams where rooms need them, keeps time, changes the session, asks who leads and where the
//! nodes are.
//!
//! It is the only task that starts others; all are in the client's tracker and end with its token.

use std::sync::Arc;
use std::time::Duration;

use conclave_core::limits::RETRY_DELAY_MIN;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::calls::Caller;
use crate::find::{Finder, Source};
use crate::limits::{CALL_PATIENCE, FIND_INTERVAL_MAX, FIND_INTERVAL_MIN, LEADERS_REFRESH_INTERVAL};
use crate::link;
use crate::shared::SharedState;
use crate::state::{LinkId, Wakes};
use crate::types::Route;

/// What the supervisor needs.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) shared: Arc<SharedState>,
    pub(crate) tracker: TaskTracker,
    pub(crate) caller: Caller,
    pub(crate) finder: Arc<dyn Finder>,
    /// How long what was found at the beginning holds.
    pub(crate) fresh_for: Option<Duration>,
    pub(crate) route: Route,
    pub(crate) user: String,
    pub(crate) name: String,
}

impl Supervisor {
    /// Runs until the client is closed.
    pub(crate) async fn run(self) {
        let cancel = self.shared.cancel.clone();
        let leaders = self.refresh_leaders();
        let mut remembered = Vec::new();
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.supervise() => {}
            () = leaders => {}
            () = self.refresh_nodes(&mut remembered) => {}
        }
        self.persist_members(&mut remembered).await;
    }

    async fn supervise(&self) {
        loop {
            let (open, next, needs_session) = self.poll_state();
            for link in open {
                self.tracker.spawn(link::run(Arc::clone(&self.shared), link));
            }
            if needs_session {
                self.change_session().await;
                continue;
            }
            tokio::select! {
                () = self.shared.supervisor.notified() => {}
                () = sleep_until(next) => {}
            }
        }
    }

    /// What is due: links to open, when to look again, whether a new session is needed.
    fn poll_state(&self) -> (Vec<LinkId>, Option<Instant>, bool) {
        let mut wakes = Wakes::default();
        let mut state = self.shared.lock();
        let (open, next) = state.poll(Instant::now(), &mut wakes);
        let needs_session = state.requests.needs_session();
        drop(state);
        self.shared.wake(wakes);
        (open, next, needs_session)
    }

    async fn change_session(&self) {
        tracing::info!("the session cannot be used any more; a new one is opened");
        match self.caller.open_session(&self.user, &self.name, CALL_PATIENCE).await {
            Ok(identity) => {
                let mut wakes = Wakes::default();
                self.shared.lock().session_changed(identity, &mut wakes);
                self.shared.wake(wakes);
            }
            Err(error) => {
                tracing::warn!(%error, "no new session");
                tokio::time::sleep(RETRY_DELAY_MIN).await;
            }
        }
    }

    /// Looks for nodes again: when what was found is no longer fresh, which changes nothing as long as nothing is wrong,
    /// and soon after something went wrong. Also has the members remembered.
    async fn refresh_nodes(&self, remembered: &mut Vec<String>) {
        let nodes = &self.shared.nodes;
        let mut last = Instant::now();
        let mut due = self.fresh_for.map(|fresh| last + fresh.max(FIND_INTERVAL_MIN));
        let mut failures = 0;
        loop {
            tokio::select! {
                () = nodes.attention.notified() => {}
                () = sleep_until(due) => {}
            }
            self.persist_members(remembered).await;
            let soon = last + FIND_INTERVAL_MIN;
            if nodes.take_search_wanted() && due.is_none_or(|due| due > soon) {
                due = Some(soon);
            }
            if due.is_none_or(|due| due > Instant::now()) {
                continue;
            }
            let found = self.finder.find().await;
            last = Instant::now();
            let wait = match found {
                Ok(found) => {
                    failures = 0;
                    if nodes.add_found(&found) {
                        self.shared.supervisor.notify_one();
                    }
                    match found.source {
                        // Somebody may know better later.
                        Source::Cache | Source::Default => Some(FIND_INTERVAL_MAX),
                        _ => found.fresh_for,
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "looking for nodes");
                    failures += 1;
                    Some(FIND_INTERVAL_MIN.saturating_mul(1 << failures.min(8)).min(FIND_INTERVAL_MAX))
                }
            };
            // Not all clients at the same time.
            due = wait.map(|wait| last + wait.max(FIND_INTERVAL_MIN).mul_f64(rand::random_range(1.0..1.5)));
        }
    }

    /// Has the members remembered if they are others than before.
    async fn persist_members(&self, remembered: &mut Vec<String>) {
        let mut members = self.shared.nodes.members();
        members.sort_unstable();
        if members.is_empty() || members == *remembered {
            return;
        }
        self.finder.learned(members.clone()).await;
        // Only now: whoever is interrupted here does it again.
        *remembered = members;
    }

    /// Learns who leads, at the beginning and whenever the failure of a node may have changed it. Only a client that
    /// sends to leaders needs to know.
    async fn refresh_leaders(&self) {
        if self.route == Route::Pinned {
            return std::future::pending().await;
        }
        // One node knows who leads; the addresses of all are known to all of them together.
        let mut local_only = false;
        loop {
            // Before the first request there is nothing to send to a leader.
            if self.shared.lock().has_rooms()
                && let Ok(status) = self.caller.status(local_only, LEADERS_PATIENCE).await
            {
                local_only = self.shared.nodes.observe_status(&status);
                self.shared.supervisor.notify_one();
            }
            let changed = self.shared.nodes.changed.notified();
            let interval =
                if self.shared.nodes.misses_leaders() { LEADERS_SOON } else { LEADERS_REFRESH_INTERVAL };
            if tokio::time::timeout(interval, changed).await.is_ok() {
                // An election takes its time.
                tokio::time::sleep(LEADERS_DELAY).await;
            }
        }
    }
}

/// While a leader is missed, the others are asked this often.
const LEADERS_SOON: Duration = Duration::from_millis(250);
/// A change is looked into soon, but not at once.
const LEADERS_DELAY: Duration = Duration::from_millis(50);
/// Who leads is not worth waiting for long.
const LEADERS_PATIENCE: Duration = Duration::from_secs(2);

/// For ever, if there is no such time.
pub(crate) async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
