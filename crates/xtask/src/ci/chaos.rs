//! The step `chaos`: injects faults into a cluster of processes and judges the result, as README says it. Then shows that
//! the judge rejects a damaged history, and that a controller that is stopped, or killed, leaves no fault behind.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use rustix::process::Signal;
use serde_json::Value;

use super::cluster::Cluster;
use super::report::{NOT_RECOVERED, violations};
use super::site::{Site, read, state_of};

/// Runs of the experiment until one has a verdict.
const TRIES: usize = 3;
/// A run that is stopped long before its end.
const FROZEN: &str = "\
name: frozen
proves: Nothing, for it is stopped in the middle.
workload: {senders: 2, readers: 1, rooms: 1, visitors: 0, rate: 20, duration: 20m}
steady: {acked_per_second: 1, p99: 1m}
method:
  - {at: 0s, fault: pause, nodes: node2, for: 19m}
";

pub(super) fn check(site: &Site) -> anyhow::Result<()> {
    let cluster = Cluster::start(site, &["--allow-faults"], &[])?;
    site.say("running the experiment smoke")?;
    let out = site.dir.join("smoke");
    run_smoke(site, &cluster, &out)?;

    site.say("judging its history again, and damaged")?;
    let history = out.join("history.jsonl");
    let damaged = site.dir.join("damaged.jsonl");
    fs::write(
        &damaged,
        without_one_final_message(&read(&history)?).context("the history has no final read")?,
    )?;
    site.run(controller(site, &cluster)?.arg("check").arg(&history), "")?.expect(0)?;
    let ran = site.run(controller(site, &cluster)?.arg("check").arg(&damaged), "")?.expect(1)?;
    if !ran.out.contains("BROKEN") {
        bail!("the verdict on a damaged history does not say BROKEN: {}", ran.out);
    }

    site.say("stopping a run in the middle with SIGINT")?;
    let experiment = site.dir.join("frozen.yaml");
    fs::write(&experiment, FROZEN)?;
    let mut command = controller(site, &cluster)?;
    command.arg("run").arg(&experiment).arg("--out").arg(site.dir.join("frozen"));
    let mut run = site.start("frozen", &mut command)?;
    site.until("a frozen node2", || {
        run.still_runs()?;
        Ok(is_frozen(&cluster, "node2"))
    })?;
    run.signal(Signal::INT)?;
    let status = site.end_of(&mut run)?;
    if status.code() != Some(3) {
        bail!("a stopped run ended with {status} instead of exit code 3");
    }
    site.until("a node2 that goes on", || Ok(!is_frozen(&cluster, "node2")))?;
    let said = read(&run.err)?;
    if !said.contains("stopped; everything is healed") {
        bail!("a stopped run does not say that everything is healed: {said}");
    }

    site.say("killing a controller in the middle")?;
    let mut command = controller(site, &cluster)?;
    command.args(["fault", "pause", "--nodes", "node3", "--for", "20m"]);
    let mut fault = site.start("fault", &mut command)?;
    site.until("a frozen node3", || {
        fault.still_runs()?;
        Ok(is_frozen(&cluster, "node3"))
    })?;
    // Kills it with SIGKILL.
    drop(fault);
    if !is_frozen(&cluster, "node3") {
        bail!("node3 goes on although its controller was killed: nothing is left to heal");
    }
    let ran = site.run(controller(site, &cluster)?.arg("heal"), "")?.expect(0)?;
    if !ran.out.contains("healed 1 fault") {
        bail!("`heal` does not say that it healed 1 fault: {}", ran.out);
    }
    site.until("a node3 that goes on", || Ok(!is_frozen(&cluster, "node3")))?;
    cluster.until_healthy()?;
    cluster.stop()?;
    site.say(
        "chaos: an experiment passed, its damaged history did not, and two controllers were stopped without leaving \
         anything broken",
    )
}

/// The command that runs `conclave-chaos` on the cluster.
fn controller(site: &Site, cluster: &Cluster) -> anyhow::Result<Command> {
    let mut command = site.program("conclave-chaos")?;
    command.arg("--dir").arg(&cluster.dir).stdin(Stdio::null());
    Ok(command)
}

fn is_frozen(cluster: &Cluster, name: &str) -> bool {
    cluster.pid_now(name).and_then(state_of) == Some('T')
}

/// What follows from a run of the experiment.
#[derive(Debug, PartialEq, Eq)]
enum Judged {
    Passed,
    /// No promise was broken, but something took longer than the experiment allows: these sentences say what. That says
    /// as much about the machine as about the program.
    Late(Vec<String>),
    /// The machine was not steady before the run, a fault met nobody, or the cluster was still busy at the end and could
    /// not be read: these sentences say why, if the report does.
    Untested(Vec<String>),
    Failed(String),
}

/// Judges a run by its exit code and its report.
fn judge(code: Option<i32>, report: &Value) -> Judged {
    let sentences = report["wrong"].as_array().map_or(&[][..], Vec::as_slice);
    let wrong: Vec<String> = sentences.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect();
    match code {
        Some(0) if report["sum"] == "passed" => Judged::Passed,
        Some(0) => Judged::Failed(format!("exit code 0, but the report says {}", report["sum"])),
        Some(1) => {
            let mut broken = violations(report);
            // Those who are not given the time to recover cannot finish, either.
            let recovered = !broken.remove(NOT_RECOVERED);
            let is_late = |sentence: &String| {
                ["nothing was acked for ", "the cluster had not recovered "]
                    .iter()
                    .any(|beginning| sentence.starts_with(beginning))
            };
            if wrong.is_empty() || !broken.is_empty() {
                Judged::Failed(format!("a promise was broken: {}", wrong.join("; ")))
            } else if wrong.iter().all(is_late) {
                Judged::Late(wrong)
            } else if recovered {
                Judged::Failed(format!(
                    "the cluster recovered, but did not do everything: {}",
                    wrong.join("; ")
                ))
            } else {
                Judged::Untested(wrong)
            }
        }
        Some(2 | 3) => Judged::Untested(wrong),
        other => Judged::Failed(format!("the controller ended with {other:?}")),
    }
}

/// Runs the experiment until it has a verdict.
fn run_smoke(site: &Site, cluster: &Cluster, out: &Path) -> anyhow::Result<()> {
    for number in 1..=TRIES {
        let ran = site.run(controller(site, cluster)?.args(["run", "smoke", "--out"]).arg(out), "")?;
        site.say(ran.out.trim_end())?;
        let report = read(&out.join("report.json")).unwrap_or_default();
        let report = serde_json::from_str(&report).unwrap_or_default();
        match judge(ran.code, &report) {
            Judged::Passed => return check_files(out),
            Judged::Late(wrong) => {
                for sentence in wrong {
                    site.say(&format!("ci-note: not in time on this machine: {sentence}"))?;
                }
                return check_files(out);
            }
            Judged::Untested(why) => {
                let why = format!("{} {}", why.join("; "), ran.err.trim_end());
                if number == TRIES {
                    bail!("no verdict in {TRIES} tries: {why}");
                }
                site.say(&format!("no verdict, the machine may be busy: {why}"))?;
                cluster.until_healthy()?;
                fs::remove_dir_all(out).or_else(|error| {
                    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
                })?;
            }
            Judged::Failed(why) => bail!("{why}"),
        }
    }
    Ok(())
}

/// Checks that the run has left all files.
fn check_files(out: &Path) -> anyhow::Result<()> {
    for name in ["report.html", "report.json", "history.jsonl"] {
        if read(&out.join(name))?.is_empty() {
            bail!("{name} is empty");
        }
    }
    if !read(&out.join("report.html"))?.contains("<svg") {
        bail!("report.html has no diagram");
    }
    Ok(())
}

/// The history without the first message that a replica was found to have at the end; `None` if it has none.
fn without_one_final_message(history: &str) -> Option<String> {
    let is_final = |line: &&str| line.contains("\"kind\":\"final\"") && line.contains("\"what\":\"message\"");
    let at = history.lines().position(|line| is_final(&line))?;
    let lines = history.lines().enumerate().filter(|(number, _)| *number != at);
    Some(lines.map(|(_, line)| line.to_owned() + "\n").collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A report with these sentences, with this many violations of a property, and of a cluster that recovered or not.
    fn report(wrong: &[&str], violations: u64, recovered: bool) -> Value {
        let findings = json!([{"property": "no_gap", "checked": 9, "violations": violations}]);
        let recovered = if recovered { json!("1s") } else { Value::Null };
        json!({"sum": "violated", "wrong": wrong, "report": {"findings": findings}, "facts": {"recovered": recovered}})
    }

    #[test]
    fn only_lateness_is_forgiven() {
        const GAP: &str = "nothing was acked for 9 ms, which may be at most 2";
        const SLOW: &str = "the cluster had not recovered 20s after all faults were healed";
        const UNREAD: &str = "the final read of node1 failed: no answer within 5s";
        assert_eq!(judge(Some(0), &json!({"sum": "passed"})), Judged::Passed);
        let late = [GAP, SLOW].map(str::to_owned).to_vec();
        assert_eq!(judge(Some(1), &report(&[GAP, SLOW], 0, false)), Judged::Late(late));
        for (code, report) in [
            (Some(0), Value::Null),
            (Some(1), Value::Null),
            (Some(1), report(&[], 0, true)),
            (Some(1), report(&[GAP, "NoGap violated 1 times"], 1, true)),
            (Some(1), report(&[SLOW, UNREAD, "NoGap violated 1 times"], 1, false)),
            (Some(1), report(&[GAP], 1, true)),
            (Some(1), report(&[UNREAD], 0, true)),
            (Some(101), Value::Null),
            (None, Value::Null),
        ] {
            assert!(matches!(judge(code, &report), Judged::Failed(_)), "{code:?} {report}");
        }
        for (code, report) in [
            (Some(1), report(&[GAP, SLOW, UNREAD], 0, false)),
            (Some(2), Value::Null),
            (Some(3), Value::Null),
        ] {
            assert!(matches!(judge(code, &report), Judged::Untested(_)), "{code:?} {report}");
        }
    }

    #[test]
    fn a_damaged_history_lacks_one_final_message() {
        let lines = ["{\"kind\":\"invoke\"}", "{\"kind\":\"final\",\"what\":\"joined\"}"];
        let message = "{\"kind\":\"final\",\"seq\":2,\"what\":\"message\"}";
        let whole = [lines[0], lines[1], message, message].join("\n");
        let damaged = without_one_final_message(&whole).unwrap();
        assert_eq!(damaged.lines().collect::<Vec<_>>(), [lines[0], lines[1], message]);
        assert_eq!(without_one_final_message(&lines.join("\n")), None);
    }
}
