//! Conversion of Raft's values to protobuf and back, for log rows and for messages between nodes.

use std::collections::BTreeSet;

use bytes::Bytes;
use conclave_proto::FormatError;
use conclave_proto::log::{self, entry};
use openraft::vote::RaftLeaderId as _;
use openraft::{EntryPayload, vote::leader_id_std};

use crate::types::{Entry, LogId, Membership, Payload, StoredMembership, Vote};

/// A log id in the form in which it is stored and sent.
#[must_use]
pub fn log_id_to_proto(log_id: &LogId) -> log::LogId {
    log::LogId { term: log_id.leader_id.term, index: log_id.index }
}

/// A log id from its stored form.
#[must_use]
pub fn log_id_from_proto(log_id: log::LogId) -> LogId {
    log_id_of(log_id.term, log_id.index)
}

/// A log id from its parts.
#[must_use]
pub fn log_id_of(term: u64, index: u64) -> LogId {
    LogId { leader_id: leader_id_std::CommittedLeaderId::new(term), index }
}

/// A vote in the form in which it is stored and sent.
#[must_use]
pub fn vote_to_proto(vote: &Vote) -> log::Vote {
    log::Vote { term: vote.leader_id.term, node_id: *vote.leader_id.node_id(), committed: vote.committed }
}

/// A vote from its stored form.
#[must_use]
pub fn vote_from_proto(vote: log::Vote) -> Vote {
    if vote.committed {
        Vote::new_committed(vote.term, vote.node_id)
    } else {
        Vote::new(vote.term, vote.node_id)
    }
}

/// A membership in the form in which it is stored and sent.
#[must_use]
pub fn membership_to_proto(membership: &Membership) -> log::Membership {
    let set = |voters: &BTreeSet<u64>| log::MemberSet { voters: voters.iter().copied().collect() };
    log::Membership {
        configs: membership.get_joint_config().iter().map(set).collect(),
        nodes: membership.nodes().map(|(node, _)| *node).collect(),
    }
}

/// A membership from its stored form.
#[must_use]
pub fn membership_from_proto(membership: log::Membership) -> Membership {
    let configs = membership.configs.into_iter().map(|set| set.voters.into_iter().collect()).collect();
    Membership::new_with_defaults(configs, membership.nodes)
}

/// A membership with its log id in the form in which it is stored and sent.
#[must_use]
pub fn stored_membership_to_proto(stored: &StoredMembership) -> log::StoredMembership {
    log::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_proto),
        membership: Some(membership_to_proto(stored.membership())),
    }
}

/// A membership with its log id from its stored form. Absent means "none yet".
#[must_use]
pub fn stored_membership_from_proto(stored: Option<log::StoredMembership>) -> StoredMembership {
    let stored = stored.unwrap_or_default();
    StoredMembership::new(
        stored.log_id.map(log_id_from_proto),
        membership_from_proto(stored.membership.unwrap_or_default()),
    )
}

/// An entry in the form in which it is stored and sent. The payload's bytes are shared, not copied.
#[must_use]
pub fn entry_to_proto(entry: &Entry) -> log::Entry {
    let payload = match &entry.payload {
        EntryPayload::Blank => entry::Payload::Blank(true),
        EntryPayload::Normal(payload) => entry::Payload::Normal(payload.0.clone()),
        EntryPayload::Membership(membership) => entry::Payload::Membership(membership_to_proto(membership)),
    };
    log::Entry { log_id: Some(log_id_to_proto(&entry.log_id)), payload: Some(payload) }
}

/// An entry from its stored form.
///
/// # Errors
/// If the entry's log id or its payload is missing, or of a kind that this version does not know.
pub fn entry_from_proto(entry: log::Entry) -> Result<Entry, FormatError> {
    let log_id = log_id_from_proto(entry.log_id.ok_or(FormatError::Missing("Entry.log_id"))?);
    let payload = match entry.payload.ok_or(FormatError::Missing("Entry.payload"))? {
        entry::Payload::Blank(_) => EntryPayload::Blank,
        entry::Payload::Normal(bytes) => EntryPayload::Normal(Payload(bytes)),
        entry::Payload::Membership(membership) => EntryPayload::Membership(membership_from_proto(membership)),
    };
    Ok(Entry { log_id, payload })
}

/// The same entry with a copy of its payload, so that the entry keeps no larger buffer alive.
pub(crate) fn detached(mut entry: Entry) -> Entry {
    if let EntryPayload::Normal(payload) = &mut entry.payload {
        payload.0 = Bytes::copy_from_slice(&payload.0);
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_conversion() {
        let membership =
            Membership::new_with_defaults(vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])], [4]);
        for payload in [
            EntryPayload::Blank,
            EntryPayload::Normal(Payload(Bytes::from_static(b"batch"))),
            EntryPayload::Membership(membership.clone()),
        ] {
            let entry = Entry { log_id: log_id_of(3, 9), payload };
            assert_eq!(entry_from_proto(entry_to_proto(&entry)).unwrap(), entry);
        }
        let stored = StoredMembership::new(Some(log_id_of(1, 2)), membership);
        assert_eq!(stored_membership_from_proto(Some(stored_membership_to_proto(&stored))), stored);
        assert_eq!(stored_membership_from_proto(None), StoredMembership::default());
    }

    #[test]
    fn votes_survive_conversion() {
        for vote in [Vote::new(0, 0), Vote::new(5, 2), Vote::new_committed(5, 2)] {
            assert_eq!(vote_from_proto(vote_to_proto(&vote)), vote);
        }
    }

    #[test]
    fn an_entry_of_an_unknown_kind_is_an_error() {
        let entry = log::Entry { log_id: Some(log::LogId { term: 1, index: 1 }), payload: None };
        assert!(matches!(entry_from_proto(entry), Err(FormatError::Missing("Entry.payload"))));
    }
}
