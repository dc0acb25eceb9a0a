//! `conclave bench failover`: measures how long no send is acknowledged after a leader fails, and checks that none is
//! lost.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use conclave_client::{Client, Content, HistoryQuery, Window, api};
use conclave_core::RoomId;
use conclave_core::ring::shard_of;
use rustix::process::Signal;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{load, pace, process, report};
use crate::args::bench::{FailoverArgs, Fault};
use crate::errors::of_call;
use crate::exit::{Exit, Failed};
use crate::output;
use crate::settings::Settings;

/// Timeout for outstanding answers after a trial.
const DRAIN: Duration = Duration::from_secs(30);
/// Interval of health checks.
const HEALTH_POLL: Duration = Duration::from_millis(200);
/// Pause between a healthy cluster and the next trial.
const CALM: Duration = Duration::from_millis(500);

#[derive(Debug, Serialize)]
struct Trial {
    trial: u32,
    node: String,
    /// The longest time without an ack after the fault.
    gap_ms: f64,
    /// The longest time without an ack before the fault, for comparison.
    usual_gap_ms: f64,
    sent: u64,
    acked: u64,
    refused: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    fault: String,
    rate: u32,
    trials: Vec<Trial>,
    gap_median_ms: f64,
    gap_min_ms: f64,
    gap_max_ms: f64,
    acked: u64,
    /// Acknowledged messages that are not in the room.
    lost: u64,
    /// Messages that are in the room more than once.
    duplicated: u64,
    /// Messages that are in the room after one that was sent later.
    out_of_order: u64,
    /// Messages in the room that were never sent.
    phantom: u64,
}

/// Runs the measurement.
pub(crate) async fn run(args: FailoverArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let client = load::clients(settings, 1, args.route.into()).await?.remove(0);
    let room = load::rooms(&client, 1).await?.remove(0);
    let room_id = client
        .history(HistoryQuery::newest(&room, 1))
        .await
        .map_err(|error| of_call(Some(&room), &error))?
        .room_id;
    let mut trials = Vec::new();
    let mut acks = Acks::default();
    for number in 1..=args.trials {
        let leader = healthy(&client, room_id, args.heal).await?;
        let trial = trial(&args, &client, &room, number, &leader, &mut acks).await?;
        output::note(
            settings.quiet,
            &format!(
                "trial {number:>2}: {:<8} gap {:>7.1} ms (usual {:.1} ms), {} acked",
                trial.node, trial.gap_ms, trial.usual_gap_ms, trial.acked
            ),
        );
        trials.push(trial);
    }
    healthy(&client, room_id, args.heal).await?;
    let report = summarise(&args, &client, &room, trials, &acks).await?;
    print(settings, &report)?;
    let good = report.lost + report.duplicated + report.out_of_order + report.phantom == 0;
    client.close().await;
    Ok(if good { Exit::Ok } else { Exit::Verification })
}

/// The leader of the room's shard.
struct Leader {
    name: String,
    address: String,
}

/// Waits until the cluster is healthy.
async fn healthy(client: &Client, room_id: u64, patience: Duration) -> anyhow::Result<Leader> {
    let deadline = Instant::now() + patience;
    let mut calm_since = None;
    loop {
        let status = client.status().await;
        if let Ok(status) = &status
            && status.healthy
            && let Some(leader) = leader(status, room_id)
        {
            let since = *calm_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= CALM {
                return Ok(leader);
            }
        } else {
            calm_since = None;
        }
        if Instant::now() > deadline {
            let why = match status {
                Ok(status) if status.problems.is_empty() => "the room's shard has no leader".to_owned(),
                Ok(status) => status.problems.join("; "),
                Err(error) => error.to_string(),
            };
            let what = format!("the cluster is not healthy within {patience:?}: {why}");
            return Err(Failed::new(
                Exit::NoServer,
                what,
                "make sure that killed servers are restarted, as `conclave up` does",
            )
            .into());
        }
        tokio::time::sleep(HEALTH_POLL).await;
    }
}

fn leader(status: &api::GetServerStatusResponse, room_id: u64) -> Option<Leader> {
    if status.shards == 0 {
        return None;
    }
    let shard = shard_of(RoomId(room_id), status.shards).0;
    let leads = |node: &&api::NodeStatus| {
        node.shards.iter().any(|row| row.shard == shard && row.role() == api::Role::Leader)
    };
    let node = status.nodes.iter().find(leads)?;
    Some(Leader { name: node.name.clone(), address: node.address.clone() })
}

/// The messages that were sent and acked: how many were sent, and the number of each acked one by its seq.
#[derive(Default)]
struct Acks {
    sent: u64,
    by_seq: HashMap<u64, u64>,
}

async fn trial(
    args: &FailoverArgs,
    client: &Client,
    room: &str,
    number: u32,
    leader: &Leader,
    acks: &mut Acks,
) -> anyhow::Result<Trial> {
    let begin = Instant::now();
    let ticks = pace::ticks(f64::from(args.rate), begin, begin + args.duration);
    let first = acks.sent;
    let (answers, mut answered) = mpsc::channel(65_536);
    let mut tasks = JoinSet::new();
    tasks.spawn(send(client.clone(), room.to_owned(), args.size, first, ticks, answers));
    // The fault comes at a random time between a quarter and a half of the trial.
    let before = args.duration.mul_f64(0.25 + rand::random::<f64>() * 0.25);
    tokio::time::sleep_until((begin + before).into()).await;
    let struck = Instant::now();
    let stopped = inject_fault(args, leader).await?;
    if let Some(pid) = stopped {
        tokio::time::sleep(args.stop_for).await;
        process::signal(pid, Signal::CONT)?;
    }
    let mut times = Vec::new();
    let (mut acked, mut refused) = (0, 0);
    let collect = async {
        while let Some(answer) = answered.recv().await {
            match answer {
                SendOutcome::Acked { number, seq, at } => {
                    acked += 1;
                    times.push(at);
                    acks.by_seq.insert(seq, number);
                }
                SendOutcome::Refused => refused += 1,
            }
        }
    };
    if tokio::time::timeout(args.duration + DRAIN, collect).await.is_err() {
        bail!("{} sends of the trial have no answer yet", client.pending_count());
    }
    let sent = acked + refused;
    acks.sent += sent;
    Ok(Trial {
        trial: number,
        node: leader.name.clone(),
        gap_ms: longest_gap(&mut times, struck, None),
        usual_gap_ms: longest_gap(&mut times, begin, Some(struck)),
        sent,
        acked,
        refused,
    })
}

/// The longest time between two neighbours whose later one lies between `from` and `to`.
fn longest_gap(times: &mut [Instant], from: Instant, to: Option<Instant>) -> f64 {
    times.sort_unstable();
    let within = |at: &Instant| *at >= from && to.is_none_or(|to| *at < to);
    let gaps = times.windows(2).filter(|pair| within(&pair[1])).map(|pair| pair[1] - pair[0]);
    gaps.max().unwrap_or_default().as_secs_f64() * 1_000.0
}

enum SendOutcome {
    Acked { number: u64, seq: u64, at: Instant },
    Refused,
}

async fn send(
    client: Client,
    room: String,
    size: u32,
    first: u64,
    mut ticks: mpsc::Receiver<Instant>,
    answers: mpsc::Sender<SendOutcome>,
) {
    let mut waiting = JoinSet::new();
    let mut number = first;
    while ticks.recv().await.is_some() {
        let submitted = client.submit(&room, Content::Text(load::text(number, size))).await;
        let (answers, mine) = (answers.clone(), number);
        number += 1;
        waiting.spawn(async move {
            let answer = match submitted {
                Ok(ticket) => ticket.wait().await,
                Err(error) => Err(error),
            };
            let answer = match answer {
                Ok(ack) => SendOutcome::Acked { number: mine, seq: ack.seq, at: Instant::now() },
                Err(_) => SendOutcome::Refused,
            };
            // The trial may have ended.
            let _ = answers.send(answer).await;
        });
        while waiting.try_join_next().is_some() {}
    }
    while waiting.join_next().await.is_some() {}
}

/// Injects the fault. Returns the process to continue later, if it was stopped.
async fn inject_fault(args: &FailoverArgs, leader: &Leader) -> anyhow::Result<Option<u32>> {
    if let Some(command) = &args.kill_command {
        let command = command.replace("{node}", &leader.name).replace("{address}", &leader.address);
        let status = tokio::process::Command::new("sh").arg("-c").arg(&command).status().await;
        let status = status.with_context(|| format!("run {command:?}"))?;
        if !status.success() {
            bail!("{command:?} failed: {status}");
        }
        return Ok(None);
    }
    if let Some(pid) = args.kill_pid {
        process::signal(pid, Signal::KILL)?;
        return Ok(None);
    }
    if let Some(pid) = args.stop_pid {
        process::signal(pid, Signal::STOP)?;
        return Ok(Some(pid));
    }
    if args.fault == Fault::None {
        return Ok(None);
    }
    let pid = process::listening_at(&leader.address).with_context(|| {
        format!("no process of this machine and user listens at {}; use --kill-command", leader.address)
    })?;
    if args.fault == Fault::Kill {
        process::signal(pid, Signal::KILL)?;
        return Ok(None);
    }
    process::signal(pid, Signal::STOP)?;
    Ok(Some(pid))
}

async fn summarise(
    args: &FailoverArgs,
    client: &Client,
    room: &str,
    trials: Vec<Trial>,
    acks: &Acks,
) -> anyhow::Result<Report> {
    let stored = read_back(client, room).await?;
    let mut seen = HashMap::new();
    let (mut duplicated, mut out_of_order, mut phantom) = (0, 0, 0);
    let mut newest = None;
    for (_, number) in &stored {
        let Some(number) = number.filter(|number| *number < acks.sent) else {
            phantom += 1;
            continue;
        };
        if *seen.entry(number).and_modify(|count| *count += 1).or_insert(1_u32) > 1 {
            duplicated += 1;
        } else if newest.is_some_and(|newest| number < newest) {
            out_of_order += 1;
        }
        newest = newest.max(Some(number));
    }
    let by_seq: HashMap<u64, Option<u64>> = stored.into_iter().collect();
    let lost = acks.by_seq.iter().filter(|(seq, number)| by_seq.get(seq) != Some(&Some(**number))).count();
    let mut gaps: Vec<f64> = trials.iter().map(|trial| trial.gap_ms).collect();
    gaps.sort_by(f64::total_cmp);
    let fault = match (&args.kill_command, args.kill_pid, args.stop_pid) {
        (Some(command), _, _) => command.clone(),
        (_, Some(pid), _) => format!("kill process {pid}"),
        (_, _, Some(pid)) => format!("stop process {pid}"),
        _ => format!("{:?}", args.fault).to_lowercase(),
    };
    Ok(Report {
        bench: "failover",
        fault,
        rate: args.rate,
        gap_median_ms: median(&gaps),
        gap_min_ms: gaps.first().copied().unwrap_or_default(),
        gap_max_ms: gaps.last().copied().unwrap_or_default(),
        acked: trials.iter().map(|trial| trial.acked).sum(),
        trials,
        lost: lost as u64,
        duplicated,
        out_of_order,
        phantom,
    })
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// All events of the room: seq, and the number at the start of the text.
async fn read_back(client: &Client, room: &str) -> anyhow::Result<Vec<(u64, Option<u64>)>> {
    let mut all = Vec::new();
    let mut after = 0;
    loop {
        let query = HistoryQuery {
            room: room.to_owned(),
            window: Window::After(after),
            limit: 1_000,
            linearizable: true,
        };
        let page = client.history(query).await.map_err(|error| of_call(Some(room), &error))?;
        let Some(last) = page.events.last() else { return Ok(all) };
        after = last.seq;
        for event in &page.events {
            if let Some(api::event::Kind::Message(message)) = &event.kind {
                all.push((event.seq, load::number(&message.text)));
            }
        }
    }
}

fn print(settings: &Settings, report: &Report) -> anyhow::Result<()> {
    let rows = [
        ("load", format!("{}/s, {} trials, {}", report.rate, report.trials.len(), report.fault)),
        (
            "gap in ticks",
            format!(
                "median {:.1} ms   min {:.1} ms   max {:.1} ms",
                report.gap_median_ms, report.gap_min_ms, report.gap_max_ms
            ),
        ),
        (
            "acked",
            format!(
                "{}; lost {}, duplicated {}, out of order {}, phantom {}",
                report.acked, report.lost, report.duplicated, report.out_of_order, report.phantom
            ),
        ),
    ];
    report::print(settings, report, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_may_begin_before_the_fault() {
        let zero = Instant::now();
        let at = |ms: u64| zero + Duration::from_millis(ms);
        let mut times = [at(40), at(0), at(10), at(5), at(45)];
        assert!((longest_gap(&mut times, at(12), None) - 30.0).abs() < 0.01);
        assert!((longest_gap(&mut times, at(0), Some(at(12))) - 5.0).abs() < 0.01);
        assert!((median(&[1.0, 2.0, 9.0]) - 2.0).abs() < 0.01);
        assert!((median(&[1.0, 2.0]) - 1.5).abs() < 0.01);
    }
}
