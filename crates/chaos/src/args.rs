//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand};
use conclave_chaos::backend::kubernetes::PodLocation;
use conclave_chaos::backend::{Choice, Settings};
use conclave_chaos::scrape::ScrapeFile;
use conclave_chaos::serve;
use conclave_chaos::serve::timetable::OnViolation;
use conclave_chaos::time;
use conclave_telemetry::door::Listening;

const AFTER_HELP: &str = "\
Faults are applied only where they are allowed. The processes of `conclave up` on this machine can be killed and frozen by
the user who started them; faults of network, disk and clock happen inside the servers, which must have been started with
--allow-faults (`conclave up --allow-faults`). Every fault is written to a journal before it is applied, and is healed at the
end, on Ctrl-C, and by the next run if this one is killed.

Examples:
  conclave up --open --allow-faults             in another terminal
  conclave-chaos list
  conclave-chaos run smoke                      a verdict and an HTML report in 90 seconds
  conclave-chaos run my-experiment.yaml --seed 7
  conclave-chaos fault pause --nodes leader --for 5s
  conclave-chaos heal
  conclave-chaos serve --experiment kill-leader --every 1h

Exit codes:
  0 every promise held   1 a promise was broken   2 too little was tested   3 no verdict";

/// Injects faults into a conclave cluster under load, and judges whether it kept its promises.
#[derive(Debug, Parser)]
#[command(name = "conclave-chaos", version = conclave_client::VERSION, after_help = AFTER_HELP, max_term_width = 110)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The options that name the cluster.
#[derive(Debug, ClapArgs)]
pub(crate) struct PlaceArgs {
    /// What the cluster runs on
    #[arg(long, value_enum, env = "CONCLAVE_CHAOS_BACKEND", default_value_t = Choice::Local, global = true)]
    backend: Choice,
    /// The directory of `conclave up`, with --backend local [default: the one that `conclave up` uses by default]
    #[arg(long, value_name = "DIR", env = "CONCLAVE_UP_DIR", global = true)]
    dir: Option<PathBuf>,
    /// The directory for the journal of active faults, with --backend docker or kubernetes
    #[arg(
        long,
        value_name = "DIR",
        env = "CONCLAVE_CHAOS_STATE_DIR",
        default_value = "chaos-state",
        global = true
    )]
    state_dir: PathBuf,
    /// The Compose project of the cluster, with --backend docker [default: the project of the container in which this runs, or
    /// the only one]
    #[arg(long, value_name = "NAME", env = "CONCLAVE_CHAOS_PROJECT", global = true)]
    project: Option<String>,
    /// A file with the admin token of the servers, with --backend docker or kubernetes: faults inside servers need it
    #[arg(long, value_name = "FILE", env = "CONCLAVE_ADMIN_TOKEN_FILE", global = true)]
    admin_token_file: Option<PathBuf>,
    /// A directory with the ca.pem of the cluster, if it uses TLS, with --backend docker or kubernetes
    #[arg(long, value_name = "DIR", env = "CONCLAVE_TLS_DIR", global = true)]
    tls_dir: Option<PathBuf>,
    /// A file for Prometheus' file_sd_configs, which names the target --scrape-target while this controller shows metrics
    #[arg(
        long,
        value_name = "FILE",
        env = "CONCLAVE_CHAOS_SCRAPE_FILE",
        global = true,
        requires = "scrape_target"
    )]
    scrape_file: Option<PathBuf>,
    /// Where Prometheus reaches the metrics
    #[arg(long, value_name = "HOST:PORT", env = "CONCLAVE_CHAOS_SCRAPE_TARGET", global = true)]
    scrape_target: Option<String>,
    #[command(flatten)]
    kubernetes: KubernetesArgs,
}

impl PlaceArgs {
    /// The file that tells Prometheus of this controller, if there is one.
    pub(crate) fn scrape(&self) -> Option<ScrapeFile> {
        let (path, target) = self.scrape_file.clone().zip(self.scrape_target.clone())?;
        Some(ScrapeFile { path, target })
    }
}

/// The options that name the pods.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "On Kubernetes")]
struct KubernetesArgs {
    /// The kubeconfig for the API [default: $KUBECONFIG, this pod's service account, or ~/.kube/config]
    #[arg(long, value_name = "FILE", global = true)]
    kubeconfig: Option<PathBuf>,
    /// The namespace of the cluster [default: the namespace of this pod, or of the kubeconfig]
    #[arg(long, env = "CONCLAVE_CHAOS_NAMESPACE", global = true)]
    namespace: Option<String>,
    /// The label selector of the cluster's pods [default: app.kubernetes.io/name=conclave]
    #[arg(long, value_name = "LABELS", env = "CONCLAVE_CHAOS_SELECTOR", global = true)]
    selector: Option<String>,
}

impl From<&PlaceArgs> for Settings {
    fn from(args: &PlaceArgs) -> Self {
        let kubernetes = PodLocation {
            kubeconfig: args.kubernetes.kubeconfig.clone(),
            namespace: args.kubernetes.namespace.clone(),
            selector: args.kubernetes.selector.clone(),
        };
        Self {
            backend: args.backend,
            up_dir: args.dir.clone(),
            state_dir: args.state_dir.clone(),
            project: args.project.clone(),
            admin_token_file: args.admin_token_file.clone(),
            tls_dir: args.tls_dir.clone(),
            kubernetes,
        }
    }
}

/// The command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run an experiment: a name from `list`, or a YAML file
    Run(RunArgs),
    /// List the shipped experiments
    List,
    /// Print a shipped experiment, as a start for your own
    Show {
        /// The experiment's name
        name: String,
    },
    /// Apply one fault now, and heal it after a time
    Fault(FaultArgs),
    /// Keep running: run experiments on a schedule and on request over HTTP, and serve metrics
    Serve(ServeArgs),
    /// Heal all faults that are still in force
    Heal {
        /// Accepted and ignored: all faults are healed in any case
        #[arg(long)]
        all: bool,
    },
    /// Print the verdict of a finished run, or of every run in a directory
    Report {
        /// The directory of a run, or of several runs
        #[arg(default_value = "chaos-reports")]
        dir: PathBuf,
    },
    /// Judge a recorded history
    Check {
        /// The history, JSON lines
        history: PathBuf,
    },
}

/// `run`
#[derive(Debug, ClapArgs)]
pub(crate) struct RunArgs {
    /// A name from `list`, or a YAML file
    pub(crate) experiment: String,
    /// Seed of the times and targets of the faults [default: random, and printed]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// The directory for history.jsonl, report.json and report.html [default: chaos-reports/NAME-SEED]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Serve metrics over HTTP at this address, until this command ends
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) metrics: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) pages: PagesArgs,
    /// Print only the verdict
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
    /// How long the fault is in force
    #[arg(long = "for", value_name = "TIME", default_value = "5s", value_parser = time::parse)]
    pub(crate) lasts: Duration,
    /// A parameter of the fault, as in an experiment: `--with delay=50ms`
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) with: Vec<String>,
    /// Serve metrics over HTTP at this address, until this command ends
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) metrics: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) pages: PagesArgs,
}

/// The options of whatever serves over HTTP.
#[derive(Debug, ClapArgs)]
pub(crate) struct PagesArgs {
    /// The directory with this controller's certificate (ca.pem, node.pem, node.key; `conclave admin ca issue --chaos`): beyond
    /// loopback, API and metrics use TLS
    #[arg(long, value_name = "DIR", env = "CONCLAVE_CHAOS_PAGES_TLS_DIR")]
    pages_tls_dir: Option<PathBuf>,
    /// Serve beyond loopback without TLS: anybody on the way can read the token, and change what is said
    #[arg(long, env = "CONCLAVE_LISTEN_INSECURE")]
    listen_insecure: bool,
}

impl PagesArgs {
    /// Where to listen, and with what.
    pub(crate) fn listening(&self, address: SocketAddr) -> Listening {
        let tls_dir = self.pages_tls_dir.clone();
        Listening { purpose: serve::PORT, address, tls_dir, insecure: self.listen_insecure }
    }
}

/// `serve`
#[derive(Debug, ClapArgs)]
pub(crate) struct ServeArgs {
    /// Address of the HTTP API, metrics and health
    #[arg(long, value_name = "IP:PORT", env = "CONCLAVE_CHAOS_LISTEN", default_value = "127.0.0.1:9464")]
    pub(crate) listen: SocketAddr,
    #[command(flatten)]
    pub(crate) pages: PagesArgs,
    /// The file with the token that every changing request must send, readable by its user alone; without it, the address must be
    /// loopback
    #[arg(long, value_name = "FILE", env = "CONCLAVE_CHAOS_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The schedule: a YAML file, such as `{on_violation: stop, runs: [{experiment: smoke, every: 1h, jitter: 10m}]}`
    #[arg(long, value_name = "FILE", env = "CONCLAVE_CHAOS_SCHEDULE", conflicts_with_all = ["experiment", "every"])]
    pub(crate) schedule: Option<PathBuf>,
    /// Run this experiment on a schedule ...
    #[arg(long, value_name = "NAME", requires = "every")]
    pub(crate) experiment: Option<String>,
    /// ... at this interval from start to start, at least a minute ...
    #[arg(long, value_name = "TIME", value_parser = time::parse, requires = "experiment")]
    pub(crate) every: Option<Duration>,
    /// ... each time up to this much later, at random
    #[arg(long, value_name = "TIME", value_parser = time::parse, requires = "every")]
    pub(crate) jitter: Option<Duration>,
    /// Whether the schedule continues after a run broke a promise [default: stop, or as the file says]
    #[arg(long)]
    pub(crate) on_violation: Option<OnViolation>,
    /// Seed of the jitter and of the runs' seeds [default: random, and printed]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// A directory with your own experiments, `*.yaml`, beside the shipped ones
    #[arg(long, value_name = "DIR", env = "CONCLAVE_CHAOS_EXPERIMENTS")]
    pub(crate) experiments: Option<PathBuf>,
    /// The directory for the runs, with history and report [default: chaos-runs, beside the journal]
    #[arg(long, value_name = "DIR", env = "CONCLAVE_CHAOS_RUNS")]
    pub(crate) runs: Option<PathBuf>,
    /// How many runs are kept; older ones are deleted
    #[arg(long, value_name = "COUNT", default_value = "50", value_parser = keep)]
    pub(crate) keep: usize,
}

/// Parses the number of runs to keep.
fn keep(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=10_000).contains(count));
    count.ok_or_else(|| format!("{text:?} is not a number from 1 to 10000"))
}
