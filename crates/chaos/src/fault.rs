//! The faults that can be applied to a cluster, and how targets are named.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A fault with all parameters that are needed to apply it and to heal it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case")]
pub enum Fault {
    /// SIGKILL; healed by starting the process again.
    Kill,
    /// SIGTERM and a start, as an operator restarts a server.
    Restart,
    /// The process is frozen: its connections stay open, and it does nothing.
    Pause,
    /// No bytes pass between the node and the others, in both directions.
    Isolate,
    /// No bytes pass between some pairs of nodes.
    Partition {
        /// Which pairs.
        grudge: Grudge,
    },
    /// Everything that the node sends to the others arrives later.
    Delay {
        /// The delay.
        #[serde(with = "crate::time")]
        delay: Duration,
        /// The largest additional, random delay.
        #[serde(with = "crate::time", default)]
        jitter: Duration,
    },
    /// A share of the bytes that the node sends is lost and retransmitted: it arrives a retransmission timeout (200 ms) later, and
    /// everything behind it waits, as with TCP.
    Loss {
        /// The share, in percent.
        percent: u8,
    },
    /// The node's sending rate is limited.
    Bandwidth {
        /// Bytes a second to each other node.
        bytes_per_second: u64,
    },
    /// Each sync of the disk takes longer.
    SlowDisk {
        /// The additional time of a sync.
        #[serde(with = "crate::time")]
        delay: Duration,
    },
    /// The next sync of the disk fails.
    FailSync,
    /// Writes fail as if the disk were full.
    FullDisk,
    /// The process dies, and every write that was not synced is lost.
    PowerCut {
        /// Some of the unsynced writes reach the disk, the last one in part.
        #[serde(default)]
        torn: bool,
    },
    /// The node's wall clock jumps.
    ClockStep {
        /// Milliseconds forward; negative is backward.
        offset_ms: i64,
    },
    /// The node's wall clock runs too fast or too slow.
    ClockSkew {
        /// How much faster, in percent; negative is slower.
        percent: i64,
    },
    /// A share of the votes, appends and proposals that the node sends to the others arrives twice, the second time after later
    /// messages.
    Duplicate {
        /// The share, in percent.
        percent: u8,
        /// The longest delay of the second copy.
        #[serde(with = "crate::time")]
        delay: Duration,
    },
    /// The node's data dir is copied while the process stands still for a moment, as by a volume snapshot, and the copy is kept
    /// beside it. Healed by removing the copy.
    CopyDataDir,
    /// The process dies and is started again on the copy that [`Fault::CopyDataDir`] has made. Healed by putting the node's own
    /// data dir back.
    RestoreOldCopy,
    /// The name server keeps its current answers and ignores new records of servers.
    ResolverStale,
    /// Each answer of the name server takes longer, and the next question waits for it.
    ResolverSlow {
        /// The additional time of an answer.
        #[serde(with = "crate::time")]
        delay: Duration,
    },
}

/// Which pairs of nodes a partition cuts. The term is Jepsen's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grudge {
    /// The chosen nodes and the others, both ways.
    Both,
    /// The others do not hear the chosen nodes; the chosen nodes hear the others.
    OneWay,
    /// Each node hears a majority, and no two nodes the same majority (Jepsen's `majorities-ring`).
    MajoritiesRing,
    /// Two halves that do not hear each other, and the chosen node, which is connected with both.
    Bridge,
}

/// Which nodes a fault is applied to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nodes {
    /// Any one server.
    One,
    /// The server that leads the most shards; among equals the meta shard's leader.
    Leader,
    /// A server that does not lead the meta shard.
    Follower,
    /// As many servers as the cluster can lose.
    Minority,
    /// One server more than the cluster can lose.
    Majority,
    /// Every server.
    All,
    /// One of the name servers.
    Resolver,
    /// The node of this name; `#2` is the second server in the order of names.
    #[serde(untagged)]
    Named(String),
}

/// An ability of a backend that a fault needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Means {
    /// To stop and start processes, containers or pods.
    Process,
    /// To freeze a process and let it continue.
    Freeze,
    /// To cut a node off from all others. Weaker than [`Means::Network`]: a container can be disconnected from its networks.
    Isolation,
    /// To hold back or delay bytes between two nodes.
    Network,
    /// To delay or fail a node's disk operations.
    Disk,
    /// To copy a node's data dir and to put the copy in its place.
    Copies,
    /// To change a node's wall clock.
    Clock,
    /// To change a name server's answers.
    Resolver,
}

impl Means {
    /// The faults that a server with `--allow-faults` can inject into itself.
    pub const INSIDE: [Self; 4] = [Self::Isolation, Self::Network, Self::Disk, Self::Clock];

    /// What the user can do where the ability is missing.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Process => "choose targets that can be stopped and started",
            Self::Freeze => {
                "Kubernetes cannot freeze pods; run the experiment on containers or on the processes of conclave up"
            }
            Self::Isolation | Self::Network | Self::Disk | Self::Clock => {
                "start the servers with --allow-faults (conclave up --allow-faults), or with CONCLAVE_ALLOW_FAULTS=true"
            }
            Self::Copies => {
                "only the data dirs of conclave up --allow-faults can be exchanged; run the experiment on local processes"
            }
            Self::Resolver => {
                "only the name server of conclave up --allow-faults can give wrong answers; run the experiment on local processes"
            }
        }
    }
}

impl Fault {
    /// The ability that a backend needs for this fault.
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
            Self::CopyDataDir | Self::RestoreOldCopy => Means::Copies,
            Self::ClockStep { .. } | Self::ClockSkew { .. } => Means::Clock,
            Self::ResolverStale | Self::ResolverSlow { .. } => Means::Resolver,
        }
    }

    /// The longest delay that this fault adds; zero if it adds none.
    #[must_use]
    pub fn longest_delay(&self) -> Duration {
        match self {
            Self::Delay { delay, jitter } => *delay + *jitter,
            Self::SlowDisk { delay } | Self::Duplicate { delay, .. } | Self::ResolverSlow { delay } => *delay,
            _ => Duration::ZERO,
        }
    }

    /// Whether the other servers lose contact with the target.
    #[must_use]
    pub fn takes_away(&self) -> bool {
        self.stops_process() || matches!(self, Self::Isolate | Self::Partition { .. })
    }

    /// Whether only name servers can have this fault.
    #[must_use]
    pub fn is_of_resolvers(&self) -> bool {
        matches!(self, Self::ResolverStale | Self::ResolverSlow { .. })
    }

    /// Whether name servers can have this fault: they have no disk, no peers and no clock that matters.
    #[must_use]
    pub fn suits_resolvers(&self) -> bool {
        self.is_of_resolvers() || matches!(self, Self::Kill | Self::Restart | Self::Pause | Self::Isolate)
    }

    /// Whether the target's process ends or freezes, which also ends the faults that are active inside of it.
    #[must_use]
    pub fn stops_process(&self) -> bool {
        match self {
            Self::Kill
            | Self::Restart
            | Self::Pause
            | Self::FailSync
            | Self::FullDisk
            | Self::RestoreOldCopy
            | Self::PowerCut { .. } => true,
            Self::Isolate
            | Self::Partition { .. }
            | Self::Delay { .. }
            | Self::Loss { .. }
            | Self::Bandwidth { .. }
            | Self::SlowDisk { .. }
            | Self::CopyDataDir
            | Self::ClockStep { .. }
            | Self::ClockSkew { .. }
            | Self::Duplicate { .. }
            | Self::ResolverStale
            | Self::ResolverSlow { .. } => false,
        }
    }

    /// The name in experiments, metrics and reports.
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
            Self::CopyDataDir => "copy-data-dir",
            Self::RestoreOldCopy => "restore-old-copy",
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

    /// One fault of each kind.
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
            Fault::CopyDataDir,
            Fault::RestoreOldCopy,
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

    /// While servers are away, `minority` chooses fewer targets, so that the cluster survives. A fault that wrongly counts as
    /// taking a server away keeps other faults from being applied at all.
    #[test]
    fn only_stopped_and_cut_off_servers_count_as_away() {
        let away = [
            "kill",
            "restart",
            "pause",
            "isolate",
            "partition",
            "fail-sync",
            "full-disk",
            "power-cut",
            "restore-old-copy",
        ];
        assert_eq!(names(Fault::takes_away), away);
    }

    #[test]
    fn name_servers_have_only_faults_that_suit_them() {
        let suits = ["kill", "restart", "pause", "isolate", "resolver-stale", "resolver-slow"];
        assert_eq!(names(Fault::suits_resolvers), suits);
    }
}
