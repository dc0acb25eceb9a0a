//! Nodes tell each other the boots of their data dirs before anything else.
//!
//! Raft trusts a voter to keep what it has acknowledged. A data dir that was put back from an older copy has forgotten
//! votes and entries, and its node must neither vote nor acknowledge anything. Each node remembers the last boot of each
//! other one, durably, and refuses a data dir that does not know that boot. Each call then names the boots of both ends,
//! so that it comes from a process, and reaches one, that was introduced.
//!
//! A copy that was made while its node ran knows the last boot. It is found out if a leader remembers more entries of the
//! node than the copy has.

use std::sync::Arc;

use conclave_core::planted::{Bug, planted};
use conclave_core::{NodeId, ShardId, level};
use conclave_proto::raft::{IntroduceRequest, Introduction, LogEnd};
use conclave_store::{BootId, Boots};
use openraft::async_runtime::watch::WatchReceiver as _;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::peer::Peer;
use crate::peer::admission::{Admission, OLD_COPY, REFUSED};
use crate::shard::{Replica, Shards};

/// What the other nodes are told of this one, and what is learned of them.
#[derive(Clone, Debug)]
pub(crate) struct Introductions {
    pub(crate) admission: Admission,
    pub(crate) shards: Arc<Shards>,
    /// The port of this node's address for other nodes.
    pub(crate) peer_port: u16,
}

/// Why a node is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAccepted {
    /// It named no boot.
    #[error("it names no boot of its data dir")]
    NoBoot,
    /// A boot of the data dir is known that the data dir does not know.
    #[error("its data dir is an older copy: it does not know its own boot {0}, which was seen before")]
    BootUnknown(BootId),
    /// Entries that the node has acknowledged are missing.
    #[error(
        "its data dir is an older copy: its log of shard {shard} ends at {last}, and entries up to {acked} were acknowledged"
    )]
    EntriesMissing { shard: ShardId, last: u64, acked: u64 },
}

/// Whether a node with these boots may be the one whose boot is remembered. Returns whether its current boot is new.
fn judge(remembered: Option<BootId>, boots: &Boots) -> Result<bool, NotAccepted> {
    let current = boots.current().ok_or(NotAccepted::NoBoot)?;
    match remembered {
        Some(known) if !boots.contains(known) => Err(NotAccepted::BootUnknown(known)),
        known => Ok(known != Some(current)),
    }
}

/// Whether a node has all entries that a leader knows it has acknowledged. `acked` gives this number for a log, if this node
/// leads its shard.
fn judge_logs(ends: &[LogEnd], acked: impl Fn(&LogEnd) -> Option<u64>) -> Result<(), NotAccepted> {
    for end in ends {
        let (shard, last) = (ShardId(end.shard), end.last_index);
        if let Some(acked) = acked(end).filter(|acked| *acked > last) {
            return Err(NotAccepted::EntriesMissing { shard, last, acked });
        }
    }
    Ok(())
}

impl Introductions {
    /// What other nodes have to know of this one.
    pub(crate) fn own(&self) -> Introduction {
        let store = &self.admission.store;
        let log = |replica: &Arc<Replica>| LogEnd {
            shard: replica.shard.0,
            last_index: store.last_index(replica.shard),
            term: replica.leader().term,
        };
        Introduction {
            boots: store.boots().iter().map(|boot| boot.0).collect(),
            logs: self.shards.replicas().map(log).collect(),
            peer_port: self.peer_port.into(),
        }
    }

    /// Accepts another node, durably, or returns the refusal.
    pub(crate) async fn accept(&self, node: NodeId, them: Introduction) -> Result<(), Status> {
        let store = &self.admission.store;
        let boots = Boots::from_peer(them.boots);
        let accepted = match judge(store.peer_boot(node), &boots) {
            // What a leader knows was acknowledged in an earlier boot: nothing is sent to the new one before this.
            Ok(true) => judge_logs(&them.logs, |end| self.acked(end, node)),
            other => other.map(drop),
        };
        match accepted {
            Err(why) if !planted(Bug::TrustOldCopy) => {
                tracing::error!(peer = node.0, %why, "peer refused");
                let mut status = Status::failed_precondition(format!("node {node} is refused: {why}"));
                if why != NotAccepted::NoBoot {
                    status.metadata_mut().insert(REFUSED, MetadataValue::from_static(OLD_COPY));
                }
                return Err(status);
            }
            _ => {}
        }
        let Some(current) = boots.current() else { return Ok(()) };
        let stored = store.remember_boot(node, current).await;
        stored.map_err(|error| Status::internal(format!("failed to store the boot of the peer: {error}")))
    }

    /// The index up to which a node has acknowledged entries of a shard that this node leads. If the node is in a higher
    /// term, another leader may have replaced entries that are not committed, and this node does not know that leader yet.
    fn acked(&self, end: &LogEnd, node: NodeId) -> Option<u64> {
        // The leader acknowledges early with this planted bug; the experiment for it is about the consequences.
        if planted(Bug::AckBeforeSync) {
            return None;
        }
        let metrics = self.shards.replica(ShardId(end.shard))?.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.as_ref()?.get(&node.0)?.as_ref()?.index;
        // A node that has just started may not know its term yet.
        if end.term != 0 && end.term <= metrics.current_term {
            return Some(matched);
        }
        Some(matched.min(metrics.local_committed.as_ref()?.index))
    }

    /// Introduces this node to a peer, and the peer to this node.
    pub(crate) async fn introduce(&self, peer: &Peer) -> Result<(), Status> {
        let request = IntroduceRequest { caller: Some(self.own()) };
        let them = match peer.client().introduce(request).await {
            Ok(response) => response.into_inner().callee.unwrap_or_default(),
            // An older version. From the second feature level on, there is none in the cluster any more.
            Err(status) if status.code() == Code::Unimplemented => {
                let alone = self.shards.topology.feature_level() == level::FIRST;
                return if alone { Ok(()) } else { Err(status) };
            }
            Err(status) => {
                self.admission.watch(&status);
                return Err(status);
            }
        };
        self.accept(peer.id, them).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boots(boots: &[u64]) -> Boots {
        Boots::from_peer(boots.iter().copied())
    }

    #[test]
    fn a_data_dir_that_does_not_know_its_own_last_boot_is_refused() {
        assert_eq!(judge(None, &boots(&[1])), Ok(true));
        assert_eq!(judge(Some(BootId(1)), &boots(&[1])), Ok(false));
        assert_eq!(judge(Some(BootId(1)), &boots(&[1, 2, 3])), Ok(true), "boots that this node missed");
        assert_eq!(judge(Some(BootId(3)), &boots(&[1, 2])), Err(NotAccepted::BootUnknown(BootId(3))));
        let copy_started_again = boots(&[1, 2, 7, 8, 9]);
        assert_eq!(judge(Some(BootId(3)), &copy_started_again), Err(NotAccepted::BootUnknown(BootId(3))));
        assert_eq!(judge(None, &boots(&[])), Err(NotAccepted::NoBoot));
        assert_eq!(judge(Some(BootId(3)), &boots(&[])), Err(NotAccepted::NoBoot));
    }

    #[test]
    fn a_log_that_is_shorter_than_what_its_node_acknowledged_is_refused() {
        let ends = [(1, 10), (2, 7)].map(|(shard, last_index)| LogEnd { shard, last_index, term: 1 });
        let acked = |ones: &'static [(u32, u64)]| {
            move |end: &LogEnd| ones.iter().find(|(id, _)| *id == end.shard).map(|(_, acked)| *acked)
        };
        assert_eq!(judge_logs(&ends, acked(&[(1, 10), (2, 6)])), Ok(()));
        assert_eq!(judge_logs(&ends, acked(&[])), Ok(()), "this node leads none of them");
        let missing = NotAccepted::EntriesMissing { shard: ShardId(2), last: 7, acked: 8 };
        assert_eq!(judge_logs(&ends, acked(&[(1, 10), (2, 8)])), Err(missing));
    }
}
