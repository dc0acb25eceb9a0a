//! `cargo xtask load`: three servers beside processes that never sleep, and a sender at a fixed rate. A machine with too little
//! processor time must neither lose a message nor change leaders all the time.
//!
//! It is run by hand: how often the system lets a server run is not in the hands of a test.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::cluster::Cluster;
use super::site::Site;

/// Messages a second. A person sees a pause of the sender, and the servers are far from their limits.
const RATE: u64 = 20;
/// Elections of a shard that are accepted: one that fails over now and then has a few, one that cannot keep a leader dozens.
const ELECTIONS_MAX: u64 = 5;
/// Timeout for a command beside the busy processes.
const TIMEOUT: &str = "1m";

/// The arguments of `cargo xtask load`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long to send, in seconds.
    #[arg(long, value_name = "N", default_value_t = 120)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// The number of busy processes.
    #[arg(long, value_name = "N", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u16).range(0..=1_000))]
    busy: u16,
    /// The folder of the programs; those of the debug build by default.
    #[arg(long, value_name = "DIR")]
    pub(super) programs: Option<std::path::PathBuf>,
}

impl Args {
    /// How long the whole run may take.
    pub(super) fn deadline(&self) -> Duration {
        Duration::from_secs(self.seconds) + super::minutes(15)
    }
}

pub(super) fn check(site: &Site, args: &Args) -> anyhow::Result<()> {
    let (seconds, busy) = (args.seconds, args.busy);
    site.say(&format!("starting a cluster, then {busy} busy processes"))?;
    // The timing of servers that nobody told anything.
    let cluster = Cluster::start(site, &[], &[("CONCLAVE_TIMING", "auto")])?;
    cluster.until_healthy()?;
    let before = terms(site, &cluster)?;
    // A scheduler that shares the processor among sessions gives each of them as much as a server.
    let spin = ["sh", "-c", "while kill -0 \"$1\" 2>&-; do :; done", "busy", &std::process::id().to_string()];
    let spinning = (0..busy).map(|number| {
        let mut command = Command::new("setsid");
        site.start(&format!("busy{number}"), command.args(spin).stdin(Stdio::null()))
    });
    let spinning = spinning.collect::<anyhow::Result<Vec<_>>>()?;

    site.say(&format!("sending {RATE} messages a second for {seconds} s"))?;
    let (rate, lasts) = (RATE.to_string(), format!("{seconds}s"));
    let mut send =
        cluster.client(&["bench", "send", "--json", "--timeout", TIMEOUT, "--connections", "1"])?;
    send.args(["--rate", &rate, "--warmup", "0s", "--duration", &lasts]);
    let sent = site.run(&mut send, "")?;
    let after = terms(site, &cluster)?;
    drop(spinning);

    let report = sent.out.lines().last().unwrap_or_default();
    let report =
        Report::read(report).with_context(|| format!("the sender printed {report:?}: {}", sent.err))?;
    let elections = elections(&before, &after);
    let by_shard: Vec<String> = elections.iter().map(|(shard, count)| format!("{shard}: {count}")).collect();
    site.say(&format!("elections by shard: {}", by_shard.join(", ")))?;
    site.say(&format!(
        "sends: {} acked of {}, p50 {:.1} ms, p99 {:.1} ms, {} failed, {} unanswered",
        report.acked,
        RATE * seconds,
        report.p50_us / 1_000.0,
        report.p99_us / 1_000.0,
        report.errors,
        report.unanswered
    ))?;
    site.say("stopping the cluster")?;
    cluster.stop()?;
    judge(&report, &elections)
}

/// What the sender reports.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Report {
    acked: u64,
    p50_us: f64,
    p99_us: f64,
    errors: u64,
    unanswered: u64,
}

impl Report {
    /// The line of `conclave bench send --json`.
    fn read(line: &str) -> Option<Self> {
        let report: Value = serde_json::from_str(line).ok()?;
        let number = |key: &str| report[key].as_u64();
        Some(Self {
            acked: number("acked")?,
            p50_us: report["p50_us"].as_f64()?,
            p99_us: report["p99_us"].as_f64()?,
            errors: number("errors")?,
            unanswered: number("unanswered")?,
        })
    }
}

/// Fails if a send was not acked, or a shard had too many elections.
fn judge(report: &Report, elections: &BTreeMap<u64, u64>) -> anyhow::Result<()> {
    if report.acked == 0 || report.errors + report.unanswered > 0 {
        bail!("not every send was acked: {report:?}");
    }
    let restless: Vec<_> = elections.iter().filter(|(_, count)| **count > ELECTIONS_MAX).collect();
    if !restless.is_empty() {
        bail!("more than {ELECTIONS_MAX} elections in a shard: {restless:?}");
    }
    Ok(())
}

/// The highest term of each shard.
fn terms(site: &Site, cluster: &Cluster) -> anyhow::Result<BTreeMap<u64, u64>> {
    let ran = site.run(&mut cluster.client(&["status", "--json", "--timeout", TIMEOUT])?, "")?;
    let status: Value =
        serde_json::from_str(ran.out.trim()).with_context(|| format!("the status: {}", ran.err))?;
    let terms = terms_in(&status);
    if terms.is_empty() {
        bail!("the status names no shard: {status}");
    }
    Ok(terms)
}

fn terms_in(status: &Value) -> BTreeMap<u64, u64> {
    let nodes = status["nodes"].as_array().into_iter().flatten();
    let shards = nodes.flat_map(|node| node["shards"].as_array().into_iter().flatten());
    let mut terms: BTreeMap<u64, u64> = BTreeMap::new();
    for (shard, term) in shards.filter_map(|shard| Some((shard["shard"].as_u64()?, shard["term"].as_u64()?)))
    {
        let known = terms.entry(shard).or_default();
        *known = term.max(*known);
    }
    terms
}

/// The elections of each shard between two looks: each raises the term, also one that nobody wins.
fn elections(before: &BTreeMap<u64, u64>, after: &BTreeMap<u64, u64>) -> BTreeMap<u64, u64> {
    let since = |shard: &u64, term: u64| term.saturating_sub(before.get(shard).copied().unwrap_or(0));
    after.iter().map(|(shard, term)| (*shard, since(shard, *term))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elections_are_counted_by_the_highest_term_of_each_shard() {
        let status = |terms: [[u64; 2]; 2]| {
            let shard = |(shard, term): (usize, u64)| serde_json::json!({ "shard": shard, "term": term });
            let node = |terms: [u64; 2]| {
                let shards: Vec<Value> = terms.into_iter().enumerate().map(shard).collect();
                serde_json::json!({ "shards": shards })
            };
            serde_json::json!({ "nodes": terms.map(node) })
        };
        let (before, after) = (terms_in(&status([[1, 2], [1, 1]])), terms_in(&status([[1, 2], [4, 3]])));
        assert_eq!(elections(&before, &after), BTreeMap::from([(0, 3), (1, 1)]));
        assert!(terms_in(&serde_json::json!({})).is_empty());
    }

    #[test]
    fn a_send_without_an_ack_and_a_sixth_election_fail() {
        let line = r#"{"acked":40,"p50_us":1500.5,"p99_us":2,"errors":0,"unanswered":0}"#;
        let good = Report::read(line).unwrap();
        assert_eq!((good.acked, good.p50_us), (40, 1_500.5));
        assert_eq!(Report::read("{}"), None);
        let calm = BTreeMap::from([(0, ELECTIONS_MAX), (1, 0)]);
        judge(&good, &calm).unwrap();
        for report in
            [Report { acked: 0, ..good }, Report { errors: 1, ..good }, Report { unanswered: 1, ..good }]
        {
            assert!(judge(&report, &calm).unwrap_err().to_string().contains("not every send"));
        }
        let restless = BTreeMap::from([(0, 0), (3, ELECTIONS_MAX + 1)]);
        assert!(judge(&good, &restless).unwrap_err().to_string().contains("(3, 6)"));
    }
}
