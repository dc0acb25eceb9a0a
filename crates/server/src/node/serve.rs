//! Starts the tasks that run until a node stops.

use std::sync::Arc;

use conclave_core::ShardId;
use conclave_net::Net;
use conclave_proto::chat::ClusterView;
use conclave_store::Identity;
use conclave_telemetry::operators::Operators;
use tokio::sync::{mpsc, watch};

use crate::api::admin::Admin;
use crate::api::answers::Answers;
use crate::api::gateway::Gateway;
use crate::api::http;
use crate::api::peer::PeerService;
use crate::api::readers::Readers;
use crate::api::web;
use crate::bootstrap;
use crate::budget::Budget;
use crate::clock::Clock;
use crate::cluster::election_waits;
use crate::cluster::health::Health;
use crate::cluster::leadership::{self, Leadership};
use crate::cluster::load_sampler;
use crate::cluster::peer_statuses::PeerStatuses;
use crate::cluster::placement::Placement;
use crate::cluster::view;
use crate::coalesced::Coalesced;
use crate::config::{Config, Timing};
use crate::discovery::record;
use crate::discovery::records::Records;
use crate::discovery::register::{self, Registration};
use crate::faults::FaultApi;
use crate::feed::Feed;
use crate::housekeeping;
use crate::node::Node;
use crate::node::gates::Entrances;
use crate::node::listen::{Listeners, serve_clients, serve_peers};
use crate::peer::LinkQueues;
use crate::peer::admission::Admission;
use crate::peer::introduce::Introductions;
use crate::peer::link::maintain_link;
use crate::peer::tls::PeerTls;
use crate::people::attempts::Attempts;
use crate::people::endings;
use crate::people::password::Passwords;
use crate::people::seen::Seen;
use crate::shard::elections;

/// Capacity of the queue of dead peers.
const DEATHS_WAITING_MAX: usize = 64;

/// The parts that only the start needs.
pub(super) struct Parts {
    pub(super) admission: Admission,
    pub(super) feed: Arc<Feed>,
    pub(super) clock: Clock,
    pub(super) links: LinkQueues,
    pub(super) identity: Identity,
    pub(super) peer_statuses: Arc<PeerStatuses>,
    pub(super) leadership: Leadership,
    /// The network for connections to name servers.
    pub(super) name_server_net: Net,
    /// `None` without TLS.
    pub(super) tls: Option<Arc<PeerTls>>,
}

impl Node {
    /// Starts all tasks that run until the node stops.
    pub(super) fn serve(&self, config: &Config, listeners: Listeners, parts: Parts) {
        let Self { info, store, metrics, router, drain, tasks, .. } = self;
        let Parts { admission, feed, clock, links, identity, peer_statuses, .. } = parts;
        let (leadership, name_server_net, tls) = (parts.leadership, parts.name_server_net, parts.tls);
        let shards = &router.shards;
        let stop = &info.stop;
        let view = ClusterView { cluster_id: format!("{:032x}", info.cluster), ..ClusterView::default() };
        let (view_sender, views) = watch::channel(Arc::new(view));
        let placement =
            Placement::new(router.clone(), Arc::clone(info), Arc::clone(&peer_statuses), Arc::clone(metrics));
        let gateway = Gateway {
            router: router.clone(),
            feed,
            store: store.clone(),
            metrics: Arc::clone(metrics),
            node: Arc::clone(info),
            clock: clock.clone(),
            views,
            placement: placement.clone(),
            budget: Budget::new(&metrics.clients),
            answers: Answers::default(),
            readers: Readers::new(),
            passwords: Passwords::new(store.work()),
            attempts: Attempts::default(),
            seen: Seen::default(),
            statuses: std::array::from_fn(|_| Coalesced::default()),
        };
        let port = info.member.peer.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        let peer_port = port.unwrap_or_else(|| config.peer_listen.port());
        let introductions = Introductions { admission, shards: Arc::clone(shards), peer_port };
        let peer_service = PeerService {
            introductions: introductions.clone(),
            shards: Arc::clone(shards),
            store: store.clone(),
            metrics: Arc::clone(metrics),
            stop: stop.clone(),
            node: Arc::clone(info),
            placement: placement.clone(),
            drain: drain.clone(),
            refused: Arc::default(),
        };
        let net = listeners.net.clone();
        let entrances = Entrances::new(config, listeners, &metrics.connections);
        let records = Records::new(Arc::clone(info), Arc::clone(&peer_statuses), config);
        let operators = Operators::new(config.admin_token.clone());
        let admin = Admin {
            gateway: gateway.clone(),
            placement: placement.clone(),
            drain: drain.clone(),
            records,
            operators: operators.clone(),
        };
        tasks.spawn(serve_peers(entrances.peer, peer_service, stop.clone()));
        let name = info.member.name.clone();
        let faults = config.faults.clone().map(|faults| FaultApi { faults, clock: clock.clone(), name });
        let health = Health::new(Arc::clone(info), Arc::clone(shards), store.clone());
        let health = Arc::new(health);
        let page = web::NodePages { health: Arc::clone(&health), gateway: gateway.clone(), tls };
        if let Some(http) = entrances.http {
            tasks.spawn(conclave_telemetry::web::serve(http, page, stop.clone()));
        }
        if let Some(web) = entrances.web {
            let routes = http::routes(gateway.clone(), operators, tasks.clone());
            tasks.spawn(conclave_telemetry::web::serve_routes(web, routes, stop.clone()));
        }
        self.spawn_session_tasks(gateway.seen.clone(), Arc::clone(&peer_statuses), &clock);
        tasks.spawn(serve_clients(entrances.client, gateway, admin, faults, stop.clone()));

        self.spawn_shard_tasks(&net, &introductions, links, leadership, &clock, config.timing);
        let settling = bootstrap::complete_start(
            router.clone(),
            Arc::clone(info),
            identity.directory,
            self.expelled.clone(),
        );
        tasks.spawn(settling);
        tasks.spawn(bootstrap::run_level_upgrades(router.clone(), stop.clone()));
        self.spawn_view(peer_statuses, view_sender);
        tasks.spawn(placement.run());
        self.spawn_record_tasks(config, health, &clock, &name_server_net);
    }

    /// Starts the task that tells clients of the other nodes.
    fn spawn_view(&self, peer_statuses: Arc<PeerStatuses>, views: watch::Sender<Arc<ClusterView>>) {
        let Self { info, metrics, router, tasks, .. } = self;
        tasks.spawn(view::run(
            Arc::clone(info),
            Arc::clone(&router.peers),
            peer_statuses,
            Arc::clone(&router.shards),
            Arc::clone(metrics),
            views,
            info.stop.clone(),
        ));
    }

    /// Starts the tasks that keep sessions.
    fn spawn_session_tasks(&self, seen: Seen, peer_statuses: Arc<PeerStatuses>, clock: &Clock) {
        let Self { info, store, router, tasks, .. } = self;
        let stop = &info.stop;
        tasks.spawn(seen.run(router.clone(), stop.clone()));
        tasks.spawn(endings::run(router.clone(), peer_statuses, clock.clone(), stop.clone()));
        tasks.spawn(endings::end_streams(
            router.clone(),
            Arc::clone(&info.sessions),
            clock.clone(),
            store.state(ShardId::META).ended_sessions(),
            stop.clone(),
        ));
    }

    /// Starts the links to the other nodes, and the tasks that watch and keep this node's replicas.
    fn spawn_shard_tasks(
        &self,
        net: &Net,
        introductions: &Introductions,
        links: LinkQueues,
        leadership: Leadership,
        clock: &Clock,
        timing: Timing,
    ) {
        let Self { info, store, metrics, router, tasks, .. } = self;
        let (shards, stop) = (&router.shards, &info.stop);
        let (died, deaths) = mpsc::channel(DEATHS_WAITING_MAX);
        for (peer, queue, echoes) in links {
            let (net, introductions, died) = (net.clone(), introductions.clone(), died.clone());
            tasks.spawn(maintain_link(net, introductions, peer, queue, died, stop.clone()));
            if let Some(echoes) = echoes {
                tasks.spawn(echoes.run(stop.clone()));
            }
        }
        tasks.spawn(leadership::replace_dead_leaders(Arc::clone(shards), deaths, stop.clone()));
        tasks.spawn(leadership.restore_preferred_leaders());
        if timing == Timing::Auto {
            tasks.spawn(election_waits::run(Arc::clone(shards), stop.clone()));
        }
        for replica in shards.replicas() {
            tasks.spawn(elections::watch(
                Arc::clone(replica),
                Arc::clone(metrics),
                clock.clone(),
                stop.clone(),
            ));
        }
        let keeping = housekeeping::run(
            Arc::clone(shards),
            store.clone(),
            info.disk.clone(),
            Arc::clone(metrics),
            stop.clone(),
        );
        tasks.spawn(keeping);
        let looking =
            housekeeping::watch_disk(store.clone(), info.disk.clone(), Arc::clone(metrics), stop.clone());
        tasks.spawn(looking);
    }

    /// Starts the tasks that update and report the node's record.
    fn spawn_record_tasks(&self, config: &Config, health: Arc<Health>, clock: &Clock, net: &Net) {
        let Self { info, metrics, router, tasks, .. } = self;
        let stop = &info.stop;
        let loading = load_sampler::run(
            Arc::clone(info),
            Arc::clone(&router.shards),
            Arc::clone(metrics),
            self.store.work(),
            stop.clone(),
        );
        tasks.spawn(loading);
        tasks.spawn(record::run(
            Arc::clone(info),
            Arc::clone(&router.shards),
            health,
            clock.clone(),
            tasks.clone(),
            stop.clone(),
        ));
        for (resolver, secret) in config.name_servers.iter().zip(std::iter::repeat(&config.secret).flatten())
        {
            let registration = Registration {
                net: net.clone(),
                resolver: resolver.clone(),
                node: Arc::clone(info),
                topology: Arc::clone(&router.shards.topology),
                secret: secret.clone(),
                metrics: Arc::clone(metrics),
                clock: clock.clone(),
            };
            tasks.spawn(register::run(registration, stop.clone()));
        }
    }
}
