//! Messages of honest peers pass, and each message of the attacks that were tried on version 0.1.0 is refused.

use conclave_core::level::FEATURE_LEVEL;
use conclave_core::{Command, Stamp, UserId};
use conclave_proto::command::{encode, encode_batch};
use conclave_proto::log::{Entry, LogId, MemberSet, Membership, StoredMembership, Vote};
use proptest::prelude::*;

use super::*;

const PEER: NodeId = NodeId(2);
/// The replica is in this term.
const TERM: u64 = 5;

/// The replica's log: two entries of each term from 1 to 4, of which the first six are committed.
fn term_at(index: u64) -> Option<u64> {
    (index < 8).then_some(index / 2 + 1)
}

fn known() -> Known<'static> {
    Known {
        from: PEER,
        term: TERM,
        committed: Some(id(3, 5)),
        applied: true,
        term_at: &term_at,
        is_member: &|node| (1..=3).contains(&node.0),
        understands: FEATURE_LEVEL,
    }
}

fn id(term: u64, index: u64) -> LogId {
    LogId { term, index }
}

fn vote(term: u64, committed: bool) -> Option<Vote> {
    Some(Vote { term, node_id: PEER.0, committed })
}

fn entry(term: u64, index: u64) -> Entry {
    let command = encode(&Command::CreateRoom { name: "general".into(), creator: UserId(1), kind: None });
    let payload = Some(entry::Payload::Normal(encode_batch(Stamp::first(1), &[command])));
    Entry { log_id: Some(id(term, index)), payload }
}

fn append() -> AppendEntriesRequest {
    AppendEntriesRequest {
        shard: 1,
        vote: vote(TERM, true),
        prev_log_id: Some(id(4, 7)),
        leader_commit: Some(id(4, 7)),
        entries: vec![entry(4, 8), entry(5, 9)],
    }
}

fn members(voters: &[u64]) -> Membership {
    Membership { configs: vec![MemberSet { voters: voters.to_vec() }], nodes: voters.to_vec() }
}

fn header() -> SnapshotHeader {
    let membership = StoredMembership { log_id: Some(id(1, 0)), membership: Some(members(&[1, 2, 3])) };
    SnapshotHeader {
        shard: 1,
        vote: vote(TERM, true),
        last_log_id: Some(id(4, 7)),
        membership: Some(membership),
        left_out: Vec::new(),
        digest: None,
        feature_level: FEATURE_LEVEL,
    }
}

fn refused(result: &Checked, why: &str) {
    let error = result.as_ref().expect_err(why).to_string();
    assert!(error.contains(why), "{error}");
}

#[test]
fn what_honest_peers_send_passes() {
    let ask =
        RequestVoteRequest { vote: vote(TERM + 1, false), last_log_id: Some(id(4, 7)), ..Default::default() };
    known().vote(&ask).unwrap();
    known().append(&append()).unwrap();
    // A heartbeat, a probe from the log's begin, entries that are here already, and a replica that knows nothing yet.
    let heartbeat = AppendEntriesRequest { prev_log_id: None, entries: Vec::new(), ..append() };
    known().append(&heartbeat).unwrap();
    let all = AppendEntriesRequest {
        prev_log_id: None,
        entries: (0..8).map(|index| entry(index / 2 + 1, index)).collect(),
        ..append()
    };
    known().append(&all).unwrap();
    Known { term: 0, committed: None, term_at: &|_| None, ..known() }.append(&all).unwrap();
    // A leader whose term has ended is told so by openraft, whatever it sends.
    let stale = AppendEntriesRequest { vote: vote(2, true), entries: vec![entry(2, 8)], ..append() };
    known().append(&stale).unwrap();
    known().snapshot(&header()).unwrap();
    let transfer = TransferLeaderRequest { from_leader: vote(TERM, true), to: 1, ..Default::default() };
    known().transfer(&transfer).unwrap();
}

#[test]
fn nobody_votes_or_leads_for_another_node_or_in_a_term_that_no_election_reached() {
    let ask = |vote| RequestVoteRequest { vote, ..Default::default() };
    refused(&known().vote(&ask(None)), "no vote");
    refused(&known().vote(&ask(vote(u64::MAX, false))), "while this replica is in term 5");
    refused(&known().vote(&ask(vote(TERM + TERM_AHEAD_MAX + 1, false))), "while this replica is in term 5");
    refused(&known().vote(&ask(vote(TERM + 1, true))), "has won already");
    let other = Some(Vote { term: TERM + 1, node_id: 3, committed: false });
    refused(&known().vote(&ask(other)), "node 2 speaks for node 3");
    let ahead = RequestVoteRequest { last_log_id: Some(id(9, 7)), ..ask(vote(TERM + 1, false)) };
    refused(&known().vote(&ahead), "of a later term");

    let led = |vote| AppendEntriesRequest { vote, ..append() };
    refused(
        &known().append(&led(Some(Vote { term: TERM, node_id: 1, committed: true }))),
        "speaks for node 1",
    );
    refused(&known().append(&led(vote(TERM, false))), "has not won its election");
    refused(&known().append(&led(vote(u64::MAX, true))), "while this replica");
    let transfer = |to, vote| TransferLeaderRequest { from_leader: vote, to, ..Default::default() };
    refused(&known().transfer(&transfer(99, vote(TERM, true))), "node 99, which is no member");
    refused(&known().transfer(&transfer(1, vote(TERM, false))), "has not won");
}

#[test]
fn entries_follow_each_other_and_contradict_nothing_that_is_committed() {
    let with = |entries: Vec<Entry>| AppendEntriesRequest { entries, ..append() };
    refused(&known().append(&with(vec![entry(4, 9)])), "does not follow");
    refused(&known().append(&with(vec![entry(5, 8), entry(4, 9)])), "does not follow");
    refused(&known().append(&with(vec![entry(6, 8)])), "of a later term");
    refused(&known().append(&with(vec![Entry { log_id: None, ..entry(4, 8) }])), "without a log id");
    let last = AppendEntriesRequest { prev_log_id: Some(id(4, u64::MAX)), ..append() };
    refused(&known().append(&last), "");
    let other = |prev, commit, entries| AppendEntriesRequest {
        prev_log_id: prev,
        leader_commit: commit,
        entries,
        ..append()
    };
    let committed = other(Some(id(2, 3)), None, vec![entry(2, 4)]);
    refused(&known().append(&committed), "contradicts what is committed");
    let shorter = other(Some(id(5, 2)), None, Vec::new());
    refused(&known().append(&shorter), "contradicts what is committed");
    // A commit of an early term far beyond the log: openraft would apply entries that do not exist.
    let commit = other(Some(id(4, 7)), Some(id(1, 1_000_000)), vec![entry(4, 8)]);
    refused(&known().append(&commit), "contradicts its own entries");
    let commit = other(None, Some(id(1, 1_000_000)), Vec::new());
    refused(&known().append(&commit), "contradicts what is committed");
    let commit = other(None, Some(id(TERM + 1, 8)), Vec::new());
    refused(&known().append(&commit), "of a later term");
}

#[test]
fn an_entry_that_no_replica_can_apply_is_refused() {
    let with = |payload| {
        let entry = Entry { log_id: Some(id(4, 8)), payload: Some(payload) };
        AppendEntriesRequest { entries: vec![entry], ..append() }
    };
    let garbage = entry::Payload::Normal(bytes::Bytes::from_static(&[0x12, 0xff, 0xff]));
    refused(&known().append(&with(garbage)), "no batch of commands");
    for (voters, why) in
        [(&[][..], "1 to 7 voters"), (&[1, 2, 3, 4, 5, 6, 7, 8], "1 to 7 voters"), (&[1, 99], "node 99")]
    {
        let message = with(entry::Payload::Membership(members(voters)));
        refused(&known().append(&message), why);
    }
    let none = with(entry::Payload::Membership(Membership::default()));
    refused(&known().append(&none), "1 to 7 voters");
}

#[test]
fn a_snapshot_is_of_a_leader_and_goes_beyond_what_is_committed() {
    let with = |last_log_id| SnapshotHeader { last_log_id, ..header() };
    refused(&known().snapshot(&with(None)), "a snapshot of nothing");
    refused(&known().snapshot(&with(Some(id(TERM + 1, 9)))), "of a later term");
    refused(&known().snapshot(&with(Some(id(5, 5)))), "contradicts what is committed");
    refused(&known().snapshot(&SnapshotHeader { vote: vote(TERM, false), ..header() }), "has not won");
    refused(&known().snapshot(&SnapshotHeader { membership: None, ..header() }), "without its membership");
    let stranger = StoredMembership { log_id: None, membership: Some(members(&[1, 99])) };
    refused(&known().snapshot(&SnapshotHeader { membership: Some(stranger), ..header() }), "node 99");
}

proptest! {
    /// Whatever passes keeps the replica's log well-formed: dense, with terms that never fall, and with everything that
    /// is committed in its place.
    #[test]
    fn entries_that_pass_leave_a_well_formed_log(
        prev in proptest::option::of((0..6_u64, 0..10_u64)),
        commit in proptest::option::of((0..6_u64, 0..12_u64)),
        // Mostly dense, mostly with terms that do not fall, so that many pass.
        steps in proptest::collection::vec((prop_oneof![9 => Just(1_u64), 1 => 0..3_u64], 0..2_u64), 0..6),
        term in TERM..TERM + 2,
    ) {
        let (mut at, mut last) = prev.map_or((None, 0), |(term, index)| (Some(index), term));
        let entries = steps.iter().map(|(step, rise)| {
            let index = at.map_or(step.saturating_sub(1), |at| at + step);
            (at, last) = (Some(index), last + rise);
            entry(last, index)
        });
        let message = AppendEntriesRequest {
            shard: 1,
            vote: vote(term, true),
            prev_log_id: prev.map(|(term, index)| id(term, index)),
            leader_commit: commit.map(|(term, index)| id(term, index)),
            entries: entries.collect(),
        };
        if known().append(&message).is_err() {
            return Ok(());
        }
        let ids: Vec<_> =
            message.prev_log_id.into_iter().chain(message.entries.iter().filter_map(|entry| entry.log_id)).collect();
        for pair in ids.windows(2) {
            prop_assert!(pair[1].index == pair[0].index + 1 && pair[1].term >= pair[0].term);
        }
        for id in &ids {
            prop_assert!(id.term <= term);
            prop_assert!(id.index > 5 || term_at(id.index) == Some(id.term));
        }
    }
}
