//! A minute of `kill -9` at random, under load, judged by the checker.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use conclave_check::{Event, History, Options, Property, What};
use conclave_client::api::event::Kind;
use conclave_client::{Client, Content, Follow, HistoryQuery, Incoming, Start};
use rustix::process::Signal;
use tokio_util::sync::CancellationToken;

use crate::harness::{DEADLINE, Up, runs, signal, until};

pub(crate) const ROOM: &str = "general";
/// Kills of random servers. A quiet machine does as many in a minute.
const KILLS: usize = 30;
/// Acked messages before the end: a busy machine needs more time for them.
const ACKED_MIN: u64 = 500;
const WRITERS: usize = 3;
const READERS: usize = 3;

#[test]
fn a_minute_of_kills_loses_doubles_and_reorders_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "2"]);
    up.until_healthy();
    let servers = up.pinned();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let history = History::in_memory();
    let (stop, acked) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
    let (writers, readers, room) = runtime.block_on(async {
        let setup = client(&servers, "setup").await;
        let room = setup.create_room(ROOM).await.unwrap().room_id;
        let mut readers = Vec::new();
        for index in 0..READERS {
            let reader = client(&servers, &format!("reader{index}")).await;
            readers.push(tokio::spawn(read(
                reader,
                history.clone(),
                format!("reader{index}"),
                room,
                stop.clone(),
            )));
        }
        let mut writers = Vec::new();
        for index in 0..WRITERS {
            let writer = client(&servers, &format!("writer{index}")).await;
            writers.push(tokio::spawn(write(
                writer,
                history.clone(),
                room,
                stop.clone(),
                Arc::clone(&acked),
            )));
        }
        (writers, readers, room)
    });

    let seed = u64::from(std::process::id());
    let kills = kill_at_random(&up, seed);
    up.until_healthy();
    until("enough messages are acked", || acked.load(Ordering::Relaxed) >= ACKED_MIN);
    stop.cancel();
    runtime.block_on(async {
        for writer in writers {
            tokio::time::timeout(DEADLINE, writer).await.expect("the writers finish").unwrap();
        }
        for reader in readers {
            tokio::time::timeout(DEADLINE, reader).await.expect("the readers reach the end").unwrap();
        }
        final_reads(&servers, &history, room).await;
    });
    let optional = [Property::ReadsFresh];
    let required = Property::ALL.into_iter().filter(|property| !optional.contains(property)).collect();
    let report = history.check(&Options { acked_min: ACKED_MIN, required, ..Options::default() }).unwrap();
    assert!(report.passed(), "seed {seed}: {report}");
    println!("{kills} kills");
}

/// Kills servers for a minute, sometimes two at once; `up` starts each again after three seconds.
fn kill_at_random(up: &Up, seed: u64) -> usize {
    let mut pids: HashMap<String, u32> = HashMap::new();
    for (node, pid) in up.ready["nodes"].as_array().unwrap().iter().zip(up.pids()) {
        pids.insert(node["name"].as_str().unwrap().to_owned(), pid);
    }
    let mut names: Vec<String> = pids.keys().cloned().collect();
    names.sort();
    let mut seed = seed;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut kills = 0;
    let mut deadline = Instant::now() + DEADLINE;
    while kills < KILLS {
        assert!(Instant::now() < deadline, "only {kills} kills: the servers are not started again");
        // The notes of `up`: which server is back, with which process id.
        let next = Instant::now() + Duration::from_millis(300 + random(2_500));
        while let Ok(note) = up.notes.recv_timeout(next.saturating_duration_since(Instant::now())) {
            let Some((name, rest)) = note.split_once(" is back (pid ") else { continue };
            if let Ok(pid) = rest.trim_end_matches(')').parse() {
                pids.insert(name.to_owned(), pid);
            }
        }
        for _ in 0..=random(4) / 3 {
            let name = &names[usize::try_from(random(names.len() as u64)).unwrap()];
            if runs(pids[name]) {
                signal(pids[name], Signal::KILL);
                kills += 1;
                deadline = Instant::now() + DEADLINE;
            }
        }
    }
    kills
}

/// Reads the room at every server at the end.
pub(crate) async fn final_reads(servers: &[String], history: &History, room: u64) {
    for server in servers {
        let direct = client(std::slice::from_ref(server), "final").await;
        let mut events = Vec::new();
        loop {
            let query =
                HistoryQuery { linearizable: true, ..HistoryQuery::after(ROOM, events.len() as u64, 1_000) };
            let page = direct.history(query).await.unwrap();
            events.extend(page.events);
            if events.len() as u64 == page.last_seq {
                break;
            }
        }
        history.final_read(server, room, 0, events.iter().map(seen));
    }
}

pub(crate) async fn client(servers: &[String], user: &str) -> Client {
    Client::builder().servers(servers.iter().cloned()).user(user).patience(DEADLINE).connect().await.unwrap()
}

async fn write(client: Client, history: History, room: u64, stop: CancellationToken, acked: Arc<AtomicU64>) {
    let session = client.session().id;
    let mut no = 0;
    while !stop.is_cancelled() {
        no += 1;
        let text = format!("{session}-{no}");
        history.invoke(session, room, no, &text);
        let ticket = client.submit(ROOM, Content::Text(text)).await.unwrap();
        assert_eq!(ticket.request_no(), no);
        let ack = ticket.wait().await.expect("no send is refused or given up");
        history.ok(session, room, no, ack.seq);
        acked.fetch_add(1, Ordering::Relaxed);
    }
}

/// Follows until everything that the writers may have written has arrived.
pub(crate) async fn read(client: Client, history: History, name: String, room: u64, stop: CancellationToken) {
    let mut events = client.subscribe(vec![Follow::room(ROOM).from(Start::After(0))]);
    let (mut stream, mut last) = (0, 0);
    let mut end = u64::MAX;
    while last < end {
        let incoming = tokio::select! {
            incoming = events.next() => incoming.unwrap(),
            () = stop.cancelled(), if end == u64::MAX => {
                let query = HistoryQuery { linearizable: true, ..HistoryQuery::newest(ROOM, 1) };
                end = client.history(query).await.unwrap().last_seq;
                continue;
            }
        };
        match incoming {
            Incoming::Connected { node } => {
                stream += 1;
                history.resumed(&name, stream, room, last, &node);
            }
            Incoming::Event(event) => {
                last = event.seq;
                history.observed(&name, stream, room, &seen(&event));
            }
            _ => {}
        }
    }
}

fn seen(event: &conclave_client::api::Event) -> Event<'_> {
    let (what, body) = match event.kind.as_ref().expect("events have a kind") {
        Kind::Created(_) => (What::Created, ""),
        Kind::Message(message) => (What::Message, message.text.as_str()),
        Kind::TopicChanged(changed) => (What::Topic, changed.topic.as_str()),
        Kind::Joined(_) => (What::Joined, ""),
        Kind::Left(_) => (What::Left, ""),
        // No client of this test causes such an event; the checker would report it as a phantom.
        Kind::Pinned(_)
        | Kind::Edited(_)
        | Kind::Deleted(_)
        | Kind::Reacted(_)
        | Kind::Erased(_)
        | Kind::MemberAdded(_)
        | Kind::MemberRemoved(_)
        | Kind::RoleChanged(_)
        | Kind::PolicyChanged(_)
        | Kind::Muted(_) => (What::Created, ""),
    };
    Event { seq: event.seq, session: event.session_id, no: event.request_no, what, body, about: 0, author: 0 }
}
