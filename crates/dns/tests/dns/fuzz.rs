//! Malformed messages. Whatever is sent, the server answers the next question.
//!
//! `CONCLAVE_FUZZ_SECONDS` sets the duration; without it, 2 seconds.

use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use tokio::net::{TcpStream, UdpSocket};

use crate::support::{Server, five, question, write_framed, zone};

const SHORT: Duration = Duration::from_secs(2);
/// Datagrams between two questions whose answers are checked.
const BATCH: usize = 200;

/// Messages that made servers fail before, or that could.
fn corpus() -> Vec<Vec<u8>> {
    let question = |name: &str, kind, size| question(name, kind, size).to_vec().unwrap();
    let srv = question("_conclave._tcp.conclave.internal.", RecordType::SRV, Some(1_232));
    let header = |counts: [u8; 8]| [&[18, 103, 1, 0][..], &counts].concat();
    let patched = |at: usize, with: &[u8]| {
        let mut bytes = srv.clone();
        bytes.splice(at.., with.iter().copied());
        bytes
    };
    let many_labels =
        [&header([0, 1, 0, 0, 0, 0, 0, 0])[..], &[1, b'a'].repeat(127), &[0, 0, 1, 0, 1]].concat();
    let too_many_labels =
        [&header([0, 1, 0, 0, 0, 0, 0, 0])[..], &[1, b'a'].repeat(130), &[0, 0, 1, 0, 1]].concat();
    vec![
        Vec::new(),
        vec![0],
        vec![0; 11],
        vec![0; 12],
        vec![0xff; 12],
        vec![0xff; 512],
        vec![0; 65_000],
        srv.clone(),
        question(".", RecordType::ANY, Some(0)),
        question("conclave.internal.", RecordType::AXFR, Some(65_535)),
        question("conclave.internal.", RecordType::IXFR, None),
        question("conclave.internal.", RecordType::OPT, Some(512)),
        // Counts that promise more than there is.
        header([0xff; 8]),
        header([0, 1, 0xff, 0xff, 0, 0, 0, 0]),
        [&header([0, 1, 0, 0, 0, 0, 0xff, 0xff])[..], &srv[12..]].concat(),
        // Pointers: to themselves, to each other, forward, into the header, cut off.
        patched(12, &[0xc0, 12, 0, 33, 0, 1]),
        patched(12, &[0xc0, 14, 0xc0, 12, 0, 33, 0, 1]),
        patched(12, &[0xc0, 0, 0, 33, 0, 1]),
        patched(12, &[0xff, 0xff, 0, 33, 0, 1]),
        patched(12, &[0xc0]),
        // Labels: reserved kinds, too long, unterminated; the longest name, and one that is longer.
        patched(12, &[0x40, 0, 0, 33, 0, 1]),
        patched(12, &[0x80, 0, 0, 33, 0, 1]),
        patched(12, &[63]),
        many_labels,
        too_many_labels,
        // EDNS: two of them, one that is not at the root, options that are longer than their record.
        [&srv[..11], &[2], &srv[12..], &srv[srv.len() - 11..]].concat(),
        patched(srv.len() - 11, &[1, b'a', 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]),
        patched(srv.len() - 2, &[0, 4, 0, 3, 0xff, 0xff]),
        patched(srv.len() - 2, &[0xff, 0xff]),
        patched(srv.len() - 2, &[0, 3, 0, 3, 0]),
    ]
}

fn limit() -> Duration {
    let seconds = std::env::var("CONCLAVE_FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    seconds.map_or(SHORT, Duration::from_secs)
}

/// A message of the corpus with a few random edits, or random bytes.
fn spoilt() -> impl Strategy<Value = Vec<u8>> {
    let edits = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 0..6);
    let from_corpus = (prop::sample::select(corpus()), edits).prop_map(|(mut bytes, edits)| {
        for (at, value, how) in edits {
            let at = at.index(bytes.len() + 1);
            match how {
                0 => bytes.insert(at, value),
                1 => bytes.truncate(at),
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = value;
                    }
                }
            }
        }
        bytes.truncate(65_000);
        bytes
    });
    prop_oneof![9 => from_corpus, 1 => proptest::collection::vec(any::<u8>(), 0..600)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_messages_never_stop_the_server() {
    let server = Server::start(Some(zone(42, five())), &["127.0.0.0/8"]).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.address).await.unwrap();
    for message in corpus() {
        send(&server, &socket, &message, true).await;
    }
    still_answers(&server).await;

    // New random messages on each run; a failure prints the message.
    let mut runner = TestRunner::default();
    let strategy = spoilt();
    let begun = Instant::now();
    while begun.elapsed() < limit() {
        let batch: Vec<_> = (0..BATCH).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect();
        for (at, message) in batch.iter().enumerate() {
            send(&server, &socket, message, at % 20 == 0).await;
        }
        still_answers(&server).await;
    }
    server.stop().await;
}

/// Sends without waiting for an answer, and checks that the answers that arrive are valid.
async fn send(server: &Server, socket: &UdpSocket, message: &[u8], over_tcp: bool) {
    // A message that is too long for a datagram, or that meets full buffers, is not sent.
    let _ = socket.send(message).await;
    let mut answer = [0; 2_048];
    while let Ok(length) = socket.try_recv(&mut answer) {
        let answer = &answer[..length];
        assert!(length <= 1_232, "{length} bytes over UDP");
        assert!(Message::from_vec(answer).is_ok(), "{answer:?} is no answer, after {message:?}");
    }
    if over_tcp {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        write_framed(&mut stream, message).await;
    }
}

async fn still_answers(server: &Server) {
    let bytes = question("_conclave._tcp.conclave.internal.", RecordType::SRV, Some(1_232)).to_vec().unwrap();
    for answer in [server.udp(&bytes).await, server.tcp(&bytes).await] {
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 4));
    }
}
