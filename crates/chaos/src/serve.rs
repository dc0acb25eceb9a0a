//! A long-running controller: runs experiments on request and on a schedule, one at a time, and applies single faults.
//!
//! * [`keeper`]: owns the engine and works through requests one at a time. [`desk`]: the requests.
//! * [`refusal`]: why a request is refused. [`shared`]: what the keeper shares with all desks.
//! * [`timetable`]: the times of scheduled runs; pure. [`runs`]: the records of runs, on disk.
//! * [`http`]: metrics, health and the API, which only translates to the desk. [`guard`]: authorises requests that change something.

mod api;
pub mod desk;
pub mod guard;
pub mod http;
pub mod keeper;
pub mod refusal;
pub mod runs;
pub mod shared;
pub mod timetable;

use std::sync::Arc;
use std::time::Duration;

use conclave_net::{GateLimits, Identity};
use conclave_telemetry::door::{Door, Purpose};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::engine::RunError;
use crate::limits::{CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS_MAX, FIRST_REQUEST_MAX, IDLE_MAX};
use crate::metrics::Metrics;
use crate::serve::desk::Desk;
use crate::serve::guard::Guard;
use crate::serve::http::Pages;
use crate::serve::keeper::Keeper;

/// The port of API and pages.
pub const PORT: Purpose = Purpose {
    owner: Identity::Chaos,
    tls_flag: "--pages-tls-dir",
    issue_flag: "--chaos",
    address_flags: "--listen or --metrics",
    limits: GateLimits {
        connections: CONNECTIONS_MAX,
        per_address: CONNECTIONS_PER_ADDRESS_MAX,
        loopback: CONNECTIONS_MAX,
        first_request: FIRST_REQUEST_MAX,
        idle: IDLE_MAX,
    },
};

/// How long requests in flight may still take after the keeper (the task that runs experiments) has ended.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the keeper and the API until the engine's `stop`. All faults are healed before the API ends.
///
/// # Errors
/// If a fault could not be healed at the end.
pub async fn run(
    keeper: Keeper,
    desk: Desk,
    metrics: Arc<Metrics>,
    guard: Arc<Guard>,
    door: Door,
) -> Result<(), RunError> {
    let ended = CancellationToken::new();
    let pages = Pages { api: Some((desk, guard)), metrics, ended: ended.clone() };
    let mut serving = AbortOnDropHandle::new(tokio::spawn(http::serve(door, pages)));
    let kept = keeper.run().await;
    ended.cancel();
    // Requests that take longer are aborted.
    let _ = tokio::time::timeout(GRACE, &mut serving).await;
    kept
}
