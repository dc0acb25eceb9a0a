//! The only task that owns the node table: it merges records, ends leases, and builds and publishes a zone after each
//! change.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use conclave_proto::cluster::NodeRecord;
use conclave_proto::fault::ResolverFault;
use hickory_proto::rr::Name;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::limits::{RECORD_QUEUE_MAX, REGISTER_LEASE, ZONE_INTERVAL_MIN};
use crate::metrics::Metrics;
use crate::names::NameServer;
use crate::node_table::{MergeOutcome, NodeTable, RecordError, RecordSource};
use crate::zone::{Zone, ZoneInput};

/// A handle to the registry task.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    messages: mpsc::Sender<RecordMessage>,
    zones: watch::Receiver<Option<Arc<Zone>>>,
    live: watch::Receiver<LiveNodes>,
}

/// The address of each live node's client API, by node id.
pub(crate) type LiveNodes = Arc<BTreeMap<u64, String>>;

/// The answer to a node that registers.
#[derive(Debug)]
pub(crate) struct Registered {
    pub(crate) outcome: MergeOutcome,
    /// See [`NodeTable::peer_addresses`]. Bounded by the nodes of the table.
    pub(crate) peers: Vec<(u64, SocketAddr)>,
}

#[derive(Debug)]
struct RecordMessage {
    record: NodeRecord,
    source: RecordSource,
    answer: Option<oneshot::Sender<Result<Registered, RecordError>>>,
}

/// The registry task has ended, because the name server stops.
#[derive(Debug, thiserror::Error)]
#[error("the name server stops")]
pub(crate) struct RegistryStopped;

impl Registry {
    /// Merges a record and waits for the result.
    pub(crate) async fn merge(
        &self,
        record: NodeRecord,
        source: RecordSource,
    ) -> Result<Result<Registered, RecordError>, RegistryStopped> {
        let (answer, heard) = oneshot::channel();
        self.messages
            .send(RecordMessage { record, source, answer: Some(answer) })
            .await
            .map_err(|_| RegistryStopped)?;
        heard.await.map_err(|_| RegistryStopped)
    }

    /// Queues a record without waiting for the result.
    pub(crate) async fn submit(
        &self,
        record: NodeRecord,
        source: RecordSource,
    ) -> Result<(), RegistryStopped> {
        self.messages.send(RecordMessage { record, source, answer: None }).await.map_err(|_| RegistryStopped)
    }

    /// The current zone and its changes. `None` before the first record.
    pub(crate) fn zones(&self) -> watch::Receiver<Option<Arc<Zone>>> {
        self.zones.clone()
    }

    /// The live nodes and their changes.
    pub(crate) fn live(&self) -> watch::Receiver<LiveNodes> {
        self.live.clone()
    }
}

/// The registry task.
#[derive(Debug)]
pub(crate) struct RegistryTask {
    zone_name: Name,
    name_servers: Vec<NameServer>,
    table: NodeTable,
    messages: mpsc::Receiver<RecordMessage>,
    /// The view that `zone` was built from.
    published: Option<ZoneInput>,
    published_at: Instant,
    zone: Arc<ArcSwapOption<Zone>>,
    zones: watch::Sender<Option<Arc<Zone>>>,
    live: watch::Sender<LiveNodes>,
    metrics: Arc<Metrics>,
    /// Injected faults, where enabled; `stale` stops publishing.
    faults: Option<watch::Receiver<ResolverFault>>,
}

impl RegistryTask {
    /// The task and its handle. The task also stores its zones in `zone`.
    pub(crate) fn new(
        zone_name: Name,
        name_servers: Vec<NameServer>,
        zone: Arc<ArcSwapOption<Zone>>,
        metrics: Arc<Metrics>,
        faults: Option<watch::Receiver<ResolverFault>>,
    ) -> (Self, Registry) {
        let (sender, messages) = mpsc::channel(RECORD_QUEUE_MAX);
        let (zones, live) = (watch::Sender::new(None), watch::Sender::new(LiveNodes::default()));
        let registry = Registry { messages: sender, zones: zones.subscribe(), live: live.subscribe() };
        let task = Self {
            zone_name,
            name_servers,
            table: NodeTable::new(REGISTER_LEASE),
            messages,
            published: None,
            published_at: Instant::now(),
            zone,
            zones,
            live,
            metrics,
            faults,
        };
        (task, registry)
    }

    /// Runs until the name server stops.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        // When to publish a change that came within `ZONE_INTERVAL_MIN` of the last one.
        let mut due = None::<Instant>;
        let mut messages = Vec::new();
        loop {
            let expiry = self.table.next_expiry();
            tokio::select! {
                // Renewals that arrived in time are merged before leases end, also if this task was delayed.
                biased;
                () = stop.cancelled() => return,
                1.. = self.messages.recv_many(&mut messages, RECORD_QUEUE_MAX) => {
                    for message in messages.drain(..) {
                        self.merge(message);
                    }
                }
                () = sleep_until_some(due), if due.is_some() => {}
                () = fault_changed(self.faults.as_mut()) => {}
                () = sleep_until_some(expiry), if expiry.is_some() => {}
            }
            let now = Instant::now();
            self.table.expire(now);
            if self.faults.as_ref().is_some_and(|faults| faults.borrow().stale) {
                due = None;
                continue;
            }
            let view = self.table.view(&self.zone_name, &self.name_servers);
            due = match view {
                Some(view) if self.published.as_ref() != Some(&view) => {
                    let at = self.published_at + ZONE_INTERVAL_MIN;
                    if self.published.is_some() && now < at {
                        Some(at)
                    } else {
                        self.publish(view, now);
                        None
                    }
                }
                _ => None,
            };
        }
    }

    fn merge(&mut self, message: RecordMessage) {
        let RecordMessage { record, source, answer } = message;
        let now = Instant::now();
        let heard = self.table.merge(record, source, now);
        match (&heard, source) {
            (Ok(_), RecordSource::Itself(_)) => self.metrics.record_received(now),
            (Ok(_), RecordSource::Another) => {}
            (Err(why), RecordSource::Itself(_)) => tracing::warn!(%why, "node record rejected"),
            // At debug level: other nodes repeat it every second.
            (Err(why), RecordSource::Another) => tracing::debug!(%why, "node record rejected"),
        }
        if let Some(answer) = answer {
            // The sender may be gone.
            let peers = || match source {
                RecordSource::Itself(Some(asker)) => self.table.peer_addresses(asker),
                RecordSource::Itself(None) | RecordSource::Another => Vec::new(),
            };
            let _ = answer.send(heard.map(|outcome| Registered { outcome, peers: peers() }));
        }
    }

    /// Builds a zone and publishes it.
    fn publish(&mut self, view: ZoneInput, now: Instant) {
        let zone = Arc::new(Zone::build(&view));
        self.zone.store(Some(Arc::clone(&zone)));
        self.zones.send_replace(Some(zone));
        let live = view.nodes.iter().filter(|node| node.live);
        let live: BTreeMap<_, _> =
            live.map(|node| (node.record.node_id, node.record.client.clone())).collect();
        self.live.send_if_modified(|published| {
            let changed = **published != live;
            *published = Arc::new(live);
            changed
        });
        if view.stale != self.published.as_ref().is_some_and(|published| published.stale) {
            if view.stale {
                tracing::warn!("most leases expired at once; serving the last known records (stale)");
            } else {
                tracing::info!("most nodes registered again; records are no longer stale");
            }
        }
        self.metrics.zone_published(&self.table, now);
        self.published_at = now;
        self.published = Some(view);
    }
}

/// Waits for a fault to begin or end; for ever where fault injection is off.
async fn fault_changed(faults: Option<&mut watch::Receiver<ResolverFault>>) {
    // The sender lives as long as the name server.
    let known = match faults {
        Some(faults) => faults.changed().await.is_ok(),
        None => false,
    };
    if !known {
        std::future::pending().await
    }
}

async fn sleep_until_some(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::node_table::tests::record;

    #[tokio::test]
    async fn a_single_change_is_published_at_once_and_many_at_a_bounded_rate() {
        let zone = Arc::new(ArcSwapOption::empty());
        let name = crate::names::zone_name("conclave.internal").unwrap();
        let metrics = Arc::new(Metrics::new("conclave.internal"));
        let (task, registry) =
            RegistryTask::new(name, Vec::new(), Arc::clone(&zone), Arc::clone(&metrics), None);
        let stop = CancellationToken::new();
        let task = tokio::spawn(task.run(stop.clone()));
        let mut zones = registry.zones();

        let begun = Instant::now();
        for revision in 1..=1_000 {
            registry.merge(record(1, revision), RecordSource::Itself(None)).await.unwrap().unwrap();
        }
        let last = 4 * 1_000 + 1;
        let published = |zone: &Option<Arc<Zone>>| zone.as_ref().is_some_and(|zone| zone.serial() == last);
        tokio::time::timeout(Duration::from_secs(60), zones.wait_for(published)).await.unwrap().unwrap();
        let most = begun.elapsed().as_millis() / ZONE_INTERVAL_MIN.as_millis() + 2;
        let text = metrics.render();
        let made =
            text.lines().find_map(|line| line.strip_prefix("conclave_dns_zones_published_total ")).unwrap();
        assert!(made.parse::<u128>().unwrap() <= most, "{made} zones, at most {most}");
        assert!(published(&zone.load_full()));
        assert_eq!(registry.live().borrow().get(&1).unwrap(), "n1:7400");

        stop.cancel();
        task.await.unwrap();
        assert!(registry.merge(record(1, 2_000), RecordSource::Another).await.is_err(), "the task has ended");
    }

    #[tokio::test]
    async fn an_injected_stale_fault_merges_records_but_publishes_nothing() {
        let zone = Arc::new(ArcSwapOption::empty());
        let name = crate::names::zone_name("conclave.internal").unwrap();
        let metrics = Arc::new(Metrics::new("conclave.internal"));
        let fault = watch::Sender::new(ResolverFault::default());
        let (task, registry) =
            RegistryTask::new(name, Vec::new(), Arc::clone(&zone), metrics, Some(fault.subscribe()));
        let stop = CancellationToken::new();
        let task = tokio::spawn(task.run(stop.clone()));
        let mut zones = registry.zones();
        registry.merge(record(1, 1), RecordSource::Itself(None)).await.unwrap().unwrap();
        zones.wait_for(Option::is_some).await.unwrap();
        let before = zone.load_full().unwrap().serial();

        fault.send_replace(ResolverFault { stale: true, ..ResolverFault::default() });
        for revision in 2..=20 {
            // Each answer shows that the record was merged and the view looked at.
            registry.merge(record(1, revision), RecordSource::Itself(None)).await.unwrap().unwrap();
        }
        assert_eq!(zone.load_full().unwrap().serial(), before);
        fault.send_replace(ResolverFault::default());
        let after = |zone: &Option<Arc<Zone>>| zone.as_ref().is_some_and(|zone| zone.serial() > before);
        tokio::time::timeout(Duration::from_secs(60), zones.wait_for(after)).await.unwrap().unwrap();
        stop.cancel();
        task.await.unwrap();
    }
}
