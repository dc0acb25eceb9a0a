//! `conclave bench fanout`: one room with many subscribers that all read everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use conclave_client::{Client, Content, Follow, RawBatch, Start, Subscription};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::task::JoinSet;

use super::load::{self, Span};
use super::pace;
use super::report::{self, Latency, Progress, Recorder};
use crate::args::bench::FanoutArgs;
use crate::errors::of_call;
use crate::exit::Exit;
use crate::settings::Settings;
use crate::view::text::grouped;

/// Timeout for the subscribers after the last message.
const DRAIN: Duration = Duration::from_secs(20);
/// The number of connections of the publishers.
const PUBLISHER_CONNECTIONS: u32 = 3;

#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    subscribers: u32,
    connections: u32,
    publishers: u32,
    size: u32,
    rate: Option<u32>,
    seconds: f64,
    sent_per_second: u64,
    delivered: u64,
    delivered_per_second: u64,
    /// From the time when the send was due (at a fixed rate) or began, to its delivery.
    #[serde(flatten)]
    latency: Latency,
    /// From the sender's ack to the delivery; 0 if the delivery came first.
    from_ack: Option<Latency>,
    undelivered: u64,
    errors: u64,
}

/// The events that one subscriber received.
struct Received {
    latencies: Histogram<u64>,
    /// Seq and time of each delivery, if they are compared with acks.
    times: Vec<(u64, Instant)>,
    delivered: u64,
    last: u64,
}

/// Runs the measurement.
pub(crate) async fn run(args: FanoutArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let publishers = load::clients(settings, PUBLISHER_CONNECTIONS, args.run.route.into()).await?;
    let room = load::rooms(&publishers[0], 1).await?.remove(0);
    let connections = args.connections.unwrap_or(args.subscribers).min(args.subscribers);
    let readers = load::clients(settings, connections, conclave_client::Route::Pinned).await?;
    let subscriptions = subscribe(&readers, &room, args.subscribers).await?;

    let span = Span::after(args.run.warmup, args.run.duration);
    let zero = Instant::now();
    let counts: Vec<_> = readers.iter().map(|_| Arc::new(AtomicU64::new(0))).collect();
    let target = Arc::new(AtomicU64::new(u64::MAX));
    let mut reading = JoinSet::new();
    for (subscription, at) in subscriptions.into_iter().zip((0..counts.len()).cycle()) {
        let reader = Reader { span, zero, keep_times: args.rate.is_some(), count: Arc::clone(&counts[at]) };
        reading.spawn(reader.run(subscription, Arc::clone(&target)));
    }

    let recorders: Vec<_> = publishers.iter().map(|_| Arc::new(Recorder::new())).collect();
    let (mut sending, acks) = start_publishers(&args, &publishers, &recorders, &room, span, zero);
    let delivered = || counts.iter().map(|count| count.load(Ordering::Relaxed)).sum();
    let mut progress = Progress::new(settings, "delivered");
    progress.until(span.begin, "warming up", delivered).await;
    let sent_before: u64 = recorders.iter().map(|recorder| recorder.counted()).sum();
    progress.until(span.end, "", delivered).await;
    let sent_during = recorders.iter().map(|recorder| recorder.counted()).sum::<u64>() - sent_before;

    let _ = tokio::time::timeout(DRAIN, async { while sending.join_next().await.is_some() {} }).await;
    sending.shutdown().await;
    let newest = conclave_client::HistoryQuery {
        linearizable: true,
        ..conclave_client::HistoryQuery::newest(&room, 1)
    };
    let last = publishers[0].history(newest).await.map_err(|error| of_call(Some(&room), &error))?.last_seq;
    target.store(last, Ordering::Release);
    let seen = collect(reading).await;

    let report = summarise(&args, connections, span, sent_during, last, &seen, acks.as_deref(), &recorders);
    print(settings, &report)?;
    for client in publishers.into_iter().chain(readers) {
        client.close().await;
    }
    Ok(if report.errors == 0 && report.undelivered == 0 { Exit::Ok } else { Exit::Refused })
}

/// Opens all subscriptions and waits until each has caught up.
async fn subscribe(readers: &[Client], room: &str, count: u32) -> anyhow::Result<Vec<Subscription>> {
    let mut opening = JoinSet::new();
    let follow = Follow::room(room).from(Start::After(0));
    for (_, reader) in (0..count).zip(readers.iter().cycle()) {
        let mut subscription = reader.subscribe(vec![follow.clone()]);
        opening.spawn(async move {
            // The room already has its first event.
            subscription.next_batch().await.map(|_| subscription)
        });
    }
    let mut open = Vec::new();
    while let Some(opened) = opening.join_next().await {
        open.push(opened?.map_err(|error| of_call(Some(room), &error))?);
    }
    Ok(open)
}

type Acks = Arc<std::sync::Mutex<Vec<(u64, Instant)>>>;

fn start_publishers(
    args: &FanoutArgs,
    clients: &[Client],
    recorders: &[Arc<Recorder>],
    room: &str,
    span: Span,
    zero: Instant,
) -> (JoinSet<()>, Option<Acks>) {
    let mut sending = JoinSet::new();
    let Some(rate) = args.rate else {
        for (publisher, at) in (0..args.publishers).zip((0..clients.len()).cycle()) {
            let _ = publisher;
            let (client, recorder) = (clients[at].clone(), Arc::clone(&recorders[at]));
            sending.spawn(load::publish(client, room.to_owned(), args.run.size, span, recorder, zero));
        }
        return (sending, None);
    };
    let acks = Acks::default();
    let mut ticks = pace::ticks(f64::from(rate), zero, span.end);
    let (client, recorder, room) = (clients[0].clone(), Arc::clone(&recorders[0]), room.to_owned());
    let (size, kept) = (args.run.size, Arc::clone(&acks));
    sending.spawn(async move {
        let mut answers = JoinSet::new();
        while let Some(due) = ticks.recv().await {
            let text = load::text(load::nanos_since(zero, due), size);
            let Ok(ticket) = client.submit(&room, Content::Text(text)).await else {
                recorder.error();
                continue;
            };
            let (recorder, kept) = (Arc::clone(&recorder), Arc::clone(&kept));
            answers.spawn(async move {
                match ticket.wait().await {
                    Ok(ack) => {
                        let now = Instant::now();
                        recorder.took(now - due, span.contains(due));
                        if let Ok(mut acks) = kept.lock() {
                            acks.push((ack.seq, now));
                        }
                    }
                    Err(_) => recorder.error(),
                }
            });
            while answers.try_join_next().is_some() {}
        }
        while answers.join_next().await.is_some() {}
    });
    (sending, Some(acks))
}

struct Reader {
    span: Span,
    zero: Instant,
    keep_times: bool,
    count: Arc<AtomicU64>,
}

impl Reader {
    /// Reads until the event `target` has arrived.
    async fn run(self, mut subscription: Subscription, target: Arc<AtomicU64>) -> Received {
        let mut seen = Received { latencies: report::histogram(), times: Vec::new(), delivered: 0, last: 1 };
        while seen.last < target.load(Ordering::Acquire) {
            let next = tokio::time::timeout(Duration::from_millis(100), subscription.next_raw_batch());
            let batch = match next.await {
                Ok(Ok(batch)) => batch,
                Ok(Err(_)) => return seen,
                Err(_) => continue,
            };
            self.take(&batch, &mut seen);
        }
        seen
    }

    fn take(&self, batch: &RawBatch, seen: &mut Received) {
        let now = Instant::now();
        let measured = self.span.contains(now);
        let mut count = 0;
        for event in batch.events() {
            count += 1;
            seen.last = event.seq;
            let Some(begun) = event.text.and_then(load::number) else { continue };
            if measured {
                seen.delivered += 1;
                seen.latencies.saturating_record(load::nanos_since(self.zero, now).saturating_sub(begun));
            }
            if self.keep_times && measured {
                seen.times.push((event.seq, now));
            }
        }
        self.count.fetch_add(count, Ordering::Relaxed);
    }
}

async fn collect(mut reading: JoinSet<Received>) -> Vec<Received> {
    let mut all = Vec::new();
    let collecting = async {
        while let Some(seen) = reading.join_next().await {
            all.extend(seen.ok());
        }
    };
    // Subscribers that are late count as incomplete.
    let _ = tokio::time::timeout(DRAIN, collecting).await;
    all
}

#[expect(clippy::too_many_arguments, reason = "all that a run has produced")]
fn summarise(
    args: &FanoutArgs,
    connections: u32,
    span: Span,
    sent: u64,
    last: u64,
    seen: &[Received],
    acks: Option<&std::sync::Mutex<Vec<(u64, Instant)>>>,
    recorders: &[Arc<Recorder>],
) -> Report {
    let mut latencies = report::histogram();
    for one in seen {
        // Both have the same bounds, so this always fits.
        let _ = latencies.add(&one.latencies);
    }
    let time = span.end - span.begin;
    let delivered = seen.iter().map(|one| one.delivered).sum();
    let missing = u64::from(args.subscribers).saturating_sub(seen.len() as u64) * last;
    Report {
        bench: "fanout",
        subscribers: args.subscribers,
        connections,
        publishers: args.publishers,
        size: args.run.size,
        rate: args.rate,
        seconds: time.as_secs_f64(),
        sent_per_second: report::per_second(sent, time),
        delivered,
        delivered_per_second: report::per_second(delivered, time),
        latency: Latency::of(&latencies),
        from_ack: acks.map(|acks| from_ack(acks, seen)),
        undelivered: missing + seen.iter().map(|one| last.saturating_sub(one.last)).sum::<u64>(),
        errors: recorders.iter().map(|recorder| recorder.errors()).sum(),
    }
}

fn from_ack(acks: &std::sync::Mutex<Vec<(u64, Instant)>>, seen: &[Received]) -> Latency {
    let mut acked = acks.lock().map(|acks| acks.clone()).unwrap_or_default();
    acked.sort_unstable();
    let mut latencies = report::histogram();
    for (seq, at) in seen.iter().flat_map(|one| &one.times) {
        if let Ok(found) = acked.binary_search_by_key(seq, |(seq, _)| *seq) {
            latencies.saturating_record(load::nanos_since(acked[found].1, *at));
        }
    }
    Latency::of(&latencies)
}

fn print(settings: &Settings, report: &Report) -> anyhow::Result<()> {
    let load = match report.rate {
        Some(rate) => format!("{rate}/s"),
        None => format!("{} in flight", report.publishers),
    };
    let mut rows = vec![
        (
            "load",
            format!(
                "{load}, {} subscribers on {} connections, {} bytes",
                report.subscribers, report.connections, report.size
            ),
        ),
        ("sent", format!("{}/s", grouped(report.sent_per_second))),
        ("delivered", format!("{}/s", grouped(report.delivered_per_second))),
        ("latency", report.latency.line()),
    ];
    if let Some(from_ack) = &report.from_ack {
        rows.push(("from the ack", from_ack.line()));
    }
    rows.push(("errors", format!("{}, undelivered {}", report.errors, report.undelivered)));
    report::print(settings, report, &rows)
}
