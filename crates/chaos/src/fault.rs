//! What can be done to a cluster, and to whom.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A fault, with everything that it takes to apply it and to heal it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case")]
pub enum Fault {
    /// `kill -9`; healed by starting it again.
    Kill,
    /// SIGTERM and a start: what an operator does.
    Restart,
    /// Frozen: it keeps its connections and does nothing.
    Pause,
    /// Bytes between the node and the others vanish, both ways.
    Isolate,
    /// Bytes between some pairs of nodes vanish.
    Partition {
        /// Which pairs.
        grudge: Grudge,
    },
    /// What the node sends to the others arrives later.
    Delay {
        /// By how much.
        #[serde(with = "crate::time")]
        delay: Duration,
        /// And how much more at most, at random.
        #[serde(with = "crate::time", default)]
        jitter: Duration,
    },
    /// A share of what the node sends has to be sent again: it arrives a retransmission timeout (200 ms) later, and everything
    /// behind it waits, as TCP does it.
    Loss {
        /// Of a hundred.
        percent: u8,
    },
    /// The node sends at most so much.
    Bandwidth {
        /// Bytes a second to each other node.
        bytes_per_second: u64,
    },
    /// Each sync of the disk takes longer.
    SlowDisk {
        /// By how much.
        #[serde(with = "crate::time")]
        delay: Duration,
    },
    /// The next sync of the disk fails.
    FailSync,
    /// Writing fails as if the disk were full.
    FullDisk,
    /// The process dies, and everything that it had not synced is lost.
    PowerCut {
        /// Some of what was not synced is written nevertheless, the last of it in part.
        #[serde(default)]
        torn: bool,
    },
    /// The node's wall clock jumps.
    ClockStep {
        /// Forward, in milliseconds; negative is back.
        offset_ms: i64,
    },
    /// The node's wall clock runs too fast, or too slow.
    ClockSkew {
        /// What it gains, of a hundred; negative is what it loses.
        percent: i64,
    },
    /// A share of the votes, appends and proposals that the node sends to the others arrives twice, the second time after what
    /// followed it.
    Duplicate {
        /// Of a hundred.
        percent: u8,
        /// How much later at most.
        #[serde(with = "crate::time")]
        delay: Duration,
    },
    /// The resolver goes on answering what it answers now, whatever servers say.
    ResolverStale,
    /// Each answer of the resolver takes so much longer, and the next one begins after it.
    ResolverSlow {
        /// By how much.
        #[serde(with = "crate::time")]
        delay: Duration,
    },
}

/// Which pairs of nodes do not hear each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grudge {
    /// The chosen nodes and the others, both ways.
    Both,
    /// The others do not hear the chosen ones, who hear them.
    OneWay,
    /// Each node hears a majority, and no two of them the same one (after Jepsen's `majorities-ring`).
    MajoritiesRing,
    /// Two halves that do not hear each other, and the chosen node, which hears and is heard by all.
    Bridge,
}

/// Who.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nodes {
    /// Any one.
    One,
    /// The one that leads the most shards; of several the meta shard's leader.
    Leader,
    /// One that does not lead the meta shard.
    Follower,
    /// As many as the cluster survives.
    Minority,
    /// One more than the cluster survives.
    Majority,
    /// Every one.
    All,
    /// The resolver, or one of them.
    Resolver,
    /// This one; `#2` is the second server in the order of their names, whatever they are called.
    #[serde(untagged)]
    Named(String),
}

/// What a backend needs to be able to do for a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Means {
    /// Stopping and starting processes, containers or pods.
    Process,
    /// Stopping a process for a while and letting it go on.
    Freeze,
    /// Cutting a node off from all others. Less than [`Means::Network`]: a container's network can be pulled.
    Isolation,
    /// Getting between the bytes of two nodes.
    Network,
    /// Getting between a node and its files.
    Disk,
    /// Getting between a node and its clock.
    Clock,
    /// Getting into a resolver.
    Resolver,
}

impl Means {
    /// What servers that allow faults do to themselves.
    pub const INSIDE: [Self; 4] = [Self::Isolation, Self::Network, Self::Disk, Self::Clock];

    /// What to do where it is missing.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Process => "name targets that can be stopped and started",
            Self::Freeze => {
                "Kubernetes cannot freeze pods; run it on containers or on the processes of conclave up"
            }
            Self::Isolation | Self::Network | Self::Disk | Self::Clock => {
                "start the servers with --allow-faults (conclave up --allow-faults), or with CONCLAVE_ALLOW_FAULTS=true"
            }
            Self::Resolver => {
                "answers are broken at the resolver of conclave up --allow-faults only; run it on local processes"
            }
        }
    }
}

impl Fault {
    /// What a backend needs for it.
    #[must_use]
    pub fn means(&self) -> Means {
        match self {
            Self::Kill | Self::Restart => Means::Process,
            Self::Pause => Means::Freeze,
            Self::Isolate => Means::Isolation,
            Self::Partition { .. }
            | Self::Delay { .. }
            | Self::Loss { .. }
            | Self::Bandwidth { .. }
            | Self::Duplicate { .. } => Means::Network,
            Self::SlowDisk { .. } | Self::FailSync | Self::FullDisk | Self::PowerCut { .. } => Means::Disk,
            Self::ClockStep { .. } | Self::ClockSkew { .. } => Means::Clock,
            Self::ResolverStale | Self::ResolverSlow { .. } => Means::Resolver,
        }
    }

    /// The longest that something is late by it.
    #[must_use]
    pub fn longest_delay(&self) -> Duration {
        match self {
            Self::Delay { delay, jitter } => *delay + *jitter,
            Self::SlowDisk { delay } | Self::Duplicate { delay, .. } | Self::ResolverSlow { delay } => *delay,
            _ => Duration::ZERO,
        }
    }

    /// Whether others lose a server by it.
    #[must_use]
    pub fn takes_away(&self) -> bool {
        self.stops_process() || matches!(self, Self::Isolate | Self::Partition { .. })
    }

    /// Whether it is done to resolvers only, and to nobody else.
    #[must_use]
    pub fn is_of_resolvers(&self) -> bool {
        matches!(self, Self::ResolverStale | Self::ResolverSlow { .. })
    }

    /// Whether it makes sense for a resolver, which has no disk, no peers and no clock that matters.
    #[must_use]
    pub fn suits_resolvers(&self) -> bool {
        self.is_of_resolvers() || matches!(self, Self::Kill | Self::Restart | Self::Pause | Self::Isolate)
    }

    /// Whether a server's process ends or stands still, and with it whatever is done inside of it.
    #[must_use]
    pub fn stops_process(&self) -> bool {
        match self {
            Self::Kill
            | Self::Restart
            | Self::Pause
            | Self::FailSync
            | Self::FullDisk
            | Self::PowerCut { .. } => true,
            Self::Isolate
            | Self::Partition { .. }
            | Self::Delay { .. }
            | Self::Loss { .. }
            | Self::Bandwidth { .. }
            | Self::SlowDisk { .. }
            | Self::ClockStep { .. }
            | Self::ClockSkew { .. }
            | Self::Duplicate { .. }
            | Self::ResolverStale
            | Self::ResolverSlow { .. } => false,
        }
    }

    /// Its name in experiments, metrics and reports.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Restart => "restart",
            Self::Pause => "pause",
            Self::Isolate => "isolate",
            Self::Partition { .. } => "partition",
            Self::Delay { .. } => "delay",
            Self::Loss { .. } => "loss",
            Self::Bandwidth { .. } => "bandwidth",
            Self::SlowDisk { .. } => "slow-disk",
            Self::FailSync => "fail-sync",
            Self::FullDisk => "full-disk",
            Self::PowerCut { .. } => "power-cut",
            Self::ClockStep { .. } => "clock-step",
            Self::ClockSkew { .. } => "clock-skew",
            Self::Duplicate { .. } => "duplicate",
            Self::ResolverStale => "resolver-stale",
            Self::ResolverSlow { .. } => "resolver-slow",
        }
    }
}

impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One => "one",
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Minority => "minority",
            Self::Majority => "majority",
            Self::All => "all",
            Self::Resolver => "resolver",
            Self::Named(name) => name,
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = crate::time::show;
        match self {
            Self::Partition { grudge: Grudge::Both } => f.write_str("partition"),
            Self::Partition { grudge: Grudge::OneWay } => f.write_str("one-way partition"),
            Self::Partition { grudge: Grudge::MajoritiesRing } => f.write_str("ring of majorities"),
            Self::Partition { grudge: Grudge::Bridge } => f.write_str("bridge"),
            Self::Delay { delay, jitter } if jitter.is_zero() => write!(f, "delay {}", show(*delay)),
            Self::Delay { delay, jitter } => write!(f, "delay {} + {}", show(*delay), show(*jitter)),
            Self::Loss { percent } => write!(f, "loss {percent} %"),
            Self::Bandwidth { bytes_per_second } => write!(f, "bandwidth {bytes_per_second} B/s"),
            Self::SlowDisk { delay } => write!(f, "slow disk {}", show(*delay)),
            Self::PowerCut { torn: true } => f.write_str("power cut with torn writes"),
            Self::ClockStep { offset_ms } => write!(f, "clock {offset_ms:+} ms"),
            Self::ClockSkew { percent } => write!(f, "clock {percent:+} %"),
            Self::Duplicate { percent, delay } => {
                write!(f, "{percent} % twice, up to {} later", show(*delay))
            }
            Self::ResolverSlow { delay } => write!(f, "slow resolver {}", show(*delay)),
            plain => f.write_str(plain.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each.
    fn all() -> Vec<Fault> {
        let delay = Duration::from_millis(1);
        vec![
            Fault::Kill,
            Fault::Restart,
            Fault::Pause,
            Fault::Isolate,
            Fault::Partition { grudge: Grudge::Both },
            Fault::Delay { delay, jitter: delay },
            Fault::Loss { percent: 1 },
            Fault::Bandwidth { bytes_per_second: 1 },
            Fault::SlowDisk { delay },
            Fault::FailSync,
            Fault::FullDisk,
            Fault::PowerCut { torn: false },
            Fault::ClockStep { offset_ms: 1 },
            Fault::ClockSkew { percent: 1 },
            Fault::Duplicate { percent: 1, delay },
            Fault::ResolverStale,
            Fault::ResolverSlow { delay },
        ]
    }

    fn names(which: impl Fn(&Fault) -> bool) -> Vec<&'static str> {
        all().iter().filter(|fault| which(fault)).map(Fault::name).collect()
    }

    /// While a server is away, nothing else is done to more than the cluster survives: so whatever counts as away without
    /// need keeps the faults beside it from being done at all.
    #[test]
    fn only_what_others_lose_counts_as_away() {
        let away =
            ["kill", "restart", "pause", "isolate", "partition", "fail-sync", "full-disk", "power-cut"];
        assert_eq!(names(Fault::takes_away), away);
    }

    #[test]
    fn resolvers_suffer_only_what_they_can() {
        let suits = ["kill", "restart", "pause", "isolate", "resolver-stale", "resolver-slow"];
        assert_eq!(names(Fault::suits_resolvers), suits);
    }
}
