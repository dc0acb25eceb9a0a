//! Local and linearizable reads, and subscriptions that continue on another node.

use conclave_client::{Client, Follow, HistoryQuery, Incoming, Start};

use crate::harness::{Cluster, DEADLINE, eventually, within};

impl Cluster {
    /// A client that knows only this node.
    pub(crate) async fn client_of(&self, index: usize) -> Client {
        let address = &self.members()[index].client;
        let builder = Client::builder().servers([address]).user("local").patience(DEADLINE);
        builder.connect().await.expect("a session opens")
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
    let reader = cluster.client("bo").await;
    let mut events = reader.subscribe(vec![Follow::room("general").from(Start::After(0))]);
    let mut last = 0;
    let mut nodes = Vec::new();
    for round in 0..4 {
        for n in 0..20 {
            writer.send("general", format!("{round}/{n}")).await.unwrap();
        }
        let target = 1 + (round + 1) * 20;
        while last < target {
            match within("events come", events.next()).await.unwrap() {
                Incoming::Event(event) => {
                    assert_eq!(event.seq, last + 1, "no gap and no repeat");
                    last = event.seq;
                }
                Incoming::Connected { node } => nodes.push(node),
                _ => {}
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
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_leaving_and_topics_are_events() {
    let cluster = Cluster::start().await;
    let client = cluster.client("ana").await;
    client.create_room("ops").await.unwrap();
    client.join("ops").await.unwrap();
    assert_eq!(client.join("ops").await.unwrap().seq, 0, "joining twice changes nothing");
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
    while kinds.len() < 4 {
        if let Incoming::Event(event) = within("events come", events.next()).await.unwrap() {
            kinds.push(event.kind.unwrap());
        }
    }
    use conclave_client::api::event::Kind;
    assert!(
        matches!(&kinds[..], [Kind::Created(_), Kind::Joined(_), Kind::TopicChanged(_), Kind::Left(_)]),
        "{kinds:?}"
    );
}
