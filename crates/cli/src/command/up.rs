//! `conclave up`: a whole cluster on this machine.
//!
//! The servers and the name server are real processes of this executable. Each reads a pipe whose other end only this
//! process holds, and stops when the pipe closes: so they end with this process even after kill -9. The next `up` ends those
//! that take their time ([`leftovers`]).

mod child;
mod first;
mod last_words;
mod leftovers;
mod list;
mod log;
mod loopback;
pub(in crate::command) mod other;
mod plan;
mod process;
mod ready;
mod show;

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use conclave_client::Client;
use conclave_core::limits::NODES_MAX;
use conclave_proto::admin_token::AdminToken;
use conclave_proto::chat::GetServerStatusResponse;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::child::{ChildEvent, ProcessEvent, Running, Stop};
use self::leftovers::Leftovers;
use self::list::List;
use self::plan::UpPlan;
use self::process::{Process, processes};
use crate::admin_token::{self, Kept};
use crate::args::Global;
use crate::args::server::{UpArgs, UpCommand};
use crate::exit::{Exit, Failed};
use crate::input::stdin_closed;
use crate::known::{Cluster as KnownCluster, Known};
use crate::limits::{
    SECOND_SIGNAL_AFTER, UP_LOCK_PATIENCE, UP_LOG_BYTES_MAX, UP_POLL_INTERVAL, UP_READY_DEADLINE,
    UP_RENEW_INTERVAL, UP_STOP_DEADLINE,
};
use crate::output;
use crate::private;
use crate::settings::{Environment, Settings, resolve};

/// The file that an `up` locks while it runs. Its process id is in it.
const LOCK: &str = "up.lock";

/// Starts the cluster, watches over it, and stops it.
///
/// # Errors
/// If the cluster cannot be started; then no process of it is left running.
pub(super) async fn run(args: UpArgs, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    // The servers are watched over also while nobody takes the notes about them.
    conclave_telemetry::log::start().context("failed to start the notes")?;
    // A missing home directory is no error: then nothing is written for the clients of this user.
    let state_dir = global.state_dir.clone().or_else(|| environment.state_dir());
    let global = Global { state_dir: Some(PathBuf::new()), ..global.clone() };
    let settings = resolve(&global, environment)?;
    if let Some(UpCommand::Restart(args)) = &args.command {
        return other::restart(args, &settings, environment).await;
    }
    let cluster_dir = ClusterDir::choose(&args, environment)?;
    let dir = cluster_dir.dir().to_owned();
    let _lock = lock_patiently(&dir).await?;
    let mut plan = UpPlan::make(&dir, &args, &global.zone, global.insecure)?;
    let leftovers = Leftovers::of(&dir);
    let was_killed = leftovers.was_killed();
    leftovers.note().iter().for_each(|note| output::note(settings.quiet, note));
    leftovers.stop(UP_STOP_DEADLINE).await?;
    free_ports(&plan, was_killed).await?;
    let is_new = !plan.admin_token.exists();
    let plan = tokio::task::spawn_blocking(move || {
        plan.secure(jiff::Timestamp::now().into())?;
        plan.save()?;
        anyhow::Ok(plan)
    });
    let plan = plan.await.context("the certificates")??;
    let admin_token = admin_token::read(&plan.admin_token)?;
    let stop = Stop::default();
    let _signals = listen_for_signals(stop.clone(), args.exit_with_stdin)?;
    let mut cluster = Cluster::start(&plan, &args, stop)?;
    // The cluster works without the list.
    if let Err(error) = cluster.write_list() {
        output::note(settings.quiet, &format!("{error:#}"));
    }
    let kept = state_dir.as_deref().map(Kept::new);
    let mut keys = Keys { token: admin_token, is_new, kept, cluster_id: None };
    let result = cluster.serve(&args, &settings, &mut keys, state_dir.as_deref()).await;
    cluster.stop.graceful.cancel();
    let quiet = settings.quiet || result.is_err();
    output::note(quiet, "stopping the servers (Ctrl-C again: at once)");
    while cluster.children.join_next().await.is_some() {}
    if args.ephemeral {
        if let (Some(dir), Some(cluster_id)) = (&state_dir, &keys.cluster_id) {
            // What stays stands for a cluster that is gone: other clusters at its addresses would be refused.
            let forgotten = Known::new(dir).forget(cluster_id, &plan.client_addresses());
            if let Err(error) = forgotten {
                output::note(
                    settings.quiet,
                    &format!("the identity of the cluster stays in {}: {error}", dir.display()),
                );
            }
        }
        keys.forget();
    }
    result
}

/// Checks that the ports are free. After an `up` that was killed, waits for those of a process that its list does not name yet.
async fn free_ports(plan: &UpPlan, was_killed: bool) -> Result<(), Failed> {
    let tcp = |address| TcpListener::bind::<SocketAddr>(address).map(drop);
    let udp = |address| UdpSocket::bind::<SocketAddr>(address).map(drop);
    let deadline = Instant::now() + UP_STOP_DEADLINE;
    loop {
        match plan.free_ports(tcp, udp) {
            Err(_) if was_killed && Instant::now() < deadline => tokio::time::sleep(UP_POLL_INTERVAL).await,
            result => return result,
        }
    }
}

/// The admin token, and where the user's commands find it.
struct Keys {
    token: AdminToken,
    /// Whether this run has made it.
    is_new: bool,
    /// `None` without a state directory.
    kept: Option<Kept>,
    /// Known once a server has answered.
    cluster_id: Option<String>,
}

impl Keys {
    /// Keeps the token for `conclave admin` of this user. A state directory that cannot be written is no error: the token
    /// is also in the cluster's directory.
    fn keep(&mut self, cluster_id: &str) -> std::io::Result<()> {
        self.cluster_id = Some(cluster_id.to_owned());
        self.kept.as_ref().map_or(Ok(()), |kept| kept.keep(cluster_id, &self.token))
    }

    fn forget(&self) {
        if let (Some(kept), Some(cluster_id)) = (&self.kept, &self.cluster_id) {
            kept.forget(cluster_id);
        }
    }
}

/// The directory of the cluster.
enum ClusterDir {
    Kept(PathBuf),
    /// Removed on drop.
    Temporary(tempfile::TempDir),
}

impl ClusterDir {
    fn choose(args: &UpArgs, environment: &Environment) -> anyhow::Result<Self> {
        if args.ephemeral {
            let dir = tempfile::Builder::new().prefix("conclave-up-").tempdir();
            return Ok(Self::Temporary(dir.context("failed to make a temporary directory")?));
        }
        let dir = match &args.dir {
            Some(dir) => std::path::absolute(dir).context("the path of --dir cannot be resolved")?,
            None => environment.data_dir()?.join("up"),
        };
        private::create_dir(&dir)
            .and_then(|()| make_private(&dir))
            .map_err(|error| cannot_use(&dir, &error))?;
        Ok(Self::Kept(dir))
    }

    fn dir(&self) -> &Path {
        match self {
            Self::Kept(dir) => dir,
            Self::Temporary(dir) => dir.path(),
        }
    }
}

/// Makes the directory of a cluster private: one that is empty, or that an older version made. Any other directory, such
/// as a home directory, keeps its permissions, and the files in it are private.
fn make_private(dir: &Path) -> std::io::Result<()> {
    let is_ours = UpPlan::is_saved_in(dir) || fs::read_dir(dir)?.next().is_none();
    if is_ours { private::restrict_dir(dir) } else { Ok(()) }
}

fn cannot_use(dir: &Path, error: &std::io::Error) -> Failed {
    let what = format!("the directory {} cannot be used: {error}", dir.display());
    Failed::new(Exit::Refused, what, "give --dir a directory that you may write to, or --ephemeral")
}

/// The lock on the directory of `conclave up`. The operating system releases it when the process ends.
struct UpLock(File);

impl Drop for UpLock {
    fn drop(&mut self) {
        // To close the file is not enough: a child process that is being started holds it open, too, until it runs its program.
        let _ = self.0.unlock();
    }
}

/// Locks the directory as [`lock`] does. An `up` that was just killed may hold its lock for another moment.
async fn lock_patiently(dir: &Path) -> Result<UpLock, Failed> {
    let deadline = Instant::now() + UP_LOCK_PATIENCE;
    loop {
        match lock(dir)? {
            Ok(file) => return Ok(file),
            Err(_) if Instant::now() < deadline => tokio::time::sleep(UP_POLL_INTERVAL).await,
            Err(is_locked) => return Err(is_locked),
        }
    }
}

/// Locks the directory: one `conclave up` at a time; the inner error says that one runs. The lock file contains the process id.
fn lock(dir: &Path) -> Result<Result<UpLock, Failed>, Failed> {
    let path = dir.join(LOCK);
    let open = private::options().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = open.map_err(|error| cannot_use(dir, &error))?;
    private::restrict(&file).map_err(|error| cannot_use(dir, &error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Only for the message.
            let _ = file.read_to_string(&mut pid);
            let what = format!("the cluster in {} is running already (pid {})", dir.display(), pid.trim());
            let next = "use it, stop it first, or give another --dir";
            return Ok(Err(Failed::new(Exit::Refused, what, next)));
        }
        Err(fs::TryLockError::Error(error)) => return Err(cannot_use(dir, &error)),
    }
    // On a full disk the file stays empty, and a second `up` cannot name this process.
    let written =
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::StorageFull => Err(cannot_use(dir, &error)),
        _ => Ok(Ok(UpLock(file))),
    }
}

/// The first signal asks the servers to stop, the second one kills them.
fn listen_for_signals(stop: Stop, with_stdin: bool) -> anyhow::Result<AbortOnDropHandle<()>> {
    let mut stdin = if with_stdin { Some(stdin_closed().context("start a thread")?) } else { None };
    let listen = |kind| signal(kind).context("failed to listen for signals");
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        let mut first = None;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
                () = closed(&mut stdin) => {}
            }
            let now = Instant::now();
            let before = *first.get_or_insert(now);
            if now.saturating_duration_since(before) >= SECOND_SIGNAL_AFTER {
                stop.now.cancel();
            }
            stop.graceful.cancel();
        }
    })))
}

/// Waits for the end of stdin. Completes once.
async fn closed(stdin: &mut Option<oneshot::Receiver<()>>) {
    match stdin {
        Some(receiver) => drop(receiver.await),
        None => std::future::pending().await,
    }
    *stdin = None;
}

/// Tells the clients of this user which cluster runs at these addresses, so that they know it before they first speak to it.
/// Returns whether their commands go to it.
fn introduce(plan: &UpPlan, known: &Known, status: &GetServerStatusResponse) -> std::io::Result<bool> {
    let id = &status.cluster_id;
    let addresses = plan.client_addresses();
    known.set_servers(&addresses, plan.authority())?;
    if let Some(authority) = plan.authority() {
        known.remember(id, authority)?;
    }
    let cluster = KnownCluster {
        id: id.clone(),
        name: status.cluster_name.clone(),
        asked: if plan.is_found_by_default() { String::new() } else { plan.servers() },
        servers: addresses,
        ..KnownCluster::default()
    };
    let name_server = plan.resolver.as_ref().map(|resolver| resolver.dns.to_string());
    known.started(&cluster, name_server.as_deref())
}

/// The note about what the clients of this user know now, if there is anything to say.
fn introduced(result: std::io::Result<bool>, status: &GetServerStatusResponse) -> Option<String> {
    match result {
        Ok(true) => None,
        Ok(false) => Some(show::not_current(status)),
        Err(error) => Some(format!("clients of this user learn the cluster by themselves: {error}")),
    }
}

struct Cluster<'a> {
    plan: &'a UpPlan,
    /// The servers, then the name server.
    processes: Vec<Process>,
    children: JoinSet<()>,
    happened: mpsc::Receiver<ChildEvent>,
    running: Vec<Option<Running>>,
    list: List,
    stop: Stop,
}

impl<'a> Cluster<'a> {
    fn start(plan: &'a UpPlan, args: &UpArgs, stop: Stop) -> anyhow::Result<Self> {
        let executable = std::env::current_exe().context("find this executable")?;
        let (events, happened) = mpsc::channel(4 * NODES_MAX);
        let mut children = JoinSet::new();
        let processes = processes(plan, args);
        for (index, process) in processes.iter().enumerate() {
            if plan.nodes.get(index).is_some_and(|node| node.is_lost) {
                continue;
            }
            let keeper = child::Keeper {
                index,
                executable: executable.clone(),
                arguments: process.arguments.clone(),
                log: process.log.clone(),
                log_bytes_max: UP_LOG_BYTES_MAX,
                restart: !args.no_restart,
                events: events.clone(),
                stop: stop.clone(),
            };
            children.spawn(keeper.run());
        }
        let running = vec![None; processes.len()];
        let list = List::new(&plan.dir, args.allow_faults, !args.no_restart);
        Ok(Self { plan, processes, children, happened, running, list, stop })
    }

    fn pids(&self) -> Vec<Option<u32>> {
        self.running.iter().map(|running| running.as_ref().map(|process| process.pid)).collect()
    }

    /// Writes the list of running processes.
    fn write_list(&self) -> anyhow::Result<()> {
        self.list.write(self.plan, &self.running).map_err(|error| cannot_use(&self.plan.dir, &error).into())
    }

    async fn serve(
        &mut self,
        args: &UpArgs,
        settings: &Settings,
        keys: &mut Keys,
        state_dir: Option<&Path>,
    ) -> anyhow::Result<Exit> {
        let begun = Instant::now();
        output::note(settings.quiet, &show::starting(self.plan));
        if let Some(note) = show::tls(self.plan.tls()) {
            output::note(settings.quiet, note);
        }
        if args.allow_faults {
            output::note(settings.quiet, &show::faults(settings.style));
        }
        // Also with --quiet: nobody else says it.
        show::lost(self.plan).iter().for_each(|note| output::error(note));
        let graceful = self.stop.graceful.clone();
        let Some(status) = self.ready(&graceful).await? else { return Ok(Exit::Ok) };
        if let Err(error) = self.write_list() {
            output::note(settings.quiet, &format!("{error:#}"));
        }
        // A disk that is full does not keep the cluster from running; the next run saves it.
        let _ = tokio::task::spawn_blocking(self.plan.saving_ready()).await;
        if let Some(dir) = state_dir {
            let note = introduced(introduce(self.plan, &Known::new(dir), &status), &status);
            note.iter().for_each(|note| output::note(settings.quiet, note));
        }
        if let Err(error) = keys.keep(&status.cluster_id) {
            let file = self.plan.admin_token.display();
            let note = format!("`conclave admin` needs --admin-token-file {file}: {error}");
            output::note(settings.quiet, &note);
        }
        let (registration, first) = tokio::select! {
            biased;
            () = graceful.cancelled() => return Ok(Exit::Ok),
            done = first::registration(self.plan, keys, &status, state_dir, settings) => done,
        };
        if settings.json {
            output::json(&show::json(self.plan, &self.pids(), &status, registration))?;
        } else {
            output::block(&show::table(settings.style, self.plan, &self.pids()))?;
        }
        let executable = show::executable(
            &std::env::current_exe().context("find this executable")?,
            &std::env::current_dir().unwrap_or_default(),
            std::env::var_os("PATH").as_deref(),
        );
        let hints = show::hints(&executable, self.plan, &status.cluster_id, begun.elapsed());
        output::note(settings.quiet || settings.json, &hints);
        for problem in status.problems.iter().filter(|problem| ready::outlasts_the_start(problem)) {
            output::note(settings.quiet, problem);
        }
        if let Some(first) = first {
            output::note(
                settings.quiet || settings.json,
                &first.hint(&show::command(&executable, self.plan)),
            );
        }
        if keys.is_new {
            output::note(settings.quiet || settings.json, &show::admin_token(keys.token.reveal(), self.plan));
        }
        let mut renewals = tokio::time::interval(UP_RENEW_INTERVAL);
        loop {
            let happened = tokio::select! {
                biased;
                () = graceful.cancelled() => return Ok(Exit::Ok),
                happened = self.happened.recv() => happened,
                _ = renewals.tick() => {
                    let renew = self.plan.renewal();
                    let renewed =
                        tokio::task::spawn_blocking(move || renew(jiff::Timestamp::now().into())).await;
                    if let Ok(Err(error)) = renewed {
                        output::note(settings.quiet, &format!("certificates not renewed: {error:#}"));
                    }
                    continue;
                }
            };
            // All keepers have ended.
            let Some(happened) = happened else { return Ok(Exit::Refused) };
            let name = &self.processes[happened.index].name;
            self.running[happened.index] = happened.event.running().cloned();
            // The cluster works without the list.
            if let Err(error) = self.write_list() {
                output::note(settings.quiet, &format!("{error:#}"));
            }
            output::note(settings.quiet, &show::happened(name, &happened.event, !args.no_restart));
        }
    }

    /// Waits until the cluster is ready; `None` if a shutdown was requested meanwhile.
    async fn ready(
        &mut self,
        graceful: &CancellationToken,
    ) -> anyhow::Result<Option<GetServerStatusResponse>> {
        let builder = match self.plan.authority() {
            Some(authority) => Client::builder().authority(authority),
            None => Client::builder(),
        };
        let client = builder
            .servers(self.plan.nodes.iter().map(|node| node.client.to_string()))
            .patience(Duration::from_secs(1))
            .observe()
            .await
            .map_err(|error| crate::errors::of_connect(&error))?;
        let deadline = Instant::now() + UP_READY_DEADLINE;
        let mut poll = tokio::time::interval(UP_POLL_INTERVAL);
        let mut last = String::from("no server answered");
        let status = loop {
            tokio::select! {
                // First, because servers that end after a shutdown request are no failures.
                biased;
                () = graceful.cancelled() => return Ok(None),
                happened = self.happened.recv() => self.starting(happened)?,
                _ = poll.tick() => match ready::check(&client, self.plan).await {
                    Ok(status) => break status,
                    Err(waiting_for) => last = waiting_for,
                },
            }
            if Instant::now() > deadline {
                let what = format!("the cluster is not ready after {UP_READY_DEADLINE:?}: {last}");
                let next = format!("see the logs in {}", self.plan.dir.display());
                return Err(Failed::new(Exit::Refused, what, next).into());
            }
        };
        client.close().await;
        Ok(Some(status))
    }

    /// Handles an event before the cluster is ready. A process that ends this early is an error with its last log line.
    fn starting(&mut self, happened: Option<ChildEvent>) -> anyhow::Result<()> {
        let Some(ChildEvent { index, event }) = happened else {
            return Err(Failed::new(Exit::Refused, "no server could be started", "").into());
        };
        let process = &self.processes[index];
        self.running[index] = event.running().cloned();
        // Also before the cluster is ready: the next `up` finds there what this one leaves if it is killed. The cluster works
        // without the list.
        let _ = self.write_list();
        match event {
            ProcessEvent::Started { .. } => Ok(()),
            ProcessEvent::Ended { cause, last_words } => {
                let what = format!("{} {cause}: {last_words}", process.name);
                Err(Failed::new(Exit::Refused, what, format!("see {}", process.log.display())).into())
            }
        }
    }
}
