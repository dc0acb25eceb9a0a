//! A long-running controller: runs experiments on request and on a schedule, one at a time, and applies single faults.
//!
//! * [`keeper`]: owns the engine and works through requests one at a time. [`desk`]: the requests, for both APIs.
//! * [`refusal`]: why a request is refused. [`shared`]: what the keeper shares with all desks.
//! * [`timetable`]: the times of scheduled runs; pure. [`runs`]: the records of runs, on disk.
//! * [`grpc`] and [`http`]: the two APIs, which only translate to the desk. [`guard`]: authorises changing calls.

pub mod desk;
pub mod grpc;
pub mod guard;
pub mod http;
pub mod keeper;
pub mod refusal;
pub mod runs;
pub mod shared;
pub mod timetable;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::engine::RunError;
use crate::metrics::Metrics;
use crate::serve::desk::Desk;
use crate::serve::guard::Guard;
use crate::serve::http::Pages;
use crate::serve::keeper::Keeper;

/// How long calls in flight may still take after the keeper (the task that runs experiments) has ended.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the keeper and both APIs until the engine's `stop`. All faults are healed before the APIs end.
///
/// # Errors
/// If a fault could not be healed at the end.
pub async fn run(
    keeper: Keeper,
    desk: Desk,
    metrics: Arc<Metrics>,
    guard: Arc<Guard>,
    grpc: TcpListener,
    http: TcpListener,
) -> Result<(), RunError> {
    let ended = CancellationToken::new();
    let mut serving = JoinSet::new();
    let pages = Pages { desk: Some(desk.clone()), metrics, ended: ended.clone() };
    serving.spawn(http::serve(http, pages, Arc::clone(&guard), ended.clone()));
    serving.spawn(grpc::serve(grpc, desk, guard, ended.clone()));
    let kept = keeper.run().await;
    ended.cancel();
    let all = async { while serving.join_next().await.is_some() {} };
    // Calls that take longer are aborted.
    let _ = tokio::time::timeout(GRACE, all).await;
    kept
}
