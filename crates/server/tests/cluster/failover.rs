//! Nodes die under load.

use std::time::Duration;

use crate::harness::{Cluster, eventually};
use crate::load::Load;

#[tokio::test(flavor = "multi_thread")]
async fn no_ack_is_lost_when_the_leader_dies() {
    let mut cluster = Cluster::start().await;
    let load = Load::start(&cluster, "deploys", 3, 3).await;
    load.progress(200).await;
    let client = cluster.client("ops").await;
    let shard = cluster.shard_of(&client, "deploys").await;
    let leader = cluster.leader_of(shard).await;
    cluster.kill(leader);
    load.progress(200).await;
    cluster.start_node(leader).await;
    load.progress(200).await;
    load.judge(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_miss_a_dead_member_and_time_the_failover() {
    let mut cluster = Cluster::start().await;
    let dead = cluster.leader_of(0).await;
    cluster.kill(dead);
    let next = cluster.leader_of(0).await;
    for name in ["conclave_members", "conclave_raft_voters{shard=\"0\"}"] {
        eventually(name, async || cluster.metric(next, name).await == 3.0).await;
    }
    let ended = "conclave_raft_last_failover_timestamp_seconds{shard=\"0\"}";
    eventually("the winner tells of the failover", async || cluster.metric(next, ended).await > 0.0).await;
    let took = cluster.metric(next, "conclave_raft_last_failover_seconds{shard=\"0\"}").await;
    let at = cluster.metric(next, ended).await;
    let now = cluster.metric(next, "conclave_time_seconds").await;
    assert!(took > 0.0 && at <= now, "it took {took} s until {at}, and now is {now}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_ack_is_lost_when_a_follower_dies() {
    let mut cluster = Cluster::start().await;
    let load = Load::start(&cluster, "deploys", 3, 3).await;
    load.progress(200).await;
    let client = cluster.client("ops").await;
    let shard = cluster.shard_of(&client, "deploys").await;
    let follower = (cluster.leader_of(shard).await + 1) % 3;
    cluster.kill(follower);
    load.progress(200).await;
    cluster.start_node(follower).await;
    load.progress(200).await;
    load.judge(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_ack_is_lost_when_all_nodes_die_at_once() {
    let mut cluster = Cluster::start().await;
    let load = Load::start(&cluster, "deploys", 3, 3).await;
    for _ in 0..2 {
        load.progress(200).await;
        (0..3).for_each(|index| cluster.kill(index));
        for index in 0..3 {
            cluster.start_node(index).await;
        }
    }
    load.progress(200).await;
    load.judge(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_ack_is_lost_when_each_node_dies_in_turn() {
    let mut cluster = Cluster::start().await;
    let load = Load::start(&cluster, "deploys", 3, 3).await;
    for round in 0..6 {
        load.progress(100).await;
        cluster.kill(round % 3);
        load.progress(20).await;
        cluster.start_node(round % 3).await;
        cluster.settled().await;
    }
    load.judge(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_never_acks() {
    let mut cluster = Cluster::start().await;
    let load = Load::start(&cluster, "deploys", 2, 2).await;
    load.progress(100).await;
    // Opening a session needs a quorum; using one does not.
    // Its patience with a read that cannot be answered is part of the time without a majority, during which the load's
    // sends wait: far less than the deadline of a send.
    let address = cluster.members()[2].client.clone();
    let reader = cluster.builder("local").servers([address]).patience(Duration::from_secs(8));
    let reader = reader.connect().await.expect("a session opens");
    reader.history(conclave_client::HistoryQuery::newest("deploys", 1)).await.unwrap();
    cluster.kill(0);
    cluster.kill(1);
    // Commands decided before the second death may still be answered; after that, nothing is.
    eventually("the survivor notices", async || {
        cluster.status(2).await.is_some_and(|status| status.can_lose == -1)
    })
    .await;
    let history = reader.history(conclave_client::HistoryQuery::newest("deploys", 10)).await.unwrap();
    assert!(!history.events.is_empty(), "history is read without a quorum");
    let linearizable = conclave_client::HistoryQuery {
        linearizable: true,
        ..conclave_client::HistoryQuery::newest("deploys", 1)
    };
    // The read fails after its deadline. During the first one, clients may still count acks from before the deaths.
    assert!(reader.history(linearizable.clone()).await.is_err(), "a linearizable read needs a quorum");
    let before = load.acked();
    assert!(reader.history(linearizable).await.is_err(), "a linearizable read needs a quorum");
    assert_eq!(load.acked(), before, "one of three acked");
    cluster.start_node(0).await;
    cluster.start_node(1).await;
    load.progress(100).await;
    load.judge(&cluster).await;
}
