//! The controller of the cluster that the command line names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use conclave_chaos::backend::{self, Kind, Opened, Settings, Target};
use conclave_chaos::connect;
use conclave_chaos::engine::Engine;
use conclave_chaos::events::NoObserver;
use conclave_chaos::journal::Journal;
use conclave_chaos::scrape::{Announced, ScrapeFile};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::args::PlaceArgs;
use crate::output::print_error;

/// An engine that stops on SIGINT and SIGTERM, for as long as this value lives.
pub(crate) struct Controller {
    pub(crate) engine: Engine,
    /// The directory of the journal, where `serve` also keeps its runs.
    pub(crate) state_dir: PathBuf,
    scrape: Option<ScrapeFile>,
    _signals: AbortOnDropHandle<()>,
}

impl Controller {
    /// For runs and faults: the clients connect first to the servers that are there now.
    ///
    /// # Errors
    /// If there is no cluster, or another controller works on it.
    pub(crate) async fn open(place: &PlaceArgs) -> anyhow::Result<Self> {
        let opened = backend::open(&Settings::from(place)).await?;
        let targets = opened.backend.targets().await?;
        let servers = targets.into_iter().filter(|target| target.kind == Kind::Server).collect();
        Self::with(place, opened, servers)
    }

    /// For healing and for `serve`, which look up servers when they need them: the cluster may be down.
    ///
    /// # Errors
    /// As [`Controller::open`].
    pub(crate) async fn healer(place: &PlaceArgs) -> anyhow::Result<Self> {
        Self::with(place, backend::open(&Settings::from(place)).await?, Vec::new())
    }

    fn with(place: &PlaceArgs, opened: Opened, servers: Vec<Target>) -> anyhow::Result<Self> {
        let journal = Journal::open(&opened.journal)?;
        // With the journal's lock, this is the only controller: a file that is there is one of a controller that was killed.
        let scrape = place.scrape();
        if let Some(file) = &scrape {
            file.remove().with_context(|| format!("remove {}", file.path.display()))?;
        }
        let stop = CancellationToken::new();
        let signals = listen_for_signals(stop.clone())?;
        let authority = servers.first().and_then(|server| server.authority);
        let net = backend::network(authority)?;
        let connect = connect::to(servers.into_iter().map(|server| server.client).collect(), authority);
        let state_dir = opened.journal.parent().map_or_else(PathBuf::new, Path::to_owned);
        let observer = Arc::new(NoObserver);
        Ok(Self {
            engine: Engine { backend: opened.backend, connect, net, journal, stop, observer },
            state_dir,
            scrape,
            _signals: signals,
        })
    }

    /// Tells Prometheus that the metrics are there, until the returned value is dropped.
    ///
    /// # Errors
    /// If the file for that cannot be written.
    pub(crate) fn announce_metrics(&self) -> anyhow::Result<Option<Announced>> {
        let Some(file) = self.scrape.clone() else { return Ok(None) };
        let path = file.path.clone();
        file.write().map(Some).with_context(|| format!("write {}", path.display()))
    }
}

/// Cancels `stop` on the first signal, so that the engine heals and ends.
fn listen_for_signals(stop: CancellationToken) -> anyhow::Result<AbortOnDropHandle<()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for signals")?;
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        print_error("signal received: healing all faults, then stopping");
        stop.cancel();
    })))
}
