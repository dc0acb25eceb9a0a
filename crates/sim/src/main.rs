//! A whole conclave cluster in one process: three nodes, their disks, their network and their clients, on a simulated clock.
//! All randomness follows from the seed, so a seed determines the history.
//!
//! * [`world`]: time and randomness of the process. [`net`]: the network. The disk is `conclave_store::simulated`.
//! * [`life`]: how a host dies and starts. [`cluster`]: the hosts and the faults that are in force.
//! * [`backend`]: the cluster as the chaos engine sees it. [`drive`]: the main loop.
//! * [`name_server`] and [`name_server_task`]: the authoritative name servers of the cluster.
//! * [`mix`]: an experiment generated from the seed. The experiments of `conclave-chaos` run here, too.
//!
//! One process runs one seed, so that no state of a run is left for the next one. `cargo xtask sim` runs many seeds.

mod backend;
mod cluster;
mod drive;
mod life;
mod mix;
mod name_server;
mod name_server_task;
mod net;
mod summary;
mod world;

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Parser;
use conclave_chaos::experiment::Experiment;
use conclave_chaos::schedule::Draws;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::cluster::Shape;
use crate::summary::Summary;

/// Runs one seed of the simulation and judges its history.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The seed of all randomness.
    #[arg(long)]
    seed: u64,
    /// A shipped experiment of conclave-chaos, a YAML file, or `mix`: an experiment generated from the seed.
    #[arg(long, default_value = mix::NAME)]
    experiment: String,
    /// The directory for the history, which is kept. Default: a temporary directory, which is deleted if the run passes.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// A control: disks acknowledge syncs without doing them. The run must not pass.
    #[arg(long)]
    lying_disk: bool,
    /// Bytes of log that nodes keep for lagging followers. Default: chosen by the seed.
    #[arg(long)]
    log_tail_bytes: Option<u64>,
}

fn main() -> ExitCode {
    let began = world::real_ms();
    world::seed(0);
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off"));
    let counted = summary::Counted::default();
    let printed = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry()
        .with(tracing_subscriber::Layer::with_filter(printed, filter))
        // The filter makes all other events nearly free.
        .with(tracing_subscriber::Layer::with_filter(counted.clone(), summary::Counted::filter()))
        .init();
    // A panic of any task is a finding.
    let panics = counted.clone();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        panics.panicked(info.to_string());
        hook(info);
    }));
    match simulate(&args, &counted, began) {
        Ok(summary) => {
            let line = serde_json::to_string(&summary).unwrap_or_else(|error| error.to_string());
            // A closed pipe is no error: the reader wants no more.
            let _ = writeln!(std::io::stdout(), "{line}");
            ExitCode::from(summary.exit_code())
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "seed {}: {error:#}", args.seed);
            ExitCode::from(3)
        }
    }
}

fn simulate(args: &Args, counted: &summary::Counted, began: u64) -> anyhow::Result<Summary> {
    let experiment = match (args.experiment.as_str(), Experiment::shipped(&args.experiment)) {
        (mix::NAME, _) => mix::experiment(args.seed),
        (_, Some(text)) => Experiment::parse(text)?,
        (path, None) => Experiment::parse(
            &fs::read_to_string(path).with_context(|| format!("there is no experiment {path:?}"))?,
        )?,
    };
    let mut draws = Draws::new(args.seed.rotate_left(32));
    let tails = [4 << 10, 64 << 10, 1 << 20];
    let tail = tails[usize::try_from(draws.below(3)).unwrap_or(0)];
    let shape = Shape {
        shards: 1 + u32::try_from(draws.below(3)).unwrap_or(0),
        log_tail_bytes: args.log_tail_bytes.unwrap_or(tail),
        // The experiments make claims about a single name server, which no second one backs up.
        name_servers: if args.experiment == mix::NAME {
            1 + u8::try_from(draws.below(2)).unwrap_or(0)
        } else {
            1
        },
    };
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => std::env::temp_dir().join(format!("conclave-sim-{}-{}", args.seed, std::process::id())),
    };
    if dir.exists() && fs::read_dir(&dir)?.next().is_some() {
        bail!("{} is not empty; delete it, or choose another --dir", dir.display());
    }
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let outcome = drive::run(experiment, args.seed, &shape, args.lying_disk, &dir)?;
    let history = fs::read(dir.join("history.jsonl")).unwrap_or_default();
    let mut summary = Summary::new(args.seed, &args.experiment, &outcome, counted, &history);
    summary.took_ms = world::real_ms().saturating_sub(began);
    if args.dir.is_none() && summary.exit_code() == 0 {
        fs::remove_dir_all(&dir)?;
    } else {
        summary.dir = Some(dir);
    }
    Ok(summary)
}
