//! The supervisor: opens the streams that rooms need, runs the timers, replaces the session, refreshes the leaders and
//! the nodes.
//!
//! Only the supervisor spawns tasks. All of them are in the client's tracker and end with its token.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::calls::Caller;
use crate::error::CallError;
use crate::find::{Finder, Source};
use crate::limits::{
    CALL_TIMEOUT, FIND_INTERVAL_MAX, FIND_INTERVAL_MIN, LEADERS_REFRESH_INTERVAL, SESSION_REFUSED_PAUSE,
};
use crate::people::Opener;
use crate::shared::SharedState;
use crate::state::{LinkId, Wakes};
use crate::types::Route;
use crate::{link, retry};

/// The supervisor of one client.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) shared: Arc<SharedState>,
    pub(crate) tracker: TaskTracker,
    pub(crate) caller: Caller,
    pub(crate) finder: Arc<dyn Finder>,
    /// How long the nodes found at the start count as fresh; `None` for ever.
    pub(crate) fresh_for: Option<Duration>,
    pub(crate) route: Route,
    pub(crate) opener: Opener,
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
        let mut session_failures = 0_u32;
        loop {
            let (open, next, needs_session) = self.poll_state();
            for link in open {
                self.tracker.spawn(link::run(Arc::clone(&self.shared), link));
            }
            if needs_session {
                session_failures = if self.change_session(session_failures).await {
                    0
                } else {
                    session_failures.saturating_add(1)
                };
                continue;
            }
            tokio::select! {
                () = self.shared.supervisor.notified() => {}
                () = sleep_until(next) => {}
            }
        }
    }

    /// Polls the state. Returns the links to open, when to poll again, and whether a new session is needed.
    fn poll_state(&self) -> (Vec<LinkId>, Option<Instant>, bool) {
        let mut wakes = Wakes::default();
        let mut state = self.shared.lock();
        let (open, next) = state.poll(Instant::now(), &mut wakes);
        let needs_session = state.requests.needs_session();
        drop(state);
        self.shared.wake(wakes);
        (open, next, needs_session)
    }

    /// Opens a session in place of the unusable one, or the first one. Returns whether it did; if not, after a pause.
    async fn change_session(&self, failures: u32) -> bool {
        tracing::info!("opening a session: there is none, or it is unusable");
        match self.caller.open_session(&self.opener, CALL_TIMEOUT).await {
            Ok(identity) => {
                let mut wakes = Wakes::default();
                self.shared.lock().session_changed(identity, &mut wakes);
                self.shared.wake(wakes);
                true
            }
            Err(error) => {
                tracing::warn!(%error, failures, "failed to open a session");
                let pause = match &error {
                    CallError::Refused { message, .. } | CallError::Auth(message) => {
                        let mut wakes = Wakes::default();
                        self.shared.lock().no_session(message.clone(), &mut wakes);
                        self.shared.wake(wakes);
                        SESSION_REFUSED_PAUSE
                    }
                    _ => retry::delay(failures.saturating_add(2), rand::random()),
                };
                tokio::time::sleep(pause).await;
                false
            }
        }
    }

    /// Searches for nodes again: when the last result is no longer fresh, and soon after a failure. A search that finds
    /// more nodes does not move connections that work. Also persists the members.
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
                        // A better source may answer later.
                        Source::Cache | Source::Default => Some(FIND_INTERVAL_MAX),
                        _ => found.fresh_for,
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "failed to find nodes");
                    failures += 1;
                    Some(FIND_INTERVAL_MIN.saturating_mul(1 << failures.min(8)).min(FIND_INTERVAL_MAX))
                }
            };
            // Spreads the clients over time.
            due = wait.map(|wait| last + wait.max(FIND_INTERVAL_MIN).mul_f64(rand::random_range(1.0..1.5)));
        }
    }

    /// Persists the members if they changed.
    async fn persist_members(&self, remembered: &mut Vec<String>) {
        let mut members = self.shared.nodes.members();
        members.sort_unstable();
        if members.is_empty() || members == *remembered {
            return;
        }
        self.finder.save_members(members.clone()).await;
        // Set after the await: if this future is dropped before, the next call persists the members again.
        *remembered = members;
    }

    /// Refreshes the leaders at the start and whenever the failure of a node may have changed them. Does nothing for a
    /// client that does not send to leaders.
    async fn refresh_leaders(&self) {
        if self.route == Route::Pinned {
            return std::future::pending().await;
        }
        // One node alone knows the leaders' ids. The status of the whole cluster also has the addresses of all nodes.
        let mut local_only = false;
        loop {
            // Leaders are not needed before the first request.
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
                // Gives an election time to finish.
                tokio::time::sleep(LEADERS_DELAY).await;
            }
        }
    }
}

/// Interval of refreshes while a shard has no known leader.
const LEADERS_SOON: Duration = Duration::from_millis(250);
/// Delay between a change and the refresh that follows it.
const LEADERS_DELAY: Duration = Duration::from_millis(50);
/// Timeout for one refresh of the leaders.
const LEADERS_PATIENCE: Duration = Duration::from_secs(2);

/// Sleeps until `at`, or for ever without it.
pub(crate) async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
