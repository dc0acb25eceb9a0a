//! A controller that stays: runs experiments when it is asked to and by schedule, one at a time, and applies single faults.
//!
//! * [`keeper`]: owns the engine, and does one thing after the other. [`desk`]: what can be asked of it, from anywhere.
//! * [`timetable`]: what is run by schedule, and when; pure. [`runs`]: what came of runs, kept on disk.
//! * [`grpc`] and [`http`]: the two ways to ask; both only translate. [`guard`]: who may change something.

pub mod desk;
pub mod grpc;
pub mod guard;
pub mod http;
pub mod keeper;
pub mod runs;
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

/// Calls that are under way when everything is healed get so long.
const GRACE: Duration = Duration::from_secs(5);

/// Keeps, and answers, until the keeper's engine is told to stop. Then everything is healed, and nobody is answered any more.
///
/// # Errors
/// If something could not be healed in the end.
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
    let kept = keeper.keep().await;
    ended.cancel();
    let all = async { while serving.join_next().await.is_some() {} };
    // What is still under way then is cut off.
    let _ = tokio::time::timeout(GRACE, all).await;
    kept
}
