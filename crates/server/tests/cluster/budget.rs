//! What one client may take of a node: strangers' bodies are not read, and bytes and streams are bounded.

use conclave_client::api::chat_service_client::ChatServiceClient;
use conclave_client::api::room_subscription::Start;
use conclave_client::api::{
    CreateRoomRequest, HistoryRequest, JoinChatRequest, OpenSessionRequest, RoomRef, RoomSubscription,
    SendBatch, stream_frame::Frame,
};
use conclave_proto::status;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use crate::harness::{Cluster, eventually, within};
use crate::lost_ack::{Raw, message};

const TEXT: usize = 16 * 1024;
const KIB: usize = 1024;

fn from_the_beginning() -> JoinChatRequest {
    let room = Some(RoomRef { name: "general".to_owned(), id: 0 });
    let start = Some(Start::AfterSeq(0));
    JoinChatRequest { rooms: vec![RoomSubscription { room, join: false, start }], ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_of_a_call_is_read_only_for_a_session_and_only_up_to_a_size() {
    let cluster = Cluster::start().await;
    let mut raw = Raw::connect(&cluster, 0, "ana").await;
    // A million empty rooms: two megabytes, which decoded take a hundred.
    let huge = JoinChatRequest { rooms: vec![RoomSubscription::default(); 1_000_000], ..Default::default() };
    let stranger = raw.client.join_chat(Request::new(huge.clone())).await.map(drop).unwrap_err();
    assert_eq!(stranger.code(), Code::Unauthenticated, "{stranger}");
    let refused = raw.client.join_chat(raw.request(huge)).await.map(drop).unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    // Whoever has a session may send large frames, and no others.
    let frame = SendBatch { sends: (1..=40).map(|no| message("general", no, &"x".repeat(TEXT))).collect() };
    let request = raw.request(tokio_stream::iter([frame]));
    let mut results = raw.client.send_messages(request).await.unwrap().into_inner();
    let first = within("results come", results.message()).await.unwrap().unwrap();
    assert!(!first.results.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_strangers_bad_or_large_name_is_replicated() {
    let cluster = Cluster::start().await;
    let mut raw = Raw::connect(&cluster, 0, "ana").await;
    let last = async || cluster.statuses(0).await[0].shards[0].last_log_index;
    let before = last().await;
    let open = |user: String| OpenSessionRequest { user, client: "test".to_owned(), reads_only: false };
    const TIMES: u64 = 50;
    for _ in 0..TIMES {
        let bad = raw.client.open_session(open("NO ".repeat(1_000))).await.unwrap_err();
        assert_eq!(status::from_status(&bad).code, "user_name_invalid");
        let large = raw.client.open_session(open("x".repeat(180 * KIB))).await.unwrap_err();
        assert_eq!(large.code(), Code::OutOfRange, "{large}");
        let request = raw.request(CreateRoomRequest { name: "NO ".repeat(1_000), kind: 0 });
        let bad = raw.client.create_room(request).await.unwrap_err();
        assert_eq!(status::from_status(&bad).code, "room_name_invalid");
    }
    // Nodes write their own records, and leaders may change.
    let after = last().await;
    assert!(after < before + TIMES, "the log grew from {before} to {after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_session_does_not_take_the_streams_of_all_others() {
    let cluster = Cluster::start_with(|config| config.max_clients = 100).await;
    let mut raw = Raw::connect(&cluster, 0, "ana").await;
    let mut streams = Vec::new();
    let refused = loop {
        let request = raw.request(from_the_beginning());
        match raw.client.join_chat(request).await {
            Ok(stream) => streams.push(stream),
            Err(refused) => break refused,
        }
    };
    assert_eq!((streams.len(), status::from_status(&refused).code.as_str()), (8, "too_many_streams"));
    let mut other = Raw::connect(&cluster, 0, "bob").await;
    let request = other.request(from_the_beginning());
    other.client.join_chat(request).await.unwrap();
    // A place is free again when a stream has ended.
    streams.pop();
    eventually("the session may open a stream again", async || {
        let request = raw.request(from_the_beginning());
        raw.client.join_chat(request).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_pages_of_a_subscription_are_small_and_later_ones_large() {
    let cluster = Cluster::start().await;
    let client = cluster.client("ana").await;
    for _ in 0..80 {
        client.send("general", "x".repeat(TEXT)).await.unwrap();
    }
    let mut raw = Raw::connect(&cluster, 0, "bob").await;
    let request = raw.request(from_the_beginning());
    let mut frames = raw.client.join_chat(request).await.unwrap().into_inner();
    let (mut pages, mut last) = (Vec::new(), 0);
    while last < 81 {
        let frame = within("a frame comes", frames.message()).await.unwrap().unwrap();
        if let Some(Frame::Events(events)) = frame.into_frame().unwrap().frame {
            pages.push(events.events.iter().map(|event| event.encoded_len()).sum::<usize>());
            last = events.events.last().unwrap().seq;
        }
    }
    assert!(pages[..8].iter().all(|page| *page <= 2 * TEXT), "{pages:?}");
    assert!(pages.iter().any(|page| *page > 200 * KIB), "{pages:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_has_read_everything_takes_nothing_of_the_budget() {
    let cluster = Cluster::start().await;
    let client = cluster.client("ana").await;
    for _ in 0..40 {
        client.send("general", "x".repeat(TEXT)).await.unwrap();
    }
    let mut raw = Raw::connect(&cluster, 0, "bob").await;
    let request = raw.request(from_the_beginning());
    let mut frames = raw.client.join_chat(request).await.unwrap().into_inner();
    let mut last = 0;
    while last < 41 {
        let frame = within("a frame comes", frames.message()).await.unwrap().unwrap();
        if let Some(Frame::Events(events)) = frame.into_frame().unwrap().frame {
            last = events.events.last().unwrap().seq;
        }
    }
    let pages = async || cluster.metric(0, "conclave_pages_held_bytes").await;
    eventually("no page is held any more", async || pages().await == 0.0).await;
    drop(frames);
}

/// The chat service over a connection whose streams take no bytes of answers.
async fn takes_no_answers(cluster: &Cluster) -> ChatServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.members()[0].client)).unwrap();
    ChatServiceClient::new(endpoint.initial_stream_window_size(0).connect().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_no_results_keeps_no_decided_request_in_the_budget() {
    let cluster = Cluster::start().await;
    let raw = Raw::connect(&cluster, 0, "ana").await;
    let mut client = takes_no_answers(&cluster).await;
    let (frames, queue) = mpsc::channel(1);
    let results = client.send_messages(raw.request(ReceiverStream::new(queue)));
    let sending = async {
        for frame in 0..6 {
            let numbers = frame * 8 + 1..=(frame + 1) * 8;
            let mut sends: Vec<_> = numbers.map(|no| message("general", no, &"x".repeat(TEXT))).collect();
            // To know that there is no such room takes a question to another node.
            sends.insert(4, message("nowhere", frame + 1, "lost"));
            frames.send(SendBatch { sends }).await.unwrap();
        }
    };
    // The headers of the answer come without any window for its body.
    let (results, ()) = tokio::join!(results, sending);
    let mut other = Raw::connect(&cluster, 0, "bob").await;
    eventually("all are decided", async || {
        let room = Some(RoomRef { name: "general".to_owned(), id: 0 });
        let request = other.request(HistoryRequest { room, limit: 1, ..HistoryRequest::default() });
        other.client.history(request).await.is_ok_and(|answer| answer.into_inner().last_seq >= 49)
    })
    .await;
    eventually("nothing is held any more", async || held(&cluster).await == 0.0).await;
    drop((results, frames));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_has_few_answers_that_it_does_not_take() {
    let cluster = Cluster::start().await;
    let raw = Raw::connect(&cluster, 0, "ana").await;
    let client = takes_no_answers(&cluster).await;
    let room = Some(RoomRef { name: "general".to_owned(), id: 0 });
    let ask = |mut client: ChatServiceClient<Channel>| {
        let request = raw.request(HistoryRequest { room: room.clone(), ..HistoryRequest::default() });
        tokio::spawn(async move { client.history(request).await })
    };
    let unread: Vec<_> = (0..8).map(|_| ask(client.clone())).collect();
    let answers = async || cluster.metric(0, "conclave_answers_held_bytes").await;
    eventually("eight answers wait", async || answers().await >= 8.0 * (KIB * KIB) as f64).await;
    let mut other = Raw::connect(&cluster, 0, "bob").await;
    let request = other.request(HistoryRequest { room: room.clone(), ..HistoryRequest::default() });
    other.client.history(request).await.unwrap();
    let mut again = raw.moved(&cluster, 0).await;
    let request = again.request(HistoryRequest { room: room.clone(), ..HistoryRequest::default() });
    let refused = again.client.history(request).await.unwrap_err();
    assert_eq!(status::from_status(&refused).code, "too_many_calls");
    unread.iter().for_each(tokio::task::JoinHandle::abort);
    eventually("the session may ask again", async || {
        let request = again.request(HistoryRequest { room: room.clone(), ..HistoryRequest::default() });
        again.client.history(request).await.is_ok()
    })
    .await;
}

async fn held(cluster: &Cluster) -> f64 {
    cluster.metric(0, "conclave_sends_held_bytes").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_sends_that_are_not_decided_is_not_read_on() {
    let mut cluster = Cluster::start().await;
    let mut raw = Raw::connect(&cluster, 0, "ana").await;
    cluster.stop(1).await;
    cluster.stop(2).await;
    let (frames, queue) = mpsc::channel(1);
    let request = raw.request(ReceiverStream::new(queue));
    let mut results = raw.client.send_messages(request).await.unwrap().into_inner();
    const FRAMES: u64 = 24;
    let sending = tokio::spawn(async move {
        for frame in 0..FRAMES {
            let numbers = frame * 32 + 1..=(frame + 1) * 32;
            let sends = numbers.map(|no| message("general", no, &"x".repeat(TEXT))).collect();
            frames.send(SendBatch { sends }).await.unwrap();
        }
    });
    let most = (4 * KIB * KIB) as f64;
    eventually("the stream holds as much as it may", async || held(&cluster).await >= most).await;
    for _ in 0..20 {
        let now = held(&cluster).await;
        assert!(now <= most + (KIB * KIB) as f64, "{now} bytes are held");
    }
    cluster.start_node(1).await;
    let mut answered = 0;
    while answered < FRAMES * 32 {
        let results = within("the requests are answered", results.message()).await.unwrap().unwrap();
        answered += results.results.len() as u64;
    }
    sending.await.unwrap();
    eventually("nothing is held any more", async || held(&cluster).await == 0.0).await;
}
