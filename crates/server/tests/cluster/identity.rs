//! A node id belongs to one data dir for life.

use conclave_server::{Config, RunError};

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
