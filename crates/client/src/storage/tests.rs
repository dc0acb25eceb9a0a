//! Writes that are incomplete, fail, or are interrupted.

use std::sync::Arc;

use conclave_proto::chat::{self, RoomAction, room_action};
use tokio::sync::oneshot;

use super::*;
use crate::SendError;
use crate::limits::OUTBOX_FRAME_BYTES_MAX;
use crate::nodes::Nodes;
use crate::types::Route;

fn identity() -> Identity {
    Identity {
        session: Session { user: "ana".into(), ..Session::default() },
        token: "secret".into(),
        authority: None,
    }
}

fn submitted(number: u64) -> Record {
    let request = SendMessageRequest {
        room: Some(RoomRef { name: "general".into(), id: 0 }),
        request_no: number,
        settled_no: 0,
        join_first: false,
        content: Some(Content::Text("x".into()).into_wire()),
    };
    Record { kind: Some(record::Kind::Submit(request)) }
}

fn numbers(recovered: &Recovered) -> Vec<u64> {
    recovered
        .rooms
        .get("general")
        .map_or_else(Vec::new, |room| room.requests.iter().map(|(request, _)| request.request_no).collect())
}

/// A directory with a session and the requests 1 to `count`.
fn directory(dir: &Path, count: u64) -> OutboxDir {
    let (mut directory, _) = OutboxDir::open(dir).unwrap();
    directory.begin(snapshot(&identity(), &Requests::<()>::new(true))).unwrap();
    for number in 1..=count {
        directory.append(vec![submitted(number)]).unwrap();
    }
    directory
}

/// Version 0.1.0 reads format 1 and does not know pins: it must see a newer file, not a damaged one.
#[test]
fn a_file_with_a_pin_names_the_newer_format_and_returns_to_the_older_one() {
    let dir = tempfile::tempdir().unwrap();
    let directory = directory(dir.path(), 1);
    let action = RoomAction { kind: Some(room_action::Kind::Pin(chat::Pin { target_seq: 1, off: false })) };
    let mut pin = submitted(2);
    if let Some(record::Kind::Submit(request)) = &mut pin.kind {
        request.content = Some(Content::Action(action.clone()).into_wire());
    }
    assert!(directory.may_hold(&[submitted(2)]) && !directory.may_hold(std::slice::from_ref(&pin)));
    drop(directory);

    let (mut directory, recovered) = OutboxDir::open(dir.path()).unwrap();
    let mut requests = Requests::<()>::new(true);
    let identity = restore(recovered, None, &mut requests).unwrap();
    let key = requests.room("general");
    requests.submit(key, Content::Action(action), ());
    directory.replace(snapshot(&identity, &requests)).unwrap();
    drop(directory);
    let (mut directory, recovered) = OutboxDir::open(dir.path()).unwrap();
    assert_eq!(recovered.session.as_ref().unwrap().format, 2);
    assert!(directory.may_hold(&[submitted(3)]));
    // Once no pin is left, earlier versions can read the file again.
    directory.replace(snapshot(&identity, &Requests::<()>::new(true))).unwrap();
    drop(directory);
    assert_eq!(OutboxDir::open(dir.path()).unwrap().1.session.unwrap().format, 1);
}

#[test]
fn a_crash_while_rewriting_leaves_the_old_file_or_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    drop(directory(dir.path(), 3));
    // The crash came after the new file was begun and before it replaced the old one.
    fs::write(dir.path().join("outbox.new"), b"half of something").unwrap();
    let (mut opened, recovered) = OutboxDir::open(dir.path()).unwrap();
    assert_eq!(numbers(&recovered), [1, 2, 3]);
    let mut requests = Requests::<()>::new(true);
    let identity = restore(recovered, None, &mut requests).unwrap();
    opened.replace(snapshot(&identity, &requests)).unwrap();
    drop(opened);
    let (_, recovered) = OutboxDir::open(dir.path()).unwrap();
    assert_eq!(numbers(&recovered), [1, 2, 3]);
    assert_eq!(recovered.session.unwrap().token, "secret");
}

/// A queue of 65,536 messages of 16 KiB is allowed, and a frame is shorter.
#[test]
fn an_outbox_that_is_larger_than_a_frame_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut requests = Requests::<()>::new(true);
    let key = requests.room("general");
    let text = "x".repeat(16 * 1024);
    let count = OUTBOX_FRAME_BYTES_MAX / text.len() + 8;
    for _ in 0..count {
        requests.restore(key, Content::Text(text.clone()), false);
    }
    let (mut directory, _) = OutboxDir::open(dir.path()).unwrap();
    directory.begin(snapshot(&identity(), &requests)).unwrap();
    let more = count as u64 + 1;
    directory.append((0..count as u64).map(|at| submitted(more + at)).collect()).unwrap();
    drop(directory);
    let (_, recovered) = OutboxDir::open(dir.path()).unwrap();
    assert_eq!(numbers(&recovered).len(), 2 * count);
}

/// Version 0.1.0 wrote such a frame. What a reader cannot take is not thrown away.
#[test]
fn a_frame_that_is_too_long_is_damage_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    drop(directory(dir.path(), 1));
    let path = dir.path().join("outbox");
    let mut bytes = fs::read(&path).unwrap();
    let begin = bytes.len();
    bytes.extend_from_within(..4);
    bytes.extend_from_slice(&u32::try_from(OUTBOX_FRAME_BYTES_MAX + 1).unwrap().to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    let header = crc32fast::hash(&bytes[begin..]);
    bytes.extend_from_slice(&header.to_be_bytes());
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(OutboxDir::open(dir.path()), Err(OutboxError::Damaged { .. })));
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

/// A file that was being written while the first session opened has the requests without that session. A client that then
/// sent them would send them again, under another session, after a crash.
#[test]
fn what_was_written_before_a_new_session_counts_as_not_stored() {
    let unstored = |marks_of_new_file: bool| {
        let mut state = ClientState::new(Route::Pinned, Arc::new(Nodes::in_order()), true);
        state.session = Some(Arc::new(Identity { token: String::new(), ..identity() }));
        let (waiter, _answer) = oneshot::channel();
        state.submit("general", Content::Text("x".into()), waiter, &mut Wakes::default());
        let mut file = Rewrite::of(&state).unwrap();
        state.session_changed(identity(), &mut Wakes::default());
        if marks_of_new_file {
            // As the writer does it when it takes what it is about to write.
            state.queue.as_mut().unwrap().rewrite = false;
            file = Rewrite::of(&state).unwrap();
        }
        state.stored(file.marks, &mut Wakes::default());
        state.requests.drop_unstored().len()
    };
    assert_eq!([unstored(false), unstored(true)], [1, 0]);
}

#[test]
fn a_failed_write_leaves_no_bytes_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = directory(dir.path(), 2);
    let good = opened.len;
    // The disk has written a part of the frame.
    opened.file.write_all(b"cvob and a bit more").unwrap();
    opened.truncate_to_good().unwrap();
    opened.append(vec![submitted(3)]).unwrap();
    assert!(opened.len > good);
    drop(opened);
    assert_eq!(numbers(&OutboxDir::open(dir.path()).unwrap().1), [1, 2, 3]);
}

#[test]
fn a_file_that_cannot_be_truncated_refuses_appends_until_it_is_rewritten() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = directory(dir.path(), 1);
    opened.file = File::open(dir.path().join("outbox")).unwrap();
    assert!(opened.append(vec![submitted(2)]).is_err());
    assert!(opened.append(vec![submitted(2)]).unwrap_err().to_string().contains("could not be truncated"));
    opened.replace(snapshot(&identity(), &Requests::<()>::new(true))).unwrap();
    opened.append(vec![submitted(1)]).unwrap();
}

#[tokio::test]
async fn a_request_that_was_not_stored_is_returned_and_its_number_is_free_again() {
    let mut state = ClientState::new(Route::Pinned, Arc::new(Nodes::in_order()), true);
    let mut wakes = Wakes::default();
    let mut submit = |state: &mut ClientState| {
        let (waiter, answer) = oneshot::channel();
        (state.submit("general", Content::Text("x".into()), waiter, &mut wakes).0, answer)
    };
    let (first, _kept) = submit(&mut state);
    let key = state.requests.room("general");
    state.stored([(key, first, 0)], &mut Wakes::default());
    let (second, mut answer) = submit(&mut state);
    assert_eq!((first, second), (1, 2));

    let mut failed = Wakes::default();
    assert!(state.not_stored("no space left", &mut failed));
    assert_eq!(failed.waiters.len(), 1);
    assert!(matches!(&failed.failed, Some(SendError::Outbox(why)) if why == "no space left"));
    drop(failed);
    assert!(answer.try_recv().is_err(), "its waiter is gone");
    assert_eq!(state.requests.unsettled_count(), 1);
    assert_eq!(submit(&mut state).0, 2, "the number is free again");
}

#[test]
fn the_authority_of_a_session_is_kept_beside_its_token() {
    let kept = |authority: &str| {
        let mut bytes = Vec::new();
        let session = StoredSession {
            format: 1,
            token: "secret".into(),
            authority: authority.into(),
            ..StoredSession::default()
        };
        bytes.extend(journal::frames(vec![Record { kind: Some(record::Kind::Session(session)) }]).concat());
        stored_authority(&journal::read(&bytes).unwrap())
    };
    assert_eq!(kept("").unwrap(), None, "as version 0.1.0 writes it");
    let authority = CaId(7);
    assert_eq!(kept(&authority.to_string()).unwrap(), Some(authority));
    assert!(kept("noise").is_err(), "nothing says who may see the token");

    let secured = Identity { authority: Some(authority), ..identity() };
    let mut bytes = Vec::new();
    bytes.extend(journal::frames(snapshot(&secured, &Requests::<()>::new(true))).concat());
    assert_eq!(stored_authority(&journal::read(&bytes).unwrap()).unwrap(), Some(authority));
}

/// A child process that is being started has copies of all open files until it runs its program.
#[test]
fn a_closed_outbox_can_be_opened_while_a_child_process_holds_its_lock_file_open() {
    let dir = tempfile::tempdir().unwrap();
    let directory = directory(dir.path(), 1);
    let copy = directory._lock.0.try_clone().unwrap();
    assert!(matches!(OutboxDir::open(dir.path()), Err(OutboxError::Locked { .. })));
    drop(directory);
    let (_, recovered) = OutboxDir::open(dir.path()).unwrap();
    assert_eq!(numbers(&recovered), [1]);
    drop(copy);
}

#[test]
fn a_file_behind_a_symbolic_link_is_not_emptied() {
    let dir = tempfile::tempdir().unwrap();
    let mut directory = directory(dir.path(), 1);
    let target = dir.path().join("target");
    fs::write(&target, "kept").unwrap();
    std::os::unix::fs::symlink(&target, dir.path().join("outbox.new")).unwrap();
    directory.replace(Vec::new()).unwrap_err();
    assert_eq!(fs::read_to_string(&target).unwrap(), "kept");
    directory.append(vec![submitted(2)]).unwrap();
}
