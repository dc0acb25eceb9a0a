//! A rolling restart of real processes under load: no send fails, nothing is lost, doubled or reordered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use conclave_check::{History, Options, Property};
use conclave_client::{Client, Content};
use rustix::process::Signal;
use tokio_util::sync::CancellationToken;

use crate::harness::{DEADLINE, Up, runs, signal, until};
use crate::kills::{ROOM, client, final_reads, read};

const ROUNDS: usize = 2;
const WRITERS: usize = 4;
/// Acked messages before the end: a busy machine needs more time for them.
const ACKED_MIN: u64 = 200;

#[test]
fn a_rolling_restart_costs_no_failed_send() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "4"]);
    up.until_healthy();
    let servers = up.pinned();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let history = History::in_memory();
    let (stop, acked) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
    let (writers, reader, room) = runtime.block_on(async {
        let room = client(&servers, "setup").await.create_room(ROOM).await.unwrap().room_id;
        let reader = client(&servers, "reader").await;
        let reader = tokio::spawn(read(reader, history.clone(), "reader".to_owned(), room, stop.clone()));
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
        (writers, reader, room)
    });

    let named = |node: &serde_json::Value| node["name"].as_str().unwrap().to_owned();
    let names = up.ready["nodes"].as_array().unwrap().iter().map(named);
    let mut nodes: Vec<_> = names.zip(up.pids()).collect();
    for _ in 0..ROUNDS {
        for (name, pid) in &mut nodes {
            *pid = restart(&up, name, *pid);
        }
    }
    until("enough messages are acked", || acked.load(Ordering::Relaxed) >= ACKED_MIN);
    stop.cancel();
    runtime.block_on(async {
        let mut slowest = Duration::ZERO;
        for writer in writers {
            let writer = tokio::time::timeout(DEADLINE, writer).await.expect("the writers finish");
            slowest = slowest.max(writer.unwrap());
        }
        // The duration depends on the load of this machine; the success does not.
        println!("the slowest send took {slowest:?}");
        tokio::time::timeout(DEADLINE, reader).await.expect("the reader reaches the end").unwrap();
        final_reads(&servers, &history, room).await;
    });
    let required = Property::ALL.into_iter().filter(|property| *property != Property::ReadsFresh).collect();
    let report = history.check(&Options { acked_min: ACKED_MIN, required, ..Options::default() }).unwrap();
    assert!(report.passed(), "{report}");
}

/// Asks a server to stop; `up` starts it again by the same command line. Returns its new process id.
fn restart(up: &Up, name: &str, pid: u32) -> u32 {
    signal(pid, Signal::TERM);
    until("the server has drained", || !runs(pid));
    let end = Instant::now() + DEADLINE;
    let stopped = format!("{name} has stopped");
    let back = format!("{name} is back (pid ");
    let mut drained = false;
    let pid = loop {
        let note =
            up.notes.recv_timeout(end.saturating_duration_since(Instant::now())).expect("it comes back");
        drained |= note.starts_with(&stopped);
        if let Some(pid) = note.strip_prefix(&back) {
            break pid.trim_end_matches(')').parse().unwrap();
        }
    };
    assert!(drained, "{name} did not stop by itself");
    up.until_healthy();
    pid
}

/// Sends one message after the other; returns how long the slowest took.
async fn write(
    client: Client,
    history: History,
    room: u64,
    stop: CancellationToken,
    acked: Arc<AtomicU64>,
) -> Duration {
    let session = client.session().id;
    let mut slowest = Duration::ZERO;
    for no in 1.. {
        if stop.is_cancelled() {
            break;
        }
        let text = format!("{session}-{no}");
        history.invoke(session, room, no, &text);
        let begun = Instant::now();
        let ticket = client.submit(ROOM, Content::Text(text)).await.unwrap();
        assert_eq!(ticket.request_no(), no);
        let ack = ticket.wait().await.expect("no send fails");
        slowest = slowest.max(begun.elapsed());
        history.ok(session, room, no, ack.seq);
        acked.fetch_add(1, Ordering::Relaxed);
    }
    slowest
}
