//! The arguments of `conclave bench`.

use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use crate::parse;

/// `conclave bench`
#[derive(Debug, ClapArgs)]
#[command(after_help = HELP)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) kind: BenchCommand,
}

const HELP: &str = "\
Examples:
  conclave bench send                                   256 publishers, each as fast as it gets acks
  conclave bench send --rooms 64                        the same, spread over 64 rooms
  conclave bench send --publishers 1 --connections 1    one after the other: the latency of an ack
  conclave bench send --rate 5000                       a fixed rate; latency from the due time of a send
  conclave bench fanout --subscribers 100               one room, all subscribers read everything
  conclave bench fanout --subscribers 100 --rate 200    how long a message takes to all subscribers
  conclave bench failover --trials 20 --fault kill      kill the leader's process, 20 times
  conclave bench idle --subscribers 1000                the cost of a subscriber

Every run creates its own rooms. Figures of a debug build are meaningless.";

/// A measurement.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Measure acknowledged messages per second, and the latency of acknowledgements
    Send(SendArgs),
    /// Measure deliveries per second, and their latency
    Fanout(FanoutArgs),
    /// Measure how long no message is acknowledged after a leader fails, and check that none is lost
    Failover(FailoverArgs),
    /// Measure the cost of idle subscribers, and how long they take to connect
    Idle(IdleArgs),
}

/// The node that a client sends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Route {
    /// The node that the client is connected to, whether it leads or not
    Pinned,
    /// The leader of the room's shard
    Leader,
}

impl From<Route> for conclave_client::Route {
    fn from(route: Route) -> Self {
        match route {
            Route::Pinned => Self::Pinned,
            Route::Leader => Self::Leader,
        }
    }
}

/// Duration and size of a run.
#[derive(Debug, ClapArgs)]
pub(crate) struct LoadArgs {
    /// Bytes of a message
    #[arg(long, value_name = "BYTES", default_value_t = 200)]
    #[arg(value_parser = clap::value_parser!(u32).range(24..=16_384))]
    pub(crate) size: u32,
    /// How long to measure
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse::duration)]
    pub(crate) duration: Duration,
    /// How long to run before the measurement
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse::duration)]
    pub(crate) warmup: Duration,
    /// The node that a client sends to
    #[arg(long, value_enum, default_value_t = Route::Pinned)]
    pub(crate) route: Route,
}

/// `bench send`
#[derive(Debug, ClapArgs)]
pub(crate) struct SendArgs {
    /// Publishers; each sends its next message after the ack of the one before
    #[arg(long, value_name = "N", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) publishers: u32,
    /// Connections, each with its own session, that the publishers share; spread over all servers
    #[arg(long, value_name = "N", default_value_t = 16)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub(crate) connections: u32,
    /// Rooms that the publishers are spread over
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub(crate) rooms: u32,
    /// Messages per second in total, without waiting for acks; --publishers is ignored then
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: Option<u32>,
    #[command(flatten)]
    pub(crate) run: LoadArgs,
}

/// `bench fanout`
#[derive(Debug, ClapArgs)]
pub(crate) struct FanoutArgs {
    /// Subscribers of the room, spread over all servers
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) subscribers: u32,
    /// Connections that the subscribers share; one for each if not given
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) connections: Option<u32>,
    /// Messages in flight at the same time, if no rate is given
    #[arg(long, value_name = "N", default_value_t = 64)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub(crate) publishers: u32,
    /// Messages per second; as many as possible if not given
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) rate: Option<u32>,
    #[command(flatten)]
    pub(crate) run: LoadArgs,
}

/// The fault of the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// SIGKILL. Another program must restart the process, as `conclave up` does
    Kill,
    /// SIGSTOP, and SIGCONT after --stop-for
    Stop,
    /// No fault: another program injects the faults
    None,
}

/// `bench failover`
#[derive(Debug, ClapArgs)]
pub(crate) struct FailoverArgs {
    /// The fault to inject into the leader of the room. Its process is found on this machine by its port
    #[arg(long, value_enum, default_value_t = Fault::None)]
    pub(crate) fault: Fault,
    /// A shell command that makes the leader fail instead; {node} and {address} are substituted
    #[arg(long, value_name = "CMD", conflicts_with = "fault")]
    pub(crate) kill_command: Option<String>,
    /// Kill this process, whether it leads or not
    #[arg(long, value_name = "PID", conflicts_with_all = ["fault", "kill_command"])]
    pub(crate) kill_pid: Option<u32>,
    /// Stop this process, whether it leads or not, and continue it after --stop-for
    #[arg(long, value_name = "PID", conflicts_with_all = ["fault", "kill_command", "kill_pid"])]
    pub(crate) stop_pid: Option<u32>,
    /// How long a stopped process stays stopped
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse::duration)]
    pub(crate) stop_for: Duration,
    /// The number of trials
    #[arg(long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) trials: u32,
    /// Messages per second
    #[arg(long, value_name = "N", default_value_t = 200)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rate: u32,
    /// Bytes of a message
    #[arg(long, value_name = "BYTES", default_value_t = 200)]
    #[arg(value_parser = clap::value_parser!(u32).range(24..=16_384))]
    pub(crate) size: u32,
    /// How long each trial runs, at most half of it before the fault
    #[arg(long, value_name = "TIME", default_value = "4s", value_parser = parse::duration)]
    pub(crate) duration: Duration,
    /// How long to wait until the cluster is healthy again between trials
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse::duration)]
    pub(crate) heal: Duration,
    /// The node that messages are sent to
    #[arg(long, value_enum, default_value_t = Route::Leader)]
    pub(crate) route: Route,
}

/// `bench idle`
#[derive(Debug, ClapArgs)]
pub(crate) struct IdleArgs {
    /// Subscribers; 0 measures the servers alone
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=65_536))]
    pub(crate) subscribers: u32,
    /// Connections that the subscribers share; one for each if not given
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) connections: Option<u32>,
    /// The servers' processes; found by the ports they listen at if not given
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub(crate) pids: Vec<u32>,
    /// How long to measure once all are connected
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse::duration)]
    pub(crate) duration: Duration,
}
