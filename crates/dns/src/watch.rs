//! Streams in which nodes report all nodes they know. So a node that is dead or cannot reach this name server is known
//! through the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use conclave_core::limits::NODES_MAX;
use conclave_net::Net;
use conclave_proto::admin::admin_service_client::AdminServiceClient;
use conclave_proto::admin::{RecordsRequest, RecordsResponse};
use conclave_proto::cluster::NodeRecords;
use conclave_proto::mac::{NONCE_BYTES, RECORDS, Secret};
use prost::Message as _;
use rand::seq::IteratorRandom as _;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::limits::{RECORDS_MESSAGE_BYTES_MAX, RECORDS_WATCHED, REGISTER_LEASE};
use crate::metrics::Metrics;
use crate::node_table::RecordSource;
use crate::registry::Registry;
use crate::retry;

/// A stream without a message for this long is closed. Nodes repeat their records once a second.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// Keeps a stream of records open to [`RECORDS_WATCHED`] nodes.
#[derive(Clone, Debug)]
pub(crate) struct Watcher {
    /// Addresses to watch before any node is known.
    pub(crate) seeds: Vec<String>,
    pub(crate) secret: Secret,
    pub(crate) registry: Registry,
    pub(crate) net: Net,
    pub(crate) metrics: Arc<Metrics>,
}

/// A node to watch: its address, and its id if known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct WatchTarget {
    address: String,
    id: Option<u64>,
}

/// The pause before a node is watched again.
#[derive(Debug)]
struct Backoff {
    failures: u32,
    until: Instant,
}

impl Watcher {
    /// Runs until the name server stops.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut live = self.registry.live();
        let mut streams = JoinSet::new();
        let mut watched: BTreeMap<Id, WatchTarget> = BTreeMap::new();
        let mut backoffs: BTreeMap<String, Backoff> = BTreeMap::new();
        loop {
            let known = self.candidates(&live.borrow_and_update());
            backoffs.retain(|address, _| known.iter().any(|node| node.address == *address));
            while watched.len() < RECORDS_WATCHED {
                let Some(node) = pick_target(&known, &watched, &backoffs) else { break };
                let this = self.clone();
                let target = node.clone();
                let task = streams.spawn(async move { this.stream(&target).await });
                watched.insert(task.id(), node);
            }
            self.metrics.records_watched.set(i64::try_from(watched.len()).unwrap_or(i64::MAX));
            let wake = if watched.len() < RECORDS_WATCHED { next_retry(&watched, &backoffs) } else { None };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = live.changed() => if changed.is_err() { return },
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
                Some(ended) = streams.join_next_with_id() => {
                    let id = ended.as_ref().map_or_else(tokio::task::JoinError::id, |(id, _)| *id);
                    if let (Some(node), Ok((_, ended))) = (watched.remove(&id), ended) {
                        back_off(&mut backoffs, &node.address, ended);
                    }
                }
            }
        }
    }

    /// Every node that can be watched: the live ones, or those of the configuration if none is live.
    fn candidates(&self, live: &BTreeMap<u64, String>) -> BTreeSet<WatchTarget> {
        if live.is_empty() {
            return self
                .seeds
                .iter()
                .map(|address| WatchTarget { address: address.clone(), id: None })
                .collect();
        }
        live.iter().map(|(id, address)| WatchTarget { address: address.clone(), id: Some(*id) }).collect()
    }

    /// Merges the records of one node's stream until it ends or sends something invalid. Returns whether it delivered
    /// more than one message, and why it ended.
    async fn stream(self, node: &WatchTarget) -> (bool, Status) {
        let mut counter = 0;
        let why = match self.read_stream(node, &mut counter).await {
            Ok(()) => Status::unavailable("the node ended the stream"),
            Err(why) => why,
        };
        (counter > 1, why)
    }

    async fn read_stream(&self, node: &WatchTarget, counter: &mut u64) -> Result<(), Status> {
        let endpoint = self
            .net
            .endpoint(&node.address)
            .map_err(|error| Status::invalid_argument(error.to_string()))?
            .connect_timeout(REGISTER_LEASE);
        let channel = self.net.connected(&endpoint, &node.address).await;
        let channel = channel.map_err(|error| Status::from_error(error.into()))?;
        let mut client =
            AdminServiceClient::new(channel).max_decoding_message_size(RECORDS_MESSAGE_BYTES_MAX);
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let silent = |_| Status::deadline_exceeded(format!("no message within {SILENCE_MAX:?}"));
        let request = client.records(RecordsRequest { nonce: nonce.to_vec() });
        let mut stream = timeout(SILENCE_MAX, request).await.map_err(silent)??.into_inner();
        while let Some(message) = timeout(SILENCE_MAX, stream.message()).await.map_err(silent)?? {
            *counter += 1;
            let records = self.verified(&nonce, *counter, &message).inspect_err(|_| self.count("refused"))?;
            self.count("accepted");
            for record in records.records.into_iter().take(NODES_MAX) {
                // A node's record of itself counts as a registration, also in a stream that this server opened.
                let itself = node.id.map_or(record.client == node.address, |id| record.node_id == id);
                let source = if itself { RecordSource::Itself(None) } else { RecordSource::Another };
                if self.registry.submit(record, source).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn verified(&self, nonce: &[u8], counter: u64, message: &RecordsResponse) -> Result<NodeRecords, Status> {
        if message.mac.is_empty() {
            return Err(Status::unauthenticated(
                "the node has no secret; start it with the --secret-file of the name server",
            ));
        }
        if message.counter != counter
            || !self.secret.verify(RECORDS, nonce, counter, &message.records, &message.mac)
        {
            return Err(Status::unauthenticated(
                "the secrets differ; give the node and the name server the same --secret-file",
            ));
        }
        NodeRecords::decode(message.records.as_slice()).map_err(|error| Status::data_loss(error.to_string()))
    }

    fn count(&self, outcome: &str) {
        self.metrics.records_heard.with_label_values(&[outcome]).inc();
    }
}

/// A random node that is neither watched already nor in backoff.
fn pick_target(
    known: &BTreeSet<WatchTarget>,
    watched: &BTreeMap<Id, WatchTarget>,
    backoffs: &BTreeMap<String, Backoff>,
) -> Option<WatchTarget> {
    let now = Instant::now();
    let free = known.iter().filter(|node| {
        !watched.values().any(|other| other.address == node.address)
            && backoffs.get(&node.address).is_none_or(|rest| rest.until <= now)
    });
    free.choose(&mut rand::rng()).cloned()
}

/// When the next backoff of a node that is not watched ends. Backoffs of watched nodes have ended already.
fn next_retry(watched: &BTreeMap<Id, WatchTarget>, backoffs: &BTreeMap<String, Backoff>) -> Option<Instant> {
    let is_watched = |address: &String| watched.values().any(|node| node.address == *address);
    backoffs.iter().filter(|(address, _)| !is_watched(address)).map(|(_, rest)| rest.until).min()
}

/// Starts the backoff of a node, longer after each failure in a row.
fn back_off(backoffs: &mut BTreeMap<String, Backoff>, address: &str, (good, why): (bool, Status)) {
    let before = backoffs.get(address).map_or(0, |rest| rest.failures);
    let failures = if good { 0 } else { before + 1 };
    if before == 0 {
        tracing::info!(node = address, why = why.message(), "membership stream from node lost");
    }
    backoffs.insert(address.to_owned(), Backoff { failures, until: Instant::now() + retry::delay(failures) });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_backoff_of_a_watched_node_does_not_wake_the_loop() {
        let ended = Backoff { failures: 1, until: Instant::now() };
        let later = Instant::now() + Duration::from_secs(1);
        let mut backoffs = BTreeMap::from([("n1:7400".to_owned(), ended)]);
        let task = tokio::spawn(std::future::ready(()));
        let node = WatchTarget { address: "n1:7400".to_owned(), id: Some(1) };
        let watched = BTreeMap::from([(task.id(), node)]);
        assert_eq!(next_retry(&watched, &backoffs), None);
        backoffs.insert("n2:7400".to_owned(), Backoff { failures: 1, until: later });
        assert_eq!(next_retry(&watched, &backoffs), Some(later));
        task.await.unwrap();
    }
}
