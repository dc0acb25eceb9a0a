//! A step as it is written in YAML: one flat map, from which each fault takes its own keys.

use serde::Deserialize;

use super::{Fault, Grudge, Nodes, Span, When};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    at: Option<Span>,
    every: Option<Span>,
    between: Option<[Span; 2]>,
    fault: String,
    nodes: Option<Nodes>,
    #[serde(rename = "for")]
    lasts: Option<Span>,
    grudge: Option<Grudge>,
    delay: Option<Span>,
    jitter: Option<Span>,
    percent: Option<i64>,
    bytes_per_second: Option<u64>,
    offset_ms: Option<i64>,
    torn: Option<bool>,
}

impl TryFrom<Step> for super::Step {
    type Error = String;

    fn try_from(mut step: Step) -> Result<Self, String> {
        let when = match (step.at.take(), step.every.take(), step.between.take()) {
            (Some(at), None, None) => When::At(at),
            (None, Some(every), Some([from, to])) => When::Every(every, from..to),
            _ => return Err(format!("{} needs either `at`, or `every` and `between`", step.fault)),
        };
        let nodes = step.nodes.take().unwrap_or(Nodes::One);
        let lasts = step.lasts.take().unwrap_or(Span(std::time::Duration::from_secs(5))).0;
        let fault = step.fault()?;
        if let Some(extra) = step.unused() {
            return Err(format!("{} does not take `{extra}`", step.fault));
        }
        Ok(Self { when, fault, nodes, lasts })
    }
}

impl Step {
    /// The fault, whose keys are taken out of the map.
    fn fault(&mut self) -> Result<Fault, String> {
        fn need<T>(fault: &str, name: &str, value: Option<T>) -> Result<T, String> {
            value.ok_or_else(|| format!("{fault} needs `{name}`"))
        }
        fn share(fault: &str, value: Option<i64>) -> Result<u8, String> {
            let percent = need(fault, "percent", value)?;
            let share = u8::try_from(percent).ok().filter(|percent| (1..=100).contains(percent));
            share.ok_or_else(|| format!("{fault} takes 1 to 100 `percent`, not {percent}"))
        }
        let name = self.fault.as_str();
        Ok(match name {
            "kill" => Fault::Kill,
            "restart" => Fault::Restart,
            "pause" => Fault::Pause,
            "isolate" => Fault::Isolate,
            "partition" => Fault::Partition { grudge: self.grudge.take().unwrap_or(Grudge::Both) },
            "delay" => Fault::Delay {
                delay: need(name, "delay", self.delay.take())?.0,
                jitter: self.jitter.take().map_or_else(Default::default, |jitter| jitter.0),
            },
            "loss" => Fault::Loss { percent: share(name, self.percent.take())? },
            "duplicate" => Fault::Duplicate {
                percent: share(name, self.percent.take())?,
                delay: need(name, "delay", self.delay.take())?.0,
            },
            "bandwidth" => Fault::Bandwidth {
                bytes_per_second: need(name, "bytes_per_second", self.bytes_per_second.take())?,
            },
            "slow-disk" => Fault::SlowDisk { delay: need(name, "delay", self.delay.take())?.0 },
            "fail-sync" => Fault::FailSync,
            "full-disk" => Fault::FullDisk,
            "power-cut" => Fault::PowerCut { torn: self.torn.take().unwrap_or(false) },
            "copy-data-dir" => Fault::CopyDataDir,
            "restore-old-copy" => Fault::RestoreOldCopy,
            "clock-step" => Fault::ClockStep { offset_ms: need(name, "offset_ms", self.offset_ms.take())? },
            "clock-skew" => match need(name, "percent", self.percent.take())? {
                percent @ -90..=1_000 => Fault::ClockSkew { percent },
                other => return Err(format!("{name} takes -90 to 1000 `percent`, not {other}")),
            },
            "resolver-stale" => Fault::ResolverStale,
            "resolver-slow" => Fault::ResolverSlow { delay: need(name, "delay", self.delay.take())?.0 },
            other => return Err(format!("there is no fault called {other:?}")),
        })
    }

    /// A key that the fault has not taken.
    fn unused(&self) -> Option<&'static str> {
        [
            ("grudge", self.grudge.is_some()),
            ("delay", self.delay.is_some()),
            ("jitter", self.jitter.is_some()),
            ("percent", self.percent.is_some()),
            ("bytes_per_second", self.bytes_per_second.is_some()),
            ("offset_ms", self.offset_ms.is_some()),
            ("torn", self.torn.is_some()),
        ]
        .into_iter()
        .find_map(|(name, there)| there.then_some(name))
    }
}
