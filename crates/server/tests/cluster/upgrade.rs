//! Nodes of two versions in one cluster: features of the newer version are used only when all nodes understand them,
//! and no command is ever appended that a node does not understand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use conclave_client::api::event::Kind;
use conclave_client::api::{self, Pin, RoomAction, room_action, send_message_request};
use conclave_client::{Client, Content, HistoryQuery};
use conclave_core::access::Powers;
use conclave_core::{Action, Command, Origin, RequestNo, RoomId, Seq, SessionId, UserId};
use conclave_proto::chat::Certainty;
use conclave_proto::command::encode;
use conclave_proto::status::from_status;

use crate::harness::{Cluster, eventually, within};
use crate::load::Load;
use crate::lost_ack::Raw;
use crate::peers::{propose, propose_to};

/// The feature level of version 0.1.0, and the first level that has pins.
const OLD: u32 = 1;
const NEW: u32 = 2;

/// The feature level of each node's next start. A node with a level below its program's maximum behaves as an older
/// program: it registers that level, and stops at an entry above it.
#[derive(Clone)]
struct Levels(Arc<[AtomicU32; 3]>);

impl Levels {
    async fn start(level: u32) -> (Self, Cluster) {
        let levels = Self(Arc::new([level, level, level].map(AtomicU32::new)));
        let of = levels.clone();
        let cluster = Cluster::start_with(move |config| {
            let number: usize = config.name.trim_start_matches("node").parse().unwrap();
            config.feature_level = of.0[number - 1].load(Ordering::Relaxed);
        })
        .await;
        (levels, cluster)
    }

    /// Replaces a node's program by one of this level.
    async fn replace(&self, cluster: &mut Cluster, index: usize, level: u32) {
        cluster.stop(index).await;
        self.0[index].store(level, Ordering::Relaxed);
        cluster.start_node(index).await;
        cluster.settled().await;
    }
}

fn pin(seq: u64) -> RoomAction {
    RoomAction { kind: Some(room_action::Kind::Pin(Pin { target_seq: seq, off: false })) }
}

fn pin_command() -> Bytes {
    let origin = Origin {
        session: SessionId(1),
        author: UserId(1),
        author_name: "ana".to_owned(),
        request: RequestNo(1),
        settled: RequestNo(0),
        powers: Powers::default(),
    };
    let action = Action::Pin { target: Seq(1), off: false };
    encode(&Command::Act { room: RoomId(1), origin, action }).into_bytes()
}

fn pin_request(no: u64) -> api::SendMessageRequest {
    api::SendMessageRequest {
        room: Some(api::RoomRef { name: "general".to_owned(), id: 0 }),
        request_no: no,
        settled_no: 0,
        join_first: true,
        content: Some(send_message_request::Content::Action(pin(1))),
    }
}

/// The level that a node reports to a client that opens a session there.
async fn level(cluster: &Cluster, index: usize) -> u32 {
    let mut raw = Raw::connect(cluster, index, "ana").await;
    let open =
        api::OpenSessionRequest { user: "ana".to_owned(), client: "level".to_owned(), reads_only: false };
    raw.client.open_session(open).await.unwrap().into_inner().feature_level
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_action_waits_for_the_last_upgraded_node_and_nothing_is_lost() {
    let (levels, mut cluster) = Levels::start(OLD).await;
    let load = Load::start(&cluster, "deploys", 3, 3).await;
    // Two of three nodes are upgraded, and one of them is downgraded in between.
    for (index, to) in [(0, NEW), (1, NEW), (1, OLD), (1, NEW)] {
        load.progress(50).await;
        levels.replace(&mut cluster, index, to).await;
        for index in 0..3 {
            assert_eq!(level(&cluster, index).await, OLD);
            let mut raw = Raw::connect(&cluster, index, "ana").await;
            let refused = raw.client.send_message(raw.request(pin_request(1))).await.unwrap_err();
            let failure = from_status(&refused);
            let is_newer = ["not_yet", "proposal_invalid"].contains(&failure.code.as_str());
            assert!(is_newer && failure.certainty() != Certainty::Unknown, "{failure:?}");
        }
        // The client library knows the level and does not send the request.
        let client = cluster.client("ana").await;
        let error = client.submit("general", Content::Action(pin(1))).await.unwrap_err();
        assert_eq!(error.code(), Some("not_yet"), "{error}");
    }
    load.progress(50).await;
    // A peer that has applied a rise of the level passes on what this node is about to take: it is asked again, and the other
    // commands of the proposal are not refused.
    for (to, code) in [(0, "level_not_applied"), (1, "level_not_applied"), (2, "not_yet")] {
        assert_eq!(propose_to(&cluster, to, 1, &pin_command()).await.code, code);
    }
    levels.replace(&mut cluster, 2, NEW).await;
    for index in 0..3 {
        eventually("the level rises", async || level(&cluster, index).await == NEW).await;
    }
    assert_eq!(pinned(&cluster.client("ana").await).await, [1]);
    // A writer panics on the first send that is refused or abandoned.
    load.judge(&cluster).await;
    // A level that has been used rules out a downgrade below it.
    cluster.stop(1).await;
    levels.0[1].store(OLD, Ordering::Relaxed);
    let mut error = String::new();
    eventually("the stopped node gives its data dir back", async || {
        error = cluster.refuses_to_start(1).await.to_string();
        !error.contains("is in use by")
    })
    .await;
    assert!(error.contains("upgrade this node, its data is intact"), "{error}");
    levels.0[1].store(NEW, Ordering::Relaxed);
    cluster.start_node(1).await;
    cluster.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_leaves_the_time_of_a_clock_that_was_far_ahead_once_all_nodes_are_upgraded() {
    const YEAR_MS: i64 = 365 * 86_400_000;
    let (levels, mut cluster) = Levels::start(OLD).await;
    let set_clocks = |cluster: &Cluster, offset_ms: i64| {
        (0..3).for_each(|index| cluster.clock(index).set_offset_ms(offset_ms));
    };
    let mut raw = Raw::connect(&cluster, 0, "ana").await;
    set_clocks(&cluster, YEAR_MS);
    let ahead = raw.send("general", 1, "a year ahead").await.unwrap().time_ms;
    set_clocks(&cluster, 0);
    let kept = raw.send("general", 2, "the clocks are right").await.unwrap().time_ms;
    assert_eq!(kept, ahead, "the rule of a cluster of level {OLD}");
    for index in 0..3 {
        levels.replace(&mut cluster, index, NEW).await;
    }
    for index in 0..3 {
        eventually("the level rises", async || level(&cluster, index).await == NEW).await;
    }
    let mut raw = Raw::connect(&cluster, 0, "bo").await;
    let healed = raw.send("general", 1, "upgraded").await.unwrap().time_ms;
    let now_ms = cluster.clock(0).now_ms();
    assert!(healed <= now_ms, "{healed} while it is {now_ms}");
    // A cluster that has the level does not get there again.
    set_clocks(&cluster, YEAR_MS);
    let ahead = raw.send("general", 2, "a year ahead again").await.unwrap().time_ms;
    assert!(ahead > now_ms + YEAR_MS / 2, "{ahead}");
    set_clocks(&cluster, 0);
    let healed = raw.send("general", 3, "right again").await.unwrap().time_ms;
    let now_ms = cluster.clock(0).now_ms();
    assert!(healed <= now_ms, "{healed} while it is {now_ms}");
}

/// Pins the room's first event. Returns the events that are pinned there.
async fn pinned(client: &Client) -> Vec<u64> {
    let ticket = client.submit("general", Content::Action(pin(1))).await.unwrap();
    let ack = within("the pin is acked", ticket.wait()).await.unwrap();
    let query = HistoryQuery { linearizable: true, ..HistoryQuery::newest("general", 100) };
    let page = client.history(query).await.unwrap();
    assert_eq!(page.last_seq, ack.seq);
    let pins = page.events.iter().filter_map(|event| match &event.kind {
        Some(Kind::Pinned(pinned)) => Some(pinned.target_seq),
        _ => None,
    });
    pins.collect()
}

/// Commands that no node may append: a kind that no version has, an action that no version has, and bytes that are not
/// protobuf.
const NOT_UNDERSTOOD: [(&[u8], &str); 4] = [
    (b"\xfa\x06\x03abc", "not_yet"),
    (&[0x12, 0x05, 0x08, 0x01, 0xfa, 0x06, 0x00], "not_yet"),
    (&[], "not_yet"),
    (&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff], "proposal_invalid"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_not_understood_is_refused_to_the_peer_that_sent_it() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client("ana").await;
    let before = client.send("general", "before").await.unwrap();
    let shards = cluster.status(0).await.unwrap().shards;
    for shard in 0..=shards {
        for (command, code) in NOT_UNDERSTOOD {
            let failure = propose(&cluster, shard, command).await;
            assert_eq!(failure.code, code, "{failure:?}");
            assert_ne!(failure.certainty(), Certainty::Unknown, "{failure:?}");
        }
    }
    // All nodes stay up, also after a restart: none of the commands is in a log.
    for index in 0..3 {
        cluster.stop(index).await;
    }
    for index in 0..3 {
        cluster.start_node(index).await;
    }
    cluster.settled().await;
    let after = client.send("general", "after").await.unwrap();
    assert_eq!(after.seq, before.seq + 1);
}
