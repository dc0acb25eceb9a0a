//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand};
use conclave_chaos::backend::kubernetes::Place;
use conclave_chaos::backend::{Choice, Settings};
use conclave_chaos::serve::timetable::OnViolation;
use conclave_chaos::time;

const AFTER_HELP: &str = "\
Only what allows it is broken. The processes of `conclave up` on this machine may be killed and frozen by whoever started
them; faults of network, disk and clock happen inside the servers, which must have been started with --allow-faults
(`conclave up --allow-faults`). Every fault is written down before it is applied, and healed at the end, on Ctrl-C, and by the
next run if this one is killed.

Examples:
  conclave up --allow-faults                    in another terminal
  conclave-chaos list
  conclave-chaos run smoke                      a verdict and a page in a minute and a half
  conclave-chaos run my-experiment.yaml --seed 7
  conclave-chaos fault pause --nodes leader --for 5s
  conclave-chaos heal
  conclave-chaos serve --experiment kill-leader --every 1h

Exit codes:
  0 every promise held   1 a promise was broken   2 too little was tested   3 no verdict";

/// Breaks a conclave cluster on purpose, keeps using it, and judges what came of it.
#[derive(Debug, Parser)]
#[command(name = "conclave-chaos", version = conclave_client::VERSION, after_help = AFTER_HELP, max_term_width = 110)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the cluster is.
#[derive(Debug, ClapArgs)]
pub(crate) struct PlaceArgs {
    /// What the cluster runs on
    #[arg(long, value_enum, env = "CONCLAVE_CHAOS_BACKEND", default_value_t = Choice::Local, global = true)]
    backend: Choice,
    /// The directory of the `conclave up` whose cluster is broken [default: where `conclave up` keeps it]
    #[arg(long, value_name = "DIR", env = "CONCLAVE_UP_DIR", global = true)]
    dir: Option<PathBuf>,
    /// Where it is kept what has to be healed, of a cluster that is not `conclave up`'s
    #[arg(
        long,
        value_name = "DIR",
        env = "CONCLAVE_CHAOS_STATE_DIR",
        default_value = "chaos-state",
        global = true
    )]
    state_dir: PathBuf,
    /// The composition whose cluster is broken, with --backend docker [default: that of the container in which this runs, or
    /// the only one]
    #[arg(long, value_name = "NAME", env = "CONCLAVE_CHAOS_PROJECT", global = true)]
    project: Option<String>,
    #[command(flatten)]
    kubernetes: KubernetesArgs,
}

/// Where the pods are.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "On Kubernetes")]
struct KubernetesArgs {
    /// Says how the API is reached [default: $KUBECONFIG, this pod's service account, or ~/.kube/config]
    #[arg(long, value_name = "FILE", global = true)]
    kubeconfig: Option<PathBuf>,
    /// The namespace of the cluster [default: this pod's, or the kubeconfig's]
    #[arg(long, env = "CONCLAVE_CHAOS_NAMESPACE", global = true)]
    namespace: Option<String>,
    /// The labels of the cluster's pods [default: app.kubernetes.io/name=conclave]
    #[arg(long, value_name = "LABELS", env = "CONCLAVE_CHAOS_SELECTOR", global = true)]
    selector: Option<String>,
}

impl From<&PlaceArgs> for Settings {
    fn from(args: &PlaceArgs) -> Self {
        let kubernetes = Place {
            kubeconfig: args.kubernetes.kubeconfig.clone(),
            namespace: args.kubernetes.namespace.clone(),
            selector: args.kubernetes.selector.clone(),
        };
        Self {
            backend: args.backend,
            up_dir: args.dir.clone(),
            state_dir: args.state_dir.clone(),
            project: args.project.clone(),
            kubernetes,
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run an experiment: a name from `list`, or a YAML file
    Run(RunArgs),
    /// Show the experiments that ship
    List,
    /// Show an experiment that ships, to begin one's own with
    Show {
        /// Its name
        name: String,
    },
    /// Apply one fault now, and heal it after a while
    Fault(FaultArgs),
    /// Stay: run experiments by schedule and when asked to, over gRPC and HTTP, and show metrics
    Serve(ServeArgs),
    /// Heal whatever is still in force
    Heal {
        /// Everything; there is no other way, so it need not be said
        #[arg(long)]
        all: bool,
    },
    /// Tell again what came of a run, or of every run in a directory
    Report {
        /// The run's directory, or that of many
        #[arg(default_value = "chaos-reports")]
        dir: PathBuf,
    },
    /// Judge a recorded history
    Check {
        /// The file
        history: PathBuf,
    },
}

/// `run`
#[derive(Debug, ClapArgs)]
pub(crate) struct RunArgs {
    /// A name from `list`, or a file
    pub(crate) experiment: String,
    /// Where the randomness begins [default: drawn, and shown]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Where history, report.json and report.html go [default: chaos-reports/NAME-SEED]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Show metrics there, over HTTP, as long as this goes on
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Say only the verdict
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// `fault`
#[derive(Debug, ClapArgs)]
pub(crate) struct FaultArgs {
    /// kill, restart, pause, isolate, partition, delay, loss, bandwidth, slow-disk, fail-sync, full-disk, power-cut,
    /// clock-step, clock-skew, duplicate,
    /// resolver-stale, resolver-slow
    pub(crate) fault: String,
    /// one, leader, follower, minority, majority, all, resolver, or a name
    #[arg(long, default_value = "one")]
    pub(crate) nodes: String,
    /// How long
    #[arg(long = "for", value_name = "TIME", default_value = "5s", value_parser = time::parse)]
    pub(crate) lasts: Duration,
    /// What the fault needs, as in an experiment: `--with delay=50ms`
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) with: Vec<String>,
    /// Show metrics there, over HTTP, as long as this goes on
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) metrics: Option<SocketAddr>,
}

/// `serve`
#[derive(Debug, ClapArgs)]
pub(crate) struct ServeArgs {
    /// Where the gRPC API is
    #[arg(long, value_name = "IP:PORT", env = "CONCLAVE_CHAOS_LISTEN", default_value = "127.0.0.1:9465")]
    pub(crate) listen: SocketAddr,
    /// Where metrics, health and the HTTP API are
    #[arg(long, value_name = "IP:PORT", env = "CONCLAVE_CHAOS_METRICS", default_value = "127.0.0.1:9464")]
    pub(crate) metrics: SocketAddr,
    /// The file with the token that calls need which change something; without it, only loopback may be listened at
    #[arg(long, value_name = "FILE", env = "CONCLAVE_CHAOS_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// What to run by itself: a YAML file, such as `{on_violation: stop, runs: [{experiment: smoke, every: 1h, jitter: 10m}]}`
    #[arg(long, value_name = "FILE", env = "CONCLAVE_CHAOS_SCHEDULE", conflicts_with_all = ["experiment", "every"])]
    pub(crate) schedule: Option<PathBuf>,
    /// Run this experiment by itself ...
    #[arg(long, value_name = "NAME", requires = "every")]
    pub(crate) experiment: Option<String>,
    /// ... each time so long after the last beginning, at least a minute ...
    #[arg(long, value_name = "TIME", value_parser = time::parse, requires = "experiment")]
    pub(crate) every: Option<Duration>,
    /// ... and up to so much later, at random
    #[arg(long, value_name = "TIME", value_parser = time::parse, requires = "every")]
    pub(crate) jitter: Option<Duration>,
    /// What becomes of the schedule when a run breaks a promise [default: stop, or as the file says]
    #[arg(long)]
    pub(crate) on_violation: Option<OnViolation>,
    /// Where the schedule's randomness begins [default: drawn, and shown]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// A directory with experiments of one's own, `*.yaml`, beside those that ship
    #[arg(long, value_name = "DIR", env = "CONCLAVE_CHAOS_EXPERIMENTS")]
    pub(crate) experiments: Option<PathBuf>,
    /// Where runs are kept, with history and report [default: chaos-runs, beside the journal]
    #[arg(long, value_name = "DIR", env = "CONCLAVE_CHAOS_RUNS")]
    pub(crate) runs: Option<PathBuf>,
    /// How many runs are kept
    #[arg(long, value_name = "COUNT", default_value = "50", value_parser = keep)]
    pub(crate) keep: usize,
}

/// Runs to keep.
fn keep(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=10_000).contains(count));
    count.ok_or_else(|| format!("{text:?} is no number from 1 to 10000"))
}
