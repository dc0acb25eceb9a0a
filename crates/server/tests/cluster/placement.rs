//! Placement of clients: a full node refuses further clients, a draining node moves all of its clients, and clients
//! spread again after a node returns; no client misses an event or gets one twice.

use std::time::Duration;

use conclave_client::api::{self, JoinChatRequest, RoomRef, RoomSubscription, stream_frame::Frame};
use conclave_client::{Client, Follow, Incoming, Start};
use conclave_proto::admin::admin_service_client::AdminServiceClient;
use conclave_proto::admin::{DrainRequest, RebalanceRequest, RecordsRequest};
use conclave_proto::cluster::NodeRecords;
use conclave_proto::frame::EncodedFrame;
use conclave_proto::mac::NONCE_BYTES;
use conclave_proto::status;
use prost::Message as _;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::harness::{Cluster, eventually, within};
use crate::load::Load;
use crate::lost_ack::Raw;

const MAX: u32 = 5;

async fn follow(raw: &mut Raw) -> Result<Streaming<EncodedFrame>, Status> {
    let room = Some(RoomRef { name: "general".to_owned(), id: 0 });
    let rooms = vec![RoomSubscription { room, join: false, start: None }];
    let request = raw.request(JoinChatRequest { rooms, ..Default::default() });
    Ok(raw.client.join_chat(request).await?.into_inner())
}

async fn frame(stream: &mut Streaming<EncodedFrame>) -> Frame {
    within("a frame comes", stream.message()).await.unwrap().unwrap().into_frame().unwrap().frame.unwrap()
}

async fn admin(cluster: &Cluster, index: usize) -> AdminServiceClient<Channel> {
    AdminServiceClient::connect(format!("http://{}", cluster.members()[index].client)).await.unwrap()
}

/// Waits until a node knows that every node is ready: before that it sends no clients there.
async fn knows_all(cluster: &Cluster, index: usize) {
    let request = RecordsRequest { nonce: vec![0; NONCE_BYTES] };
    let mut told = admin(cluster, index).await.records(request).await.unwrap().into_inner();
    let mut all = async || loop {
        let said = told.message().await.unwrap().unwrap();
        let records = NodeRecords::decode(said.records.as_slice()).unwrap().records;
        if records.iter().filter(|record| record.ready).count() == cluster.members().len() {
            break;
        }
    };
    within("it has heard from all", all()).await;
}

/// The number of clients of each running node.
async fn clients(cluster: &Cluster, ask: usize) -> Vec<u32> {
    let nodes = cluster.statuses(ask).await;
    nodes.iter().filter(|node| node.reachable).map(|node| node.clients).collect()
}

fn is_even(clients: &[u32], nodes: usize, all: usize) -> bool {
    let mean = all as f64 / nodes as f64;
    clients.len() == nodes && clients.iter().all(|count| (f64::from(*count) - mean).abs() <= mean * 0.2)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_node_sends_further_clients_elsewhere() {
    let cluster = Cluster::start_with(|config| config.max_clients = MAX).await;
    let mut here = Vec::new();
    for index in 0..MAX {
        let mut raw = Raw::connect(&cluster, 0, &format!("user{index}")).await;
        let stream = follow(&mut raw).await.unwrap();
        here.push((raw, stream));
    }
    let mut late = Raw::connect(&cluster, 0, "late").await;
    let others = || [1, 2].map(|index: usize| cluster.members()[index].client.clone());
    knows_all(&cluster, 0).await;
    let mut refused = Status::ok("");
    eventually("one too many is sent to the two others", async || {
        refused = follow(&mut late).await.unwrap_err();
        status::from_status(&refused).try_addresses.len() == 2
    })
    .await;
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let mut failure = status::from_status(&refused);
    failure.try_addresses.sort();
    let mut expected = others().to_vec();
    expected.sort();
    assert_eq!((failure.code.as_str(), failure.certainty()), ("node_full", api::Certainty::NotSent));
    assert_eq!(failure.try_addresses, expected);
    // A session that subscribes already may open another stream, and its calls continue.
    let again = follow(&mut here[0].0).await.unwrap();
    drop(again);
    let ack = late.send("general", 1, "from outside").await.unwrap();
    for (_, stream) in &mut here {
        let mut last = 0;
        while last < ack.seq {
            if let Frame::Events(batch) = frame(stream).await {
                last = batch.events.last().map_or(last, |event| event.seq);
            }
        }
        assert_eq!(last, ack.seq);
    }
    // Send streams have a separate bound.
    let open =
        api::OpenSessionRequest { user: "ana".to_owned(), client: "raw".to_owned(), reads_only: false };
    let second = late.client.open_session(open).await.unwrap().into_inner();
    let mut second = Raw { client: late.client.clone(), token: second.token, session: second.session_id };
    let mut sending = Vec::new();
    for _ in 0..MAX {
        for sender in [&mut late, &mut second] {
            let request = sender.request(tokio_stream::pending::<api::SendBatch>());
            sending.push(sender.client.send_messages(request).await.unwrap());
        }
    }
    let request = late.request(tokio_stream::pending::<api::SendBatch>());
    let refused = late.client.send_messages(request).await.unwrap_err();
    assert_eq!(status::from_status(&refused).code, "node_full");
    let full = async || {
        let status = cluster.status(0).await?;
        let node = status.nodes.iter().find(|node| node.node_id == 1)?.clone();
        Some((node.clients, node.clients_max, node.load_permille, node.record?.full))
    };
    eventually("it says that it is full", async || full().await == Some((MAX, MAX, 1_000, true))).await;
    // A client that knows only the full node finds another one.
    let address = &cluster.members()[0].client;
    let client = Client::builder().servers([address]).user("lost").connect().await.unwrap();
    let mut events = client.subscribe(vec![Follow::room("general").from(Start::After(0))]);
    let node = loop {
        if let Incoming::Connected { node } = within("it is let in", events.next()).await.unwrap() {
            break node;
        }
    };
    assert!(others().contains(&node), "{node}");
    // A client that leaves makes room.
    here.pop();
    eventually("there is room again", async || follow(&mut late).await.is_ok()).await;
    assert_eq!(cluster.metric(0, "conclave_sessions_max").await, f64::from(MAX));
    assert!(cluster.metric(0, "conclave_streams_refused_total").await >= 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_node_moves_all_its_clients() {
    let cluster = Cluster::start().await;
    let load = Load::start(&cluster, "deploys", 2, 12).await;
    load.progress(50).await;
    let mut stayer = Raw::connect(&cluster, 0, "stayer").await;
    let mut told = follow(&mut stayer).await.unwrap();
    let unknown = admin(&cluster, 1)
        .await
        .drain(DrainRequest { node: "node9".to_owned(), force: false })
        .await
        .unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(unknown.message().contains("node1, node2, node3"), "{unknown}");
    let drain = async || {
        let mut asked = admin(&cluster, 1).await;
        asked.drain(DrainRequest { node: "node1".to_owned(), force: false }).await.unwrap().into_inner()
    };
    knows_all(&cluster, 0).await;
    let mut asked = admin(&cluster, 1).await;
    let drained =
        tokio::spawn(
            async move { asked.drain(DrainRequest { node: "node1".to_owned(), force: false }).await },
        );
    let go_away = loop {
        if let Frame::GoAway(go_away) = frame(&mut told).await {
            break go_away;
        }
    };
    assert!(go_away.stay_away && go_away.addresses.len() == 2, "{go_away:?}");
    let refused = follow(&mut stayer).await.unwrap_err();
    assert_eq!(status::from_status(&refused).code, "node_draining");
    drop(told);
    within("it is drained", drained).await.unwrap().unwrap();
    // Draining again does no harm, and finishes work that a busy machine did not do in time.
    eventually("it has nothing left", async || {
        let drained = drain().await;
        (drained.still_leads, drained.clients) == (0, 0)
    })
    .await;
    load.progress(50).await;
    eventually("it says so", async || clients(&cluster, 0).await.first() == Some(&0)).await;
    let ready = cluster.http(0, "/readyz").await.unwrap();
    assert!(ready.contains("503") && ready.contains("[-] not_draining"), "{ready}");
    load.judge(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_rebalances_the_clients() {
    let cluster = Cluster::start().await;
    let mut here = Vec::new();
    // So few clients that the automatic spread moves none.
    for index in 0..8 {
        let mut raw = Raw::connect(&cluster, 0, &format!("user{index}")).await;
        let stream = follow(&mut raw).await.unwrap();
        here.push((raw, stream));
    }
    // Each of them must know all nodes, because any of them may lead the meta shard and plan the moves.
    for index in 0..3 {
        knows_all(&cluster, index).await;
    }
    let mut asked = admin(&cluster, 1).await;
    let mut moves = Vec::new();
    eventually("the leader has moves", async || {
        moves = asked
            .rebalance(RebalanceRequest {})
            .await
            .map_or_else(|_| Vec::new(), |done| done.into_inner().moves);
        moves.first().is_some_and(|planned| planned.sessions == 5)
    })
    .await;
    assert_eq!((moves.len(), moves[0].from.as_str()), (1, "node1"));
    assert_eq!(moves[0].to, ["node2", "node3"]);
    // Five of eight clients are asked to move, each to one of the two targets.
    let mut targets = Vec::new();
    eventually("five are asked", async || {
        // A new leader of the meta shard does not know the request; clients that are moving already are not asked
        // again.
        let _ = asked.rebalance(RebalanceRequest {}).await;
        for (_, stream) in &mut here {
            let next = tokio::time::timeout(Duration::from_millis(20), stream.message()).await;
            let Ok(Ok(Some(came))) = next else { continue };
            if let Some(Frame::GoAway(go_away)) = came.into_frame().unwrap().frame {
                assert!(!go_away.stay_away);
                targets.extend(go_away.addresses);
            }
        }
        targets.len() >= 5
    })
    .await;
    assert_eq!(targets.len(), 5);
    for member in &cluster.members()[1..] {
        let part = targets.iter().filter(|target| **target == member.client).count();
        assert!((2..=3).contains(&part), "{targets:?}");
    }
}

/// A node dies and returns under `count` clients. Returns the times until all are served, and until they are spread
/// again.
async fn node_dies_and_returns(count: usize) -> (Duration, Duration) {
    let mut cluster = Cluster::start().await;
    let load = Load::start_paced(&cluster, "deploys", 2, count, Duration::from_millis(200)).await;
    load.all_served().await;
    eventually("all are spread at first", async || is_even(&clients(&cluster, 0).await, 3, count)).await;

    cluster.kill(2);
    let served = load.all_served().await;
    eventually("two have them all", async || is_even(&clients(&cluster, 0).await, 2, count)).await;

    cluster.start_node(2).await;
    let back = Instant::now();
    eventually("three have them all", async || is_even(&clients(&cluster, 0).await, 3, count)).await;
    let spread = back.elapsed();
    load.all_served().await;
    load.judge(&cluster).await;
    (served, spread)
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_spread_again_after_a_node_returns() {
    let (served, spread) = node_dies_and_returns(300).await;
    println!("300 clients: served again after {served:?}, spread again after {spread:?}");
}

/// The full size, with time limits: needs an otherwise idle machine.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a quiet machine"]
async fn a_thousand_clients_are_served_and_spread_again_in_time() {
    let (served, spread) = node_dies_and_returns(1_000).await;
    println!("1,000 clients: served again after {served:?}, spread again after {spread:?}");
    assert!(served < Duration::from_secs(2), "served again after {served:?}");
    assert!(spread < Duration::from_secs(30), "spread again after {spread:?}");
}
