//! Sends: applied once and in order, whatever happens to their connections.

use std::time::Duration;

use conclave_client::{CallError, Client, Content, Route, SendError};
use conclave_core::RequestNo;
use conclave_proto::chat::{
    GetServerStatusResponse, LeaderHint, RoomRef, SendMessageRequest, send_message_request,
};

use crate::fake::Cluster;
use crate::{DEADLINE, pinned, soon};

fn texts(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| format!("message {n}")).collect()
}

async fn send_all(client: &Client, texts: &[String]) {
    let mut tickets = Vec::new();
    for text in texts {
        tickets.push(client.submit("general", Content::Text(text.clone())).await.unwrap());
    }
    for ticket in tickets {
        soon("ack", ticket.wait()).await.unwrap();
    }
}

#[tokio::test]
async fn many_sends_are_acknowledged_in_order() {
    let cluster = Cluster::start(3).await;
    let client = pinned(&cluster).await;
    send_all(&client, &texts(0..1_000)).await;
    assert_eq!(cluster.data().texts("general"), texts(0..1_000));
    assert_eq!(client.pending_count(), 0);
    client.close().await;
}

#[tokio::test]
async fn lost_answers_do_not_double_messages() {
    let cluster = Cluster::start(3).await;
    let client = pinned(&cluster).await;
    for (at, node) in cluster.nodes.iter().enumerate() {
        node.set(|f| f.lose_answers_after = Some(u32::try_from(at).unwrap() * 7 + 3));
    }
    send_all(&client, &texts(0..600)).await;
    assert_eq!(cluster.data().texts("general"), texts(0..600));
}

#[tokio::test]
async fn not_sent_dropped_and_lost_copies_keep_their_order() {
    let cluster = Cluster::start(3).await;
    let client = pinned(&cluster).await;
    let mut sent = 0;
    for round in 0..20_u32 {
        for (at, node) in (0_u32..).zip(&cluster.nodes) {
            node.set(|faults| {
                faults.not_sent = (round + at) % 4;
                faults.swallowed = (round * at) % 3;
                faults.lose_answers_after = (round % 3 == at).then_some(round % 5);
            });
        }
        send_all(&client, &texts(sent..sent + 30)).await;
        sent += 30;
    }
    assert_eq!(cluster.data().texts("general"), texts(0..sent));
}

#[tokio::test]
async fn a_silent_node_is_raced() {
    let cluster = Cluster::start(2).await;
    let client = pinned(&cluster).await;
    send_all(&client, &texts(0..10)).await;
    cluster.nodes[0].set(|f| f.hang = true);
    send_all(&client, &texts(10..20)).await;
    assert_eq!(cluster.data().texts("general"), texts(0..20));
}

#[tokio::test]
async fn a_dead_node_is_replaced_at_once() {
    let cluster = Cluster::start(3).await;
    let client = pinned(&cluster).await;
    for dead in 0..6 {
        send_all(&client, &texts(dead * 10..dead * 10 + 10)).await;
        let count = cluster.nodes.len();
        cluster.nodes[usize::try_from(dead).unwrap() % count].set(|f| f.dead = true);
        cluster.nodes[usize::try_from(dead + 1).unwrap() % count].set(|f| f.dead = false);
        cluster.nodes[usize::try_from(dead + 2).unwrap() % count].set(|f| f.dead = false);
    }
    assert_eq!(cluster.data().texts("general"), texts(0..60));
}

#[tokio::test]
async fn a_refusal_is_final_and_does_not_block_later_requests() {
    let cluster = Cluster::start(1).await;
    let client = pinned(&cluster).await;
    let mut tickets = Vec::new();
    for text in texts(0..3) {
        tickets.push(client.submit("nowhere", Content::Text(text)).await.unwrap());
    }
    for ticket in tickets {
        let error = soon("refusal", ticket.wait()).await.unwrap_err();
        assert_eq!(error.code(), Some("room_unknown"), "{error}");
    }
    // The numbers were not used up.
    client.create_room("nowhere").await.unwrap();
    assert_eq!(soon("ack", client.send("nowhere", "now")).await.unwrap().request_no, 1);
    let long = "x".repeat(16 * 1024 + 1);
    assert_eq!(client.send("general", long).await.unwrap_err().code(), Some("text_too_long"));
    assert_eq!(client.send("Bad Name", "x").await.unwrap_err().code(), Some("room_name_invalid"));
}

#[tokio::test]
async fn a_session_that_another_client_uses_is_replaced() {
    let cluster = Cluster::start(2).await;
    let client = pinned(&cluster).await;
    send_all(&client, &texts(0..5)).await;
    // Another client uses a copy of the session: numbers 6 and 7 have other texts.
    let session = client.session().id;
    for number in 6..=7 {
        let request = SendMessageRequest {
            room: Some(RoomRef { name: "general".into(), id: 0 }),
            request_no: number,
            settled_no: 0,
            join_first: false,
            content: Some(send_message_request::Content::Text(format!("copy {number}"))),
        };
        cluster.data().decide(session, "ana", &request);
    }
    send_all(&client, &texts(5..30)).await;
    let mut expected = texts(0..5);
    expected.extend(["copy 6".into(), "copy 7".into()]);
    let all = cluster.data().texts("general");
    assert_eq!(all[..7], expected);
    let mut rest = all[7..].to_vec();
    rest.sort();
    let mut wanted = texts(5..30);
    wanted.sort();
    assert_eq!(rest, wanted, "every message once");
    assert_ne!(client.session().id, session);
}

#[tokio::test]
async fn a_cluster_that_lost_request_numbers_gets_a_new_session() {
    let cluster = Cluster::start(2).await;
    let client = pinned(&cluster).await;
    send_all(&client, &texts(0..5)).await;
    let session = client.session().id;
    cluster.data().rooms.get_mut("general").unwrap().sessions.get_mut(&session).unwrap().last = RequestNo(2);
    send_all(&client, &texts(5..10)).await;
    assert_eq!(cluster.data().texts("general"), texts(0..10));
    assert_ne!(client.session().id, session);
}

#[tokio::test]
async fn without_servers_a_send_is_queued_not_failed() {
    let cluster = Cluster::start(2).await;
    let client = pinned(&cluster).await;
    cluster.nodes.iter().for_each(|node| node.set(|f| f.dead = true));
    let mut ticket = client.submit("general", Content::Text("late".into())).await.unwrap();
    let waited = ticket.wait_for(Duration::from_millis(50)).await;
    assert!(matches!(waited, Err(SendError::Queued(_))), "{waited:?}");
    assert_eq!(client.pending()[0].content, Content::Text("late".into()));
    assert_eq!(client.flush(Duration::from_millis(1)).await, 1);
    cluster.nodes.iter().for_each(|node| node.set(|f| f.dead = false));
    soon("ack", ticket.wait()).await.unwrap();
    assert_eq!(client.flush(DEADLINE).await, 0);
}

#[tokio::test]
async fn an_unknown_session_is_reported() {
    let cluster = Cluster::start(3).await;
    let client = pinned(&cluster).await;
    cluster.nodes.iter().for_each(|node| node.set(|f| f.no_session = true));
    let error = soon("auth", client.send("general", "x")).await.unwrap_err();
    assert!(matches!(error, SendError::Auth(_)), "{error:?}");
    assert_eq!(client.pending_count(), 1, "it stays in the outbox");
    let query = conclave_client::HistoryQuery::newest("general", 1);
    assert!(matches!(soon("auth", client.history(query)).await, Err(CallError::Auth(_))));
    cluster.nodes.iter().for_each(|node| node.set(|f| f.no_session = false));
    assert_eq!(client.flush(DEADLINE).await, 0);
    assert_eq!(cluster.data().texts("general"), ["x"]);
}

#[tokio::test]
async fn sends_go_to_the_leader_once_it_is_known() {
    let cluster = Cluster::start(3).await;
    cluster.data().status = GetServerStatusResponse { shards: 1, ..GetServerStatusResponse::default() };
    let builder = Client::builder().servers(cluster.addresses()).user("ana").route(Route::Leader);
    let client = soon("connect", builder.connect()).await.unwrap();
    let leader = cluster.nodes[2].address.clone();
    for node in &cluster.nodes[..2] {
        node.set(|faults| {
            faults.not_sent = u32::MAX;
            faults.hint = Some(LeaderHint { shard: 1, term: 3, node_id: 3, address: leader.clone() });
        });
    }
    // The first ack has the room's id, and the status the number of shards: both are needed to find the leader.
    cluster.nodes[2].set(|f| f.not_sent = 0);
    send_all(&client, &texts(0..50)).await;
    send_all(&client, &texts(50..100)).await;
    assert_eq!(cluster.data().texts("general"), texts(0..100));
    let before = *cluster.nodes[2].requests.lock().unwrap();
    send_all(&client, &texts(100..150)).await;
    assert_eq!(*cluster.nodes[2].requests.lock().unwrap() - before, 50);
}

#[tokio::test]
async fn closing_ends_all_waiting_calls() {
    let cluster = Cluster::start(1).await;
    let client = pinned(&cluster).await;
    cluster.nodes[0].set(|f| f.hang = true);
    let ticket = client.submit("general", Content::Text("x".into())).await.unwrap();
    let clone = client.clone();
    soon("close", client.close()).await;
    assert!(matches!(soon("closed", ticket.wait()).await, Err(SendError::Closed)));
    assert!(matches!(clone.send("general", "y").await, Err(SendError::Closed)));
    assert!(matches!(clone.create_room("x").await, Err(CallError::Closed)));
}

#[tokio::test]
async fn connecting_without_any_server_is_an_error() {
    let builder = Client::builder().servers(["127.0.0.1:1"]).user("ana").patience(Duration::from_millis(300));
    let error = soon("error", builder.connect()).await.unwrap_err();
    assert!(error.to_string().contains("no server is reachable"), "{error}");
}
