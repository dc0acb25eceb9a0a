//! Measures this node's load periodically.

use std::sync::Arc;
use std::time::Duration;

use conclave_store::Work;
use conclave_telemetry::process;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::limits::LOAD_INTERVAL;
use crate::local::NodeInfo;
use crate::local::load::{Load, Sample, Window};
use crate::metrics::{ClientMetrics, Metrics};
use crate::shard::Shards;

/// Updates the node's load and its gauges until the node stops.
pub(crate) async fn run(
    node: Arc<NodeInfo>,
    shards: Arc<Shards>,
    metrics: Arc<Metrics>,
    work: Work,
    stop: CancellationToken,
) {
    let processors =
        std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1));
    let mut window = Window::default();
    let mut ticks = tokio::time::interval(LOAD_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let queued = shards.replicas().map(|replica| {
            let queue = &replica.proposals;
            (queue.max_capacity() - queue.capacity()) as u64
        });
        window.add(Sample {
            at: Instant::now(),
            // In a simulation all nodes share one process, whose processor time is real and not simulated.
            cpu: if work == Work::Tasks { Duration::ZERO } else { process::cpu_time() },
            queued: queued.sum(),
            sends: metrics.sends_by_duration(),
        });
        let load = window.load(processors);
        node.load.send_replace(load);
        update_gauges(&metrics.clients, &node, load);
    }
}

/// Publishes the node's load in the metrics.
fn update_gauges(metrics: &ClientMetrics, node: &NodeInfo, load: Load) {
    let (count, max) = (node.sessions.count(), node.sessions.max());
    metrics.sessions.set(count.into());
    metrics.sessions_max.set(max.into());
    metrics.full.set(node.sessions.is_full().into());
    metrics.load.set(f64::from(load.score(count, max)) / 1_000.0);
    metrics.cpu.set(f64::from(load.cpu_permille) / 1_000.0);
    metrics.queued.set(load.queued.into());
    metrics.send_p99.set(f64::from(load.send_p99_us) / 1_000_000.0);
}
