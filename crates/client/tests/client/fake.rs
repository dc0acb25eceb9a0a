//! A fake cluster with fault injection: several listeners over one state. It is a test double for faults only; tests
//! with real servers cover the behaviour of a real cluster.

mod service;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use conclave_core::session::{SessionRoom, Standing, StoredOutcome, StoredReply};
use conclave_core::{Action, Refusal, RequestNo, Seq};
use conclave_proto::action::from_content;
use conclave_proto::chat::chat_service_server::ChatServiceServer;
use conclave_proto::chat::*;
use conclave_proto::status;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Status};

use service::Service;

/// The injected faults of one node.
#[derive(Default)]
pub(crate) struct Faults {
    /// Breaks the send streams after this many further decisions, and leaves those unanswered.
    pub(crate) lose_answers_after: Option<u32>,
    /// Answers this many requests with "not sent".
    pub(crate) not_sent: u32,
    /// Drops this many requests and answers them with "unknown".
    pub(crate) swallowed: u32,
    /// Answers nothing, and keeps the connections open.
    pub(crate) hang: bool,
    /// Accepts no connection, and breaks the open ones.
    pub(crate) dead: bool,
    /// Leaves this event out of a stream, once.
    pub(crate) skip_event: Option<u64>,
    /// Sends this to a stream, once.
    pub(crate) go_away: Option<GoAway>,
    /// Refuses streams because the node is full, and names these nodes instead.
    pub(crate) full: Option<Vec<String>>,
    /// Opens streams and sends nothing on them.
    pub(crate) mute: bool,
    /// Opens no session, as without a majority.
    pub(crate) opens_no_session: bool,
    /// Does not accept the session.
    pub(crate) no_session: bool,
    /// Answers requests of the second feature level with `not_yet`.
    pub(crate) first_level: bool,
    /// The leader hint that is sent with "not sent".
    pub(crate) hint: Option<LeaderHint>,
}

pub(crate) struct Room {
    pub(crate) id: u64,
    pub(crate) events: Vec<Event>,
    pub(crate) sessions: HashMap<u64, SessionRoom>,
}

#[derive(Default)]
pub(crate) struct Data {
    pub(crate) rooms: BTreeMap<String, Room>,
    pub(crate) sessions: HashMap<String, (u64, String)>,
    pub(crate) status: GetServerStatusResponse,
    /// The nodes that are named to each client that opens a session.
    pub(crate) members: Vec<String>,
}

impl Data {
    pub(crate) fn make_room(&mut self, name: &str) {
        let id = self.rooms.len() as u64 + 1;
        self.rooms.entry(name.into()).or_insert(Room { id, events: Vec::new(), sessions: HashMap::new() });
    }

    pub(crate) fn texts(&self, room: &str) -> Vec<String> {
        let text = |event: &Event| match &event.kind {
            Some(event::Kind::Message(message)) => Some(message.text.clone()),
            _ => None,
        };
        self.rooms[room].events.iter().filter_map(text).collect()
    }

    fn room(&mut self, reference: Option<&RoomRef>) -> Option<(String, &mut Room)> {
        let reference = reference?;
        let found = |(name, room): &(&String, &mut Room)| {
            if reference.id == 0 { **name == reference.name } else { room.id == reference.id }
        };
        self.rooms.iter_mut().find(found).map(|(name, room)| (name.clone(), room))
    }

    /// Decides a request as the state machine does.
    pub(crate) fn decide(
        &mut self,
        session: u64,
        user: &str,
        request: &SendMessageRequest,
    ) -> send_result::Outcome {
        let refused =
            |refusal| send_result::Outcome::Failure(Failure::from(&status::Failure::Refused(refusal)));
        let Some((_, room)) = self.room(request.room.as_ref()) else { return refused(Refusal::RoomUnknown) };
        let action = from_content(request.content.clone().unwrap()).unwrap();
        let number = RequestNo(request.request_no);
        let digest = action.digest();
        let known = room.sessions.entry(session).or_default();
        let ack = |seq: u64, duplicate, answer_forgotten| {
            send_result::Outcome::Ack(SendMessageResponse {
                room_id: room.id,
                request_no: number.0,
                seq,
                time_ms: 1,
                duplicate,
                answer_forgotten,
            })
        };
        match known.standing(number, digest) {
            Standing::Next => {}
            Standing::Repeat(StoredReply { verdict: StoredOutcome::Event(seq), .. }) => {
                return ack(seq.0, true, false);
            }
            Standing::Repeat(_) | Standing::Forgotten => return ack(0, true, true),
            Standing::Reused => return refused(Refusal::RequestReused),
            Standing::Early(next) => return refused(Refusal::RequestOutOfOrder { expected: next.0 }),
        }
        let seq = room.events.len() as u64 + 1;
        let verdict = StoredOutcome::Event(Seq(seq));
        known.record(
            StoredReply { request: number, digest, verdict, time_ms: 1 },
            RequestNo(request.settled_no),
        );
        let kind = match action {
            Action::Post(text) => event::Kind::Message(Message { text, ..Message::default() }),
            Action::Pin { target, off } => event::Kind::Pinned(Pinned { target_seq: target.0, off }),
            Action::SetTopic(topic) => event::Kind::TopicChanged(TopicChanged { topic }),
            Action::Join => event::Kind::Joined(Joined {}),
            Action::Leave => event::Kind::Left(Left {}),
            Action::Answer(_)
            | Action::Edit { .. }
            | Action::Delete { .. }
            | Action::React { .. }
            | Action::Read { .. }
            | Action::AddMember { .. }
            | Action::RemoveMember { .. }
            | Action::SetRole { .. }
            | Action::Mute { .. }
            | Action::SetPolicy(_)
            | Action::Void { .. } => return refused(Refusal::WrongShard),
        };
        room.events.push(Event {
            room_id: room.id,
            seq,
            time_ms: 1,
            author: user.into(),
            session_id: session,
            request_no: number.0,
            kind: Some(kind),
            ..Event::default()
        });
        ack(seq, false, false)
    }
}

/// The fake cluster.
#[derive(Clone)]
pub(crate) struct Cluster {
    data: Arc<Mutex<Data>>,
    changed: Arc<watch::Sender<u64>>,
    pub(crate) nodes: Vec<Arc<Node>>,
}

pub(crate) struct Node {
    pub(crate) address: String,
    faults: Mutex<Faults>,
    data: Arc<Mutex<Data>>,
    changed: Arc<watch::Sender<u64>>,
    /// The number of requests that reached it.
    pub(crate) requests: Mutex<u64>,
    /// The number of streams that are open now.
    pub(crate) streams: watch::Sender<usize>,
}

impl Node {
    pub(crate) fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.faults.lock().unwrap());
        self.changed.send_modify(|n| *n += 1);
    }

    fn session<T>(&self, request: &Request<T>) -> Result<(u64, String), Status> {
        let refused = || Status::from(status::Failure::Unauthenticated("not known here".into()));
        if self.faults.lock().unwrap().no_session {
            return Err(refused());
        }
        let value = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let token = value.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        self.data.lock().unwrap().sessions.get(token).cloned().ok_or_else(refused)
    }

    async fn check(&self) -> Result<(), Status> {
        if self.faults.lock().unwrap().dead {
            return Err(Status::unavailable("dead"));
        }
        if self.faults.lock().unwrap().hang {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    /// Handles one request at this node; `None` breaks the stream.
    fn answer(&self, session: u64, user: &str, request: &SendMessageRequest) -> Option<send_result::Outcome> {
        *self.requests.lock().unwrap() += 1;
        let mut faults = self.faults.lock().unwrap();
        let failure = |failure: status::Failure| send_result::Outcome::Failure(Failure::from(&failure));
        if faults.not_sent > 0 {
            faults.not_sent -= 1;
            let not_sent = status::Failure::not_sent("no_leader", "wait", Duration::from_millis(1));
            return Some(failure(not_sent.with_leader(faults.hint.clone())));
        }
        let is_newer = matches!(request.content, Some(send_message_request::Content::Action(_)));
        if faults.first_level && is_newer {
            return Some(failure(status::Failure::not_sent(status::NOT_YET, "wait", Duration::ZERO)));
        }
        if faults.swallowed > 0 {
            faults.swallowed -= 1;
            return Some(failure(status::Failure::unknown("timeout", "maybe")));
        }
        let outcome = self.data.lock().unwrap().decide(session, user, request);
        self.changed.send_modify(|n| *n += 1);
        match &mut faults.lose_answers_after {
            Some(0) => {
                faults.lose_answers_after = None;
                None
            }
            Some(left) => {
                *left -= 1;
                Some(outcome)
            }
            None => Some(outcome),
        }
    }
}

/// A request to move to these addresses.
pub(crate) fn go_away(to: &str, stay_away: bool) -> Option<GoAway> {
    Some(GoAway { in_ms: 1_000, addresses: vec![to.into()], reason: "test".into(), stay_away })
}

impl Cluster {
    /// Names all nodes to each client that opens a session.
    pub(crate) fn name_members(&self) {
        let members = self.nodes.iter().map(|node| node.address.clone()).collect();
        self.data.lock().unwrap().members = members;
    }

    pub(crate) fn node(&self, address: &str) -> &Node {
        self.nodes.iter().find(|node| node.address == address).unwrap()
    }

    pub(crate) async fn start(count: usize) -> Self {
        let data = Arc::new(Mutex::new(Data::default()));
        data.lock().unwrap().make_room("general");
        let changed = Arc::new(watch::Sender::new(0));
        let mut nodes = Vec::new();
        for _ in 0..count {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let node = Arc::new(Node {
                address: listener.local_addr().unwrap().to_string(),
                faults: Mutex::default(),
                data: Arc::clone(&data),
                changed: Arc::clone(&changed),
                requests: Mutex::default(),
                streams: watch::Sender::new(0),
            });
            let service = ChatServiceServer::from_arc(Arc::new(Service(Arc::clone(&node))));
            let incoming = TcpListenerStream::new(listener);
            tokio::spawn(
                tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming),
            );
            nodes.push(node);
        }
        Self { data, changed, nodes }
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address.clone()).collect()
    }

    pub(crate) fn data(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap()
    }

    /// Adds an event of another client.
    pub(crate) fn post(&self, room: &str, text: &str) {
        let mut data = self.data();
        let sent = data.rooms[room].sessions.get(&0).map_or(0, |known| known.last.0);
        let request = SendMessageRequest {
            room: Some(RoomRef { name: room.into(), id: 0 }),
            request_no: sent + 1,
            settled_no: sent,
            join_first: false,
            content: Some(send_message_request::Content::Text(text.into())),
        };
        data.decide(0, "bob", &request);
        drop(data);
        self.changed.send_modify(|n| *n += 1);
    }
}
