//! A single fault, outside of any experiment.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::backend::{Backend, BackendError, Kind};
use crate::experiment::{Experiment, Step};
use crate::fault::Nodes;
use crate::schedule::choose;
use crate::server_states::Observed;
use crate::time::show;

/// The longest that a single fault may be in force.
pub const LASTS_MAX: Duration = Duration::from_secs(24 * 3_600);

/// How long a fault waits for a target: an election may be in progress.
const WAIT: Duration = Duration::from_secs(5);
/// Interval between two polls of the servers.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Parses a fault: its name, its targets, how long it lasts, and its parameters, such as `delay` and `20ms`. It is parsed as an
/// experiment with one step, so that there is one grammar for faults.
///
/// # Errors
/// Everything that is wrong with it.
pub fn step(
    fault: &str,
    nodes: &str,
    lasts: Duration,
    with: impl IntoIterator<Item = (String, String)>,
) -> Result<Step, String> {
    if lasts > LASTS_MAX {
        return Err("a fault may last a day at most".to_owned());
    }
    let mut step: Map<String, Value> = with.into_iter().map(|(name, value)| (name, plain(value))).collect();
    for (name, value) in [("at", "0s"), ("fault", fault), ("nodes", nodes), ("for", &show(lasts))] {
        if step.insert(name.to_owned(), value.into()).is_some() {
            return Err(format!("`{name}` is not a parameter of a fault"));
        }
    }
    let workload = json!({ "duration": show(LASTS_MAX) });
    // JSON is YAML, and a quoted string cannot become more than one value.
    let text =
        json!({ "name": "now", "proves": "nothing", "workload": workload, "method": [step] }).to_string();
    let experiment = Experiment::parse_single(&text).map_err(|error| error.to_string())?;
    experiment.method.into_iter().next().ok_or_else(|| "there is no fault".to_owned())
}

/// Integers and booleans as such, everything else as text.
fn plain(value: String) -> Value {
    if let Ok(number) = value.parse::<i64>() {
        return number.into();
    }
    match value.as_str() {
        "true" => true.into(),
        "false" => false.into(),
        _ => value.into(),
    }
}

/// Chooses the targets among the nodes that are there now. `draw` decides between nodes that match equally.
///
/// # Errors
/// If no node matches, or the backend cannot list its targets.
pub async fn choose_targets(
    backend: &dyn Backend,
    step: &Step,
    draw: u64,
) -> Result<Vec<String>, BackendError> {
    let targets = backend.targets().await?;
    let names = |kind: Kind| {
        let of_kind = targets.iter().filter(|target| target.kind == kind);
        of_kind.map(|target| target.name.clone()).collect::<Vec<_>>()
    };
    let (servers, resolvers) = (names(Kind::Server), names(Kind::Resolver));
    let deadline = Instant::now() + WAIT;
    loop {
        let observed = Observed::default();
        observed.poll(&targets).await;
        let chosen = choose(&step.nodes, draw, &observed.known(&servers, resolvers.clone(), &[]));
        if !chosen.is_empty() {
            return Ok(chosen);
        }
        // Named nodes and name servers are chosen whether they answer or not, so waiting does not help.
        let may_come = !matches!(step.nodes, Nodes::Named(_) | Nodes::Resolver);
        if !may_come || Instant::now() > deadline {
            return Err(BackendError::Unknown(format!("{} to apply it to", step.nodes)));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;

    fn read(fault: &str, nodes: &str, with: &[(&str, &str)]) -> Result<Step, String> {
        let with = with.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        step(fault, nodes, Duration::from_secs(5), with)
    }

    #[test]
    fn parameters_become_one_fault_and_cannot_add_yaml() {
        let delay = read("delay", "leader", &[("delay", "20ms"), ("jitter", "5ms")]).unwrap();
        let millis = Duration::from_millis;
        assert_eq!(delay.fault, Fault::Delay { delay: millis(20), jitter: millis(5) });
        assert_eq!((delay.nodes, delay.lasts), (Nodes::Leader, Duration::from_secs(5)));
        assert_eq!(read("loss", "one", &[("percent", "10")]).unwrap().fault, Fault::Loss { percent: 10 });
        assert_eq!(
            read("power-cut", "n1", &[("torn", "true")]).unwrap().fault,
            Fault::PowerCut { torn: true }
        );
        // An earlier fault may have made the copy.
        assert_eq!(read("restore-old-copy", "n3", &[]).unwrap().fault, Fault::RestoreOldCopy);
        // A name with YAML in it stays a name.
        let odd = "x}], expect: {";
        assert_eq!(read("kill", odd, &[]).unwrap().nodes, Nodes::Named(odd.to_owned()));
        for (fault, with, expected) in [
            ("burn", [("a", "1")].as_slice(), "burn"),
            ("kill", &[("delay", "1s")], "does not take"),
            ("delay", &[], "needs `delay`"),
            ("loss", &[("percent", "95")], "90 %"),
            ("kill", &[("for", "1s")], "`for`"),
            ("kill", &[("colour", "red")], "colour"),
        ] {
            let error = read(fault, "one", with).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(step("kill", "one", LASTS_MAX + Duration::from_secs(1), []).is_err());
    }
}
