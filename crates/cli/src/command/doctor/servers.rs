//! Examines each server on its own, at its client address.

use std::time::{Duration, Instant};

use conclave_client::{Client, Pong};
use conclave_proto::chat::GetServerStatusResponse;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::diagnosis::{Cluster, HealthPage, Server};
use crate::errors::last_attempt;
use crate::http::Pages;
use crate::view::status::{late_heartbeats, leader_name, leaderless};

/// Timeout for each step of examining a server.
const PATIENCE: Duration = Duration::from_secs(2);
/// The maximum number of failed checks that are read from a health page.
const CHECKS_MAX: usize = 32;

/// Examines one server: its host name, its port, its answer, its health.
pub(super) async fn server(
    client: &Client,
    pages: &Pages,
    name: String,
    address: String,
    http: Option<String>,
) -> Server {
    let health = async {
        match &http {
            Some(http) => Some(page(pages, http).await),
            None => None,
        }
    };
    let (mut server, health) = futures::join!(reach(client, &address), health);
    (server.name, server.address, server.http, server.health) = (name, address, http, health);
    server
}

async fn reach(client: &Client, address: &str) -> Server {
    let mut server = Server::default();
    let looked_up = timeout(PATIENCE, lookup_host(address)).await;
    let ips: Vec<_> = match looked_up {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(error)) => {
            server.error = Some(format!("its name cannot be resolved here: {error}"));
            return server;
        }
        Err(_) => {
            server.error = Some("its name cannot be resolved here: no answer".to_owned());
            return server;
        }
    };
    server.ips = ips.iter().map(|found| found.ip().to_string()).collect();
    let begun = Instant::now();
    match timeout(PATIENCE, TcpStream::connect(ips.as_slice())).await {
        Ok(Ok(_)) => server.connect_us = micros(begun.elapsed()),
        Ok(Err(error)) => {
            server.error = Some(format!("no connection: {error}"));
            return server;
        }
        Err(_) => {
            server.error = Some(format!("no connection within {PATIENCE:?}"));
            return server;
        }
    }
    // The first call also opens the connection, so its duration says nothing about the clock.
    if let Err(error) = client.ping(address).await {
        server.error =
            Some(format!("it takes connections, but does not answer: {}", last_attempt(&error).why));
        return server;
    }
    let asked_ms = now_ms();
    match client.ping(address).await {
        Ok(pong) => {
            server.ping_us = micros(pong.took);
            server.clock_offset_ms = Some(offset(&pong, asked_ms));
            server.node_id = Some(pong.node_id);
            server.version = Some(pong.version);
        }
        Err(error) => server.error = Some(format!("it stopped answering: {}", last_attempt(&error).why)),
    }
    server
}

/// The offset of the other clock, under the assumption that the answer was made half way through the call.
fn offset(pong: &Pong, asked_ms: i64) -> i64 {
    let half = i64::try_from(pong.took.as_millis() / 2).unwrap_or(0);
    pong.time_ms.saturating_sub(asked_ms.saturating_add(half))
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

fn micros(time: Duration) -> Option<u64> {
    u64::try_from(time.as_micros()).ok()
}

/// Gets the page that reports whether a server or name server is ready, and why not.
pub(super) async fn page(pages: &Pages, address: &str) -> HealthPage {
    match pages.get(address, "/readyz?verbose", PATIENCE).await {
        Ok(answer) => {
            let failing = answer.body.lines().filter_map(|line| line.strip_prefix("[-] ")).take(CHECKS_MAX);
            let failing = failing.map(str::to_owned).collect();
            HealthPage {
                address: address.to_owned(),
                ready: answer.status == 200,
                failing,
                unreachable: false,
            }
        }
        Err(error) => HealthPage {
            address: address.to_owned(),
            ready: false,
            failing: vec![error.to_string()],
            unreachable: true,
        },
    }
}

/// The cluster, as one server sees it.
pub(super) fn cluster(status: &GetServerStatusResponse) -> Cluster {
    Cluster {
        name: status.cluster_name.clone(),
        id: status.cluster_id.clone(),
        healthy: status.healthy,
        can_lose: status.can_lose,
        nodes: status.nodes.len(),
        reachable: status.nodes.iter().filter(|node| node.reachable).count(),
        shards: status.shards,
        leader: leader_name(status, 0),
        leaderless: leaderless(status),
        problems: status.problems.clone(),
        late_heartbeats: late_heartbeats(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_round_trip_is_not_a_clock_offset() {
        let pong = |took_ms: u64, time_ms: i64| Pong {
            address: "a:1".into(),
            node_id: 1,
            version: "0".into(),
            time_ms,
            took: Duration::from_millis(took_ms),
        };
        assert_eq!(offset(&pong(100, 1_050), 1_000), 0);
        assert_eq!(offset(&pong(0, 4_000), 1_000), 3_000);
        assert_eq!(offset(&pong(10, 400), 1_000), -605);
    }
}
