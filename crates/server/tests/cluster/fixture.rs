//! Data dirs that released versions left: every later version opens them, with everything that was acked.

use std::path::Path;

use conclave_client::HistoryQuery;
use conclave_client::api::Event;
use conclave_client::api::event::Kind;

use crate::harness::Cluster;

/// The cluster's name in the fixture of 0.1.0.
const NAME: &str = "local-608c6fc0";

#[tokio::test(flavor = "multi_thread")]
async fn a_data_dir_of_version_0_1_0_opens_with_everything_that_was_acked() {
    let mut cluster = Cluster::prepare(1, 2).with_name(NAME);
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/0.1.0");
    std::fs::create_dir_all(cluster.node_dir(0)).unwrap();
    for file in ["identity", "log.redb", "state.redb", "votes"] {
        std::fs::copy(fixture.join(file), cluster.node_dir(0).join(file)).unwrap();
    }
    cluster.start_node(0).await;
    cluster.settled().await;
    let client = cluster.client("ana").await;
    let history = async |room: &str| {
        let query = HistoryQuery { linearizable: true, ..HistoryQuery::newest(room, 100) };
        client.history(query).await.unwrap().events.iter().map(line).collect::<Vec<_>>()
    };
    let general = [
        "1 created general",
        "2 ana/1:1 topic what everybody should know",
        "3 ana/1:2 message hello from 0.1.0",
    ];
    assert_eq!(history("general").await, general);
    let plans =
        ["1 created plans", "2 bo/2:1 joined", "3 bo/2:2 message two lines\nof text", "4 bo/2:3 left"];
    assert_eq!(history("plans").await, plans);
    // The cluster goes on from there, at the level that this version understands.
    let ack = client.send("general", "hello from a later version").await.unwrap();
    assert_eq!(ack.seq, 5, "ana writes as a member from now on");
    cluster.stop(0).await;
    cluster.start_node(0).await;
    cluster.settled().await;
    assert_eq!(history("general").await.len(), 5);
}

/// `SEQ AUTHOR/SESSION:REQUEST WHAT`, and `SEQ created ROOM`.
fn line(event: &Event) -> String {
    let what = match event.kind.as_ref().expect("events have a kind") {
        Kind::Created(created) => return format!("{} created {}", event.seq, created.room),
        Kind::Message(message) => format!("message {}", message.text),
        Kind::TopicChanged(changed) => format!("topic {}", changed.topic),
        Kind::Joined(_) => "joined".to_owned(),
        Kind::Left(_) => "left".to_owned(),
        Kind::Pinned(pinned) => format!("pinned {}", pinned.target_seq),
        Kind::Edited(_)
        | Kind::Deleted(_)
        | Kind::Reacted(_)
        | Kind::Erased(_)
        | Kind::MemberAdded(_)
        | Kind::MemberRemoved(_)
        | Kind::RoleChanged(_)
        | Kind::PolicyChanged(_)
        | Kind::Muted(_) => panic!("release 0.1.0 has no such event: {event:?}"),
    };
    format!("{} {}/{}:{} {what}", event.seq, event.author, event.session_id, event.request_no)
}
