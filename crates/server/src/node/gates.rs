//! The gates of a node's ports: how many connections each takes.

use conclave_net::{Entrance, Farewells, Gate, GateLimits, Net};
use conclave_proto::status::{Failure, TOO_MANY_CONNECTIONS, TOO_MANY_CONNECTIONS_RETRY};
use conclave_telemetry::connections::ConnectionMetrics;
use conclave_telemetry::process::{file_limit, files_for_connections};
use tonic::Status;

use crate::config::Config;
use crate::limits::{
    CLIENT_IDLE_MAX, CONNECTIONS_PER_CLIENT, FIRST_REQUEST_MAX, HTTP_CONNECTIONS_MAX,
    HTTP_CONNECTIONS_PER_ADDRESS_MAX, HTTP_IDLE_MAX, PEER_CONNECTIONS_MAX, PEER_IDLE_MAX,
};
use crate::node::listen::Listeners;

/// The ports of a node, each behind its gate.
#[derive(Debug)]
pub(super) struct Entrances {
    pub(super) client: Entrance,
    pub(super) peer: Entrance,
    /// `None` in a simulated node.
    pub(super) http: Option<Entrance>,
    /// `None` in a node without an HTTP API.
    pub(super) web: Option<Entrance>,
}

impl Entrances {
    /// Puts gates before the sockets of a node. On the system's network they take no more connections than the limit on
    /// open files allows.
    pub(super) fn new(config: &Config, listeners: Listeners, metrics: &ConnectionMetrics) -> Self {
        let files = match listeners.net.plain() {
            Net::System | Net::Secured(_) => files_for_connections(file_limit()),
            Net::Other(_) => usize::MAX,
        };
        let [client, peer, http] = limits(config, files);
        if u32::try_from(client.connections).is_ok_and(|connections| connections < config.max_clients) {
            tracing::warn!(
                connections = client.connections,
                max_clients = config.max_clients,
                "the limit on open files allows fewer clients than --max-clients: raise it (ulimit -Hn, LimitNOFILE)"
            );
        }
        // Browsers are clients: they share the places of the client port, so that both together take no more.
        let clients = Gate::new(client, metrics.port("client"));
        Self {
            web: listeners.web.map(|socket| socket.gated(clients.clone())),
            client: listeners.client.gated(clients).answering(farewells()),
            peer: listeners.peer.gated(Gate::new(peer, metrics.port("peer"))),
            http: listeners.http.map(|socket| socket.gated(Gate::new(http, metrics.port("http")))),
        }
    }
}

/// The answers to clients that the gate refuses.
fn farewells() -> Farewells {
    let refusal = |what: &str| {
        let failure = Failure::not_sent(TOO_MANY_CONNECTIONS, what, TOO_MANY_CONNECTIONS_RETRY);
        Status::from(failure).into_http::<()>().into_parts().0.headers
    };
    Farewells {
        full: refusal("this server has its maximum number of connections"),
        address: refusal("this server has its maximum number of connections from this address"),
    }
}

fn client_connections(config: &Config) -> usize {
    usize::try_from(config.max_clients).unwrap_or(usize::MAX).saturating_mul(CONNECTIONS_PER_CLIENT)
}

/// The limits of the ports for clients, for peers and for pages. Peers and pages get an eighth each of the files that
/// connections may use, so that clients cannot take all of them; a quarter, if that is no more than 32: with few places
/// even a good connection may lose its place before its first request has arrived.
fn limits(config: &Config, files: usize) -> [GateLimits; 3] {
    let share = (files / 8).max((files / 4).min(32));
    let client = client_connections(config).min(files - 2 * share);
    let per_address = usize::try_from(config.connections_per_address_max).unwrap_or(usize::MAX);
    let peer = PEER_CONNECTIONS_MAX.min(share);
    let http = HTTP_CONNECTIONS_MAX.min(share);
    [
        GateLimits {
            connections: client,
            per_address: per_address.min(client),
            // Proxies, tools and tests on this machine.
            loopback: client,
            first_request: FIRST_REQUEST_MAX,
            idle: CLIENT_IDLE_MAX,
        },
        GateLimits {
            connections: peer,
            // Several nodes may share an address. A stranger's silent connections lose their places to them.
            per_address: peer,
            loopback: peer,
            first_request: FIRST_REQUEST_MAX,
            idle: PEER_IDLE_MAX,
        },
        GateLimits {
            connections: http,
            per_address: HTTP_CONNECTIONS_PER_ADDRESS_MAX.min(http),
            loopback: http,
            first_request: FIRST_REQUEST_MAX,
            idle: HTTP_IDLE_MAX,
        },
    ]
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn ports_share_the_files_and_peers_and_pages_keep_their_part() {
        let listen = ["127.0.0.1:0".parse().unwrap(); 3];
        let config = Config::new("n1".to_owned(), PathBuf::new(), Vec::new(), listen);
        for limit in [256, 1_024, 4_096, 65_536] {
            let files = files_for_connections(Some(limit));
            let [client, peer, http] = limits(&config, files);
            let all = client.connections + peer.connections + http.connections;
            assert!(all <= files && files < usize::try_from(limit).unwrap(), "{limit}: {all}");
            assert!(peer.connections >= 32 && http.connections >= 32, "{limit}: {peer:?} {http:?}");
            assert!(client.connections >= all / 2, "{limit}: {client:?}");
        }
        let [client, ..] = limits(&config, files_for_connections(None));
        assert_eq!(client.connections, 20_000);
    }
}
