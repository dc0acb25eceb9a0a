//! The planted bugs of a leader that does not wait for the majority: its own log is enough.

use conclave_core::planted::{Bug, planted};
use conclave_store::Payload;
use tokio::sync::oneshot;

use super::{ProposeResult, Proposer};

type Waiting = Vec<(usize, oneshot::Sender<ProposeResult>)>;

impl Proposer {
    /// Answers an entry, or publishes its events, as soon as this leader has it. Returns the callers that still wait.
    /// With no other entry in flight (`first`), there is no state beyond the applied one.
    pub(super) fn answer_early(&self, payload: &Payload, waiting: Waiting, first: bool) -> Waiting {
        let ack = planted(Bug::AckBeforeQuorum);
        if !(ack || planted(Bug::PublishBeforeCommit)) {
            return waiting;
        }
        if first || !self.raft.is_leader() {
            self.store.state(self.shard).drop_predictions();
        }
        let foreseen = self.raft.is_leader().then(|| self.store.predict(self.shard, payload)).flatten();
        let Some(replies) = foreseen.filter(|_| ack) else { return waiting };
        let mut replies = replies.0.into_iter();
        for (count, sender) in waiting {
            // The caller may have given up.
            let _ = sender.send(Ok(replies.by_ref().take(count).collect()));
        }
        Vec::new()
    }
}
