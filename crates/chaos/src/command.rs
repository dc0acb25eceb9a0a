//! What each command does.

use std::fs;
use std::io::{BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use conclave_chaos::backend::Kind;
use conclave_chaos::engine::Run;
use conclave_chaos::events::{Event, Observer};
use conclave_chaos::experiment::Experiment;
use conclave_chaos::observer::Observed;
use conclave_chaos::schedule::choose;
use conclave_chaos::{report, time};
use conclave_check::{Options, Outcome, Records};

use crate::args::{Args, Command, FaultArgs, RunArgs};
use crate::controller::Controller;

/// Does it. The exit code is the verdict's.
///
/// # Errors
/// If there is no verdict.
pub(crate) async fn run(args: Args) -> anyhow::Result<u8> {
    match args.command {
        Command::List => {
            for name in Experiment::names() {
                let text = Experiment::shipped(name).unwrap_or_default();
                say(&format!("{name:<18} {}", Experiment::parse(text)?.proves));
            }
            Ok(0)
        }
        Command::Show { name } => {
            let Some(text) = Experiment::shipped(&name) else { bail!("{}", unknown(&name)) };
            say(text.trim_end());
            Ok(0)
        }
        Command::Check { history } => check(&history),
        Command::Run(run) => experiment(Controller::open(&args.place).await?, &run).await,
        Command::Fault(fault) => one(Controller::open(&args.place).await?, &fault).await,
        Command::Heal => {
            let mut controller = Controller::healer(&args.place).await?;
            let healed = controller.engine.heal_all().await?;
            say(&format!("healed {healed} faults"));
            Ok(0)
        }
    }
}

/// On stdout.
fn say(text: &str) {
    // Whoever closed the pipe has read enough.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// On stderr.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn unknown(name: &str) -> String {
    let names: Vec<&str> = Experiment::names().collect();
    format!("there is no experiment {name:?}; there are: {}", names.join(", "))
}

/// Tells on stderr where a run is.
struct Lines {
    began: std::time::Instant,
    quiet: bool,
}

impl Observer for Lines {
    fn event(&self, event: &Event) {
        // The verdict, or why there is none, is said at the end.
        if !self.quiet && event.is_line() && !matches!(event, Event::Ended(_)) {
            complain(&format!("{:>6.1} s  {event}", self.began.elapsed().as_secs_f64()));
        }
    }
}

async fn experiment(mut controller: Controller, args: &RunArgs) -> anyhow::Result<u8> {
    let engine = &mut controller.engine;
    let text = match Experiment::shipped(&args.experiment) {
        Some(text) => text.to_owned(),
        None => fs::read_to_string(&args.experiment).with_context(|| unknown(&args.experiment))?,
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
    engine.observer = Arc::new(Lines { began, quiet });
    let verdict = engine.run(&run).await?;
    let out = run.dir;
    let page = report::write(&verdict, &out)?;
    say(report::summary(&verdict).trim_end());
    say(&format!("  report: {}", page.display()));
    Ok(verdict.exit_code())
}

async fn one(mut controller: Controller, args: &FaultArgs) -> anyhow::Result<u8> {
    let engine = &mut controller.engine;
    // An experiment with one step, so that there is one way to write a fault.
    let with: String = args.with.iter().map(|pair| format!(", {}", pair.replacen('=', ": ", 1))).collect();
    let step = format!(
        "{{name: now, proves: nothing, workload: {{duration: 24h}}, method: [{{at: 0s, fault: {}, nodes: {}{with}}}]}}",
        args.fault, args.nodes
    );
    let experiment = Experiment::parse(&step.replace("24h", "1440m"))?;
    let step = experiment.method.first().context("there is no fault")?;
    let targets = engine.backend.targets().await?;
    let names = |kind: Kind| {
        let of_kind = targets.iter().filter(|target| target.kind == kind);
        of_kind.map(|target| target.name.clone()).collect::<Vec<_>>()
    };
    let observed = Observed::default();
    observed.look(&targets).await;
    let known = observed.known(&names(Kind::Server), names(Kind::Resolver), &[]);
    let chosen = choose(&step.nodes, rand::random(), &known);
    if chosen.is_empty() {
        bail!("there is no {} to do it to", step.nodes);
    }
    say(&format!("{}: {} for {}", step.fault, chosen.join(", "), time::show(args.lasts)));
    engine.apply(step.fault.clone(), chosen).await?;
    tokio::select! {
        () = tokio::time::sleep(args.lasts) => {}
        () = engine.stop.cancelled() => {}
    }
    engine.heal_all().await?;
    say("healed");
    Ok(0)
}

fn check(path: &Path) -> anyhow::Result<u8> {
    let file = fs::File::open(path).with_context(|| path.display().to_string())?;
    let report = conclave_check::check(&Records::read(BufReader::new(file))?, &Options::default());
    say(&report.to_string());
    Ok(match report.outcome {
        Outcome::Passed => 0,
        Outcome::Violated => 1,
        Outcome::TooLittle => 2,
    })
}
