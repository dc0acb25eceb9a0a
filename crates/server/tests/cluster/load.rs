//! Clients that send and follow while faults happen, and record everything for the checker.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use conclave_check::{Event, History, Options, Property, What};
use conclave_client::api::event::Kind;
use conclave_client::{Client, Content, Follow, HistoryQuery, Incoming, SendError, Start, Ticket};
use futures::StreamExt as _;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::harness::{Cluster, eventually, within};

/// Sends that one writer has in flight.
const IN_FLIGHT: usize = 8;
/// Clients that open their sessions at the same time.
const OPENING_MAX: usize = 16;

pub(crate) struct Load {
    history: History,
    room: String,
    room_id: u64,
    stop: CancellationToken,
    writers: Vec<JoinHandle<()>>,
    readers: Vec<JoinHandle<()>>,
    acked: Arc<AtomicU64>,
    /// The highest seq that was acked.
    head: Arc<AtomicU64>,
    observed: Vec<Arc<AtomicU64>>,
    pace: Duration,
}

impl Load {
    /// Starts this many writers and readers in a room of its own.
    pub(crate) async fn start(cluster: &Cluster, room: &str, writers: usize, readers: usize) -> Self {
        Self::start_paced(cluster, room, writers, readers, Duration::ZERO).await
    }

    /// As [`Load::start`], but each writer pauses between its sends.
    pub(crate) async fn start_paced(
        cluster: &Cluster,
        room: &str,
        writers: usize,
        readers: usize,
        pace: Duration,
    ) -> Self {
        let history = History::in_memory();
        let setup = cluster.client("setup").await;
        let room_id = setup.create_room(room).await.unwrap().room_id;
        let stop = CancellationToken::new();
        let acked = Arc::new(AtomicU64::new(0));
        let mut load = Self {
            history,
            room: room.to_owned(),
            room_id,
            stop,
            writers: Vec::new(),
            readers: Vec::new(),
            acked,
            head: Arc::default(),
            observed: Vec::new(),
            pace,
        };
        load.add_prober(cluster.client("prober").await);
        let clients =
            (0..readers).map(|index| async move { cluster.client(&format!("reader{index}")).await });
        let mut clients = futures::stream::iter(clients).buffered(OPENING_MAX).enumerate();
        while let Some((index, client)) = clients.next().await {
            load.add_reader(client, index);
        }
        for index in 0..writers {
            let client = cluster.client(&format!("writer{index}")).await;
            load.add_writer(client);
        }
        load
    }

    fn add_writer(&mut self, client: Client) {
        let writer = Writer {
            client,
            history: self.history.clone(),
            room: self.room.clone(),
            room_id: self.room_id,
            acked: Arc::clone(&self.acked),
            head: Arc::clone(&self.head),
            pace: self.pace,
        };
        self.writers.push(tokio::spawn(writer.run(self.stop.clone())));
    }

    /// Reads the room's end repeatedly, linearizably, on any node that answers.
    fn add_prober(&mut self, client: Client) {
        let (history, room, room_id) = (self.history.clone(), self.room.clone(), self.room_id);
        let (stop, pace) = (self.stop.clone(), self.pace);
        self.writers.push(tokio::spawn(async move {
            let query = HistoryQuery { linearizable: true, ..HistoryQuery::newest(&room, 1) };
            loop {
                let begun = history.now();
                let read = tokio::select! {
                    read = client.history(query.clone()) => read,
                    () = stop.cancelled() => return,
                };
                // Without a quorum there is no answer, which is correct.
                if let Ok(page) = read {
                    history.read(begun, room_id, page.last_seq, "any");
                }
                tokio::time::sleep(pace).await;
            }
        }));
    }

    fn add_reader(&mut self, client: Client, index: usize) {
        let seen = Arc::new(AtomicU64::new(0));
        self.observed.push(Arc::clone(&seen));
        let (history, room, room_id) = (self.history.clone(), self.room.clone(), self.room_id);
        let name = format!("reader{index}");
        self.readers.push(tokio::spawn(async move {
            let mut events = client.subscribe(vec![Follow::room(room).from(Start::After(0))]);
            let (mut stream, mut last) = (0, 0);
            while let Ok(incoming) = events.next().await {
                match incoming {
                    Incoming::Connected { node } => {
                        stream += 1;
                        history.resumed(&name, stream, room_id, last, &node);
                    }
                    Incoming::Event(event) => {
                        last = event.seq;
                        history.observed(&name, stream, room_id, &seen_event(&event));
                        seen.store(last, Ordering::Relaxed);
                    }
                    _ => {}
                }
            }
        }));
    }

    /// The number of sends acked so far.
    pub(crate) fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Waits until `more` further sends are acked.
    pub(crate) async fn progress(&self, more: u64) {
        let target = self.acked() + more;
        eventually("sends are acked", async || self.acked() >= target).await;
    }

    /// Waits until every reader has got an event that was acked after this call. Returns how long that took.
    pub(crate) async fn all_served(&self) -> Duration {
        let began = Instant::now();
        let before = self.head.load(Ordering::Relaxed);
        eventually("something new is acked", async || self.head.load(Ordering::Relaxed) > before).await;
        let seq = self.head.load(Ordering::Relaxed);
        eventually("every reader gets it", async || {
            self.observed.iter().all(|seen| seen.load(Ordering::Relaxed) >= seq)
        })
        .await;
        began.elapsed()
    }

    /// Stops the writers, lets the readers finish, reads every replica, and runs the checker.
    pub(crate) async fn judge(mut self, cluster: &Cluster) {
        self.stop.cancel();
        for writer in self.writers.drain(..) {
            within("the writers finish", writer).await.unwrap();
        }
        let reader = cluster.client("final").await;
        let query = HistoryQuery { linearizable: true, ..HistoryQuery::newest(&self.room, 1) };
        let end = reader.history(query).await.unwrap().last_seq;
        for seen in &self.observed {
            eventually("the readers reach the end", async || seen.load(Ordering::Relaxed) >= end).await;
        }
        for reader in self.readers.drain(..) {
            reader.abort();
        }
        for (index, member) in cluster.members().iter().enumerate() {
            if !cluster.is_running(index) {
                continue;
            }
            let direct = cluster.at(vec![member.client.clone()]).user("final").connect().await.unwrap();
            let mut events = Vec::new();
            eventually("the replica reaches the end", async || {
                let query = HistoryQuery::after(&self.room, events.len() as u64, 1_000);
                if let Ok(page) = direct.history(query).await {
                    events.extend(page.events);
                }
                events.len() as u64 >= end
            })
            .await;
            self.history.final_read(&member.name, self.room_id, 0, events.iter().map(seen_event));
        }
        let options = Options { acked_min: 20, required: Property::ALL.to_vec(), ..Options::default() };
        let report = self.history.check(&options).unwrap();
        assert!(report.passed(), "{report}");
    }
}

struct Writer {
    client: Client,
    history: History,
    room: String,
    room_id: u64,
    acked: Arc<AtomicU64>,
    head: Arc<AtomicU64>,
    pace: Duration,
}

impl Writer {
    async fn run(self, stop: CancellationToken) {
        let session = self.client.session().id;
        let mut under_way: VecDeque<Ticket> = VecDeque::new();
        let mut no = 0;
        while !stop.is_cancelled() {
            no += 1;
            let text = format!("{session}-{no}");
            self.history.invoke(session, self.room_id, no, &text);
            let ticket = self.client.submit(&self.room, Content::Text(text)).await.unwrap();
            assert_eq!(ticket.request_no(), no, "request numbers are dense");
            under_way.push_back(ticket);
            let in_flight = if self.pace.is_zero() { IN_FLIGHT } else { 1 };
            if under_way.len() >= in_flight {
                let ticket = under_way.pop_front().expect("not empty");
                self.settle(session, ticket).await;
            }
            tokio::time::sleep(self.pace).await;
        }
        for ticket in under_way {
            self.settle(session, ticket).await;
        }
    }

    async fn settle(&self, session: u64, ticket: Ticket) {
        let no = ticket.request_no();
        match within("a send is decided", ticket.wait()).await {
            Ok(ack) => {
                self.history.ok(session, self.room_id, no, ack.seq);
                self.acked.fetch_add(1, Ordering::Relaxed);
                self.head.fetch_max(ack.seq, Ordering::Relaxed);
            }
            Err(SendError::Refused { code, message, .. }) => panic!("refused: {code}: {message}"),
            Err(error) => panic!("a send failed for good: {error}"),
        }
    }
}

fn seen_event(event: &conclave_client::api::Event) -> Event<'_> {
    let (what, body) = match event.kind.as_ref().expect("events have a kind") {
        Kind::Created(_) => (What::Created, ""),
        Kind::Message(message) => (What::Message, message.text.as_str()),
        Kind::TopicChanged(changed) => (What::Topic, changed.topic.as_str()),
        Kind::Joined(_) => (What::Joined, ""),
        Kind::Left(_) => (What::Left, ""),
        // Not produced by this load; the checker would report it.
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
