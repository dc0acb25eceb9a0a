//! One name server: starts its parts, and stops them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use conclave_net::{Entrance, Identity, Listener, Net, Network, TlsError};
use conclave_proto::dns::dns_service_server::DnsServiceServer;
use conclave_proto::fault::fault_service_server::FaultServiceServer;
use conclave_telemetry::calls::CallMetrics;
use conclave_telemetry::grpc;
use conclave_telemetry::operators::Operators;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::interceptor::InterceptedService;

use crate::config::Config;
use crate::export;
use crate::faults::{FaultApi, Faults};
use crate::forward::Forwarder;
use crate::gates;
use crate::handler::{CurrentZone, Handler, HandlerConfig, Sockets, host_name};
use crate::metrics::Metrics;
use crate::names::zone_name;
use crate::registry::{Registry, RegistryTask};
use crate::service::RegistryService;
use crate::tls::Tls;
use crate::watch::Watcher;
use crate::web;

/// Timeout for tasks to end after a stop.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// Why a name server did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is wrong.
    #[error("the configuration is wrong: {}", .0.join("; "))]
    Config(Vec<String>),
    /// An address cannot be bound.
    #[error("cannot listen on {address} for {purpose}: {source}; {}", advice(.source))]
    Listen {
        /// The protocol that the address is for.
        purpose: &'static str,
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// The certificate cannot be used.
    #[error("TLS in {dir}: {source}", dir = .dir.display())]
    Tls {
        /// The directory of the files.
        dir: PathBuf,
        /// The cause.
        source: TlsError,
    },
    /// The certificate belongs to somebody else.
    #[error(
        "the certificate in {dir} is that of {found}, and this is a name server: issue one for it (conclave admin ca \
         issue --dns)", dir = .dir.display()
    )]
    OtherOwner {
        /// The directory of the files.
        dir: PathBuf,
        /// The owner of the certificate.
        found: Identity,
    },
}

fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "another process uses the port, for DNS often systemd-resolved or dnsmasq: stop it, or choose another port"
        }
        std::io::ErrorKind::PermissionDenied => {
            "ports below 1024 need the capability CAP_NET_BIND_SERVICE: grant it, or choose another port"
        }
        std::io::ErrorKind::AddrNotAvailable => {
            "this machine does not have the address: choose one of its own"
        }
        _ => "check the address",
    }
}

/// The sockets of a name server, bound before anything else starts.
#[derive(Debug)]
pub struct Listeners {
    dns: Sockets,
    grpc: Listener,
    /// `None` in a simulation, which has no HTTP pages.
    http: Option<Listener>,
    /// The network of the sockets, also used to connect to nodes.
    net: Net,
    tls: Option<Tls>,
}

impl Listeners {
    /// Binds every address of the configuration. Port 0 chooses a free port.
    ///
    /// # Errors
    /// [`RunError::Listen`], naming the address and what to do.
    pub async fn bind(config: &Config) -> Result<Self, RunError> {
        let others = Self::on(Net::System, config).await?;
        let (purpose, address) = ("health and metrics", config.http_listen);
        let http = Net::System.listen(address).await;
        let http = http.map_err(|source| RunError::Listen { purpose, address, source })?;
        Ok(Self { http: Some(http), ..others })
    }

    /// As [`Listeners::bind`], on another network, which is also used to connect to nodes. There are no HTTP pages.
    ///
    /// # Errors
    /// As [`Listeners::bind`].
    pub async fn bind_on(network: Arc<dyn Network>, config: &Config) -> Result<Self, RunError> {
        Self::on(Net::Other(network), config).await
    }

    async fn on(net: Net, config: &Config) -> Result<Self, RunError> {
        let dns = Sockets::bind_on(&net, &config.listen).await;
        let dns = dns.map_err(|(address, source)| RunError::Listen { purpose: "DNS", address, source })?;
        let (purpose, address) = ("registrations", config.grpc_listen);
        let grpc = net.listen(address).await;
        let grpc = grpc.map_err(|source| RunError::Listen { purpose, address, source })?;
        let tls = match config.tls.clone() {
            Some(config) => Some(Tls::read(config).await?),
            None => None,
        };
        Ok(Self { dns, grpc, http: None, net, tls })
    }

    /// With TLS on connections to the nodes, on those to the gRPC port, and to the pages where they are not for this machine
    /// alone.
    fn secured(self) -> Result<Self, RunError> {
        let Some(tls) = &self.tls else { return Ok(self) };
        let failed = |purpose, address| move |source| RunError::Listen { purpose, address, source };
        let at = |listener: &Listener| listener.local_addr().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
        let address = at(&self.grpc);
        let grpc = self.grpc.secured(tls.grpc.clone()).map_err(failed("registrations", address))?;
        let secure_pages = |http: Listener| {
            let address = at(&http);
            http.secured_beyond_loopback(tls.pages.clone()).map_err(failed("health and metrics", address))
        };
        let http = self.http.map(secure_pages).transpose()?;
        Ok(Self { grpc, http, net: tls.net(&self.net), dns: self.dns, tls: self.tls })
    }
}

/// The addresses of a name server, with the chosen ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// DNS, UDP and TCP, in the order of the configuration.
    pub dns: Vec<SocketAddr>,
    /// `DNSService`.
    pub grpc: SocketAddr,
    /// Health and metrics.
    pub http: SocketAddr,
}

/// A running name server.
#[derive(Debug)]
pub struct DnsServer {
    addresses: Addresses,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl DnsServer {
    /// Starts a name server on bound sockets. Must be called within a runtime.
    ///
    /// # Errors
    /// [`RunError::Config`], or if a socket has no address.
    pub fn start(config: Config, listeners: Listeners) -> Result<Self, RunError> {
        config.validate().map_err(RunError::Config)?;
        let without_tls = config.without_tls();
        let zone_name = zone_name(&config.zone).map_err(|why| RunError::Config(vec![why]))?;
        let Listeners { dns, grpc, http, net, tls } = listeners.secured()?;
        let known = |purpose, found: Option<std::io::Result<SocketAddr>>, address| match found {
            Some(found) => found.map_err(|source| RunError::Listen { purpose, address, source }),
            None => Ok(address),
        };
        let page = http.as_ref().map(Listener::local_addr);
        let addresses = Addresses {
            dns: dns.addresses(),
            grpc: known("registrations", Some(grpc.local_addr()), config.grpc_listen)?,
            http: known("health and metrics", page, config.http_listen)?,
        };
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let metrics = Arc::new(Metrics::new(&config.zone));
        let [grpc_gate, http_gate] = gates::grpc_and_http(&net, &metrics.connections);
        let zone = CurrentZone::default();

        let servers = config.name_servers;
        let faults = || config.faults.as_ref().map(Faults::watch);
        let (registry_task, registry) =
            RegistryTask::new(zone_name.clone(), servers, Arc::clone(&zone), Arc::clone(&metrics), faults());
        tasks.spawn(registry_task.run(stop.clone()));

        let forwarder = Forwarder::new(config.forward_for, config.forward_to, Arc::clone(&metrics));
        let handler = Handler::new(HandlerConfig {
            name: zone_name.clone(),
            zone: Arc::clone(&zone),
            identity: host_name(),
            transfer_to: config.transfer_to,
            forwarder,
            metrics: Arc::clone(&metrics),
            faults: faults(),
        });
        if let Some(ports) = &without_tls {
            tracing::warn!(%ports, "listening beyond loopback without TLS (--listen-insecure)");
        }
        if config.faults.is_some() {
            tracing::warn!("fault injection enabled (--allow-faults): every operator may inject faults");
        }
        let fault_service = config.faults.map(|faults| FaultApi { faults, name: host_name() });
        let dns_ended = CancellationToken::new();
        let (served, ended) = (dns.serve(Arc::new(handler), stop.clone()), dns_ended.clone().drop_guard());
        tasks.spawn(async move {
            served.await;
            drop(ended);
        });

        let tls = tls.map(|tls| tls.dir);
        if let Some(tls) = &tls {
            tasks.spawn(Arc::clone(tls).follow(stop.clone().cancelled_owned()));
        }
        let (nodes, secret) = (config.nodes, config.secret.clone());
        let watcher =
            Watcher { seeds: nodes, secret, registry: registry.clone(), net, metrics: Arc::clone(&metrics) };
        tasks.spawn(watcher.run(stop.clone()));
        if let Some(export) = config.export {
            tasks.spawn(export::run(export, registry.zones(), Arc::clone(&metrics), stop.clone()));
        }
        let service = RegistryService::new(
            config.zone,
            config.secret,
            tls.is_some(),
            registry.clone(),
            Arc::clone(&metrics),
            tasks.clone(),
            stop.clone(),
        );
        let operators = Operators::new(config.admin_token);
        let entrance = grpc.gated(grpc_gate);
        let calls = metrics.calls.clone();
        tasks.spawn(serve_grpc(entrance, service, fault_service, operators, registry, calls, stop.clone()));
        let page = web::NameServerPages { zone, metrics: Arc::clone(&metrics), tls, dns_ended };
        if let Some(http) = http {
            tasks.spawn(conclave_telemetry::web::serve(http.gated(http_gate), page, stop.clone()));
        }
        Ok(Self { addresses, metrics, tasks, stop })
    }

    /// The addresses, with the chosen ports.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Stops all tasks. Those that do not end within 2 s are abandoned.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(CLOSE_DEADLINE, self.tasks.wait()).await.is_err() {
            tracing::debug!("connections still open after the stop timeout");
        }
    }
}

async fn serve_grpc(
    entrance: Entrance,
    service: RegistryService,
    faults: Option<FaultApi>,
    operators: Operators,
    registry: Registry,
    calls: CallMetrics,
    stop: CancellationToken,
) {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_not_serving::<DnsServiceServer<RegistryService>>().await;
    // As `/readyz`: serving begins with the first zone.
    let ready = async {
        if registry.zones().wait_for(Option::is_some).await.is_ok() {
            health.set_serving::<DnsServiceServer<RegistryService>>().await;
        }
    };
    let server = grpc::server()
        .layer(calls)
        .add_service(health_service)
        .add_service(InterceptedService::new(grpc::reflection(), operators.clone()))
        .add_service(InterceptedService::new(grpc::reflection_v1alpha(), operators.clone()))
        .add_optional_service(faults.map(|faults| FaultServiceServer::with_interceptor(faults, operators)))
        .add_service(service.server());
    let served = server.serve_with_incoming_shutdown(entrance.incoming(), stop.clone().cancelled_owned());
    let (served, _) = tokio::join!(served, stop.run_until_cancelled(ready));
    if let Err(error) = served {
        tracing::error!(%error, "serving registrations failed");
    }
}

/// Runs a name server until `shutdown`.
///
/// # Errors
/// See [`RunError`].
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    config.validate().map_err(RunError::Config)?;
    let listeners = Listeners::bind(&config).await?;
    let server = DnsServer::start(config, listeners)?;
    tracing::info!(addresses = ?server.addresses(), "name server started");
    shutdown.await;
    server.stop().await;
    Ok(())
}
