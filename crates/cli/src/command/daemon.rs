//! The frame of commands that run until they are stopped: logging, signals, shutdown.

use std::error::Error;
use std::io;
use std::pin::pin;

use anyhow::Context as _;
use conclave_telemetry::log;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing_subscriber::EnvFilter;

use crate::args::run::{LogFormat, RunArgs};
use crate::exit::{Exit, Failed};
use crate::input::stdin_closed;
use crate::limits::SECOND_SIGNAL_AFTER;
use crate::output;

/// The exit code after a second signal, as shells use it for SIGINT.
const INTERRUPTED: i32 = 130;

/// A future that completes when a graceful shutdown is requested.
pub(super) type Shutdown = BoxFuture<'static, ()>;

/// Runs until a signal or, with `--exit-with-stdin`, until stdin closes. `name` begins the error message of a failure.
///
/// # Errors
/// With one sentence that says what to do.
pub(super) async fn run<F, E>(
    name: &str,
    args: &RunArgs,
    serve: impl FnOnce(Shutdown) -> F,
) -> anyhow::Result<Exit>
where
    F: Future<Output = Result<(), E>>,
    E: Error,
{
    start_logging(args)?;
    let mut signals = Signals::listen()?;
    let stdin =
        if args.exit_with_stdin { Some(stdin_closed().context("failed to start a thread")?) } else { None };
    let (stop, stopped) = oneshot::channel();
    // A dropped sender also requests the shutdown.
    let serve = pin!(serve(stopped.map(drop).boxed()));
    let wait = async move {
        tokio::select! {
            name = signals.next() => tracing::info!(signal = name, "shutdown requested"),
            () = closed(stdin) => tracing::info!("stdin closed, shutting down"),
        }
        let asked = Instant::now();
        let _ = stop.send(());
        loop {
            signals.next().await;
            if asked.elapsed() >= SECOND_SIGNAL_AFTER {
                break;
            }
        }
        output::error("conclave: stopped at once by a second signal");
        log::finish();
        // Exits at once: returning would wait for the drain.
        std::process::exit(INTERRUPTED);
    };
    tokio::select! {
        result = serve => {
            let failed = |error: E| Failed::new(Exit::Refused, format!("{name}: {}", sentence(&error)), "");
            result.map_err(failed)?;
            Ok(Exit::Ok)
        }
        () = wait => Ok(Exit::Ok),
    }
}

/// The error for an invalid configuration.
pub(super) fn misconfigured(wrong: &[String]) -> Failed {
    Failed::new(Exit::Usage, format!("the configuration is wrong: {}", wrong.join("; ")), "")
}

/// The error and its causes on one line. A cause that the text already contains is left out.
fn sentence(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text.push_str(": ");
            text.push_str(&next_text);
        }
        cause = next.source();
    }
    text.replace('\n', " ")
}

fn start_logging(args: &RunArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&args.log).map_err(|error| {
        Failed::new(Exit::Usage, format!("the log filter {:?} is wrong: {error}", args.log), "--log info")
    })?;
    let writer = log::start().context("failed to start the log")?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .log_internal_errors(false)
        .with_writer(move || writer.clone());
    let started = match args.log_format {
        LogFormat::Text => builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("start logging: {error}"))
}

/// The signals that request a shutdown.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("failed to listen for signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

async fn closed(stdin: Option<oneshot::Receiver<()>>) {
    match stdin {
        // The sender never sends, it is only dropped.
        Some(receiver) => drop(receiver.await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Chain(&'static str, Option<Box<Chain>>);

    impl std::fmt::Display for Chain {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Chain {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|next| next as &dyn Error)
        }
    }

    #[test]
    fn an_error_is_one_sentence() {
        let inner = Chain("permission denied", None);
        let repeats = Chain("cannot open\nx: permission denied", Some(Box::new(inner)));
        assert_eq!(sentence(&repeats), "cannot open x: permission denied");
        let adds = Chain("cannot open x", Some(Box::new(Chain("it is locked", None))));
        assert_eq!(sentence(&adds), "cannot open x: it is locked");
    }
}
