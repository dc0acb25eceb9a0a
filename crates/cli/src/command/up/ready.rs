//! When a cluster is ready: every server says so itself, every shard has a leader, and every replica has applied what
//! was set up at the beginning. From then on every command works at every server.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use conclave_client::Client;
use conclave_proto::chat::GetServerStatusResponse;
use futures::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::plan::Node;
use crate::view::status::{json, leaderless};

/// For one look.
const PATIENCE: Duration = Duration::from_secs(1);
/// `HTTP/1.1 200` and no more.
const STATUS_LINE_BYTES: usize = 12;

/// Looks once.
///
/// # Errors
/// What is being waited for, for people.
pub(super) async fn look(client: &Client, nodes: &[Node]) -> Result<GetServerStatusResponse, String> {
    let asked = join_all(nodes.iter().map(|node| timeout(PATIENCE, says_ready(node.http)))).await;
    for (node, ready) in nodes.iter().zip(asked) {
        match ready {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) | Err(_) => return Err(format!("{} is not ready", node.name)),
            Ok(Err(error)) => return Err(format!("{} does not answer: {error}", node.name)),
        }
    }
    let status = timeout(PATIENCE, client.status()).await;
    let status = status.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())?;
    match waiting_for(&status, nodes.len()) {
        None => Ok(status),
        Some(what) => Err(what),
    }
}

/// Asks the server's readiness probe. One request without a library, because nothing else here speaks HTTP.
async fn says_ready(address: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut line = [0; STATUS_LINE_BYTES];
    stream.read_exact(&mut line).await?;
    Ok(line.ends_with(b" 200"))
}

fn waiting_for(status: &GetServerStatusResponse, nodes: usize) -> Option<String> {
    if let Some(problem) = status.problems.first() {
        return Some(problem.clone());
    }
    let shards: Vec<String> = leaderless(status).iter().map(u32::to_string).collect();
    if !shards.is_empty() {
        return Some(format!("no leader yet in shard {}", shards.join(", ")));
    }
    let here = status.nodes.iter().filter(|node| node.reachable).count();
    if here < nodes {
        return Some("not every server answers".to_owned());
    }
    (json(status).lag() > 0).then(|| "some replicas have not caught up".to_owned())
}

#[cfg(test)]
mod tests {
    use conclave_proto::chat::{NodeStatus, Role, ShardStatus};

    use super::*;

    fn status(applied: [u64; 2]) -> GetServerStatusResponse {
        let node = |applied: u64, role: Role| NodeStatus {
            reachable: true,
            shards: vec![ShardStatus { applied_index: applied, role: role.into(), ..ShardStatus::default() }],
            ..NodeStatus::default()
        };
        let nodes = vec![node(applied[0], Role::Leader), node(applied[1], Role::Follower)];
        GetServerStatusResponse { nodes, healthy: true, ..GetServerStatusResponse::default() }
    }

    #[test]
    fn ready_is_when_all_have_caught_up() {
        assert_eq!(waiting_for(&status([5, 5]), 2), None);
        assert!(waiting_for(&status([5, 4]), 2).is_some_and(|what| what.contains("caught up")));
        assert!(waiting_for(&status([5, 5]), 3).is_some_and(|what| what.contains("not every server")));
        let mut no_leader = status([5, 5]);
        no_leader.nodes[0].shards[0].role = Role::Candidate.into();
        assert_eq!(waiting_for(&no_leader, 2).as_deref(), Some("no leader yet in shard 0"));
    }

    #[tokio::test]
    async fn the_probe_reads_the_first_line() {
        for (answer, ready) in [("HTTP/1.1 200 OK\r\n\r\n", true), ("HTTP/1.1 503 No\r\n\r\n", false)] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let serve = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 16];
                stream.read_exact(&mut request).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream
            };
            let (_stream, said) = tokio::join!(serve, says_ready(address));
            assert_eq!(said.unwrap(), ready);
        }
    }
}
