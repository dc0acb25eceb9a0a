//! The rules of rooms.

use crate::access::{Member, Role, RoomKind, RoomPolicy};
use crate::action::Action;
use crate::command::Origin;
use crate::decide::{Decision, Effect, Moment};
use crate::event::{EventKind, RoomEvent};
use crate::id::{RequestNo, RoomId, Seq, SessionId, UserId};
use crate::limits::ROOMS_PER_SESSION_MAX;
use crate::name::check_room_name;
use crate::outcome::{Change, Outcome, Reply};
use crate::record::{Founding, Person, RoomHead, RoomInfo};
use crate::refusal::Refusal;
use crate::session::{ENDED, Standing, StoredOutcome, StoredReply};
use crate::stamp::Stamp;
use crate::view::View;

/// Creates the room, if it does not exist.
pub(crate) fn open<V: View>(
    view: &V,
    time_ms: i64,
    room: RoomId,
    name: &str,
    creator: &Person,
    founding: Option<&Founding>,
) -> Result<Outcome, V::Error> {
    if view.room(room)?.is_some() {
        return Ok(Outcome::reply(Reply::Done));
    }
    // The name of a direct conversation is made by the meta shard, and is no name that a room can have.
    let direct = founding.is_some_and(|founding| founding.kind == RoomKind::Direct);
    if !direct && let Err(refusal) = check_room_name(name) {
        return Ok(Outcome::refused(refusal));
    }
    let event = RoomEvent {
        room,
        seq: Seq(1),
        time_ms,
        author: creator.user,
        author_name: creator.name.clone(),
        session: SessionId(0),
        request: RequestNo(0),
        kind: EventKind::Created { name: name.to_owned(), founding: founding.cloned() },
    };
    let info =
        RoomInfo { name: name.to_owned(), topic: String::new(), creator: creator.user, created_ms: time_ms };
    let (policy, members) = begin(creator, founding);
    let count = u32::try_from(members.len()).unwrap_or(u32::MAX);
    let head = RoomHead { last: Seq(1), last_time_ms: time_ms, members: count, policy };
    let mut changes = vec![Change::RoomInfo(room, info), Change::RoomHead(room, head)];
    changes.extend(members.into_iter().map(|(user, role)| {
        let member = Member { role: Some(role), ..Member::of_first_level() };
        Change::Member { room, user, member: Some(member) }
    }));
    Ok(Outcome { reply: Reply::Done, changes, event: Some(event) })
}

/// The policy and the first members of a room.
fn begin(creator: &Person, founding: Option<&Founding>) -> (RoomPolicy, Vec<(UserId, Role)>) {
    let Some(Founding { kind, people }) = founding else { return (RoomPolicy::default(), Vec::new()) };
    let members = match kind {
        // Nobody asked for the first room of a cluster.
        RoomKind::Open | RoomKind::Private if creator.user == UserId(0) => Vec::new(),
        RoomKind::Open | RoomKind::Private => vec![(creator.user, Role::Owner)],
        RoomKind::Direct => people.iter().map(|person| (person.user, Role::Member)).collect(),
    };
    (RoomPolicy { kind: *kind, ..RoomPolicy::default() }, members)
}

/// Decides a session's request in a room.
pub(crate) fn act<V: View>(
    view: &V,
    stamp: Stamp,
    room: RoomId,
    origin: &Origin,
    action: &Action,
) -> Result<Outcome, V::Error> {
    // Nothing is stored for a room that does not exist: a client could invent any number of such ids.
    let Some(head) = view.room(room)? else {
        return Ok(Outcome::refused(Refusal::RoomUnknown));
    };
    let rooms = view.session_rooms(origin.session)?;
    // Checked before the stored replies: those of a session that has ended are gone, and to decide one of its requests again
    // would double it.
    if rooms == ENDED {
        return Ok(Outcome::refused(Refusal::SessionEnded));
    }
    let digest = action.digest();
    let first_in_room = if origin.request.is_numbered() {
        match view.standing(origin.session, room, origin.request, digest)? {
            Some(Standing::Repeat(stored)) => return Ok(Outcome::reply(repeated(stored))),
            Some(Standing::Forgotten) => return Ok(Outcome::reply(Reply::Forgotten)),
            Some(Standing::Reused) => return Ok(Outcome::refused(Refusal::RequestReused)),
            Some(Standing::Early(next)) => return Ok(early(next)),
            Some(Standing::Next) => false,
            None if origin.request == RequestNo(1) => true,
            None => return Ok(early(RequestNo(1))),
        }
    } else if action.is_idempotent() {
        false
    } else {
        return Ok(Outcome::refused(Refusal::RequestNumberMissing));
    };
    if first_in_room && rooms >= ROOMS_PER_SESSION_MAX {
        return Ok(Outcome::refused(Refusal::TooManyRoomsInSession));
    }

    let mut outcome = decide(view, stamp, room, head, origin, action)?;
    // A refused request uses up its number too, so that one bad message does not block those behind it.
    if origin.request.is_numbered() {
        let (verdict, time_ms) = match outcome.reply {
            Reply::Acked { seq, time_ms, .. } => (StoredOutcome::Event(seq), time_ms),
            Reply::Refused(refusal) => (StoredOutcome::Refused(refusal), 0),
            _ => (StoredOutcome::Unchanged, 0),
        };
        let reply = StoredReply { request: origin.request, digest, verdict, time_ms };
        outcome.changes.push(Change::Replied {
            session: origin.session,
            room,
            reply,
            settled: origin.settled,
        });
        if first_in_room {
            outcome.changes.push(Change::SessionRooms(origin.session, rooms + 1));
        }
    }
    Ok(outcome)
}

fn decide<V: View>(
    view: &V,
    stamp: Stamp,
    room: RoomId,
    head: RoomHead,
    origin: &Origin,
    action: &Action,
) -> Result<Outcome, V::Error> {
    let moment = Moment { view, stamp, room, head, author: origin.author, powers: origin.powers };
    let Effect { kind, changes: rows, head: after } = match action.decide(&moment)? {
        Decision::Event(effect) => effect,
        Decision::Unchanged => return Ok(Outcome::reply(Reply::Unchanged)),
        Decision::Quiet(change) => {
            return Ok(Outcome { changes: vec![change], ..Outcome::reply(Reply::Unchanged) });
        }
        Decision::Refused(refusal) => return Ok(Outcome::refused(refusal)),
    };
    // Capacity for the room's head, and for the two changes that `act` adds.
    let mut changes = Vec::with_capacity(rows.len() + 3);
    changes.extend(rows);
    let seq = head.last.next();
    let time_ms = stamp.after(head.last_time_ms);
    changes.push(Change::RoomHead(room, RoomHead { last: seq, last_time_ms: time_ms, ..after }));
    let event = RoomEvent {
        room,
        seq,
        time_ms,
        author: origin.author,
        author_name: origin.author_name.clone(),
        session: origin.session,
        request: origin.request,
        kind,
    };
    Ok(Outcome { reply: Reply::Acked { seq, time_ms, duplicate: false }, changes, event: Some(event) })
}

fn repeated(stored: StoredReply) -> Reply {
    match stored.verdict {
        StoredOutcome::Event(seq) => Reply::Acked { seq, time_ms: stored.time_ms, duplicate: true },
        StoredOutcome::Unchanged => Reply::Unchanged,
        StoredOutcome::Refused(refusal) => Reply::Refused(refusal),
    }
}

fn early(next: RequestNo) -> Outcome {
    Outcome::refused(Refusal::RequestOutOfOrder { expected: next.0 })
}
