//! This node's record, from which name servers and clients learn how to find it.

use std::sync::Arc;

use conclave_proto::cluster::{MemberRole, NodeRecord};
use tokio::sync::{Notify, watch};

use crate::config::Member;

/// A revision further ahead of this clock than this, in tenths of seconds, is implausible and ignored.
const AHEAD_MAX: u64 = 100 * 366 * 86_400 * 10;

/// The node's current record.
#[derive(Debug)]
pub(crate) struct OwnRecord {
    record: watch::Sender<Arc<NodeRecord>>,
    /// Notified of changes that may require a new record.
    pub(crate) news: Arc<Notify>,
}

impl OwnRecord {
    /// The record of a node that is about to start. `now_ms` is wall time, as in the other calls.
    pub(crate) fn new(record: NodeRecord, now_ms: i64) -> Self {
        // Above the revisions from before a restart, however quick the restart was.
        let revision = tenths(now_ms) + 1;
        let record = watch::Sender::new(Arc::new(NodeRecord { revision, ..record }));
        Self { record, news: Arc::default() }
    }

    pub(crate) fn get(&self) -> Arc<NodeRecord> {
        Arc::clone(&self.record.borrow())
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<NodeRecord>> {
        self.record.subscribe()
    }

    /// Publishes the record with a new revision, if it differs from the current one.
    pub(crate) fn publish(&self, record: NodeRecord, now_ms: i64) {
        self.record.send_if_modified(|known| {
            let record = NodeRecord { revision: known.revision, ..record };
            if record == **known {
                return false;
            }
            let revision = next_revision(tenths(now_ms), known.revision);
            tracing::debug!(revision, ready = record.ready, weight = record.weight, "node record changed");
            *known = Arc::new(NodeRecord { revision, ..record });
            true
        });
    }

    /// Publishes the current record with a revision above `known`, unless its revision is above `known` already.
    pub(crate) fn raise(&self, known: u64, now_ms: i64) {
        let now = tenths(now_ms);
        if known > now.saturating_add(AHEAD_MAX) {
            tracing::warn!(revision = known, "implausible record revision from a name server ignored");
            return;
        }
        self.record.send_if_modified(|record| {
            if record.revision > known {
                return false;
            }
            *record =
                Arc::new(NodeRecord { revision: next_revision(now, known), ..NodeRecord::clone(record) });
            true
        });
    }
}

/// Tenths of seconds since 1970.
fn tenths(now_ms: i64) -> u64 {
    u64::try_from(now_ms / 100).unwrap_or(0)
}

fn next_revision(now: u64, last: u64) -> u64 {
    now.max(last.saturating_add(1))
}

/// The parts of the record that never change while the node runs.
pub(crate) fn first(id: u64, member: &Member, cluster: u128) -> NodeRecord {
    NodeRecord {
        node_id: id,
        name: member.name.clone(),
        cluster_id: format!("{cluster:032x}"),
        client: member.client.clone(),
        peer: member.peer.clone(),
        http: member.http.clone(),
        version: conclave_core::version::VERSION.to_owned(),
        role: MemberRole::Learner.into(),
        weight: 100,
        ..NodeRecord::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_000_000;

    fn own() -> OwnRecord {
        let member =
            Member { name: "n1".into(), peer: "h:1".into(), client: "h:2".into(), http: "h:3".into() };
        OwnRecord::new(first(7, &member, 0xab), NOW_MS)
    }

    #[test]
    fn a_change_raises_the_revision_and_nothing_else_does() {
        let own = own();
        let first = own.get();
        assert_eq!(first.revision, 10_001);
        let mut news = own.subscribe();
        own.publish(NodeRecord { revision: 99, ..NodeRecord::clone(&first) }, NOW_MS);
        assert!(!news.has_changed().unwrap());
        own.publish(NodeRecord { ready: true, ..NodeRecord::clone(&first) }, NOW_MS);
        own.publish(NodeRecord { ready: false, ..NodeRecord::clone(&first) }, NOW_MS);
        assert!(news.has_changed().unwrap());
        let third = news.borrow_and_update().clone();
        assert_eq!(third.revision, first.revision + 2, "also within one tenth of a second");
        assert_eq!(NodeRecord { revision: first.revision, ..NodeRecord::clone(&third) }, *first);
    }

    #[test]
    fn a_known_revision_is_exceeded_once() {
        let own = own();
        let before = own.get();
        own.raise(before.revision - 1, NOW_MS);
        assert_eq!(own.get(), before);
        own.raise(before.revision + 500, NOW_MS);
        let raised = own.get();
        assert_eq!(raised.revision, before.revision + 501);
        own.raise(before.revision + 500, NOW_MS);
        assert_eq!(own.get(), raised);
        own.raise(u64::MAX, NOW_MS);
        assert_eq!(own.get(), raised, "nobody can end the numbers");
    }
}
