//! The gates of a name server's ports: how many connections each takes.

use conclave_net::{Gate, GateLimits, Net};
use conclave_telemetry::connections::ConnectionMetrics;
use conclave_telemetry::process::{file_limit, files_for_connections};

use crate::limits::{
    CONNECTION_IDLE_MAX, CONNECTIONS_PER_ADDRESS_MAX, DNS_CONNECTION_IDLE, DNS_CONNECTIONS_LOOPBACK_MAX,
    DNS_CONNECTIONS_MAX, DNS_CONNECTIONS_PER_ADDRESS_MAX, FIRST_REQUEST_MAX, GRPC_CONNECTIONS_MAX,
    HTTP_CONNECTIONS_MAX,
};

/// The gate of all addresses for DNS over TCP. As every gate here, on the system's network it takes no more connections
/// than the limit on open files allows.
pub(crate) fn dns(net: &Net, metrics: &ConnectionMetrics) -> Gate {
    let [dns, ..] = limits(files(net));
    Gate::new(dns, metrics.port("dns"))
}

/// The gates of the port for registrations, and of the pages.
pub(crate) fn grpc_and_http(net: &Net, metrics: &ConnectionMetrics) -> [Gate; 2] {
    let [_, grpc, http] = limits(files(net));
    [Gate::new(grpc, metrics.port("grpc")), Gate::new(http, metrics.port("http"))]
}

fn files(net: &Net) -> usize {
    match net.plain() {
        Net::System | Net::Secured(_) => files_for_connections(file_limit()),
        Net::Other(_) => usize::MAX,
    }
}

/// The limits of the ports. Each gets a part of the files that connections may use.
fn limits(files: usize) -> [GateLimits; 3] {
    let dns = DNS_CONNECTIONS_MAX.min(files / 4);
    let grpc = GRPC_CONNECTIONS_MAX.min(files / 2);
    let http = HTTP_CONNECTIONS_MAX.min(files / 4);
    let others = |connections: usize| GateLimits {
        connections,
        per_address: CONNECTIONS_PER_ADDRESS_MAX.min(connections),
        loopback: connections,
        first_request: FIRST_REQUEST_MAX,
        idle: CONNECTION_IDLE_MAX,
    };
    let dns = GateLimits {
        connections: dns,
        per_address: DNS_CONNECTIONS_PER_ADDRESS_MAX.min(dns),
        loopback: DNS_CONNECTIONS_LOOPBACK_MAX.min(dns),
        first_request: DNS_CONNECTION_IDLE,
        idle: DNS_CONNECTION_IDLE,
    };
    [dns, others(grpc), others(http)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_share_the_files() {
        for limit in [256, 1_024, 65_536] {
            let files = files_for_connections(Some(limit));
            let limits = limits(files);
            assert!(
                limits.iter().map(|limits| limits.connections).sum::<usize>() <= files,
                "{limit}: {limits:?}"
            );
            assert!(limits.iter().all(|limits| limits.connections >= 32), "{limit}: {limits:?}");
        }
        assert_eq!(limits(usize::MAX).map(|limits| limits.connections), [256, 2_048, 256]);
    }
}
