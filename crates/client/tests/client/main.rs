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

/// Deadline for every step of these tests.
const DEADLINE: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}

/// A client that connects to the first node.
async fn pinned(cluster: &Cluster) -> Client {
    let builder = Client::builder().servers(cluster.addresses()).user("ana").route(Route::Pinned);
    soon("connect", builder.connect()).await.unwrap()
}
