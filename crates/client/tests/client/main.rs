//! The library against a fake cluster with fault injection.

#![expect(clippy::unwrap_used, reason = "these are tests")]

mod dns;
mod fake;
mod find;
mod outbox;
mod placement;
mod send;
mod subscribe;

use std::future::Future;
use std::time::Duration;

use conclave_client::{Client, Route};
use fake::Cluster;

/// Deadline for every step of these tests. Only a failure reaches it, even on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
/// Time between two looks at a condition.
const POLL: Duration = Duration::from_millis(20);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}

/// Waits until the condition holds.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    soon(what, async {
        while !condition() {
            tokio::time::sleep(POLL).await;
        }
    })
    .await;
}

/// Repeats the attempt until it succeeds: on a busy machine, one of several is fast enough.
async fn one_of_several<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    soon(what, async {
        loop {
            if let Some(result) = attempt().await {
                return result;
            }
        }
    })
    .await
}

/// A client that connects to the first node.
async fn pinned(cluster: &Cluster) -> Client {
    let builder = Client::builder().servers(cluster.addresses()).user("ana").route(Route::Pinned);
    soon("connect", builder.connect()).await.unwrap()
}
