//! Many subscribed clients over three nodes: each gets every message, in order and once.
//!
//! Clients share connections, so the test needs few files; each has a session and a stream of its own, as a client that only
//! reads has.

use std::time::Duration;

use conclave_client::api::chat_service_client::ChatServiceClient;
use conclave_client::api::{self, JoinChatRequest, RoomRef, RoomSubscription, event, stream_frame::Frame};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Request;
use tonic::transport::Channel;

use crate::harness::{Cluster, DEADLINE, eventually, within};
use crate::lost_ack::Raw;

const ROOM: &str = "general";
/// Clients that share a connection. A server takes more streams on one.
const CLIENTS_PER_CONNECTION: usize = 50;
const MESSAGES: u64 = 10;
/// Subscriptions that are opened at the same time.
const OPENING_MAX: usize = 64;

/// A client that reads a room from its beginning.
struct Subscriber {
    stream: tonic::Streaming<conclave_proto::frame::EncodedFrame>,
    /// The last event that it got.
    seq: u64,
}

impl Subscriber {
    async fn open(mut client: ChatServiceClient<Channel>, user: String) -> Self {
        let open = api::OpenSessionRequest { user, client: "raw".to_owned(), reads_only: true };
        let session = within("a session", client.open_session(open)).await.unwrap().into_inner();
        let rooms = vec![RoomSubscription {
            room: Some(RoomRef { name: ROOM.to_owned(), id: 0 }),
            join: false,
            start: Some(api::room_subscription::Start::AfterSeq(0)),
        }];
        let mut request = Request::new(JoinChatRequest { rooms, ..Default::default() });
        request.metadata_mut().insert("authorization", format!("Bearer {}", session.token).parse().unwrap());
        let stream = within("a subscription", client.join_chat(request)).await.unwrap().into_inner();
        Self { stream, seq: 0 }
    }

    /// Reads until the message with this text. Returns the number of messages.
    async fn read_until(&mut self, last: &str) -> u64 {
        let mut messages = 0;
        loop {
            let frame = self.stream.message().await.unwrap().unwrap().into_frame().unwrap().frame;
            let Some(Frame::Events(batch)) = frame else { continue };
            for event in batch.events {
                assert_eq!(event.seq, self.seq + 1, "a gap, or an event twice");
                self.seq = event.seq;
                let Some(event::Kind::Message(message)) = event.kind else { continue };
                messages += 1;
                if message.text == last {
                    return messages;
                }
            }
        }
    }
}

/// Subscribes `count` clients over three nodes, sends messages, and waits until all clients have them. Returns the times until
/// all are subscribed, and from the first message until all have the last one.
async fn everybody_gets_everything(count: usize) -> (Duration, Duration) {
    let cluster = Cluster::start().await;
    let begun = Instant::now();
    let mut opening = JoinSet::new();
    let mut subscribers = Vec::with_capacity(count);
    for first in (0..count).step_by(CLIENTS_PER_CONNECTION) {
        let member = &cluster.members()[(first / CLIENTS_PER_CONNECTION) % 3];
        let client = ChatServiceClient::connect(format!("http://{}", member.client)).await.unwrap();
        for index in first..count.min(first + CLIENTS_PER_CONNECTION) {
            while opening.len() >= OPENING_MAX {
                subscribers.extend(opening.join_next().await.map(Result::unwrap));
            }
            opening.spawn(Subscriber::open(client.clone(), format!("user{index}")));
        }
    }
    subscribers.extend(opening.join_all().await);
    eventually("the nodes count all of them", async || {
        let nodes = cluster.statuses(0).await;
        let clients: Vec<_> = nodes.iter().map(|node| node.clients as usize).collect();
        clients.iter().sum::<usize>() == count && clients.iter().all(|clients| *clients > count / 4)
    })
    .await;
    let subscribed = begun.elapsed();

    let mut sender = Raw::connect(&cluster, 0, "sender").await;
    let text = |number: u64| format!("message {number}");
    let begun = Instant::now();
    let mut reading = JoinSet::new();
    for mut subscriber in subscribers {
        reading.spawn(async move { (subscriber.read_until(&text(MESSAGES)).await, subscriber) });
    }
    for number in 1..=MESSAGES {
        sender.send(ROOM, number, &text(number)).await.unwrap();
    }
    let read =
        tokio::time::timeout(2 * DEADLINE, reading.join_all()).await.expect("all get the last message");
    let took = begun.elapsed();
    assert_eq!(read.len(), count);
    assert!(read.iter().all(|(messages, _)| *messages == MESSAGES));
    (subscribed, took)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_subscribers_get_every_message_once() {
    let (subscribed, took) = everybody_gets_everything(1_000).await;
    println!("1,000 clients: subscribed in {subscribed:?}, {MESSAGES} messages to all in {took:?}");
}

/// The full size: `cargo test -p conclave-server --test cluster -- --ignored five_thousand`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute on a busy machine"]
async fn five_thousand_subscribers_get_every_message_once() {
    let (subscribed, took) = everybody_gets_everything(5_000).await;
    println!("5,000 clients: subscribed in {subscribed:?}, {MESSAGES} messages to all in {took:?}");
}
