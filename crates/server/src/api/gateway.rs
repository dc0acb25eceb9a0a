//! The parts of a node that the client API uses.

use std::sync::Arc;

use conclave_proto::chat::{self, GetServerStatusResponse};
use conclave_store::Store;
use tokio::sync::watch;

use crate::api::answers::Answers;
use crate::api::readers::Readers;
use crate::api::status::PATIENCES;
use crate::budget::Budget;
use crate::clock::Clock;
use crate::cluster::placement::Placement;
use crate::coalesced::Coalesced;
use crate::feed::Feed;
use crate::local::NodeInfo;
use crate::metrics::Metrics;
use crate::people::attempts::Attempts;
use crate::people::password::Passwords;
use crate::people::seen::Seen;
use crate::router::Router;

/// The client API of one node.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    pub(crate) router: Router,
    pub(crate) feed: Arc<Feed>,
    pub(crate) store: Store,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) node: Arc<NodeInfo>,
    pub(crate) clock: Clock,
    /// This node's view of the cluster. Clients learn from it which other nodes they can use.
    pub(crate) views: watch::Receiver<Arc<chat::ClusterView>>,
    pub(crate) placement: Placement,
    pub(crate) budget: Budget,
    pub(crate) answers: Answers,
    pub(crate) readers: Readers,
    pub(crate) passwords: Passwords,
    pub(crate) attempts: Attempts,
    pub(crate) seen: Seen,
    pub(crate) statuses: [Coalesced<GetServerStatusResponse>; PATIENCES],
}
