//! The main loop of the simulation: it runs one tick after the other, and between two ticks crashes, starts and cuts off hosts.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::anyhow;
use conclave_chaos::engine::{Engine, Run, RunError};
use conclave_chaos::events::{Event, Observer};
use conclave_chaos::experiment::Experiment;
use conclave_chaos::journal::Journal;
use conclave_chaos::verdict::Verdict;
use conclave_client::{Client, Net};
use tokio_util::sync::CancellationToken;
use turmoil::Sim;

use crate::backend::Simulated;
use crate::cluster::{Cluster, Links, Shape, run_node};
use crate::life::{Death, HostChange, lock};
use crate::net::Host;
use crate::{name_server_task, world};

/// The length of a tick. A host sees the effects of another host only in the next tick.
const TICK: Duration = Duration::from_millis(1);
/// How long a client of the workload retries.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest run, in simulated time.
const LIMIT: Duration = Duration::from_secs(3_600);

/// The result of a run.
#[derive(Debug)]
pub(crate) struct RunResult {
    pub(crate) verdict: Result<Verdict, RunError>,
    pub(crate) elapsed: Duration,
    pub(crate) cluster: Arc<Cluster>,
}

/// Logs the events of a run.
struct Narrator;

impl Observer for Narrator {
    fn event(&self, event: &Event) {
        if event.is_line() {
            tracing::info!("{event}");
        }
    }
}

/// Runs an experiment on a cluster of three.
pub(crate) fn run(
    experiment: Experiment,
    seed: u64,
    shape: &Shape,
    lying_disk: bool,
    dir: &Path,
) -> anyhow::Result<RunResult> {
    world::seed(seed);
    let cluster = Arc::new(Cluster::new(3, seed, shape, dir)?);
    if lying_disk {
        cluster.machines.iter().for_each(|machine| machine.disk.ignore_syncs());
    }
    let mut sim = turmoil::Builder::new()
        .epoch(UNIX_EPOCH + Duration::from_secs(1_767_225_600))
        .simulation_duration(LIMIT)
        .tick_duration(TICK)
        .min_message_latency(Duration::from_micros(100))
        .max_message_latency(Duration::from_millis(4))
        .tcp_capacity(4_096)
        .enable_random_order()
        .rng_seed(seed)
        .build();
    for (number, machine) in cluster.machines.iter().enumerate() {
        let cluster = Arc::clone(&cluster);
        sim.host(machine.ip, move || {
            let life = run_node(Arc::clone(&cluster), number);
            async move {
                life.await;
                Ok(())
            }
        });
    }
    for (number, server) in cluster.name_servers.iter().enumerate() {
        let cluster = Arc::clone(&cluster);
        sim.host(server.ip, move || {
            let life = name_server_task::run_name_server(Arc::clone(&cluster), number);
            async move {
                life.await;
                Ok(())
            }
        });
    }
    let verdict = Arc::new(Mutex::new(None));
    let engine = engine(&cluster, dir)?;
    let run = Run { id: format!("{seed:016x}"), experiment, seed, dir: dir.to_owned() };
    sim.client(cluster.clients, judge(engine, run, Arc::clone(&cluster), Arc::clone(&verdict)));

    let mut links = Links::default();
    let ended = loop {
        world::set_now(sim.elapsed());
        match sim.step() {
            Ok(false) => between_ticks(&mut sim, &cluster, &mut links),
            Ok(true) => break Ok(()),
            Err(error) => break Err(anyhow!("the simulation failed: {error}")),
        }
    };
    let elapsed = sim.elapsed();
    ended?;
    let verdict = lock(&verdict).take().ok_or_else(|| anyhow!("the engine ended without a result"))?;
    // Dropping the simulation kills the hosts: errors that this causes must not become findings, so their disks die first.
    cluster.machines.iter().for_each(|machine| machine.disk.kill());
    drop(sim);
    Ok(RunResult { verdict, elapsed, cluster })
}

fn engine(cluster: &Arc<Cluster>, dir: &Path) -> anyhow::Result<Engine> {
    let host = Host { me: cluster.clients, cuts: cluster.cuts.clone() };
    let first = cluster.machines.first().map(|machine| machine.config.initial.clone());
    let servers: Vec<String> = first.unwrap_or_default().into_iter().map(|member| member.client).collect();
    let net = Net::Other(Arc::new(host));
    let on = net.clone();
    let connect = Arc::new(move |user: &str| {
        Client::builder()
            .servers(servers.iter().cloned())
            .user(user)
            .client_name("conclave-sim")
            .patience(PATIENCE)
            .network(on.clone())
    });
    Ok(Engine {
        backend: Box::new(Simulated(Arc::clone(cluster))),
        connect,
        net,
        journal: Journal::open(&dir.join("journal"))?,
        stop: CancellationToken::new(),
        observer: Arc::new(Narrator),
    })
}

async fn judge(
    mut engine: Engine,
    run: Run,
    cluster: Arc<Cluster>,
    verdict: Arc<Mutex<Option<Result<Verdict, RunError>>>>,
) -> turmoil::Result {
    let judged = Box::pin(engine.run(&run)).await;
    if judged.is_ok() {
        Box::pin(name_server_task::check_all_nodes_named(&cluster, &engine.net)).await;
    }
    *lock(&verdict) = Some(judged);
    Ok(())
}

/// Crashes and starts hosts, and updates links, between two ticks.
fn between_ticks(sim: &mut Sim<'_>, cluster: &Cluster, links: &mut Links) {
    let now = sim.elapsed();
    let (mut dying, mut starting) = (Vec::new(), Vec::new());
    for machine in &cluster.machines {
        let runs = sim.is_host_running(machine.ip);
        let die = |death| match death {
            Death::Killed => machine.disk.kill(),
            Death::Unpowered(remains) => machine.disk.lose_power(remains),
        };
        match lock(&machine.state).advance(now, runs, machine.disk.is_dead(), die) {
            Some(HostChange::Dies) => dying.push(machine.ip),
            Some(HostChange::Starts) => starting.push(machine.ip),
            None => {}
        }
    }
    for name_server in &cluster.name_servers {
        let runs = sim.is_host_running(name_server.ip);
        // A name server has no disk, so it need not wait for a write to die in.
        match lock(&name_server.state).advance(now, runs, true, |_| {}) {
            Some(HostChange::Dies) => dying.push(name_server.ip),
            Some(HostChange::Starts) => starting.push(name_server.ip),
            None => {}
        }
    }
    // Links first: a machine without power must not even send that its connections end.
    relink(sim, cluster, links);
    for ip in dying {
        sim.crash(ip);
    }
    for ip in starting {
        sim.bounce(ip);
    }
}

fn relink(sim: &Sim<'_>, cluster: &Cluster, links: &mut Links) {
    let wanted = cluster.links();
    if wanted == *links {
        return;
    }
    for (from, to) in links.cut.difference(&wanted.cut) {
        sim.repair_oneway(*from, *to);
    }
    for (a, b) in links.held.difference(&wanted.held) {
        sim.release(*a, *b);
    }
    for (a, b) in wanted.held.difference(&links.held) {
        sim.hold(*a, *b);
    }
    for (from, to) in &wanted.cut {
        sim.partition_oneway(*from, *to);
    }
    cluster.cuts.set(wanted.cut.clone());
    *links = wanted;
}
