//! Streams the records of all nodes that this node knows to name servers.

use std::sync::Arc;

use conclave_net::{Identity, Peer, Plain};
use conclave_proto::admin::RecordsResponse;
use conclave_proto::cluster::{NodeRecord, NodeRecords};
use conclave_proto::mac::{NONCE_BYTES, RECORDS, Secret};
use futures::Stream;
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Interval;
use tonic::Status;

use crate::cluster::peer_statuses::{PeerStatuses, Statuses};
use crate::config::Config;
use crate::limits::RECORDS_STREAMS_MAX;
use crate::local::NodeInfo;

/// How often the records are sent when nothing changes.
const INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

/// The sources of the records.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    pub(crate) node: Arc<NodeInfo>,
    pub(crate) peer_statuses: Arc<PeerStatuses>,
    secret: Option<Secret>,
    /// Whether callers must prove that they belong to the cluster.
    members_only: bool,
    places: Arc<Semaphore>,
}

struct RecordStream {
    node: Arc<NodeInfo>,
    own: watch::Receiver<Arc<NodeRecord>>,
    others: watch::Receiver<Arc<Statuses>>,
    secret: Option<Secret>,
    nonce: Vec<u8>,
    counter: u64,
    ticks: Interval,
    _place: OwnedSemaphorePermit,
}

impl Records {
    pub(crate) fn new(node: Arc<NodeInfo>, peer_statuses: Arc<PeerStatuses>, config: &Config) -> Self {
        let members_only = config.tls.as_ref().is_some_and(|tls| tls.plain == Plain::Refuse);
        let places = Arc::new(Semaphore::new(RECORDS_STREAMS_MAX));
        Self { node, peer_statuses, secret: config.secret.clone(), members_only, places }
    }

    /// Streams all records: whenever one changes, and once a second, until the node stops.
    ///
    /// # Errors
    /// If the caller must be a member of the cluster and is none, if the nonce has the wrong size, or if there are too many
    /// streams already.
    pub(crate) fn stream(
        &self,
        caller: Option<&Peer>,
        nonce: Vec<u8>,
    ) -> Result<impl Stream<Item = Result<RecordsResponse, Status>> + Send + use<>, Status> {
        let is_member = |peer: &Peer| matches!(peer.identity, Identity::NameServer(_) | Identity::Node(_));
        if self.members_only && !caller.is_some_and(is_member) {
            let why = "the records are for name servers of this cluster; give the name server --tls-dir";
            return Err(Status::permission_denied(why));
        }
        if nonce.len() != NONCE_BYTES {
            let why = format!("a nonce has {NONCE_BYTES} bytes, not {}", nonce.len());
            return Err(Status::invalid_argument(why));
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            let why = format!("{RECORDS_STREAMS_MAX} streams of records are open already; ask another node");
            return Err(Status::resource_exhausted(why));
        };
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let record_stream = RecordStream {
            own: self.node.own.subscribe(),
            others: self.peer_statuses.subscribe(),
            node: Arc::clone(&self.node),
            secret: self.secret.clone(),
            nonce,
            counter: 0,
            ticks,
            _place: place,
        };
        Ok(futures::stream::unfold(record_stream, |mut record_stream| async move {
            let response = record_stream.next().await?;
            Some((Ok(response), record_stream))
        }))
    }
}

impl RecordStream {
    async fn next(&mut self) -> Option<RecordsResponse> {
        tokio::select! {
            _ = self.ticks.tick() => {}
            // Both senders live as long as the node.
            _ = self.own.changed() => {}
            _ = self.others.changed() => {}
            () = self.node.stop.cancelled() => return None,
        }
        let own = NodeRecord::clone(&self.own.borrow_and_update());
        let others = Arc::clone(&self.others.borrow_and_update());
        let mut records: Vec<_> =
            others.values().filter_map(|status| status.record.clone()).chain([own]).collect();
        records.sort_by_key(|record| record.node_id);
        let records = NodeRecords { records }.encode_to_vec();
        self.counter += 1;
        let sign = |secret: &Secret| secret.sign(RECORDS, &self.nonce, self.counter, &records);
        let mac = self.secret.as_ref().map(sign).unwrap_or_default();
        Some(RecordsResponse { counter: self.counter, records, mac })
    }
}
