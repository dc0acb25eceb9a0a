//! `no_phantom`: no event appears that was not sent: every event has the content that its session sent
//! under its request number, and does not appear before it was sent. A refused request never appears.
//!
//! A session may use a number again after a refusal that did not use it up, so a request number has
//! a list of attempts.

use crate::property::Finding;
use crate::reader::{Map, Records, Set};
use crate::record::{Content, Record, RequestKey, Seen, What};

struct Attempt {
    content: Content,
    /// The event that the request is about; 0 for none.
    about: u64,
    at: u64,
    line: u64,
    /// The line of the refusal.
    refused: Option<u64>,
}

pub(crate) fn check(records: &Records, others: bool, finding: &mut Finding) {
    let mut attempts: Map<RequestKey, Vec<Attempt>> = Map::default();
    let mut sessions: Set<u64> = Set::default();
    for (line, record) in &records.lines {
        match *record {
            Record::Invoke { at, send, content, about, .. } => {
                sessions.insert(send.session);
                let attempt = Attempt { content, about, at, line: *line, refused: None };
                attempts.entry(send).or_default().push(attempt);
            }
            Record::Refused { send } => {
                if let Some(attempt) = attempts.get_mut(&send).and_then(|attempts| attempts.last_mut()) {
                    attempt.refused = Some(*line);
                }
            }
            Record::Acked { send, .. } if !attempts.contains_key(&send) => {
                finding.violated(&[*line], || {
                    let RequestKey { session, room, no } = send;
                    format!("session {session}'s request {no} in room {room} was acked and never sent")
                });
            }
            _ => {}
        }
    }
    for (line, record) in &records.lines {
        let Some((_, seen)) = record.seen() else { continue };
        let observed = match *record {
            Record::Observed { at, .. } => Some(at),
            _ => None,
        };
        if others && !sessions.contains(&seen.send.session) {
            continue;
        }
        finding.checked += 1;
        let attempts = attempts.get(&seen.send).map_or(&[][..], Vec::as_slice);
        judge(finding, *line, &seen, observed, attempts);
    }
}

fn judge(finding: &mut Finding, line: u64, seen: &Seen, observed: Option<u64>, attempts: &[Attempt]) {
    let RequestKey { session, room, no } = seen.send;
    let seq = seen.seq;
    if no == 0 {
        // The creation of a room and joining need no request number; all other events do.
        if !matches!(seen.content.what, What::Created | What::Joined) {
            finding
                .violated(&[line], || format!("{room}:{seq} lacks the request number that its kind needs"));
        }
        return;
    }
    let Some(first) = attempts.first() else {
        finding
            .violated(&[line], || format!("{room}:{seq} (session {session}'s request {no}) was never sent"));
        return;
    };
    // Of an erased event only the request is known; that it was deleted is judged by `deleted_gone`.
    let erased = seen.content.what == What::Erased;
    // An event about another one is about the one that the request named. Members are named by their names alone.
    let names = matches!(seen.content.what, What::Edited | What::Deleted | What::Reacted);
    let as_sent = |attempt: &&Attempt| {
        erased || attempt.content == seen.content && (!names || attempt.about == seen.about)
    };
    let same = || attempts.iter().filter(as_sent);
    if let Some(sent) = same().find(|attempt| attempt.refused.is_none()) {
        if observed.is_some_and(|observed| observed < sent.at) {
            finding.violated(&[line, sent.line], || format!("{room}:{seq} was seen before it was sent"));
        }
    } else if let Some(refused) = same().find_map(|attempt| attempt.refused) {
        finding.violated(&[refused, line], || {
            format!("{room}:{seq} appears although it was refused (session {session}'s request {no})")
        });
    } else {
        finding.violated(&[first.line, line], || {
            format!("{room}:{seq} differs from the request {no} that session {session} sent")
        });
    }
}
