//! A node id belongs to one data dir for life.

use std::path::Path;

use conclave_client::HistoryQuery;
use conclave_server::{Config, RunError, Timing};

use crate::harness::{Cluster, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_an_emptied_data_dir_is_expelled() {
    let mut cluster = Cluster::start().await;
    cluster.stop(2).await;
    std::fs::remove_dir_all(cluster.node_dir(2)).unwrap();
    cluster.start_node(2).await;
    let error = cluster.gives_up(2).await;
    assert!(matches!(error, RunError::Expelled(_)), "{error}");
    let text = error.to_string();
    assert!(text.contains("another data directory") && text.contains("add it as a new one"), "{text}");
    // The other nodes never accepted it.
    let client = cluster.client("ana").await;
    client.send("general", "still two of three").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_dir_of_another_cluster_or_node_is_refused() {
    let mut cluster = Cluster::start().await;
    cluster.stop(0).await;
    let foreign = Config { cluster_name: "other".to_owned(), ..cluster.config(0) };
    let text = starts_when_free(foreign).await;
    assert!(text.contains("cluster"), "{text}");
    let swapped = Config { dir: cluster.node_dir(1), ..cluster.config(0) };
    cluster.stop(1).await;
    let text = starts_when_free(swapped).await;
    assert!(text.contains("node"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_name_a_data_dir_or_port_in_use() {
    let cluster = Cluster::start().await;
    let error = cluster.refuses_to_start(0).await;
    assert!(matches!(error, RunError::Listen { .. }), "{error}");
    assert!(error.to_string().contains("another process uses the port"), "{error}");
    let mut same_dir = cluster.config(0);
    same_dir.client_listen.set_port(0);
    same_dir.peer_listen.set_port(0);
    same_dir.http_listen.set_port(0);
    let text = start(same_dir).await.to_string();
    assert!(text.contains("in use") || text.contains("lock"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_node_is_accepted_again() {
    let mut cluster = Cluster::start().await;
    cluster.kill(1);
    cluster.start_node(1).await;
    eventually("all three answer", async || {
        cluster.status(0).await.is_some_and(|status| status.can_lose == 1)
    })
    .await;
}

/// Copies the files of a data dir once its node, which was stopped, has closed them.
async fn copy(from: &Path, to: &Path) {
    eventually("the data dir is free", async || {
        std::fs::File::open(from.join("lock")).unwrap().try_lock().is_ok()
    })
    .await;
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Puts a copy of a data dir back.
async fn put_back(copied: &Path, to: &Path) {
    eventually("the data dir is free", async || {
        std::fs::File::open(to.join("lock")).unwrap().try_lock().is_ok()
    })
    .await;
    std::fs::remove_dir_all(to).unwrap();
    copy(copied, to).await;
}

/// A backup of a stopped cluster is put back at one node, after the nodes went on. With that node's vote, the others would
/// elect a leader that lacks acknowledged messages.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_data_dir_was_put_back_from_an_older_copy_is_refused() {
    let mut cluster = Cluster::start().await;
    cluster.client("ana").await.send("general", "before the copy").await.unwrap();
    for node in 0..3 {
        cluster.stop(node).await;
    }
    let older = tempfile::tempdir().unwrap();
    copy(&cluster.node_dir(2), older.path()).await;
    for node in 0..3 {
        cluster.start_node(node).await;
    }
    cluster.settled().await;
    let client = cluster.client("ana").await;
    client.send("general", "after the copy").await.unwrap();
    // The second node misses what the first and the third one acknowledge.
    cluster.stop(1).await;
    let mut last = 0;
    for text in ["one", "two", "three"] {
        last = client.send("general", text).await.unwrap().seq;
    }
    cluster.stop(2).await;
    cluster.kill(0);
    put_back(older.path(), &cluster.node_dir(2)).await;
    cluster.start_node(1).await;
    cluster.start_node(2).await;
    for _ in 0..3 {
        let error = cluster.gives_up(2).await;
        assert!(matches!(error, RunError::Expelled(_)), "{error}");
        assert!(error.to_string().contains("older copy"), "{error}");
        // As a supervisor would.
        cluster.start_node(2).await;
    }
    // The two nodes that kept everything go on.
    cluster.gives_up(2).await;
    cluster.start_node(0).await;
    cluster.settled().await;
    let client = cluster.client("ana").await;
    let query = HistoryQuery { linearizable: true, ..HistoryQuery::newest("general", 1) };
    assert_eq!(client.history(query).await.unwrap().last_seq, last);
    assert_eq!(client.send("general", "four").await.unwrap().seq, last + 1);
}

/// A copy that was made while its node ran knows the node's last boot, but not all entries that the node acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_data_dir_was_copied_while_it_ran_is_refused_by_a_leader() {
    // A leader remembers; one that is elected meanwhile knows nothing yet.
    let mut cluster = Cluster::start_with(|config| config.timing = Timing::Wan).await;
    let client = cluster.client("ana").await;
    client.send("general", "before the copy").await.unwrap();
    let shard = cluster.shard_of(&client, "general").await;
    let leader = cluster.leader_of(shard).await;
    let node = (leader + 1) % 3;
    cluster.stop(node).await;
    let older = tempfile::tempdir().unwrap();
    copy(&cluster.node_dir(node), older.path()).await;
    cluster.start_node(node).await;
    let index = async |node, name: &str| cluster.metric(node, &format!("{name}{{shard=\"{shard}\"}}")).await;
    let boots = cluster.node_dir(node).join("boots");
    client.send("general", "after the copy").await.unwrap();
    let last = index(leader, "conclave_raft_last_log_index").await;
    eventually("the node has the message", async || {
        index(node, "conclave_raft_committed_index").await >= last
    })
    .await;
    cluster.stop(node).await;
    // As if the copy had been made in this boot.
    std::fs::copy(boots, older.path().join("boots")).unwrap();
    put_back(older.path(), &cluster.node_dir(node)).await;
    cluster.start_node(node).await;
    let error = cluster.gives_up(node).await;
    assert!(error.to_string().contains("older copy"), "{error}");
    client.send("general", "two of three").await.unwrap();
}

/// All copies of one moment agree with each other.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_put_back_as_a_whole_goes_on_from_there() {
    let mut cluster = Cluster::start().await;
    let kept = cluster.client("ana").await.send("general", "before the copy").await.unwrap().seq;
    let older = [(); 3].map(|()| tempfile::tempdir().unwrap());
    for (node, older) in older.iter().enumerate() {
        cluster.stop(node).await;
        copy(&cluster.node_dir(node), older.path()).await;
    }
    for node in 0..3 {
        cluster.start_node(node).await;
    }
    cluster.settled().await;
    cluster.client("ana").await.send("general", "after the copy").await.unwrap();
    for (node, older) in older.iter().enumerate() {
        cluster.stop(node).await;
        put_back(older.path(), &cluster.node_dir(node)).await;
    }
    for node in 0..3 {
        cluster.start_node(node).await;
    }
    cluster.settled().await;
    let client = cluster.client("bob").await;
    assert_eq!(client.send("general", "instead").await.unwrap().seq, kept + 2, "behind bob's joining");
}

/// The error of a node that starts on the data dir of a node that was just stopped, once that node's last task has
/// ended.
async fn starts_when_free(config: Config) -> String {
    let mut text = String::new();
    eventually("the directory is free", async || {
        text = start(config.clone()).await.to_string();
        !text.contains("in use")
    })
    .await;
    text
}

async fn start(config: Config) -> RunError {
    match conclave_server::run(config, std::future::pending()).await {
        Ok(()) => panic!("the node ran and stopped"),
        Err(error) => error,
    }
}
