//! Local and linearizable reads, and subscriptions that continue on another node.

use conclave_client::{Client, Follow, HistoryQuery, Incoming, Start, api};
use conclave_proto::status;
use tonic::Code;

use crate::harness::{Cluster, DEADLINE, eventually, within};
use crate::lost_ack::Raw;
use crate::rights::with_rights;

impl Cluster {
    /// A client that knows only this node.
    pub(crate) async fn client_of(&self, index: usize) -> Client {
        let address = &self.members()[index].client;
        let builder = Client::builder().servers([address]).user("local").patience(DEADLINE);
        builder.connect().await.expect("a session opens")
    }

    /// A client that only reads, of all nodes.
    async fn reader(&self, user: &str) -> Client {
        let builder = Client::builder().servers(self.addresses()).user(user).patience(DEADLINE);
        builder.read().await.expect("the servers are given")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_linearizable_read_sees_every_ack() {
    let cluster = Cluster::start().await;
    let writer = cluster.client("ana").await;
    let readers = [cluster.client_of(0).await, cluster.client_of(1).await, cluster.client_of(2).await];
    for round in 0..60 {
        let ack = writer.send("general", format!("round {round}")).await.unwrap();
        let query = HistoryQuery { linearizable: true, ..HistoryQuery::newest("general", 1) };
        let page = readers[round % 3].history(query).await.unwrap();
        assert!(page.last_seq >= ack.seq, "an acked message was not seen");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_paged_both_ways() {
    let cluster = Cluster::start().await;
    let client = cluster.client("ana").await;
    client.create_room("pages").await.unwrap();
    for n in 2..=25 {
        assert_eq!(client.send("pages", format!("{n}")).await.unwrap().seq, n);
    }
    let seqs = async |query: HistoryQuery| -> Vec<u64> {
        let query = HistoryQuery { linearizable: true, ..query };
        client.history(query).await.unwrap().events.iter().map(|event| event.seq).collect()
    };
    assert_eq!(seqs(HistoryQuery::newest("pages", 3)).await, [23, 24, 25]);
    assert_eq!(seqs(HistoryQuery::after("pages", 0, 3)).await, [1, 2, 3]);
    assert_eq!(seqs(HistoryQuery::after("pages", 24, 3)).await, [25]);
    assert_eq!(seqs(HistoryQuery::after("pages", 25, 3)).await, [0; 0]);
    let before = |seq| HistoryQuery {
        window: conclave_client::Window::Before(seq),
        ..HistoryQuery::newest("pages", 3)
    };
    assert_eq!(seqs(before(10)).await, [7, 8, 9]);
    assert_eq!(seqs(before(2)).await, [1]);
    assert_eq!(seqs(before(1)).await, [0; 0]);
    assert_eq!(seqs(before(u64::MAX)).await, [23, 24, 25]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_continues_when_its_node_stops_or_dies() {
    let mut cluster = Cluster::start().await;
    let writer = cluster.client("ana").await;
    let all = || vec![Follow::room("general").from(Start::After(0))];
    let (reader, without_session) = (cluster.client("bo").await, cluster.reader("cy").await);
    let mut subscriptions = [(reader.subscribe(all()), 0), (without_session.subscribe(all()), 0)];
    let mut nodes = Vec::new();
    for round in 0..4 {
        for n in 0..20 {
            writer.send("general", format!("{round}/{n}")).await.unwrap();
        }
        let target = 1 + (round + 1) * 20;
        for (events, last) in &mut subscriptions {
            while *last < target {
                match within("events come", events.next()).await.unwrap() {
                    Incoming::Event(event) => {
                        assert_eq!(event.seq, *last + 1, "no gap and no repeat");
                        *last = event.seq;
                    }
                    Incoming::Connected { node } => nodes.push(node),
                    _ => {}
                }
            }
        }
        let here = nodes.last().expect("it was connected somewhere").clone();
        let index = cluster.addresses().iter().position(|address| *address == here).unwrap();
        if round % 2 == 0 {
            cluster.kill(index);
        } else {
            cluster.stop(index).await;
        }
        cluster.start_node(index).await;
        cluster.settled().await;
    }
    assert!(nodes.len() >= 3, "it moved: {nodes:?}");

    // None of the nodes knows the client without a session any more.
    (0..3).for_each(|index| cluster.kill(index));
    for index in 0..3 {
        cluster.start_node(index).await;
    }
    cluster.settled().await;
    let last = writer.send("general", "after all restarts").await.unwrap().seq;
    let query = || HistoryQuery { linearizable: true, ..HistoryQuery::newest("general", 1) };
    assert_eq!(without_session.history(query()).await.unwrap().last_seq, last);
    let [_, (events, _)] = &mut subscriptions;
    while !matches!(within("events come", events.next()).await.unwrap(), Incoming::Event(event) if event.seq == last)
    {
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_for_reading_is_of_one_start_of_one_node_and_writes_nothing() {
    let mut cluster = Cluster::start().await;
    let mut writer = Raw::connect(&cluster, 0, "ana").await;
    writer.send("general", 1, "hello").await.unwrap();
    let question =
        api::OpenSessionRequest { user: "ana".to_owned(), client: String::new(), reads_only: true };
    let opened = writer.client.open_session(question).await.unwrap().into_inner();
    assert_eq!(opened.user_id, 1, "the cluster knows the user");
    let mut reader = Raw { token: opened.token, ..writer.moved(&cluster, 0).await };
    let room = || Some(api::RoomRef { name: "general".to_owned(), id: 0 });
    let history = async |reader: &mut Raw| {
        let request = reader.request(api::HistoryRequest { room: room(), ..Default::default() });
        reader.client.history(request).await.map(|page| page.into_inner().last_seq)
    };
    eventually("this node has applied the message", async || history(&mut reader).await.unwrap() == 3).await;

    let join = api::RoomSubscription { room: room(), join: true, start: None };
    let join = reader.request(api::JoinChatRequest { rooms: vec![join], ..Default::default() });
    let create = reader.request(api::CreateRoomRequest { name: "other".to_owned(), kind: 0 });
    for refused in [
        reader.send("general", 2, "no").await.map(drop).unwrap_err(),
        reader.client.join_chat(join).await.map(drop).unwrap_err(),
        reader.client.create_room(create).await.map(drop).unwrap_err(),
    ] {
        let code = status::from_status(&refused).code;
        assert_eq!((refused.code(), code.as_str()), (Code::PermissionDenied, status::READS_ONLY));
    }

    let mut elsewhere = reader.moved(&cluster, 1).await;
    assert_eq!(history(&mut elsewhere).await.unwrap_err().code(), Code::Unauthenticated);
    cluster.stop(0).await;
    cluster.start_node(0).await;
    let mut later = reader.moved(&cluster, 0).await;
    assert_eq!(history(&mut later).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_leaving_and_topics_are_events() {
    let cluster = with_rights().await;
    let client = cluster.client("ana").await;
    client.create_room("ops").await.unwrap();
    assert_eq!(client.join("ops").await.unwrap().seq, 0, "who creates a room is a member of it");
    client.set_topic("ops", "what breaks").await.unwrap();
    eventually("the directory shows it", async || {
        let rooms = client.all_rooms().await.unwrap();
        rooms
            .iter()
            .any(|room| room.name == "ops" && room.members == 1 && room.joined && room.topic == "what breaks")
    })
    .await;
    client.leave("ops").await.unwrap();
    let mut events = client.subscribe(vec![Follow::room("ops").from(Start::After(0))]);
    let mut kinds = Vec::new();
    while kinds.len() < 3 {
        if let Incoming::Event(event) = within("events come", events.next()).await.unwrap() {
            kinds.push(event.kind.unwrap());
        }
    }
    use conclave_client::api::event::Kind;
    assert!(matches!(&kinds[..], [Kind::Created(_), Kind::TopicChanged(_), Kind::Left(_)]), "{kinds:?}");
}
