//! The choice of a client's node: full nodes, slow nodes, and moves without a gap.

use conclave_client::limits::CLIENT_OPEN_TIMEOUT;
use conclave_client::{Client, Follow, Incoming, Start, Subscription};

use crate::fake::{Cluster, go_away};
use crate::{one_of_several, pinned, soon};

fn follow(rooms: &[&str]) -> Vec<Follow> {
    rooms.iter().map(|room| Follow::room(*room).from(Start::After(0))).collect()
}

/// Reads until the room `room_id` has reached `seq`; every event must be the next one of its room.
async fn read_to(subscription: &mut Subscription, seen: &mut [u64], room_id: usize, seq: u64) {
    while seen[room_id] < seq {
        match soon("an event", subscription.next()).await.unwrap() {
            Incoming::Event(event) => {
                let room = usize::try_from(event.room_id).unwrap();
                assert_eq!(event.seq, seen[room] + 1, "room {room}");
                seen[room] = event.seq;
            }
            Incoming::Disconnected { why } => panic!("it was cut off: {why}"),
            _ => {}
        }
    }
}

async fn wait_for_streams(cluster: &Cluster, at: &str, count: usize) {
    let mut streams = cluster.node(at).streams.subscribe();
    soon("streams", streams.wait_for(|open| *open == count)).await.unwrap();
}

#[tokio::test]
async fn a_full_node_redirects_to_a_better_one() {
    let cluster = Cluster::start(3).await;
    let client = pinned(&cluster).await;
    let better = cluster.nodes[2].address.clone();
    cluster.nodes[0].set(|f| f.full = Some(vec![better.clone()]));
    let mut subscription = client.subscribe(follow(&["general"]));
    let Ok(Incoming::Connected { node }) = soon("open", subscription.next()).await else { panic!() };
    assert_eq!(node, better);
    cluster.post("general", "1");
    read_to(&mut subscription, &mut [0, 0], 1, 1).await;
    // A full node can still be called.
    assert!(soon("ping", client.ping(&cluster.nodes[0].address)).await.is_ok());
    assert_eq!(client.addresses()[0], better, "the client stays at the better node");
    let mut second = client.subscribe(follow(&["general"]));
    assert!(matches!(soon("open", second.next()).await, Ok(Incoming::Connected { node }) if node == better));
}

#[tokio::test]
async fn when_all_nodes_are_full_the_client_reports_it_and_waits() {
    let cluster = Cluster::start(3).await;
    let client = pinned(&cluster).await;
    for node in &cluster.nodes {
        node.set(|f| f.full = Some(cluster.addresses()));
    }
    let mut subscription = client.subscribe(follow(&["general"]));
    let Ok(Incoming::Disconnected { why }) = soon("refused", subscription.next()).await else { panic!() };
    assert_eq!(why, "the node is full");
    cluster.nodes[1].set(|f| f.full = None);
    let Ok(Incoming::Connected { node }) = soon("open", subscription.next()).await else { panic!() };
    assert_eq!(node, cluster.nodes[1].address);
}

#[tokio::test]
async fn a_full_node_redirects_a_new_session() {
    let cluster = Cluster::start(2).await;
    cluster.nodes[0].set(|f| f.full = Some(vec![cluster.nodes[1].address.clone()]));
    let client = pinned(&cluster).await;
    soon("ack", client.send("general", "x")).await.unwrap();
    assert_eq!(cluster.data().texts("general"), ["x"]);
}

#[tokio::test]
async fn moves_neither_lose_nor_repeat_nor_delay_events() {
    let cluster = Cluster::start(3).await;
    cluster.data().make_room("other");
    let client = pinned(&cluster).await;
    let mut subscription = client.subscribe(follow(&["general", "other"]));
    let mut seen = [0; 3];
    let mut sent = 0;
    for round in 0..30_usize {
        for _ in 0..5 {
            cluster.post("general", "x");
            cluster.post("other", "y");
            sent += 1;
        }
        read_to(&mut subscription, &mut seen, 1, sent - 2).await;
        let from = subscription.node().unwrap().to_owned();
        let to = cluster.nodes[(round + 1) % 3].address.clone();
        if from != to {
            // In the last rounds the nodes are leaving.
            cluster.node(&from).set(|f| f.go_away = go_away(&to, round >= 28));
        }
        while subscription.node() != Some(to.as_str()) {
            cluster.post("general", "x");
            cluster.post("other", "y");
            sent += 1;
            read_to(&mut subscription, &mut seen, 1, sent).await;
        }
        assert_eq!(client.addresses()[0], to);
        wait_for_streams(&cluster, &to, 1).await;
        if from != to {
            wait_for_streams(&cluster, &from, 0).await;
        }
    }
    read_to(&mut subscription, &mut seen, 1, sent).await;
    read_to(&mut subscription, &mut seen, 2, sent).await;
}

#[tokio::test]
async fn the_old_stream_is_read_until_the_new_one_has_caught_up() {
    let cluster = Cluster::start(2).await;
    let client = pinned(&cluster).await;
    let mut subscription = client.subscribe(follow(&["general"]));
    cluster.post("general", "1");
    let mut seen = [0; 2];
    read_to(&mut subscription, &mut seen, 1, 1).await;
    let (old, new) = (&cluster.nodes[0], &cluster.nodes[1]);
    assert_eq!(subscription.node(), Some(old.address.as_str()));
    new.set(|f| f.mute = true);
    old.set(|f| f.go_away = go_away(&new.address, false));
    let mut streams = new.streams.subscribe();
    for seq in 2..20 {
        cluster.post("general", "x");
        read_to(&mut subscription, &mut seen, 1, seq).await;
    }
    // The new stream is open and silent; events still come from the old one.
    let opened = async {
        tokio::select! {
            opened = streams.wait_for(|open| *open == 1) => drop(opened.unwrap()),
            next = subscription.next() => panic!("{next:?}"),
        }
    };
    soon("opened", opened).await;
    assert_eq!(subscription.node(), Some(old.address.as_str()));
    cluster.post("general", "x");
    read_to(&mut subscription, &mut seen, 1, 20).await;
    new.set(|f| f.mute = false);
    while subscription.node() != Some(new.address.as_str()) {
        let next = soon("moved", subscription.next()).await.unwrap();
        assert!(!matches!(next, Incoming::Event(_) | Incoming::Disconnected { .. }), "a repeat: {next:?}");
    }
    cluster.post("general", "x");
    read_to(&mut subscription, &mut seen, 1, 21).await;
    wait_for_streams(&cluster, &old.address, 0).await;
}

#[tokio::test]
async fn a_move_without_a_usable_target_is_given_up() {
    let cluster = Cluster::start(3).await;
    let client = pinned(&cluster).await;
    let mut subscription = client.subscribe(follow(&["general"]));
    let mut seen = [0; 2];
    cluster.post("general", "1");
    read_to(&mut subscription, &mut seen, 1, 1).await;
    cluster.nodes[1].set(|f| f.dead = true);
    cluster.nodes[0].set(|f| f.go_away = go_away(&cluster.nodes[1].address, false));
    for seq in 2..30 {
        cluster.post("general", "x");
        read_to(&mut subscription, &mut seen, 1, seq).await;
    }
    assert_eq!(subscription.node(), Some(cluster.nodes[0].address.as_str()));
    // A full target names another one.
    cluster.nodes[1].set(|f| {
        f.dead = false;
        f.full = Some(vec![cluster.nodes[2].address.clone()]);
    });
    soon("it works again", client.ping(&cluster.nodes[1].address)).await.unwrap();
    cluster.nodes[0].set(|f| f.go_away = go_away(&cluster.nodes[1].address, false));
    let mut seq = 29;
    while subscription.node() != Some(cluster.nodes[2].address.as_str()) {
        cluster.post("general", "x");
        seq += 1;
        read_to(&mut subscription, &mut seen, 1, seq).await;
        if subscription.node() == Some(cluster.nodes[0].address.as_str()) {
            // The target may still be avoided because of the failure before.
            cluster.nodes[0].set(|f| f.go_away = go_away(&cluster.nodes[1].address, false));
        }
    }
}

#[tokio::test]
async fn a_node_that_dies_during_a_move_causes_no_gap() {
    let cluster = Cluster::start(2).await;
    let client = pinned(&cluster).await;
    let mut subscription = client.subscribe(follow(&["general"]));
    cluster.post("general", "1");
    let mut seen = [0; 2];
    read_to(&mut subscription, &mut seen, 1, 1).await;
    let (old, new) = (&cluster.nodes[0], &cluster.nodes[1]);
    new.set(|f| f.mute = true);
    old.set(|f| f.go_away = go_away(&new.address, true));
    cluster.post("general", "2");
    read_to(&mut subscription, &mut seen, 1, 2).await;
    old.set(|f| f.dead = true);
    (3..10).for_each(|n| cluster.post("general", &n.to_string()));
    new.set(|f| f.mute = false);
    while seen[1] < 9 {
        if let Incoming::Event(event) = soon("an event", subscription.next()).await.unwrap() {
            assert_eq!(event.seq, seen[1] + 1);
            seen[1] = event.seq;
        }
    }
    assert_eq!(subscription.node(), Some(new.address.as_str()));
}

#[tokio::test]
async fn a_call_to_a_slow_node_is_also_made_at_another_one_which_replaces_it() {
    one_of_several("events before the time of the slow node is over", async || {
        let cluster = Cluster::start(2).await;
        let client = pinned(&cluster).await;
        cluster.post("general", "1");
        cluster.nodes[0].set(|f| f.hang = true);
        let mut subscription = client.subscribe(follow(&["general"]));
        let mut seen = [0; 2];
        // Without a race the second node is only asked after this time.
        let raced = read_to(&mut subscription, &mut seen, 1, 1);
        tokio::time::timeout(CLIENT_OPEN_TIMEOUT, raced).await.ok()?;
        assert_eq!(subscription.node(), Some(cluster.nodes[1].address.as_str()));
        cluster.nodes[0].set(|f| f.hang = false);
        cluster.post("general", "2");
        read_to(&mut subscription, &mut seen, 1, 2).await;
        wait_for_streams(&cluster, &cluster.nodes[0].address, 0).await;
        wait_for_streams(&cluster, &cluster.nodes[1].address, 1).await;
        Some(())
    })
    .await;
}

#[tokio::test]
async fn a_session_is_opened_although_the_first_node_is_silent() {
    let client = one_of_several("a session before the time of the silent node is over", async || {
        let cluster = Cluster::start(2).await;
        cluster.nodes[0].set(|f| f.hang = true);
        tokio::time::timeout(CLIENT_OPEN_TIMEOUT, pinned(&cluster)).await.ok()
    })
    .await;
    assert_eq!(client.session().user, "ana");
}

#[tokio::test]
async fn clients_start_at_different_nodes() {
    let cluster = Cluster::start(3).await;
    let mut counts = [0_u32; 3];
    for _ in 0..600 {
        let client = Client::builder().servers(cluster.addresses()).observe().await.unwrap();
        let first = &client.addresses()[0];
        counts[cluster.nodes.iter().position(|node| node.address == *first).unwrap()] += 1;
    }
    assert!(counts.iter().all(|count| (140..=260).contains(count)), "{counts:?}");
}
