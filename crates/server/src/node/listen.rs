//! The ports of a node, and the services on them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use conclave_net::{Entrance, Listener, Net, Network};
use conclave_proto::admin::admin_service_server::AdminServiceServer;
use conclave_proto::chat::chat_service_server::ChatServiceServer;
use conclave_proto::fault::fault_service_server::FaultServiceServer;
use conclave_proto::raft::raft_service_server::RaftServiceServer;
use conclave_telemetry::grpc;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;

use crate::api::admin::Admin;
use crate::api::front::Front;
use crate::api::gateway::Gateway;
use crate::api::peer::PeerService;
use crate::api::people::front::PeopleFront;
use crate::config::Config;
use crate::faults::FaultApi;
use crate::limits::{PEER_MESSAGE_BYTES_MAX, PUBLIC_CALL_BYTES_MAX};
use crate::local::duty::until;
use crate::node::RunError;
use crate::peer::tls::PeerTls;

/// The sockets of a node, bound before any other step of the start.
#[derive(Debug)]
pub struct Listeners {
    pub(super) client: Listener,
    pub(super) peer: Listener,
    /// `None` in a simulated node, which has no health and metrics pages.
    pub(super) http: Option<Listener>,
    /// The HTTP API and the web client; `None` without them.
    pub(super) web: Option<Listener>,
    /// The network that the sockets belong to.
    pub(super) net: Net,
}

impl Listeners {
    /// Binds the addresses.
    ///
    /// # Errors
    /// [`RunError::Listen`], naming the address and what to do.
    pub async fn bind(config: &Config) -> Result<Self, RunError> {
        let (purpose, address) = ("health and metrics", config.http_listen);
        let http = Net::System.listen(address).await;
        let http = http.map_err(|source| RunError::Listen { purpose, address, source })?;
        let web = match config.web_listen {
            None => None,
            Some(address) => {
                let bound = Net::System.listen(address).await;
                let purpose = "browsers";
                Some(bound.map_err(|source| RunError::Listen { purpose, address, source })?)
            }
        };
        Ok(Self { http: Some(http), web, ..Self::on(Net::System, config).await? })
    }

    /// Binds on another network, over which the node then also connects to others. There are no health and metrics
    /// pages.
    ///
    /// # Errors
    /// As [`Listeners::bind`].
    pub async fn bind_on(network: Arc<dyn Network>, config: &Config) -> Result<Self, RunError> {
        Self::on(Net::Other(network), config).await
    }

    async fn on(net: Net, config: &Config) -> Result<Self, RunError> {
        let listen = async |purpose, address| {
            net.listen(address).await.map_err(|source| RunError::Listen { purpose, address, source })
        };
        let client = listen("clients", config.client_listen).await?;
        let peer = listen("other nodes", config.peer_listen).await?;
        Ok(Self { client, peer, http: None, web: None, net })
    }
}

impl Listeners {
    /// With TLS on connections from other nodes and from clients, and to the pages where they are not for this machine alone.
    pub(super) fn secured(self, tls: Option<&PeerTls>) -> Result<Self, RunError> {
        let Some(tls) = tls else { return Ok(self) };
        let secure = |listener: Listener, tls, purpose| {
            let address = listener.local_addr().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
            listener.secured(tls).map_err(|source| RunError::Listen { purpose, address, source })
        };
        let peer = secure(self.peer, tls.server(), "other nodes")?;
        let client = secure(self.client, tls.client_server(), "clients")?;
        let secure_pages = |listener: Listener, tls, purpose| {
            let address = listener.local_addr().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
            let secured = listener.secured_beyond_loopback(tls);
            secured.map_err(|source| RunError::Listen { purpose, address, source })
        };
        let http = self.http.map(|listener| secure_pages(listener, tls.page_server(), "health and metrics"));
        let web = self.web.map(|listener| secure_pages(listener, tls.browser_server(), "browsers"));
        Ok(Self { client, peer, http: http.transpose()?, web: web.transpose()?, ..self })
    }
}

pub(super) async fn serve_peers(entrance: Entrance, service: PeerService, stop: CancellationToken) {
    let server = Server::builder()
        .layer(service.metrics.calls.clone())
        .max_concurrent_streams(None)
        .initial_stream_window_size(8 * 1024 * 1024)
        .initial_connection_window_size(32 * 1024 * 1024)
        .http2_keepalive_interval(Some(Duration::from_secs(1)))
        .add_service(
            RaftServiceServer::new(service)
                .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
                .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX),
        );
    if let Err(error) = server.serve_with_incoming_shutdown(entrance.incoming(), stop.cancelled_owned()).await
    {
        tracing::error!(%error, "failed to serve other nodes");
    }
}

pub(super) async fn serve_clients(
    entrance: Entrance,
    gateway: Gateway,
    admin: Admin,
    faults: Option<FaultApi>,
    stop: CancellationToken,
) {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ChatServiceServer<Gateway>>().await;
    let mut duty = gateway.node.duty.subscribe();
    let ended = stop.clone();
    let readiness = async move {
        let follow = async {
            loop {
                until(&mut duty, |duty| duty.is_draining()).await;
                health.set_not_serving::<ChatServiceServer<Gateway>>().await;
                until(&mut duty, |duty| !duty.is_draining()).await;
                health.set_serving::<ChatServiceServer<Gateway>>().await;
            }
        };
        tokio::select! {
            () = follow => {}
            () = ended.cancelled() => {}
        }
    };
    let answers = gateway.answers.clone().run(stop.clone());
    let operators = admin.operators.clone();
    let people = PeopleFront::new(gateway.clone(), operators.clone());
    let faults = faults.map(|faults| FaultServiceServer::with_interceptor(faults, operators.clone()));
    let server = grpc::server()
        .layer(gateway.metrics.calls.clone())
        .add_service(health_service)
        .add_service(InterceptedService::new(grpc::reflection(), operators.clone()))
        .add_service(InterceptedService::new(grpc::reflection_v1alpha(), operators))
        .add_service(AdminServiceServer::new(admin).max_decoding_message_size(PUBLIC_CALL_BYTES_MAX))
        .add_optional_service(faults)
        .add_service(people)
        .add_service(Front::new(gateway));
    let (served, (), ()) = tokio::join!(
        server.serve_with_incoming_shutdown(entrance.incoming(), stop.cancelled_owned()),
        readiness,
        answers
    );
    if let Err(error) = served {
        tracing::error!(%error, "failed to serve clients");
    }
}
