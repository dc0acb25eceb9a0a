//! The step `smoke`: starts a cluster of three server processes, kills each server once, and sends before and directly
//! after each kill. Nothing may be missing, doubled or out of order: neither in the history, nor for a subscriber that was
//! there all the time.

use anyhow::bail;
use rustix::process::Signal;
use serde_json::Value;

use super::cluster::Cluster;
use super::site::{Site, read, send_signal};

/// Messages of one batch: one before the first kill, and one after each.
const BATCH: usize = 40;

pub(super) fn check(site: &Site) -> anyhow::Result<()> {
    site.say("starting a cluster")?;
    let cluster = Cluster::start(site, &[], &[])?;
    let mut acks = String::new();
    let mut sent = 0;
    let mut send = || {
        let texts: String = (sent + 1..=sent + BATCH).map(|number| text(number) + "\n").collect();
        sent += BATCH;
        let mut command = cluster.client(&["send", "--create", "--json", "--timeout", "3m", "smoke", "-"])?;
        acks += &site.run(&mut command, &texts)?.expect(0)?.out;
        anyhow::Ok(())
    };
    send()?;
    let mut command = cluster.client(&["tail", "smoke", "--since", "0", "--json"])?;
    let mut tail = site.start("tail", command.stdin(std::process::Stdio::null()))?;
    for pid in cluster.pids()? {
        site.say(&format!("kill -9 {pid}, and sending at once"))?;
        send_signal(pid, Signal::KILL)?;
        send()?;
        cluster.until_healthy()?;
    }

    site.say("comparing")?;
    let mut command = cluster.client(&["history", "smoke", "-n", "100000", "--linearizable", "--json"])?;
    let history = site.run(&mut command, "")?.expect(0)?.out;
    let events = history.lines().count();
    site.until(&format!("the subscriber to get all {events} events"), || {
        tail.still_runs()?;
        Ok(read(&tail.out)?.matches('\n').count() >= events)
    })?;
    compare(sent, &acks, &history, &read(&tail.out)?)?;

    site.say("stopping the cluster")?;
    drop(tail);
    cluster.stop()?;
    site.say(&format!(
        "smoke: {sent} messages acked, 3 servers killed, {events} events, no gap, nothing doubled, one order"
    ))
}

/// The message with this number.
fn text(number: usize) -> String {
    format!("message {number}")
}

/// Compares the numbers and texts of what was acked, of the history, and of what a subscriber got, as JSON lines.
fn compare(sent: usize, acks: &str, history: &str, tail: &str) -> anyhow::Result<()> {
    let (acked, decided) = (lines(acks)?, lines(history)?);
    if acked.len() != sent {
        bail!("{} of {sent} messages were acked", acked.len());
    }
    for (place, events) in [("the history", &decided), ("the subscription", &lines(tail)?)] {
        if let Some((at, event)) = events.iter().enumerate().find(|(at, event)| event["seq"] != at + 1) {
            bail!("{place} has {event} where seq {} belongs", at + 1);
        }
    }
    if let Some(at) = history.lines().zip(tail.lines()).position(|(one, other)| one != other) {
        bail!("the history and the subscription differ at seq {}", at + 1);
    }
    if history.lines().count() != tail.lines().count() {
        bail!(
            "the history has {} events, the subscription {}",
            history.lines().count(),
            tail.lines().count()
        );
    }
    let messages: Vec<&Value> = decided.iter().filter(|event| event["kind"] == "message").collect();
    if messages.len() != sent {
        bail!("the history has {} messages; {sent} were sent", messages.len());
    }
    for (at, (message, ack)) in messages.iter().zip(&acked).enumerate() {
        if message["body"] != text(at + 1) {
            bail!("the history has {message} where {:?} belongs", text(at + 1));
        }
        if ack["seq"] != message["seq"] {
            bail!("{:?} was acked at seq {}, and is at {}", text(at + 1), ack["seq"], message["seq"]);
        }
    }
    Ok(())
}

fn lines(text: &str) -> anyhow::Result<Vec<Value>> {
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(seq: u64) -> String {
        format!("{{\"seq\":{seq}}}")
    }

    fn message(seq: u64, body: &str) -> String {
        format!("{{\"seq\":{seq},\"kind\":\"message\",\"body\":\"{body}\"}}")
    }

    fn joined(seq: u64) -> String {
        format!("{{\"seq\":{seq},\"kind\":\"joined\"}}")
    }

    #[test]
    fn messages_that_were_lost_doubled_or_swapped_are_found() {
        let acks = [ack(2), ack(3)].join("\n");
        let good = [joined(1), message(2, "message 1"), message(3, "message 2")];
        let all = good.join("\n");
        compare(2, &acks, &all, &all).unwrap();
        let why = |sent, acks: &str, history: &[String], tail: &[String]| {
            compare(sent, acks, &history.join("\n"), &tail.join("\n")).unwrap_err().to_string()
        };
        assert_eq!(why(3, &acks, &good, &good), "2 of 3 messages were acked");
        assert!(why(2, &acks, &good, &good[1..]).starts_with("the subscription has"));
        let gap = [joined(1), message(3, "message 2")];
        assert!(why(2, &acks, &gap, &gap).ends_with("where seq 2 belongs"));
        let doubled = [joined(1), message(2, "message 1"), message(2, "message 1")];
        assert!(why(2, &acks, &good, &doubled).ends_with("where seq 3 belongs"));
        assert_eq!(why(2, &acks, &good, &good[..2]), "the history has 3 events, the subscription 2");
        let swapped = [joined(1), message(2, "message 2"), message(3, "message 1")];
        assert_eq!(why(2, &acks, &good, &swapped), "the history and the subscription differ at seq 2");
        assert!(why(2, &acks, &swapped, &swapped).ends_with("where \"message 1\" belongs"));
        let twice = [good.as_slice(), &[message(4, "message 2")]].concat();
        assert_eq!(why(2, &acks, &twice, &twice), "the history has 3 messages; 2 were sent");
        let acks = [ack(2), ack(4)].join("\n");
        assert_eq!(why(2, &acks, &good, &good), "\"message 2\" was acked at seq 4, and is at 3");
        assert!(compare(0, "not JSON", "", "").is_err());
    }
}
