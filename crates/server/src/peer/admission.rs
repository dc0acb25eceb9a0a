//! Both ends of every call between nodes identify themselves.
//!
//! A node id belongs to one data dir for life. Raft cannot defend itself against a voter that forgot its vote or its
//! log, so a node whose data dir was emptied, swapped or copied must never act under its old id: every node that has
//! seen the id with another data dir refuses it. What counts is the meta shard's record of the node; only before a node
//! has registered does each node remember the data dir of its first call. Nothing is stored about nodes that are no
//! members, and no caller's word makes this node stop.

use std::sync::Arc;

use conclave_core::planted::{Bug, planted};
use conclave_core::{DataDirId, NodeId};
use conclave_net::{Identity, Peer, Plain};
use conclave_store::{BootId, Identity as DirIdentity, Store};
use tokio::sync::watch;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::topology::Topology;

const CLUSTER: &str = "conclave-cluster";
const PLAN: &str = "conclave-plan";
const FROM: &str = "conclave-from";
const FROM_DIR: &str = "conclave-from-dir";
const TO: &str = "conclave-to";
const TO_DIR: &str = "conclave-to-dir";
const BOOT: &str = "conclave-boot";
const TO_BOOT: &str = "conclave-to-boot";
/// The metadata key that marks a refusal because of the caller's own data dir.
pub(crate) const REFUSED: &str = "conclave-code";
const EMPTIED: &str = "node_id_taken";
/// The caller's data dir was put back from an older copy.
pub(crate) const OLD_COPY: &str = "old_copy";
/// The two ends do not know each other's current boot.
const INTRODUCE_FIRST: &str = "introduce_first";
/// The feature level from which every call names the boots of both ends.
const BOOTS_LEVEL: u32 = 2;

/// Adds the identities of both ends to every call.
#[derive(Clone, Debug)]
pub(crate) struct Stamp {
    cluster: MetadataValue<Ascii>,
    plan: MetadataValue<Ascii>,
    from: MetadataValue<Ascii>,
    from_dir: MetadataValue<Ascii>,
    boot: Option<MetadataValue<Ascii>>,
    to: NodeId,
    store: Store,
    topology: Arc<Topology>,
}

impl Stamp {
    pub(crate) fn new(identity: &DirIdentity, store: Store, topology: Arc<Topology>) -> Self {
        Self {
            cluster: ascii(format!("{:032x}", identity.cluster)),
            plan: ascii(format!("{:032x}", identity.plan)),
            from: MetadataValue::from(identity.node.0),
            from_dir: ascii(identity.directory.to_string()),
            boot: store.boots().current().map(|boot| ascii(boot.to_string())),
            to: NodeId(0),
            store,
            topology,
        }
    }

    pub(crate) fn to(mut self, node: NodeId) -> Self {
        self.to = node;
        self
    }
}

impl Interceptor for Stamp {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert(CLUSTER, self.cluster.clone());
        metadata.insert(PLAN, self.plan.clone());
        metadata.insert(FROM, self.from.clone());
        metadata.insert(FROM_DIR, self.from_dir.clone());
        metadata.insert(TO, MetadataValue::from(self.to.0));
        let registered = self.topology.data_dir(self.to);
        if let Some(directory) = registered.or_else(|| self.store.peer_directory(self.to)) {
            metadata.insert(TO_DIR, ascii(directory.to_string()));
        }
        if let Some(boot) = self.boot.clone() {
            metadata.insert(BOOT, boot);
        }
        if let Some(boot) = self.store.peer_boot(self.to) {
            metadata.insert(TO_BOOT, ascii(boot.to_string()));
        }
        Ok(request)
    }
}

/// Checks the identities on every call.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    pub(crate) cluster: u128,
    pub(crate) topology: Arc<Topology>,
    pub(crate) directory: DataDirId,
    pub(crate) store: Store,
    /// Whether nodes without TLS are served; `None` if there is no TLS.
    pub(crate) tls: Option<Plain>,
    /// The digest of the plan that the cluster began with.
    pub(crate) plan: u128,
    /// Set when a peer knows this node's id with another data dir: then this node must stop.
    pub(crate) expelled: watch::Sender<Option<String>>,
}

impl Admission {
    /// Admits the call or returns the refusal. The first call of a node binds its id to its data dir, durably.
    pub(crate) async fn admit(
        &self,
        metadata: &MetadataMap,
        caller: Option<&Peer>,
    ) -> Result<NodeId, Status> {
        let from = self.identify(metadata, caller).await?;
        self.check_boots(from, metadata)?;
        Ok(from)
    }

    /// As [`Admission::admit`], for the call that introduces two nodes: it does not look at boots.
    pub(crate) async fn identify(
        &self,
        metadata: &MetadataMap,
        caller: Option<&Peer>,
    ) -> Result<NodeId, Status> {
        let text = |key: &str| metadata.get(key).and_then(|value| value.to_str().ok());
        let number = |key: &str| text(key).and_then(|text| text.parse::<u64>().ok()).map(NodeId);
        let hex = |key: &str| text(key).and_then(|text| u128::from_str_radix(text, 16).ok());

        let (Some(cluster), Some(from), Some(from_dir), Some(to)) =
            (hex(CLUSTER), number(FROM), hex(FROM_DIR).map(DataDirId), number(TO))
        else {
            return Err(Status::failed_precondition("the call does not name its sender and its receiver"));
        };
        self.check_certificate(from, caller)?;
        if cluster != self.cluster {
            return Err(Status::failed_precondition(format!(
                "this node belongs to cluster {:032x}, the caller to {cluster:032x}; check the list of nodes",
                self.cluster
            )));
        }
        if hex(PLAN).is_some_and(|plan| plan != self.plan) {
            return Err(Status::failed_precondition(
                "the caller began with another list of nodes, cluster name or number of shards; give every node the same",
            ));
        }
        let me = self.topology.me();
        if to != me {
            return Err(Status::failed_precondition(format!(
                "this is node {me}, the caller means node {to}; check the list of nodes"
            )));
        }
        if from == me || self.topology.member(from).is_none() {
            return Err(Status::permission_denied(format!("node {from} is no other member of this cluster")));
        }
        if let Some(to_dir) = hex(TO_DIR).map(DataDirId)
            && to_dir != self.directory
        {
            // The caller may be wrong. This node must stop only if the cluster's own record says the same.
            if self.topology.data_dir(me).is_some_and(|registered| registered != self.directory) {
                self.expel(&format!("node {from} knows node {to} with data dir {to_dir}"));
            }
            return Err(Status::failed_precondition(
                "this node has another data dir than the one that the caller knows",
            ));
        }
        self.bind(from, from_dir).await?;
        Ok(from)
    }

    /// Only introduced processes speak to each other; see [`crate::peer::introduce`].
    fn check_boots(&self, from: NodeId, metadata: &MetadataMap) -> Result<(), Status> {
        let boot = |key: &str| {
            let text = metadata.get(key)?.to_str().ok()?;
            u64::from_str_radix(text, 16).ok().map(BootId)
        };
        let (caller, callee) = (boot(BOOT), boot(TO_BOOT));
        // Older versions name no boot.
        let may_be_older = self.topology.feature_level() < BOOTS_LEVEL && !metadata.contains_key(BOOT);
        let introduced = caller.is_some()
            && caller == self.store.peer_boot(from)
            && callee == self.store.boots().current();
        if introduced || may_be_older || planted(Bug::TrustOldCopy) {
            return Ok(());
        }
        let mut status = Status::failed_precondition(
            "the two nodes do not know each other's current boot; introduce first",
        );
        status.metadata_mut().insert(REFUSED, MetadataValue::from_static(INTRODUCE_FIRST));
        Err(status)
    }

    /// Nothing that a caller says is believed, or tells it anything, before its certificate proves who it is.
    fn check_certificate(&self, from: NodeId, caller: Option<&Peer>) -> Result<(), Status> {
        let Some(plain) = self.tls else { return Ok(()) };
        let (encrypted, identity) =
            caller.map_or_else(Default::default, |peer| (peer.encrypted, peer.identity));
        let changing_over = plain == Plain::Accept && !encrypted;
        if changing_over || identity == Identity::Node(from.0) {
            return Ok(());
        }
        Err(Status::permission_denied(format!("the caller says that it is node {from}, and is {identity}")))
    }

    async fn bind(&self, from: NodeId, directory: DataDirId) -> Result<(), Status> {
        let registered = self.topology.data_dir(from);
        let known = match registered.or_else(|| self.store.peer_directory(from)) {
            Some(known) => Err(known),
            None => match self.store.remember_peer(from, directory).await {
                Ok(result) => result,
                Err(error) => {
                    return Err(Status::internal(format!(
                        "failed to store the data dir of the peer: {error}"
                    )));
                }
            },
        };
        match known {
            Err(known) if known != directory => {
                let mut status = Status::failed_precondition(format!(
                    "node {from} is known to this node with data dir {known}, not {directory}"
                ));
                // Only the cluster's own record makes a node stop. What this node remembers of a first call may be
                // somebody else's word.
                if registered.is_some() {
                    status.metadata_mut().insert(REFUSED, MetadataValue::from_static(EMPTIED));
                }
                Err(status)
            }
            _ => Ok(()),
        }
    }

    /// Stops this node if `status` is a peer's refusal of its data dir.
    pub(crate) fn watch(&self, status: &Status) {
        match status.metadata().get(REFUSED) {
            Some(code) if code == EMPTIED => self.expel(status.message()),
            Some(code) if code == OLD_COPY => self.stop_old_copy(status.message()),
            _ => {}
        }
    }

    fn stop_old_copy(&self, why: &str) {
        self.expelled.send_replace(Some(format!(
            "the data directory of node {} was put back from an older copy ({why}). What the node has acknowledged since \
             is missing in it, so it must not run: put back the directory as the node left it last, if it still exists; \
             see docs/deploy.md, \"An older copy\"",
            self.topology.me()
        )));
    }

    fn expel(&self, why: &str) {
        self.expelled.send_replace(Some(format!(
            "node {} has another data directory than before ({why}). A node that lost its directory must not come \
             back under its old id, because its votes are lost with the directory: put the old directory back, or remove \
             the node from the cluster and add it as a new one",
            self.topology.me()
        )));
    }
}

fn ascii(text: String) -> MetadataValue<Ascii> {
    MetadataValue::try_from(text).expect("hexadecimal digits are ASCII")
}
