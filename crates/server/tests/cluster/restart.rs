//! Nodes are stopped and started again.

use conclave_client::HistoryQuery;

use crate::harness::Cluster;
use crate::load::Load;

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_fails_no_send() {
    let mut cluster = Cluster::start().await;
    let load = Load::start(&cluster, "deploys", 3, 3).await;
    for index in 0..3 {
        load.progress(100).await;
        cluster.stop(index).await;
        load.progress(50).await;
        cluster.start_node(index).await;
        cluster.settled().await;
    }
    // A writer panics on the first send that is refused or abandoned.
    load.judge(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_leads_nothing_and_is_not_ready() {
    let mut cluster = Cluster::start().await;
    cluster.stop(0).await;
    for shard in 0..=2 {
        assert_ne!(cluster.leader_of(shard).await, 0);
    }
    assert!(cluster.http(0, "/readyz").await.is_none());
    let live = cluster.http(1, "/livez?verbose").await.unwrap();
    assert!(live.contains("200 OK") && live.contains("[+] storage"), "{live}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_cluster_keeps_its_state() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client("ana").await;
    let first = client.send("general", "before").await.unwrap();
    for index in 0..3 {
        cluster.stop(index).await;
    }
    for index in 0..3 {
        cluster.start_node(index).await;
    }
    cluster.settled().await;
    // The session and its request numbers continue as well.
    let second = client.send("general", "after").await.unwrap();
    assert_eq!((second.seq, second.request_no), (first.seq + 1, 2));
    let query = HistoryQuery { linearizable: true, ..HistoryQuery::newest("general", 10) };
    let page = client.history(query).await.unwrap();
    assert_eq!(page.last_seq, second.seq);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_works_with_one_node_and_one_shard() {
    let mut cluster = Cluster::prepare(1, 1);
    cluster.start_node(0).await;
    cluster.settled().await;
    let client = cluster.client("ana").await;
    let ack = client.send("general", "alone").await.unwrap();
    cluster.kill(0);
    cluster.start_node(0).await;
    let page = client
        .history(HistoryQuery { linearizable: true, ..HistoryQuery::newest("general", 10) })
        .await
        .unwrap();
    assert_eq!(page.last_seq, ack.seq);
}
