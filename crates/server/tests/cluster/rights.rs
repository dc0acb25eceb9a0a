//! Rights in rooms, over the network: who sees what, on which node, before and after memberships end.

use conclave_client::Content;
use conclave_client::api::{
    self, AddMember, MemberRole, MembersRequest, Past, RemoveMember, RoomAction, RoomKind, RoomSubscription,
    SetPolicy, Target, event, room_action::Kind, room_subscription::Start, send_message_request,
    stream_frame::Frame,
};
use conclave_core::{Command, UserId};
use conclave_proto::frame::EncodedFrame;
use tonic::{Code, Status, Streaming};

use crate::harness::{Cluster, eventually, within};
use crate::lost_ack::Raw;
use crate::peers::decided;

/// A session that counts its own request numbers in one room.
pub(crate) struct Person {
    pub(crate) raw: Raw,
    name: &'static str,
    room: String,
    no: u64,
}

impl Person {
    pub(crate) async fn at(cluster: &Cluster, index: usize, name: &'static str, room: &str) -> Self {
        Self { raw: Raw::connect(cluster, index, name).await, name, room: room.to_owned(), no: 0 }
    }

    pub(crate) fn room(&self) -> Option<api::RoomRef> {
        Some(api::RoomRef { name: self.room.clone(), id: 0 })
    }

    pub(crate) async fn create(&mut self, kind: RoomKind) {
        let request = api::CreateRoomRequest { name: self.room.clone(), kind: kind.into() };
        let request = self.raw.request(request);
        assert!(self.raw.client.create_room(request).await.unwrap().into_inner().created);
    }

    async fn act(&mut self, content: send_message_request::Content) -> Result<u64, Status> {
        self.no += 1;
        let request = api::SendMessageRequest {
            room: self.room(),
            request_no: self.no,
            settled_no: self.no - 1,
            join_first: false,
            content: Some(content),
        };
        let request = self.raw.request(request);
        self.raw.client.send_message(request).await.map(|answer| answer.into_inner().seq)
    }

    pub(crate) async fn say(&mut self, text: &str) -> Result<u64, Status> {
        self.act(send_message_request::Content::Text(text.to_owned())).await
    }

    pub(crate) async fn change(&mut self, kind: Kind) -> Result<u64, Status> {
        self.act(send_message_request::Content::Action(RoomAction { kind: Some(kind) })).await
    }

    pub(crate) async fn add(&mut self, who: &str) -> Result<u64, Status> {
        let who = Some(Target { name: who.to_owned(), user_id: 0 });
        self.change(Kind::AddMember(AddMember { who, role: MemberRole::Member.into() })).await
    }

    pub(crate) async fn remove(&mut self, who: &str) -> Result<u64, Status> {
        let who = Some(Target { name: who.to_owned(), user_id: 0 });
        self.change(Kind::RemoveMember(RemoveMember { who, ban: false, reason: String::new() })).await
    }

    /// The texts that the person reads in the room.
    async fn history(&mut self) -> Result<Vec<String>, Status> {
        let request = api::HistoryRequest { room: self.room(), ..api::HistoryRequest::default() };
        let request = self.raw.request(request);
        let page = self.raw.client.history(request).await?.into_inner();
        let last = page.events.last().map(|event| event.seq);
        assert_eq!(last, Some(page.last_seq), "{} sees the end of what {} may see", self.name, self.name);
        Ok(texts(&page.events))
    }

    /// The rooms that the person finds.
    async fn rooms(&mut self) -> Vec<String> {
        let request = self.raw.request(api::ListRoomsRequest::default());
        let page = self.raw.client.list_rooms(request).await.unwrap().into_inner();
        page.rooms.into_iter().map(|room| room.name).collect()
    }

    pub(crate) async fn follow(&mut self, after: u64) -> Result<Streaming<EncodedFrame>, Status> {
        let rooms =
            vec![RoomSubscription { room: self.room(), join: false, start: Some(Start::AfterSeq(after)) }];
        self.follow_by(api::JoinChatRequest { rooms, ..api::JoinChatRequest::default() }).await
    }

    async fn follow_by(&mut self, request: api::JoinChatRequest) -> Result<Streaming<EncodedFrame>, Status> {
        let request = self.raw.request(request);
        self.raw.client.join_chat(request).await.map(tonic::Response::into_inner)
    }
}

fn texts(events: &[api::Event]) -> Vec<String> {
    let text = |event: &api::Event| match &event.kind {
        Some(event::Kind::Message(message)) => Some(message.text.clone()),
        _ => None,
    };
    events.iter().filter_map(text).collect()
}

pub(crate) fn code(status: &Status) -> &str {
    status.metadata().get("conclave-code").map_or("", |code| code.to_str().unwrap())
}

/// Reads a stream to its end. Returns the events, the code with which the room was closed, and a token from before.
async fn to_the_end(mut stream: Streaming<EncodedFrame>) -> (Vec<api::Event>, Option<String>, Status) {
    let (mut events, mut closed) = (Vec::new(), None);
    loop {
        match within("a frame", stream.message()).await {
            Ok(Some(frame)) => match frame.into_frame().unwrap().frame {
                Some(Frame::Events(batch)) => {
                    assert_eq!(closed, None, "events behind the end of the room");
                    events.extend(batch.events);
                }
                Some(Frame::RoomClosed(room)) => closed = Some(room.code),
                _ => {}
            },
            Ok(None) => panic!("the stream ended without a reason"),
            Err(status) => return (events, closed, status),
        }
    }
}

/// The cluster takes actions of level 2 once all nodes have registered.
pub(crate) async fn with_rights() -> Cluster {
    let cluster = Cluster::start().await;
    for index in 0..3 {
        eventually("the node knows feature level 2", async || {
            cluster.status(index).await.is_some_and(|status| status.feature_level >= 2)
        })
        .await;
    }
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_room_is_for_its_members_at_every_node() {
    let cluster = with_rights().await;
    let mut ana = Person::at(&cluster, 0, "ana", "plans").await;
    ana.create(RoomKind::Private).await;
    ana.say("between us").await.unwrap();
    for index in 0..3 {
        let mut bob = Person::at(&cluster, index, "bob", "plans").await;
        eventually("the node has the room", async || {
            bob.history().await.is_err_and(|s| code(&s) != "room_unknown")
        })
        .await;
        let refused = bob.history().await.unwrap_err();
        assert_eq!((refused.code(), code(&refused)), (Code::PermissionDenied, "not_a_member"));
        assert_eq!(code(&bob.follow(0).await.unwrap_err()), "not_a_member");
        assert_eq!(code(&bob.say("hello?").await.unwrap_err()), "not_a_member");
        assert_eq!(
            code(&bob.act(send_message_request::Content::Join(api::Join {})).await.unwrap_err()),
            "not_a_member"
        );
        let members = MembersRequest { room: bob.room(), ..MembersRequest::default() };
        let members = bob.raw.request(members);
        assert_eq!(code(&bob.raw.client.members(members).await.unwrap_err()), "not_a_member");
        assert!(!bob.rooms().await.contains(&"plans".to_owned()), "the room is in a list of node {index}");
    }
    assert!(ana.rooms().await.contains(&"plans".to_owned()));
    ana.add("bob").await.unwrap();
    for index in 0..3 {
        let mut bob = Person::at(&cluster, index, "bob", "plans").await;
        eventually("the node knows that bob is a member", async || bob.history().await.is_ok()).await;
        assert_eq!(bob.history().await.unwrap(), ["between us"]);
        assert!(bob.rooms().await.contains(&"plans".to_owned()));
    }
    assert_eq!(code(&ana.add("nobody-of-this-name").await.unwrap_err()), "user_unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_sees_the_removal_and_nothing_behind_it() {
    let cluster = with_rights().await;
    let mut ana = Person::at(&cluster, 0, "ana", "plans").await;
    ana.create(RoomKind::Private).await;
    drop(Person::at(&cluster, 0, "bob", "plans").await);
    ana.add("bob").await.unwrap();
    let before = ana.say("before").await.unwrap();
    let mut streams = Vec::new();
    for index in 0..3 {
        let mut bob = Person::at(&cluster, index, "bob", "plans").await;
        eventually("the node has the message", async || {
            bob.history().await.is_ok_and(|texts| texts.contains(&"before".to_owned()))
        })
        .await;
        streams.push((bob.follow(0).await.unwrap(), bob));
    }
    let removal = ana.remove("bob").await.unwrap();
    for number in 0..20 {
        ana.say(&format!("secret {number}")).await.unwrap();
    }
    for (stream, mut bob) in streams {
        let (events, closed, status) = to_the_end(stream).await;
        assert_eq!(events.last().map(|event| event.seq), Some(removal), "the removal is the last event");
        assert_eq!(texts(&events), ["before"]);
        assert_eq!((closed.as_deref(), code(&status)), (Some("not_a_member"), "not_a_member"));
        // Who was a member may read what there was then, and nothing of what is said now.
        assert_eq!(bob.history().await.unwrap(), ["before"]);
        assert_eq!(code(&bob.say("still here").await.unwrap_err()), "not_a_member");
        // A client that was away reads up to the removal, too.
        let (events, closed, _) = to_the_end(bob.follow(before).await.unwrap()).await;
        assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), [removal]);
        assert_eq!(closed.as_deref(), Some("not_a_member"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_token_shows_nothing_to_another_session() {
    let cluster = with_rights().await;
    let mut ana = Person::at(&cluster, 0, "ana", "plans").await;
    ana.create(RoomKind::Private).await;
    ana.say("between us").await.unwrap();
    let mut stream = ana.follow(0).await.unwrap();
    let token = loop {
        let frame = within("a frame", stream.message()).await.unwrap().unwrap().into_frame().unwrap();
        if let Some(Frame::CaughtUp(caught_up)) = frame.frame {
            break caught_up.resume_token;
        }
    };
    ana.say("and this").await.unwrap();
    let mut thief = Person::at(&cluster, 0, "mallory", "plans").await;
    let request = api::JoinChatRequest { resume_token: token, ..api::JoinChatRequest::default() };
    let (events, closed, status) = to_the_end(thief.follow_by(request).await.unwrap()).await;
    assert_eq!(events, []);
    assert_eq!((closed.as_deref(), code(&status)), (Some("not_a_member"), "not_a_member"));
}

#[tokio::test(flavor = "multi_thread")]
async fn newcomers_see_what_the_room_shows_them() {
    let cluster = with_rights().await;
    let mut ana = Person::at(&cluster, 0, "ana", "plans").await;
    ana.create(RoomKind::Private).await;
    for name in ["bob", "carol"] {
        drop(Person::at(&cluster, 0, name, "plans").await);
    }
    ana.say("old").await.unwrap();
    ana.add("bob").await.unwrap();
    let policy = SetPolicy { past: Past::SinceJoin.into(), ..SetPolicy::default() };
    ana.change(Kind::SetPolicy(policy)).await.unwrap();
    let joined = ana.add("carol").await.unwrap();
    ana.say("new").await.unwrap();
    let mut bob = Person::at(&cluster, 0, "bob", "plans").await;
    assert_eq!(bob.history().await.unwrap(), ["old", "new"]);
    let mut carol = Person::at(&cluster, 0, "carol", "plans").await;
    assert_eq!(carol.history().await.unwrap(), ["new"]);
    let mut stream = carol.follow(0).await.unwrap();
    let mut seqs = Vec::new();
    while seqs.len() < 2 {
        match within("a frame", stream.message()).await.unwrap().unwrap().into_frame().unwrap().frame {
            Some(Frame::Truncated(skipped)) => assert_eq!(skipped.first_seq, joined),
            Some(Frame::Events(batch)) => seqs.extend(batch.events.into_iter().map(|event| event.seq)),
            _ => {}
        }
    }
    assert_eq!(seqs, [joined, joined + 1]);
    // Removed and added again, carol sees both times and not what was between them.
    ana.remove("carol").await.unwrap();
    ana.say("between").await.unwrap();
    ana.add("carol").await.unwrap();
    ana.say("again").await.unwrap();
    let mut seen = Vec::new();
    let mut before = 0;
    loop {
        let place = if before == 0 { None } else { Some(api::history_request::Where::BeforeSeq(before)) };
        let request =
            api::HistoryRequest { room: carol.room(), r#where: place, ..api::HistoryRequest::default() };
        let request = carol.raw.request(request);
        let page = carol.raw.client.history(request).await.unwrap().into_inner();
        let Some(first) = page.events.first() else { break };
        before = first.seq;
        seen.splice(0..0, texts(&page.events));
    }
    assert_eq!(seen, ["new", "again"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_have_one_direct_conversation_whoever_begins_it_and_where() {
    let cluster = with_rights().await;
    let mut ana = Person::at(&cluster, 0, "ana", "").await;
    let mut bob = Person::at(&cluster, 1, "bob", "").await;
    let mut carol = Person::at(&cluster, 2, "carol", "").await;
    let open = |person: &Person, users: &[&str]| {
        let users = users.iter().map(|user| (*user).to_owned()).collect();
        person.raw.request(api::OpenDirectRequest { users })
    };
    let (by_ana, by_bob) = (open(&ana, &["bob"]), open(&bob, &["ana"]));
    let (one, two) = tokio::join!(ana.raw.client.open_direct(by_ana), bob.raw.client.open_direct(by_bob));
    let (one, two) = (one.unwrap().into_inner(), two.unwrap().into_inner());
    assert_eq!((one.room_id, &one.name), (two.room_id, &two.name));
    assert_eq!(u32::from(one.created) + u32::from(two.created), 1, "one of them made it");
    let people: Vec<_> = one.people.iter().map(|person| person.name.as_str()).collect();
    assert_eq!(
        {
            let mut people = people;
            people.sort_unstable();
            people
        },
        ["ana", "bob"]
    );
    for person in [&mut ana, &mut bob, &mut carol] {
        person.room.clone_from(&one.name);
    }
    ana.say("psst").await.unwrap();
    eventually("bob reads it", async || bob.history().await.is_ok_and(|texts| texts == ["psst"])).await;
    assert_eq!(code(&carol.history().await.unwrap_err()), "room_unknown");
    assert_eq!(code(&carol.say("me, too").await.unwrap_err()), "room_unknown");
    assert_eq!(code(&ana.add("carol").await.unwrap_err()), "not_allowed");
    assert!(ana.rooms().await.contains(&one.name) && !carol.rooms().await.contains(&one.name));
    let notes = open(&ana, &[]);
    let notes = ana.raw.client.open_direct(notes).await.unwrap().into_inner();
    assert_eq!(notes.people.len(), 1);
    assert_ne!(notes.room_id, one.room_id);
    let unknown = open(&ana, &["nobody-of-this-name"]);
    assert_eq!(code(&ana.raw.client.open_direct(unknown).await.unwrap_err()), "user_unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_writes_in_an_open_room_becomes_a_member_unless_banned() {
    let cluster = with_rights().await;
    let mut ana = Person::at(&cluster, 0, "ana", "town").await;
    ana.create(RoomKind::Open).await;
    let bob = cluster.client("bob").await;
    bob.send("town", "hello").await.unwrap();
    let mut raw = Person::at(&cluster, 0, "carol", "town").await;
    assert_eq!(code(&raw.say("without asking to join").await.unwrap_err()), "not_a_member");
    let who = Some(Target { name: "bob".to_owned(), user_id: 0 });
    ana.change(Kind::RemoveMember(RemoveMember { who, ban: true, reason: String::new() })).await.unwrap();
    let refused = cluster.client("bob").await.send("town", "again").await.unwrap_err();
    assert_eq!(refused.code(), Some("banned"));
    ana.add("bob").await.unwrap();
    cluster.client("bob").await.send("town", "sorry").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_learns_neither_names_nor_lengths_of_private_rooms() {
    let cluster = with_rights().await;
    let mut ana = Person::at(&cluster, 0, "ana", "plans").await;
    ana.create(RoomKind::Private).await;
    let last = ana.say("between us").await.unwrap();
    drop(Person::at(&cluster, 0, "bob", "").await);
    let direct = ana.raw.request(api::OpenDirectRequest { users: vec!["bob".to_owned()] });
    let direct = ana.raw.client.open_direct(direct).await.unwrap().into_inner();

    let mut eve = Person::at(&cluster, 0, "eve", "plans").await;
    // A page that looks at hidden rooms alone goes on behind them without a name.
    let mut question = api::ListRoomsRequest { limit: 1, ..api::ListRoomsRequest::default() };
    loop {
        let request = eve.raw.request(question.clone());
        let page = eve.raw.client.list_rooms(request).await.unwrap().into_inner();
        let said = format!("{page:?}");
        assert!(!said.contains("plans") && !said.contains(":d:"), "{said}");
        if !page.more {
            break;
        }
        question.after_room_id = page.next_after_room_id;
    }
    for after in [last + 1, 1 << 62] {
        let refused = eve.follow(after).await.unwrap_err();
        assert_eq!((code(&refused), refused.message().contains(&last.to_string())), ("not_a_member", false));
    }
    // Nobody else learns from the name of a conversation whether there is one.
    for name in [direct.name.as_str(), ":d:1:999"] {
        name.clone_into(&mut eve.room);
        assert_eq!(code(&eve.history().await.unwrap_err()), "room_unknown");
        assert_eq!(code(&eve.say("hello?").await.unwrap_err()), "room_unknown");
    }
}

/// A room's creator may have died between the room directory and the room's shard.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_message_to_a_room_that_only_the_directory_has_is_acked() {
    let cluster = with_rights().await;
    let bob = cluster.client("bob").await;
    bob.send("general", "to have a session").await.unwrap();
    let kind = Some(conclave_core::access::RoomKind::Open);
    for (name, at_once) in [("one", 1), ("many", 8)] {
        let create = Command::CreateRoom { name: name.to_owned(), creator: UserId(1), kind };
        decided(&cluster, 0, &create).await.unwrap();
        let mut waiting = Vec::new();
        for number in 0..at_once {
            waiting.push(bob.submit(name, Content::Text(number.to_string())).await.unwrap());
        }
        for ticket in waiting {
            within("an ack", ticket.wait()).await.unwrap();
        }
    }
}
