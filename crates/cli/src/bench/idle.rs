//! `conclave bench idle`: measures the cost of idle subscribers.

use std::time::{Duration, Instant};

use conclave_client::{Client, Follow, Incoming, Start, Subscription};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Serialize;

use super::load;
use super::process;
use super::report::{self, Latency};
use crate::args::bench::IdleArgs;
use crate::errors::of_call;
use crate::exit::Exit;
use crate::output;
use crate::settings::Settings;
use crate::view::text::bytes;

/// The number of subscriptions that are opened at the same time.
const OPENING_MAX: usize = 64;
/// Pause between the last change and the memory measurement.
const SETTLE: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    subscribers: u32,
    connections: u32,
    connect_seconds: f64,
    /// From opening a subscription until it has caught up.
    #[serde(flatten)]
    latency: Latency,
    pids: Vec<u32>,
    rss_before: u64,
    rss_after: u64,
    rss_per_subscriber: Option<u64>,
    /// The share of one core that all servers use together.
    cpu_percent: Option<f64>,
}

/// Runs the measurement.
pub(crate) async fn run(args: IdleArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let servers = load::all_servers(settings).await?;
    let pids = if args.pids.is_empty() {
        servers.iter().filter_map(|address| process::listening_at(address)).collect()
    } else {
        args.pids.clone()
    };
    if pids.is_empty() {
        output::note(
            settings.quiet,
            "the servers' processes are not on this machine; give --pids to see what they use",
        );
    }
    let connections = args.connections.unwrap_or(args.subscribers).min(args.subscribers);
    let opener = load::clients(settings, 1, conclave_client::Route::Pinned).await?;
    let room = load::rooms(&opener[0], 1).await?.remove(0);
    tokio::time::sleep(SETTLE).await;
    let rss_before = memory(&pids)?;

    let begun = Instant::now();
    let clients = load::clients(settings, connections, conclave_client::Route::Pinned).await?;
    let mut latencies = report::histogram();
    let opened = open(&clients, &room, args.subscribers).await?;
    let connect_seconds = begun.elapsed().as_secs_f64();
    let mut subscriptions = Vec::with_capacity(opened.len());
    for (subscription, took) in opened {
        latencies.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        subscriptions.push(subscription);
    }
    output::note(
        settings.quiet,
        &format!("{} subscribers after {connect_seconds:.1} s", subscriptions.len()),
    );
    // The streams must be read, or keepalives fill their windows.
    let reading: Vec<_> =
        subscriptions.into_iter().map(|subscription| tokio::spawn(read(subscription))).collect();
    tokio::time::sleep(SETTLE).await;
    let cpu_before = cpu(&pids)?;
    let measured = Instant::now();
    tokio::time::sleep(args.duration).await;
    let cpu_used = cpu(&pids)? - cpu_before;
    let rss_after = memory(&pids)?;
    let growth = rss_after.saturating_sub(rss_before);
    let report = Report {
        bench: "idle",
        subscribers: args.subscribers,
        connections,
        connect_seconds,
        latency: Latency::of(&latencies),
        rss_per_subscriber: (args.subscribers > 0 && !pids.is_empty())
            .then(|| growth / u64::from(args.subscribers)),
        cpu_percent: (!pids.is_empty()).then(|| cpu_used / measured.elapsed().as_secs_f64() * 100.0),
        pids,
        rss_before,
        rss_after,
    };
    print(settings, &report)?;
    for client in clients.into_iter().chain(opener) {
        client.close().await;
    }
    for reader in reading {
        reader.abort();
    }
    Ok(Exit::Ok)
}

async fn read(mut subscription: Subscription) {
    while subscription.next().await.is_ok() {}
}

async fn open(clients: &[Client], room: &str, count: u32) -> anyhow::Result<Vec<(Subscription, Duration)>> {
    let opening = (0..count).zip(clients.iter().cycle()).map(|(_, client)| async move {
        let begun = Instant::now();
        let mut subscription = client.subscribe(vec![Follow::room(room).from(Start::Now)]);
        loop {
            let next = subscription.next().await.map_err(|error| of_call(Some(room), &error))?;
            if let Incoming::CaughtUp { .. } = next {
                return anyhow::Ok((subscription, begun.elapsed()));
            }
        }
    });
    stream::iter(opening).buffer_unordered(OPENING_MAX).try_collect().await
}

fn memory(pids: &[u32]) -> anyhow::Result<u64> {
    pids.iter().map(|pid| process::memory(*pid)).sum()
}

fn cpu(pids: &[u32]) -> anyhow::Result<f64> {
    pids.iter().map(|pid| process::cpu_seconds(*pid)).sum()
}

fn print(settings: &Settings, report: &Report) -> anyhow::Result<()> {
    let mut rows = vec![
        ("load", format!("{} subscribers on {} connections", report.subscribers, report.connections)),
        ("connected", format!("all after {:.2} s; {}", report.connect_seconds, report.latency.line())),
    ];
    if !report.pids.is_empty() {
        rows.push((
            "memory",
            format!("{} before, {} after", bytes(report.rss_before), bytes(report.rss_after)),
        ));
    }
    if let Some(each) = report.rss_per_subscriber {
        rows.push(("a subscriber", format!("{}, all servers together", bytes(each))));
    }
    if let Some(cpu) = report.cpu_percent {
        rows.push(("processor", format!("{cpu:.1} % of a core, all servers together")));
    }
    report::print(settings, report, &rows)
}
