//! Disks with less room than their reserve: who leads, who takes writes, and that reads go on.

use conclave_client::api::{Certainty, HistoryRequest, RoomRef};
use conclave_proto::fault::fault_service_client::FaultServiceClient;
use conclave_proto::fault::{DiskFault, SetFaultsRequest};
use conclave_proto::status::from_status;
use conclave_server::Faults;
use tonic::Status;

use crate::harness::{Cluster, eventually, within};
use crate::lost_ack::Raw;

/// Says whether the disk of a node has room.
async fn set_low_space(cluster: &Cluster, index: usize, low_space: bool) {
    let address = format!("http://{}", cluster.members()[index].client);
    let mut client = FaultServiceClient::connect(address).await.unwrap();
    let disk = Some(DiskFault { low_space, ..DiskFault::default() });
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
    Cluster::start_with(|config| config.faults = Some(Faults::default())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_room_gives_its_leaderships_away_and_serves_on() {
    let cluster = start().await;
    let mut raw = Raw::connect(&cluster, 0, "ana").await;
    raw.send("general", 1, "before").await.unwrap();
    set_low_space(&cluster, 0, true).await;
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

    set_low_space(&cluster, 0, false).await;
    eventually("its shards come back", async || leads().await > 0).await;
    assert_eq!(full(&cluster).await, [false; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_anywhere_writes_are_refused_and_reads_and_restarts_go_on() {
    let mut cluster = start().await;
    let mut raw = Raw::connect(&cluster, 0, "ana").await;
    let first = raw.send("general", 1, "before").await.unwrap();
    for index in 0..3 {
        set_low_space(&cluster, index, true).await;
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
    set_low_space(&cluster, 2, true).await;
    cluster.settled().await;
    let mut restarted = raw.moved(&cluster, 2).await;
    eventually("the restarted node reads", async || {
        history(&mut restarted).await.is_ok_and(|events| events >= 2)
    })
    .await;

    for index in 0..3 {
        set_low_space(&cluster, index, false).await;
    }
    let mut second = None;
    eventually("writes go on", async || {
        second = raw.send("general", 2, "room again").await.ok();
        second.is_some()
    })
    .await;
    assert_eq!(second.map(|second| (second.seq, second.duplicate)), Some((first.seq + 1, false)));
}
