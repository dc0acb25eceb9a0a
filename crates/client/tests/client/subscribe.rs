//! Subscriptions: each event once and in order, on any node.

use conclave_client::{CallError, Follow, Incoming, Start, Subscription, api};

use crate::fake::{Cluster, go_away};
use crate::{pinned, soon};

async fn events(subscription: &mut Subscription, count: usize) -> Vec<u64> {
    let mut seqs = Vec::new();
    while seqs.len() < count {
        if let Incoming::Event(event) = soon("an event", subscription.next()).await.unwrap() {
            seqs.push(event.seq);
        }
    }
    seqs
}

fn follow(after: u64) -> Vec<Follow> {
    vec![Follow::room("general").from(Start::After(after))]
}

#[tokio::test]
async fn events_come_in_order_followed_by_caught_up() {
    let cluster = Cluster::start(1).await;
    let client = pinned(&cluster).await;
    (0..5).for_each(|n| cluster.post("general", &n.to_string()));
    let mut subscription = client.subscribe(vec![Follow::room("general").from(Start::Last(3))]);
    assert!(matches!(soon("open", subscription.next()).await, Ok(Incoming::Connected { .. })));
    assert_eq!(events(&mut subscription, 3).await, [3, 4, 5]);
    let Ok(Incoming::CaughtUp { rooms, .. }) = soon("caught up", subscription.next()).await else { panic!() };
    assert_eq!((rooms[0].name.as_str(), rooms[0].seq), ("general", 5));
    cluster.post("general", "later");
    let batch = soon("a batch", subscription.next_batch()).await.unwrap();
    assert_eq!(batch.events.iter().map(|event| event.seq).collect::<Vec<_>>(), [6]);
    assert_eq!(subscription.room_name(1).as_deref(), Some("general"));
}

#[tokio::test]
async fn a_subscription_continues_on_another_node_at_the_next_event() {
    let cluster = Cluster::start(3).await;
    let client = pinned(&cluster).await;
    let mut subscription = client.subscribe(follow(0));
    let mut seen = Vec::new();
    for round in 0..9_usize {
        for n in 0..5 {
            cluster.post("general", &n.to_string());
        }
        seen.extend(events(&mut subscription, 3).await);
        cluster.nodes[round % 3].set(|f| f.dead = true);
        cluster.nodes[(round + 1) % 3].set(|f| f.dead = false);
        cluster.nodes[(round + 2) % 3].set(|f| f.dead = false);
        seen.extend(events(&mut subscription, 2).await);
    }
    assert_eq!(seen, (1..=45).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_stream_with_a_gap_is_replaced() {
    let cluster = Cluster::start(2).await;
    let client = pinned(&cluster).await;
    let mut subscription = client.subscribe(follow(0));
    cluster.post("general", "1");
    assert_eq!(events(&mut subscription, 1).await, [1]);
    for node in &cluster.nodes {
        node.set(|f| f.skip_event = Some(3));
    }
    (2..8).for_each(|n| cluster.post("general", &n.to_string()));
    assert_eq!(events(&mut subscription, 6).await, [2, 3, 4, 5, 6, 7]);
}

#[tokio::test]
async fn a_leaving_node_is_replaced_without_a_gap() {
    let cluster = Cluster::start(2).await;
    let client = pinned(&cluster).await;
    let mut subscription = client.subscribe(follow(0));
    cluster.post("general", "1");
    assert_eq!(events(&mut subscription, 1).await, [1]);
    let from = subscription.node().unwrap().to_owned();
    let to = cluster.nodes.iter().find(|node| node.address != from).unwrap().address.clone();
    let node = cluster.nodes.iter().find(|node| node.address == from).unwrap();
    node.set(|f| f.go_away = go_away(&to, true));
    let moved = async {
        loop {
            match subscription.next().await.unwrap() {
                Incoming::Connected { node } => return node,
                Incoming::Disconnected { why } => panic!("it should have moved before: {why}"),
                _ => {}
            }
        }
    };
    assert_eq!(soon("moved", moved).await, to);
    cluster.post("general", "2");
    assert_eq!(events(&mut subscription, 1).await, [2]);
}

#[tokio::test]
async fn an_unknown_room_is_an_error_once_several_nodes_refuse_it() {
    let cluster = Cluster::start(3).await;
    let client = pinned(&cluster).await;
    let mut subscription = client.subscribe(vec![Follow::room("nowhere")]);
    let error = soon("refusal", subscription.next()).await.unwrap_err();
    assert_eq!(error.code(), Some("room_unknown"));
    client.close().await;
    assert!(matches!(subscription.next().await, Err(CallError::Closed)));
}

#[tokio::test]
async fn a_slow_reader_gets_everything() {
    let cluster = Cluster::start(1).await;
    let client = pinned(&cluster).await;
    let mut subscription = client.subscribe(follow(0));
    let big = "x".repeat(10_000);
    // Far more than the HTTP/2 windows hold.
    for _ in 0..200 {
        cluster.post("general", &big);
        tokio::task::yield_now().await;
    }
    let mut next = 1;
    while next <= 200 {
        let batch = soon("a batch", subscription.next_batch()).await.unwrap();
        for event in &batch.events {
            assert_eq!(event.seq, next);
            next += 1;
            assert!(matches!(event.kind, Some(api::event::Kind::Message(_))));
        }
    }
}
