//! The commands.

mod serve;

use std::fs;
use std::io::BufReader;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use conclave_chaos::engine::Run;
use conclave_chaos::events::{Event, Observer, Observers};
use conclave_chaos::experiment::Experiment;
use conclave_chaos::metrics::Metrics;
use conclave_chaos::report::VerdictSummary;
use conclave_chaos::scrape::Announced;
use conclave_chaos::serve::http::{self, Pages};
use conclave_chaos::verdict::Sum;
use conclave_chaos::{report, single, time};
use conclave_check::{Options, Outcome, Records};
use conclave_telemetry::door::Door;
use conclave_telemetry::log;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::args::{Args, Command, FaultArgs, PagesArgs, RunArgs};
use crate::controller::Controller;
use crate::output::{print_error, print_line};

/// Runs a command and returns its exit code, which is the verdict's.
///
/// # Errors
/// If there is no verdict.
pub(crate) async fn run(args: Args) -> anyhow::Result<u8> {
    match args.command {
        Command::List => {
            for name in Experiment::names() {
                let text = Experiment::shipped(name).unwrap_or_default();
                print_line(&format!("{name:<18} {}", Experiment::parse(text)?.proves));
            }
            Ok(0)
        }
        Command::Show { name } => {
            let Some(text) = Experiment::shipped(&name) else { bail!("{}", no_such_experiment(&name)) };
            print_line(text.trim_end());
            Ok(0)
        }
        Command::Report { dir } => print_reports(&dir),
        Command::Check { history } => check(&history),
        Command::Run(run) => run_experiment(Controller::open(&args.place).await?, &run).await,
        Command::Fault(fault) => apply_fault(Controller::open(&args.place).await?, &fault).await,
        Command::Serve(serve) => {
            init_logging()?;
            serve::serve(Controller::healer(&args.place).await?, &serve).await
        }
        Command::Heal { all: _ } => {
            let mut controller = Controller::healer(&args.place).await?;
            let healed = controller.engine.heal_all().await?;
            print_line(&format!("healed {healed} faults"));
            Ok(0)
        }
    }
}

fn no_such_experiment(name: &str) -> String {
    let names: Vec<&str> = Experiment::names().collect();
    format!("there is no experiment {name:?}; there are: {}", names.join(", "))
}

/// Prints the events of a run on stderr.
struct Lines {
    began: std::time::Instant,
    quiet: bool,
}

impl Observer for Lines {
    fn event(&self, event: &Event) {
        // The end is printed by the command itself, with the verdict.
        if !self.quiet && event.is_line() && !matches!(event, Event::Ended(_)) {
            print_error(&format!("{:>6.1} s  {event}", self.began.elapsed().as_secs_f64()));
        }
    }
}

/// Serves metrics at the address, if there is one, for as long as the returned value lives.
async fn serve_metrics(
    controller: &Controller,
    address: Option<SocketAddr>,
    pages: &PagesArgs,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Option<(Option<Announced>, AbortOnDropHandle<()>)>> {
    let Some(address) = address else { return Ok(None) };
    let door = Door::open(&pages.listening(address)).await?;
    let ended = CancellationToken::new();
    let pages = Pages { api: None, metrics: Arc::clone(metrics), ended };
    let serving = AbortOnDropHandle::new(tokio::spawn(http::serve(door, pages)));
    Ok(Some((controller.announce_metrics()?, serving)))
}

/// Sends the log to stderr.
fn init_logging() -> anyhow::Result<()> {
    let writer = log::start().context("failed to start the log")?;
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false);
    log.with_writer(move || writer.clone()).init();
    Ok(())
}

async fn run_experiment(mut controller: Controller, args: &RunArgs) -> anyhow::Result<u8> {
    let text = match Experiment::shipped(&args.experiment) {
        Some(text) => text.to_owned(),
        None => fs::read_to_string(&args.experiment).with_context(|| no_such_experiment(&args.experiment))?,
    };
    let experiment = Experiment::parse(&text)?;
    let seed = args.seed.or(experiment.seed).unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from("chaos-reports").join(format!("{}-{seed}", experiment.name)));
    fs::create_dir_all(&out).with_context(|| format!("make {}", out.display()))?;
    let began = std::time::Instant::now();
    let quiet = args.quiet;
    let run = Run { id: format!("{:08x}", rand::random::<u32>()), experiment, seed, dir: out };
    let metrics = Arc::new(Metrics::new([&run.experiment]));
    metrics.add_open_faults(&controller.engine.journal.open_faults());
    let _showing = serve_metrics(&controller, args.metrics, &args.pages, &metrics).await?;
    let engine = &mut controller.engine;
    engine.observer = Arc::new(Observers(vec![Arc::new(Lines { began, quiet }), metrics]));
    let verdict = engine.run(&run).await?;
    let out = run.dir;
    let page = report::write(&verdict, &out)?;
    print_line(VerdictSummary::from(&verdict).to_string().trim_end());
    print_line(&format!("  report: {}", page.display()));
    Ok(verdict.exit_code())
}

async fn apply_fault(mut controller: Controller, args: &FaultArgs) -> anyhow::Result<u8> {
    let pair = |pair: &String| {
        let (name, value) = pair.split_once('=').with_context(|| format!("{pair:?} is not NAME=VALUE"))?;
        Ok((name.to_owned(), value.to_owned()))
    };
    let with: Vec<(String, String)> = args.with.iter().map(pair).collect::<anyhow::Result<_>>()?;
    let step = single::step(&args.fault, &args.nodes, args.lasts, with).map_err(anyhow::Error::msg)?;
    let metrics = Arc::new(Metrics::new([]));
    metrics.add_open_faults(&controller.engine.journal.open_faults());
    let _showing = serve_metrics(&controller, args.metrics, &args.pages, &metrics).await?;
    let engine = &mut controller.engine;
    engine.observer = metrics;
    let chosen = single::choose_targets(engine.backend.as_ref(), &step, rand::random()).await?;
    print_line(&format!("{}: {} for {}", step.fault, chosen.join(", "), time::show(args.lasts)));
    engine.apply(step.fault.clone(), chosen).await?;
    let held = engine.hold(args.lasts).await;
    engine.heal_all().await?;
    held?;
    print_line("healed");
    Ok(0)
}

/// Prints the verdict of the run in this directory; or one line for each run in its subdirectories.
fn print_reports(dir: &Path) -> anyhow::Result<u8> {
    if dir.join("report.json").exists() {
        let summary = VerdictSummary::read(dir)?;
        print_line(summary.to_string().trim_end());
        print_line(&format!("  report: {}", dir.join("report.html").display()));
        return Ok(summary.sum.exit_code());
    }
    let entries = fs::read_dir(dir).with_context(|| format!("there is no run in {}", dir.display()))?;
    let mut runs: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
    runs.retain(|run| run.join("report.json").exists());
    runs.sort();
    if runs.is_empty() {
        bail!("there is no run in {}: none of its directories has a report.json", dir.display());
    }
    let mut sums = Vec::with_capacity(runs.len());
    for run in runs {
        let summary = VerdictSummary::read(&run)?;
        print_line(&format!("{}  ({})", summary.line(), run.display()));
        sums.push(summary.sum);
    }
    // The worst verdict decides the exit code.
    let worst = [Sum::Violated, Sum::TooLittle].into_iter().find(|sum| sums.contains(sum));
    Ok(worst.unwrap_or(Sum::Passed).exit_code())
}

fn check(path: &Path) -> anyhow::Result<u8> {
    let file = fs::File::open(path).with_context(|| path.display().to_string())?;
    let report = conclave_check::check(&Records::read(BufReader::new(file))?, &Options::default());
    print_line(&report.to_string());
    Ok(match report.outcome {
        Outcome::Passed => 0,
        Outcome::Violated => 1,
        Outcome::TooLittle => 2,
    })
}
