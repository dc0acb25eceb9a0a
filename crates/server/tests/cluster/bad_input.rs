//! Invalid input gets a clear answer, and does not harm the node, other clients or data.

use bytes::Bytes;
use conclave_client::api::{self, send_result::Outcome};
use conclave_client::api::{JoinChatRequest, RoomRef, RoomSubscription, room_subscription::Start};
use conclave_proto::status;
use conclave_proto::token::ResumeToken;
use tonic::{Code, Status};

use crate::harness::{Cluster, within};
use crate::lost_ack::{Raw, message};

fn code(status: &Status) -> String {
    status::from_status(status).code
}

async fn follow(raw: &mut Raw, request: JoinChatRequest) -> Result<api::StreamFrame, Status> {
    let request = raw.request(request);
    let mut frames = raw.client.join_chat(request).await?.into_inner();
    let frame = within("a frame comes", frames.message()).await?.expect("a frame comes");
    Ok(frame.into_frame().unwrap())
}

fn room(name: &str, start: Option<Start>) -> JoinChatRequest {
    let room = Some(RoomRef { name: name.to_owned(), id: 0 });
    JoinChatRequest { rooms: vec![RoomSubscription { room, join: false, start }], ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_requests_are_refused_and_leave_no_trace() {
    let cluster = Cluster::start().await;
    let mut raw = Raw::connect(&cluster, 0, "ana").await;

    let refused = raw.send("general", 1, &"x".repeat(16 * 1024 + 1)).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused).as_str()), (Code::InvalidArgument, "text_too_long"));
    // The refused request used up its number, and repeating it gets the same refusal.
    let again = raw.send("general", 1, &"x".repeat(16 * 1024 + 1)).await.unwrap_err();
    assert_eq!(code(&again), "text_too_long");
    let largest = raw.send("general", 2, &"x".repeat(16 * 1024)).await.unwrap();

    let empty = raw.send("general", 3, "").await.unwrap_err();
    assert_eq!(code(&empty), "text_empty");
    let skipped = raw.send("general", 9, "nine").await.unwrap_err();
    assert_eq!(code(&skipped), "request_out_of_order");
    assert_eq!(status::from_status(&skipped).expected_request_no, 4);
    let reused = raw.send("general", 2, "something else").await.unwrap_err();
    assert_eq!(code(&reused), "request_reused");
    let unnumbered = raw.send("general", 0, "no number").await.unwrap_err();
    assert_eq!(code(&unnumbered), "request_number_missing");
    for name in ["nowhere", "General", "", "no/such", &"x".repeat(4_000)] {
        let unknown = raw.send(name, 1, "hello").await.unwrap_err();
        assert_eq!((unknown.code(), code(&unknown).as_str()), (Code::NotFound, "room_unknown"), "{name}");
    }
    for name in ["", "Up", "#", "a b", "../etc", &"x".repeat(65)] {
        let request = raw.request(api::CreateRoomRequest { name: name.to_owned(), kind: 0 });
        let refused = raw.client.create_room(request).await.unwrap_err();
        assert_eq!(code(&refused), "room_name_invalid", "{name}");
    }
    for user in ["", "Ana", "a b", &"x".repeat(33)] {
        let open =
            api::OpenSessionRequest { user: user.to_owned(), client: String::new(), reads_only: false };
        assert_eq!(code(&raw.client.open_session(open).await.unwrap_err()), "user_name_invalid", "{user}");
    }
    // No refused request left a trace.
    let next = raw.send("general", 4, "fine").await.unwrap();
    assert_eq!(next.seq, largest.seq + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_tokens_are_refused() {
    let cluster = Cluster::start().await;
    let mut raw = Raw::connect(&cluster, 0, "ana").await;
    raw.send("general", 1, "hello").await.unwrap();

    let mut stranger = raw.moved(&cluster, 1).await;
    for token in ["", "x", "cnv1_", &format!("cnv1_{:016x}{:032x}", 1, 1), &raw.token[..raw.token.len() - 1]]
    {
        stranger.token = token.to_owned();
        let refused = stranger.send("general", 2, "hello").await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{token}");
    }
    let unsigned = raw.client.send_message(message("general", 2, "hello")).await.unwrap_err();
    assert_eq!(unsigned.code(), Code::Unauthenticated);

    let frame = follow(&mut raw, room("general", Some(Start::AfterSeq(0)))).await.unwrap();
    let Some(api::stream_frame::Frame::Events(events)) = frame.frame else { panic!("{frame:?}") };
    let good = events.resume_token.clone();
    let resumed = |token: Bytes| JoinChatRequest { resume_token: token, ..Default::default() };
    follow(&mut raw, resumed(good.clone())).await.unwrap();

    let mut damaged = good.to_vec();
    damaged[22] ^= 1;
    for (token, expected) in [
        (Bytes::from(damaged), "resume_token_damaged"),
        (good.slice(..good.len() - 1), "resume_token_damaged"),
        (Bytes::from_static(b"made up"), "resume_token_damaged"),
        (ResumeToken { cluster: 7, epoch: 1, rooms: vec![] }.encode(), "resume_token_foreign"),
    ] {
        let refused = follow(&mut raw, resumed(token)).await.unwrap_err();
        assert_eq!(code(&refused), expected);
    }
    // A forged position beyond the end is detected by asking the leader.
    let cluster_id = u128::from_be_bytes(good[1..17].try_into().unwrap());
    let forged =
        ResumeToken { cluster: cluster_id, epoch: 1, rooms: vec![(1.into(), 10_000.into())] }.encode();
    assert_eq!(code(&follow(&mut raw, resumed(forged)).await.unwrap_err()), "position_beyond_end");
    let old = ResumeToken { cluster: cluster_id, epoch: 0, rooms: vec![] }.encode();
    assert_eq!(code(&follow(&mut raw, resumed(old)).await.unwrap_err()), "resume_token_old_epoch");
    let beyond = follow(&mut raw, room("general", Some(Start::AfterSeq(99)))).await.unwrap_err();
    assert_eq!(code(&beyond), "position_beyond_end");
    let unknown = follow(&mut raw, room("nowhere", None)).await.unwrap_err();
    assert_eq!(code(&unknown), "room_unknown");
    let nothing = follow(&mut raw, JoinChatRequest::default()).await.unwrap_err();
    assert_eq!(code(&nothing), "subscription_rooms");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_sends_answer_each_request() {
    let cluster = Cluster::start().await;
    let mut raw = Raw::connect(&cluster, 0, "ana").await;
    let sends = vec![
        message("general", 1, "one"),
        message("nowhere", 1, "lost"),
        message("general", 2, ""),
        message("general", 3, "three"),
        message("general", 7, "seven"),
    ];
    let request = raw.request(tokio_stream::iter([api::SendBatch { sends }]));
    let mut answers = raw.client.send_messages(request).await.unwrap().into_inner();
    let mut results = Vec::new();
    while results.len() < 5 {
        results
            .extend(within("results come", answers.message()).await.unwrap().expect("five results").results);
    }
    results.sort_by_key(|result| result.index);
    let words: Vec<String> = results
        .into_iter()
        .map(|result| match result.outcome.unwrap() {
            Outcome::Ack(ack) => format!("ack {}", ack.request_no),
            Outcome::Failure(failure) => failure.code,
        })
        .collect();
    assert_eq!(words, ["ack 1", "room_unknown", "text_empty", "ack 3", "request_out_of_order"]);

    let too_many = vec![message("general", 1, "x"); 1_025];
    let request = raw.request(tokio_stream::iter([api::SendBatch { sends: too_many }]));
    let mut answers = raw.client.send_messages(request).await.unwrap().into_inner();
    assert_eq!(code(&answers.message().await.unwrap_err()), "frame_too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_a_message_do_no_harm() {
    let cluster = Cluster::start().await;
    let raw = Raw::connect(&cluster, 0, "ana").await;
    let address = format!("http://{}", cluster.members()[0].client);
    let channel = tonic::transport::Endpoint::from_shared(address).unwrap().connect().await.unwrap();
    let path =
        tonic::codegen::http::uri::PathAndQuery::from_static("/conclave.chat.v1.ChatService/SendMessage");
    let not_utf8 = [0x0a, 0x02, 0x0a, 0x00, 0x10, 0x01, 0x52, 0x02, 0xff, 0xfe];
    for bytes in [&not_utf8[..], b"\xff\xff\xff\xff", &[0x0a, 0xff, 0x01]] {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let request = raw.request(bytes.to_vec());
        let error = grpc.unary(request, path.clone(), Verbatim).await.unwrap_err();
        assert!(matches!(error.code(), Code::Internal | Code::InvalidArgument), "{error:?}");
        assert!(!error.message().is_empty());
    }
    let mut grpc = tonic::client::Grpc::new(channel.clone()).max_encoding_message_size(64 << 20);
    grpc.ready().await.unwrap();
    let huge = raw.request(vec![0; 3 << 20]);
    let error = grpc.unary(huge, path.clone(), Verbatim).await.unwrap_err();
    assert!(
        matches!(error.code(), Code::OutOfRange | Code::ResourceExhausted | Code::Unknown | Code::Internal),
        "{error:?}"
    );
    // The node still works.
    let mut raw = raw;
    raw.send("general", 1, "fine").await.unwrap();
}

/// Sends bytes unchanged.
#[derive(Clone, Copy, Debug, Default)]
struct Verbatim;

impl tonic::codec::Codec for Verbatim {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl tonic::codec::Encoder for Verbatim {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(out, &item);
        Ok(())
    }
}

impl tonic::codec::Decoder for Verbatim {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, _: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<()>, Status> {
        Ok(Some(()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_by_seconds_never_moves_the_time_of_a_room_back() {
    let cluster = Cluster::start().await;
    let mut raw = Raw::connect(&cluster, 0, "ana").await;
    let mut last = 0;
    // From one of these clocks to the next, the room is at most 9 s ahead of the leader.
    for (no, offset) in (1..).zip([0, 9_000, 0, 3_600_000, 3_592_000]) {
        set_clocks(&cluster, offset);
        let ack = raw.send("general", no, "tick").await.unwrap();
        assert!(ack.time_ms >= last, "{} after {last}", ack.time_ms);
        last = ack.time_ms;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_clock_stops_a_cluster() {
    let cluster = Cluster::start().await;
    let mut raw = Raw::connect(&cluster, 0, "ana").await;
    for (no, offset) in (1..).zip([i64::MAX, i64::MIN, i64::MIN / 2, 0]) {
        set_clocks(&cluster, offset);
        assert_eq!(
            raw.send("general", no, "tick").await.unwrap().seq,
            no + 2,
            "behind the creation and the joining"
        );
    }
}

fn set_clocks(cluster: &Cluster, offset_ms: i64) {
    (0..3).for_each(|index| cluster.clock(index).set_offset_ms(offset_ms));
}
