//! Disks with less room than their reserve: who leads, who takes writes, and that reads go on.

use conclave_client::api::{Certainty, HistoryRequest, RoomRef};
use conclave_proto::fault::fault_service_client::FaultServiceClient;
use conclave_proto::fault::{DiskFault, SetFaultsRequest};
use conclave_proto::status::from_status;
use conclave_server::Faults;
use tonic::Status;

use crate::harness::{Cluster, eventually, within};
use crate::lost_ack::Raw;

/// The reserve of the nodes.
const RESERVE: u64 = 64 * 1024 * 1024;
/// Less than the reserve, but more than half of it.
const LOW: Option<u64> = Some(RESERVE - 1);
/// Less than half of the reserve.
const CRITICAL: Option<u64> = Some(RESERVE / 2 - 1);
/// As much as there is.
const REAL: Option<u64> = None;

/// Sets how much space the disk of a node says is free.
async fn set_free(cluster: &Cluster, index: usize, free_bytes: Option<u64>) {
    let address = format!("http://{}", cluster.members()[index].client);
    let mut client = FaultServiceClient::connect(address).await.unwrap();
    let disk = Some(DiskFault { free_bytes, ..DiskFault::default() });
    let request = SetFaultsRequest { disk, ..SetFaultsRequest::default() };
    within("the faults are set", client.set_faults(request)).await.unwrap();
}

/// Whether each node says that its disk is full.
async fn full(cluster: &Cluster) -> Vec<bool> {
    cluster.statuses(0).await.iter().map(|node| node.disk_full).collect()
}

async fn history(raw: &mut Raw) -> Result<usize, Status> {
    let room = Some(RoomRef { name: "general".to_owned(), id: 0 });
    let request = raw.request(HistoryRequest { room, limit: 100, ..HistoryRequest::default() });
    Ok(raw.client.history(request).await?.into_inner().events.len())
}

async fn start() -> Cluster {
    Cluster::start_with(|config| {
        config.faults = Some(Faults::default());
        config.disk_reserve = Some(RESERVE);
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_room_gives_its_leaderships_away_and_serves_on() {
    let cluster = start().await;
    let mut raw = Raw::connect(&cluster, 0, "ana").await;
    raw.send("general", 1, "before").await.unwrap();
    set_free(&cluster, 0, LOW).await;
    let leads = async || {
        let nodes = cluster.statuses(1).await;
        nodes.first().map_or(usize::MAX, |node| node.shards.iter().filter(|shard| shard.role == 1).count())
    };
    eventually("it leads nothing and says why", async || {
        let problems = cluster.status(0).await.map(|status| status.problems).unwrap_or_default();
        leads().await == 0 && problems.iter().any(|problem| problem.contains("disk of node1"))
    })
    .await;
    assert!(cluster.metric(0, "conclave_storage_disk_full").await > 0.0);
    // Its own clients write through it, because others lead; and it follows them.
    raw.send("general", 2, "meanwhile").await.unwrap();
    eventually("it has what others decided", async || history(&mut raw).await.unwrap() >= 3).await;

    set_free(&cluster, 0, REAL).await;
    eventually("its shards come back", async || leads().await > 0 && full(&cluster).await == [false; 3])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_anywhere_writes_are_refused_and_reads_and_restarts_go_on() {
    let mut cluster = start().await;
    let mut raw = Raw::connect(&cluster, 0, "ana").await;
    let first = raw.send("general", 1, "before").await.unwrap();
    for index in 0..3 {
        set_free(&cluster, index, LOW).await;
    }
    eventually("all disks are full", async || full(&cluster).await == [true; 3]).await;
    for index in 0..3 {
        let mut other = raw.moved(&cluster, index).await;
        let refused = from_status(&other.send("general", 2, "no room").await.unwrap_err());
        assert_eq!(
            (refused.code.as_str(), refused.certainty()),
            ("disk_full", Certainty::NotSent),
            "{refused:?}"
        );
        assert_eq!(refused.retry_after_ms, 1_000);
        assert!(history(&mut other).await.unwrap() >= 2);
    }
    // A repeat of what was decided before is a write, too, but a client keeps it and asks again later.
    cluster.kill(2);
    cluster.start_node(2).await;
    set_free(&cluster, 2, LOW).await;
    cluster.settled().await;
    let mut restarted = raw.moved(&cluster, 2).await;
    eventually("the restarted node reads", async || {
        history(&mut restarted).await.is_ok_and(|events| events >= 2)
    })
    .await;

    for index in 0..3 {
        set_free(&cluster, index, REAL).await;
    }
    let mut second = None;
    eventually("writes go on", async || {
        second = raw.send("general", 2, "room again").await.ok();
        second.is_some()
    })
    .await;
    assert_eq!(second.map(|second| (second.seq, second.duplicate)), Some((first.seq + 1, false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_is_almost_full_stops_to_append_and_goes_on_to_vote_and_read() {
    let cluster = start().await;
    let mut raw = Raw::connect(&cluster, 0, "ana").await;
    raw.send("general", 1, "before").await.unwrap();
    let mut full = raw.moved(&cluster, 2).await;
    eventually("node3 has the message", async || history(&mut full).await.is_ok_and(|events| events >= 2))
        .await;
    set_free(&cluster, 2, CRITICAL).await;
    eventually("the others know", async || cluster.statuses(0).await[2].disk_full).await;
    let leads = async || cluster.statuses(2).await[2].shards.iter().any(|shard| shard.role == 1);
    eventually("it leads nothing", async || !leads().await).await;
    let before = history(&mut full).await.unwrap();
    for number in 2..12 {
        eventually("a message is decided without node3", async || {
            raw.send("general", number, "without node3").await.is_ok()
        })
        .await;
    }
    assert_eq!(history(&mut full).await.unwrap(), before, "its disk takes no commands");
    eventually("it follows a leader of each shard", async || {
        cluster.statuses(2).await[2].shards.iter().all(|shard| shard.leader_id != 0 && shard.role == 2)
    })
    .await;
    set_free(&cluster, 2, REAL).await;
    eventually("node3 catches up", async || {
        history(&mut full).await.is_ok_and(|events| events >= before + 10)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_takes_no_writes_while_most_other_disks_are_full() {
    let cluster = start().await;
    let mut raw = Raw::connect(&cluster, 0, "ana").await;
    let first = raw.send("general", 1, "before").await.unwrap();
    for index in 1..3 {
        set_free(&cluster, index, LOW).await;
    }
    eventually("node1 leads all shards and knows of the full disks", async || {
        let nodes = cluster.statuses(0).await;
        nodes[0].shards.iter().all(|shard| shard.role == 1) && nodes[1].disk_full && nodes[2].disk_full
    })
    .await;
    eventually("a write is refused", async || {
        let refused = raw.send("general", 2, "much").await.err().map(|status| from_status(&status));
        refused.is_some_and(|why| why.code == "disk_full" && why.certainty() == Certainty::NotSent)
    })
    .await;
    assert!(history(&mut raw).await.unwrap() >= 2);
    set_free(&cluster, 1, REAL).await;
    let mut second = None;
    eventually("writes go on once a majority has room", async || {
        second = raw.send("general", 2, "much").await.ok();
        second.is_some()
    })
    .await;
    assert!(second.unwrap().seq > first.seq);
}
