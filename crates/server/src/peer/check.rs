//! Checks of Raft's messages before openraft or the store acts on them.
//!
//! openraft expects messages of honest peers, and ends the process or follows them where they are not. What no honest
//! peer sends is refused here, to its sender, and changes nothing. These checks never refuse what an honest peer sends,
//! however late: each follows from Raft's own guarantees (Ongaro, dissertation, figure 3.2). They are no protection
//! against a member that lies within the rules: Raft is not Byzantine.
//!
//! All functions are pure: they get the message and what this replica knows, and say what is wrong.

use conclave_core::NodeId;
use conclave_core::limits::REPLICAS_MAX;
use conclave_proto::command::decode_batch;
use conclave_proto::log::{self, entry};
use conclave_proto::raft::{AppendEntriesRequest, RequestVoteRequest, SnapshotHeader, TransferLeaderRequest};

use crate::limits::{TERM_AHEAD_MAX, TERM_MAX};

/// Why a message is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no honest peer sends this: {0}")]
pub(crate) struct Dishonest(String);

type Checked = Result<(), Dishonest>;

fn wrong(why: impl Into<String>) -> Checked {
    Err(Dishonest(why.into()))
}

/// What a replica knows when a message arrives.
pub(crate) struct Known<'a> {
    /// The node that sent the message.
    pub(crate) from: NodeId,
    /// The replica's term.
    pub(crate) term: u64,
    /// The last entry that the replica knows to be committed. It may lag behind.
    pub(crate) committed: Option<log::LogId>,
    /// Whether the replica has applied everything up to `committed`. Until a snapshot is installed, the log may hold
    /// older entries than those that the snapshot covers.
    pub(crate) applied: bool,
    /// The term of the entry at an index of the replica's log, if the log has it.
    pub(crate) term_at: &'a dyn Fn(u64) -> Option<u64>,
    /// Whether a node is a member of the cluster.
    pub(crate) is_member: &'a dyn Fn(NodeId) -> bool,
    /// The highest feature level that this node understands.
    pub(crate) understands: u32,
}

impl Known<'_> {
    /// A candidate asks for itself, and its log is not ahead of its term.
    pub(crate) fn vote(&self, message: &RequestVoteRequest) -> Checked {
        let vote = self.own_vote(message.vote.as_ref())?;
        if vote.committed {
            return wrong("a candidate that has won already");
        }
        within(message.last_log_id.as_ref(), vote)
    }

    /// A leader speaks for itself; its entries follow each other and contradict nothing that is committed.
    pub(crate) fn append(&self, message: &AppendEntriesRequest) -> Checked {
        let vote = self.leader(message.vote.as_ref())?;
        // openraft turns away a leader of an earlier term before it looks at the entries.
        if vote.term < self.term {
            return Ok(());
        }
        within(message.leader_commit.as_ref(), vote)?;
        let mut last = message.prev_log_id;
        if let Some(id) = &last {
            self.logged(id, message.leader_commit.as_ref(), vote)?;
        }
        for entry in &message.entries {
            let Some(id) = entry.log_id else { return wrong("an entry without a log id") };
            let (next, term) = last.map_or((Some(0), 0), |last| (last.index.checked_add(1), last.term));
            if next != Some(id.index) || id.term < term {
                return wrong(format!("entry {}-{} does not follow the one before it", id.term, id.index));
            }
            self.logged(&id, message.leader_commit.as_ref(), vote)?;
            self.entry(entry)?;
            last = Some(id);
        }
        message.leader_commit.as_ref().map_or(Ok(()), |commit| self.agrees_with_committed(commit))
    }

    /// A leader sends a snapshot of what is committed in its log.
    pub(crate) fn snapshot(&self, header: &SnapshotHeader) -> Checked {
        let vote = self.leader(header.vote.as_ref())?;
        let Some(last) = &header.last_log_id else { return wrong("a snapshot of nothing") };
        within(Some(last), vote)?;
        if vote.term >= self.term {
            self.agrees_with_committed(last)?;
        }
        let membership = header.membership.as_ref().and_then(|stored| stored.membership.as_ref());
        match membership {
            Some(membership) => self.membership(membership),
            None => wrong("a snapshot without its membership"),
        }
    }

    /// A leader hands over its own leadership, to a member.
    pub(crate) fn transfer(&self, message: &TransferLeaderRequest) -> Checked {
        let vote = self.leader(message.from_leader.as_ref())?;
        if !(self.is_member)(NodeId(message.to)) {
            return wrong(format!("leadership for node {}, which is no member", message.to));
        }
        within(message.last_log_id.as_ref(), vote)
    }

    fn leader<'a>(&self, vote: Option<&'a log::Vote>) -> Result<&'a log::Vote, Dishonest> {
        let vote = self.own_vote(vote)?;
        if !vote.committed {
            return Err(Dishonest("a leader that has not won its election".to_owned()));
        }
        Ok(vote)
    }

    /// The sender's own vote, with a term that elections can have reached.
    fn own_vote<'a>(&self, vote: Option<&'a log::Vote>) -> Result<&'a log::Vote, Dishonest> {
        let vote = vote.ok_or_else(|| Dishonest("no vote".to_owned()))?;
        if NodeId(vote.node_id) != self.from {
            return Err(Dishonest(format!("node {} speaks for node {}", self.from, vote.node_id)));
        }
        if vote.term > TERM_MAX || vote.term > self.term.saturating_add(TERM_AHEAD_MAX) {
            return Err(Dishonest(format!("term {} while this replica is in term {}", vote.term, self.term)));
        }
        Ok(vote)
    }

    /// An entry of the sender's log.
    fn logged(&self, id: &log::LogId, commit: Option<&log::LogId>, vote: &log::Vote) -> Checked {
        within(Some(id), vote)?;
        if commit.is_some_and(|commit| !consistent(id, commit)) {
            return wrong("the leader's commit contradicts its own entries");
        }
        self.agrees_with_committed(id)
    }

    fn agrees_with_committed(&self, id: &log::LogId) -> Checked {
        let Some(committed) = &self.committed else { return Ok(()) };
        let own = (self.applied && id.index <= committed.index).then(|| (self.term_at)(id.index)).flatten();
        if !consistent(id, committed) || own.is_some_and(|term| term != id.term) {
            return wrong(format!(
                "entry {}-{} contradicts what is committed up to {}-{}",
                id.term, id.index, committed.term, committed.index
            ));
        }
        Ok(())
    }

    fn entry(&self, entry: &log::Entry) -> Checked {
        match &entry.payload {
            Some(entry::Payload::Normal(bytes)) => match decode_batch(bytes, self.understands) {
                Ok(_) => Ok(()),
                // A newer version's command: the replica stops when it has to apply it, with its data intact.
                Err(error) if error.is_newer() => Ok(()),
                Err(error) => wrong(format!("an entry that is no batch of commands: {error}")),
            },
            Some(entry::Payload::Membership(membership)) => self.membership(membership),
            Some(entry::Payload::Blank(_)) | None => Ok(()),
        }
    }

    fn membership(&self, membership: &log::Membership) -> Checked {
        let sets = &membership.configs;
        let sizes = sets.iter().all(|set| (1..=REPLICAS_MAX).contains(&set.voters.len()));
        if sets.is_empty() || sets.len() > 2 || !sizes {
            return wrong(format!("a membership that does not have 1 to {REPLICAS_MAX} voters"));
        }
        let nodes = sets.iter().flat_map(|set| &set.voters).chain(&membership.nodes);
        match nodes.copied().find(|node| !(self.is_member)(NodeId(*node))) {
            Some(node) => wrong(format!("a membership with node {node}, which is no member")),
            None => Ok(()),
        }
    }
}

/// No log has an entry of a later term than its owner is in.
fn within(id: Option<&log::LogId>, vote: &log::Vote) -> Checked {
    match id {
        Some(id) if id.term > vote.term => {
            wrong(format!("entry {}-{} is of a later term than {}", id.term, id.index, vote.term))
        }
        _ => Ok(()),
    }
}

/// Whether two entries can be in one log: the later one has no earlier term.
fn consistent(a: &log::LogId, b: &log::LogId) -> bool {
    match a.index.cmp(&b.index) {
        std::cmp::Ordering::Less => a.term <= b.term,
        std::cmp::Ordering::Equal => a.term == b.term,
        std::cmp::Ordering::Greater => a.term >= b.term,
    }
}

#[cfg(test)]
mod tests;
