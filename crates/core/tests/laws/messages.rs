//! The laws of edits, deletions, reactions and threads, over random histories of one room.

use std::collections::{BTreeMap, BTreeSet};

use conclave_core::access::RoomKind;
use conclave_core::level::FEATURE_LEVEL;
use conclave_core::record::{Founding, Person};
use conclave_core::{Action, Command, EventKind, Outcome, Reply, RoomEvent, RoomId, Seq, Stamp, UserId};
use proptest::prelude::*;

use crate::machine::{act, message_action, run};

/// Histories of a room of two members, of whom one owns it, and somebody from outside, who do much with their messages.
fn history() -> impl Strategy<Value = Vec<(Stamp, Command)>> {
    proptest::collection::vec((1..=6_u64, message_action()), 0..100).prop_map(|acts| {
        let stamp = Stamp::at_level(1_000, FEATURE_LEVEL);
        let creator = Person { user: UserId(1), name: "u1".into() };
        let founding = Some(Founding { kind: RoomKind::Open, people: Vec::new() });
        let mut commands =
            vec![Command::OpenRoom { room: RoomId(1), name: "room".into(), creator, founding }];
        commands.push(act(3, 1, 0, Action::Join));
        let mut next = BTreeMap::<u64, u64>::new();
        for (session, action) in acts {
            let number = next.entry(session).or_default();
            *number += 1;
            commands.push(act(session, 1, *number, action));
        }
        commands.into_iter().map(|command| (stamp, command)).collect()
    })
}

/// A message, as somebody derives it from the events alone. Written apart from the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Folded {
    author: UserId,
    text: String,
    edits: Vec<Seq>,
    deleted: Seq,
    reactions: BTreeSet<(String, UserId)>,
    answers: Vec<Seq>,
    thread: Seq,
}

type Timeline = BTreeMap<(RoomId, Seq), Folded>;

fn add(timeline: &mut Timeline, event: &RoomEvent) {
    let at = |seq: &Seq| (event.room, *seq);
    match &event.kind {
        EventKind::Message(text) => {
            let message = Folded { author: event.author, text: text.clone(), ..Folded::default() };
            timeline.insert((event.room, event.seq), message);
        }
        EventKind::Answer(answer) => {
            if let Some(root) = timeline.get_mut(&at(&answer.thread)) {
                root.answers.push(event.seq);
            }
            let (text, thread) = (answer.text.clone(), answer.thread);
            let message = Folded { author: event.author, text, thread, ..Folded::default() };
            timeline.insert((event.room, event.seq), message);
        }
        EventKind::Edited { target, text } => {
            let message = timeline.get_mut(&at(target)).expect("only messages are edited");
            message.text.clone_from(text);
            message.edits.push(event.seq);
        }
        EventKind::Deleted { target, .. } => {
            let message = timeline.get_mut(&at(target)).expect("only messages are deleted");
            message.deleted = event.seq;
            message.text.clear();
            message.reactions.clear();
        }
        EventKind::Reacted { target, emoji, off } => {
            let message = timeline.get_mut(&at(target)).expect("people react to messages only");
            let reaction = (emoji.clone(), event.author);
            let changed =
                if *off { message.reactions.remove(&reaction) } else { message.reactions.insert(reaction) };
            assert!(changed, "a reaction that changes nothing is no event");
        }
        _ => {}
    }
}

fn events(outcomes: &[Outcome]) -> impl Iterator<Item = &RoomEvent> {
    outcomes.iter().filter_map(|outcome| outcome.event.as_ref())
}

proptest! {
    #[test]
    fn what_is_known_of_messages_follows_from_the_events(commands in history()) {
        let (view, outcomes) = run(&commands);
        let mut timeline = Timeline::new();
        events(&outcomes).for_each(|event| add(&mut timeline, event));
        prop_assert_eq!(view.messages.keys().collect::<Vec<_>>(), timeline.keys().collect::<Vec<_>>());
        for (place, message) in &timeline {
            let state = &view.messages[place];
            let given = state.reactions.iter();
            let given = given.flat_map(|one| one.users.iter().map(|user| (one.emoji.clone(), *user)));
            prop_assert_eq!(given.collect::<BTreeSet<_>>(), message.reactions.clone());
            prop_assert_eq!(state.author, message.author);
            prop_assert_eq!(state.thread, message.thread);
            prop_assert_eq!(&state.edits, &message.edits);
            prop_assert_eq!(state.deleted, message.deleted);
            prop_assert_eq!(state.answers, message.answers.len() as u64);
            prop_assert_eq!(state.last_answer, message.answers.last().copied().unwrap_or_default());
        }
    }

    /// The events that are left hold neither the text of a deleted message nor one of its edits, and nothing else is
    /// missing from them.
    #[test]
    fn deletion_erases_a_message_and_its_edits_and_nothing_else(commands in history()) {
        let (view, outcomes) = run(&commands);
        let mut timeline = Timeline::new();
        events(&outcomes).for_each(|event| add(&mut timeline, event));
        for (left, event) in view.events.iter().zip(events(&outcomes)) {
            let target = match &event.kind {
                EventKind::Edited { target, .. } => *target,
                _ => event.seq,
            };
            let deleted = timeline.get(&(event.room, target)).map_or(Seq(0), |message| message.deleted);
            let expected = if deleted == Seq(0) { Some(event.kind.clone()) } else { event.kind.erased(deleted) };
            prop_assert_eq!(Some(&left.kind), expected.as_ref());
            prop_assert_eq!((left.seq, left.author, left.request), (event.seq, event.author, event.request));
        }
    }

    #[test]
    fn only_authors_edit_and_nothing_happens_to_a_deleted_message(commands in history()) {
        let (_, outcomes) = run(&commands);
        let mut timeline = Timeline::new();
        for event in events(&outcomes) {
            let target = match &event.kind {
                EventKind::Edited { target, .. }
                | EventKind::Deleted { target, .. }
                | EventKind::Reacted { target, .. } => Some(*target),
                EventKind::Answer(answer) if answer.thread != Seq(0) => Some(answer.thread),
                _ => None,
            };
            if let Some(target) = target {
                let message = &timeline[&(event.room, target)];
                prop_assert_eq!(message.deleted, Seq(0), "{:?}", event);
                if matches!(event.kind, EventKind::Edited { .. }) {
                    prop_assert_eq!(message.author, event.author);
                }
                if matches!(event.kind, EventKind::Answer(_)) {
                    prop_assert_eq!(message.thread, Seq(0), "there is one level of threads");
                }
            }
            add(&mut timeline, event);
        }
    }
}

/// The random histories do contain what the laws are about.
#[test]
fn random_histories_edit_delete_and_react() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen = BTreeMap::<&str, u32>::new();
    for _ in 0..300 {
        let commands: Vec<(Stamp, Command)> = history().new_tree(&mut runner).unwrap().current();
        let (_, outcomes) = run(&commands);
        for ((_, command), outcome) in commands.iter().zip(&outcomes) {
            let Command::Act { action, .. } = command else { continue };
            let what = match action {
                Action::Edit { .. } => "edit",
                Action::Delete { .. } => "delete",
                Action::React { off: false, .. } => "react",
                Action::React { off: true, .. } => "unreact",
                Action::Answer(_) => "answer",
                _ => continue,
            };
            if matches!(outcome.reply, Reply::Acked { .. }) {
                *seen.entry(what).or_default() += 1;
            }
        }
    }
    for what in ["edit", "delete", "react", "unreact", "answer"] {
        assert!(seen.get(what).is_some_and(|count| *count > 5), "{what}: {seen:?}");
    }
}
