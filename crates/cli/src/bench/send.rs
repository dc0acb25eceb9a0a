//! `conclave bench send`: measures acknowledged messages per second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use conclave_client::{Client, Content};
use futures::stream::{FuturesUnordered, StreamExt as _};
use serde::Serialize;
use tokio::task::JoinSet;

use super::load::{self, Span};
use super::pace;
use super::report::{self, Latency, Progress, Recorder};
use crate::args::bench::SendArgs;
use crate::exit::Exit;
use crate::settings::Settings;
use crate::view::text::grouped;

/// Timeout for outstanding answers after the end.
const DRAIN: Duration = Duration::from_secs(20);

#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    publishers: u32,
    connections: u32,
    rooms: u32,
    size: u32,
    rate: Option<u32>,
    seconds: f64,
    acked: u64,
    acked_per_second: u64,
    #[serde(flatten)]
    latency: Latency,
    errors: u64,
    unanswered: u64,
}

/// Runs the measurement.
pub(crate) async fn run(args: SendArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let connections =
        if args.rate.is_some() { args.connections } else { args.connections.min(args.publishers) };
    let clients = load::clients(settings, connections, args.run.route.into()).await?;
    let rooms = load::rooms(&clients[0], args.rooms).await?;
    let recorders: Vec<_> = clients.iter().map(|_| Arc::new(Recorder::new())).collect();
    let span = Span::after(args.run.warmup, args.run.duration);
    let zero = Instant::now();
    let mut tasks = JoinSet::new();
    if let Some(rate) = args.rate {
        let share = f64::from(rate) / f64::from(connections);
        for ((client, recorder), number) in clients.iter().zip(&recorders).zip(0_u32..) {
            // The connections are spread within the interval, so that they do not send at the same instant.
            let offset = Duration::from_secs_f64(f64::from(number) / f64::from(rate));
            let ticks = pace::ticks(share, zero + offset, span.end);
            let paced = Paced { rooms: rooms.clone(), size: args.run.size, span, zero };
            tasks.spawn(paced.run(client.clone(), ticks, Arc::clone(recorder)));
        }
    } else {
        for publisher in 0..args.publishers {
            let at = |count: usize| usize::try_from(publisher).unwrap_or(0) % count;
            let room = rooms[at(rooms.len())].clone();
            let (client, recorder) =
                (clients[at(clients.len())].clone(), Arc::clone(&recorders[at(clients.len())]));
            tasks.spawn(load::publish(client, room, args.run.size, span, recorder, zero));
        }
    }
    let counted = || recorders.iter().map(|recorder| recorder.counted()).sum();
    let mut progress = Progress::new(settings, "acked");
    progress.until(span.begin, "warming up", counted).await;
    progress.until(span.end, "", counted).await;
    let _ = tokio::time::timeout(DRAIN, async { while tasks.join_next().await.is_some() {} }).await;
    let unanswered = clients.iter().map(|client| client.pending_count() as u64).sum();
    tasks.shutdown().await;

    let latencies = report::merged(recorders.iter().map(AsRef::as_ref));
    let acked = latencies.len();
    let report = Report {
        bench: "send",
        publishers: args.publishers,
        connections,
        rooms: args.rooms,
        size: args.run.size,
        rate: args.rate,
        seconds: args.run.duration.as_secs_f64(),
        acked,
        acked_per_second: report::per_second(acked, args.run.duration),
        latency: Latency::of(&latencies),
        errors: recorders.iter().map(|recorder| recorder.errors()).sum(),
        unanswered,
    };
    print(settings, &report)?;
    for client in clients {
        client.close().await;
    }
    Ok(if report.errors == 0 && report.unanswered == 0 { Exit::Ok } else { Exit::Refused })
}

fn print(settings: &Settings, report: &Report) -> anyhow::Result<()> {
    let load = match report.rate {
        Some(rate) => format!("{rate}/s"),
        None => format!("{} publishers", report.publishers),
    };
    let rows = [
        (
            "load",
            format!(
                "{load}, {} connections, {} rooms, {} bytes",
                report.connections, report.rooms, report.size
            ),
        ),
        ("acked", format!("{}/s", grouped(report.acked_per_second))),
        ("latency", report.latency.line()),
        ("errors", format!("{}, unanswered {}", report.errors, report.unanswered)),
    ];
    report::print(settings, report, &rows)
}

/// Sends at due times, whether or not earlier answers have arrived.
struct Paced {
    rooms: Vec<String>,
    size: u32,
    span: Span,
    zero: Instant,
}

impl Paced {
    async fn run(
        self,
        client: Client,
        mut ticks: tokio::sync::mpsc::Receiver<Instant>,
        recorder: Arc<Recorder>,
    ) {
        let mut waiting = FuturesUnordered::new();
        let mut sent = 0_usize;
        let mut over = false;
        while !over || !waiting.is_empty() {
            tokio::select! {
                due = ticks.recv(), if !over => {
                    let Some(due) = due else {
                        over = true;
                        continue;
                    };
                    let room = &self.rooms[sent % self.rooms.len()];
                    sent += 1;
                    let text = load::text(load::nanos_since(self.zero, due), self.size);
                    match client.submit(room, Content::Text(text)).await {
                        Ok(ticket) => waiting.push(async move { (due, ticket.wait().await) }),
                        Err(_) => recorder.error(),
                    }
                }
                Some((due, answer)) = waiting.next() => match answer {
                    Ok(_) => recorder.took(Instant::now() - due, self.span.contains(due)),
                    Err(_) => recorder.error(),
                },
            }
        }
    }
}
