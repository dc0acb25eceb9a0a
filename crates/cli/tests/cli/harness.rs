//! Runs the built executable, with deadlines. No process outlives a test: clusters stop when the pipe to them closes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

/// Deadline of every wait. Generous, because tests share the machine; only reached by a failure.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

const PORTS_FROM: u16 = 20_000;
const PORTS_TO: u16 = 26_000;
/// Processes of one cluster: three servers, and the name server at the end.
const PORTS_EACH: u16 = 60;

/// Clusters at the same time. Most of them wait most of the time, but a machine with two cores is too slow for many.
const CLUSTERS_MAX: u32 = 2;

static CLUSTERS: Mutex<u32> = Mutex::new(0);
static CLUSTER_ENDED: Condvar = Condvar::new();

/// The right to run a cluster.
#[must_use]
#[derive(Debug)]
pub(crate) struct ClusterPermit(());

impl ClusterPermit {
    /// Waits until few other tests run a cluster.
    pub(crate) fn wait() -> Self {
        let running = CLUSTERS.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = |running: &mut u32| *running == CLUSTERS_MAX;
        let running = CLUSTER_ENDED.wait_while(running, is_full);
        *running.unwrap_or_else(PoisonError::into_inner) += 1;
        Self(())
    }
}

impl Drop for ClusterPermit {
    fn drop(&mut self) {
        *CLUSTERS.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        CLUSTER_ENDED.notify_one();
    }
}

/// Waits until the condition holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Repeats a command until it ends with this code and its output contains these parts: an answer may be a moment old,
/// or come too late. Returns the last run.
pub(crate) fn until_says(code: i32, parts: &[&str], mut command: impl FnMut() -> Ran) -> Ran {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let ran = command();
        if ran.code == Some(code) && parts.iter().all(|part| ran.out.contains(part)) {
            return ran;
        }
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: code {code} and {parts:?}: {ran:#?}");
    }
}

/// The result of a command.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn lines(&self) -> Vec<&str> {
        self.out.lines().collect()
    }

    pub(crate) fn json(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }
}

/// A command with an empty environment, and a state directory of its own.
pub(crate) fn command(args: &[&str]) -> Command {
    command_of(env!("CARGO_BIN_EXE_conclave"), args)
}

fn command_of(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("CONCLAVE_") {
            command.env_remove(key);
        }
    }
    // What another test has learned about a port says nothing about the next one that uses it.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let state = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("state-{process}-{count}"));
    command.env("CONCLAVE_STATE_DIR", state);
    command.env_remove("RUST_LOG").env("LC_ALL", "C.UTF-8").env("TERM", "dumb");
    command
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Ran {
    if !input.is_empty() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().expect("the executable runs");
    let stdin = child.stdin.take();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(&input)));
    let ran = finish(child);
    // A command may end before it has read everything.
    let _ = writer.join();
    ran
}

/// Waits for a command's end.
pub(crate) fn finish(mut child: Child) -> Ran {
    let read = |pipe: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = read(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let err = read(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let deadline = Instant::now() + DEADLINE;
    let mut status = child.try_wait().expect("it is our child");
    while status.is_none() && Instant::now() < deadline {
        std::thread::park_timeout(Duration::from_millis(2));
        status = child.try_wait().expect("it is our child");
    }
    if status.is_none() {
        child.kill().expect("it is our child");
        child.wait().expect("it is our child");
    }
    let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
    let ran = Ran { code: status.and_then(|status| status.code()), out, err };
    assert!(status.is_some(), "not finished within {DEADLINE:?}: {ran:#?}");
    ran
}

/// Lines of a running command, as they are printed.
pub(crate) fn lines_of(pipe: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, signal).expect("the process is there");
}

pub(crate) fn runs(pid: u32) -> bool {
    let id = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    // A zombie counts as dead.
    let zombie = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')));
    test_kill_process(id).is_ok() && !zombie
}

/// A base port with enough free ports after it for three servers and a name server.
pub(crate) fn free_base_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Other test processes start at other ports.
    let start = u16::try_from(std::process::id() % 97).unwrap_or(0) * 100;
    loop {
        let offset =
            start.wrapping_add(NEXT.fetch_add(PORTS_EACH, Ordering::Relaxed)) % (PORTS_TO - PORTS_FROM);
        let base = PORTS_FROM + offset;
        let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (base..base + PORTS_EACH).all(free) {
            return base;
        }
    }
}

/// The name server of a running `conclave up`.
pub(crate) struct Resolver {
    pub(crate) pid: u32,
    pub(crate) dns: SocketAddr,
    pub(crate) http: String,
}

/// A running `conclave up`.
pub(crate) struct Up {
    pub(crate) child: Child,
    pub(crate) ready: Value,
    pub(crate) notes: Receiver<String>,
    pub(crate) state: PathBuf,
    _stdin: ChildStdin,
    _permit: Option<ClusterPermit>,
}

impl Up {
    /// Starts an ephemeral cluster. `scratch` is for sessions and other files of the test.
    pub(crate) fn ephemeral(scratch: &Path, more: &[&str]) -> Self {
        let port = free_base_port().to_string();
        Self::start(scratch, &[&["--ephemeral", "--base-port", &port], more].concat())
    }

    pub(crate) fn start(scratch: &Path, args: &[&str]) -> Self {
        Self::start_in(scratch, args, &[])
    }

    /// Starts a cluster whose admin is the user `ana`, and which others join by invite.
    pub(crate) fn by_invite(scratch: &Path, args: &[&str]) -> Self {
        let command = command(&[&["up", "--json", "--exit-with-stdin"], args].concat());
        Self::start_command(scratch, command, &[("CONCLAVE_USER", "ana")])
    }

    /// As [`Up::start`], with more environment for `up` and its servers.
    pub(crate) fn start_in(scratch: &Path, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let command = command(&[&["up", "--open", "--json", "--exit-with-stdin"], args].concat());
        Self::start_command(scratch, command, environment)
    }

    /// As [`Up::start_in`], with a limit on the open files of each process.
    pub(crate) fn start_with_files(
        scratch: &Path,
        args: &[&str],
        environment: &[(&str, &str)],
        files: u32,
    ) -> Self {
        let script = format!("ulimit -n {files} && exec \"$0\" \"$@\"");
        let mut limited = command_of("sh", &["-c", &script, env!("CARGO_BIN_EXE_conclave")]);
        limited.args(["up", "--open", "--json", "--exit-with-stdin"]).args(args);
        Self::start_command(scratch, limited, environment)
    }

    /// A small cluster beside another one of the same test.
    pub(crate) fn beside(scratch: &Path, args: &[&str]) -> Self {
        let command = command(&[&["up", "--open", "--json", "--exit-with-stdin"], args].concat());
        Self::start_alone(scratch, command, &[], None)
    }

    fn start_command(scratch: &Path, command: Command, environment: &[(&str, &str)]) -> Self {
        Self::start_alone(scratch, command, environment, Some(ClusterPermit::wait()))
    }

    fn start_alone(
        scratch: &Path,
        mut command: Command,
        environment: &[(&str, &str)],
        permit: Option<ClusterPermit>,
    ) -> Self {
        // `up` introduces the cluster to the clients of its user.
        let state = scratch.join("state");
        command
            .env("CONCLAVE_STATE_DIR", &state)
            .env("TMPDIR", scratch)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped());
        let mut child = command.spawn().expect("the executable runs");
        let stdin = child.stdin.take().expect("it is piped");
        let out = lines_of(child.stdout.take().expect("it is piped"));
        let notes = lines_of(child.stderr.take().expect("it is piped"));
        let Ok(line) = out.recv_timeout(DEADLINE) else {
            child.kill().expect("it is our child");
            let said: Vec<String> = notes.iter().collect();
            panic!("the cluster is not ready: {said:#?}");
        };
        let ready = serde_json::from_str(&line).expect(&line);
        Self { child, ready, notes, state, _stdin: stdin, _permit: permit }
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        let pid = |node: &Value| u32::try_from(node["pid"].as_u64().expect("a pid")).expect("a pid");
        self.ready["nodes"].as_array().expect("nodes").iter().map(pid).collect()
    }

    pub(crate) fn resolver(&self) -> Resolver {
        let resolver = &self.ready["resolver"];
        let pid = resolver["pid"].as_u64().expect("a pid");
        Resolver {
            pid: u32::try_from(pid).expect("a pid"),
            dns: resolver["dns"].as_str().expect("an address").parse().expect("an address"),
            http: resolver["http"].as_str().expect("an address").to_owned(),
        }
    }

    pub(crate) fn pid_of(&self, name: &str) -> u32 {
        let nodes = self.ready["nodes"].as_array().expect("nodes");
        let index = nodes.iter().position(|node| node["name"] == name).expect("the node was started");
        self.pids()[index]
    }

    pub(crate) fn servers(&self) -> String {
        let nodes = self.ready["nodes"].as_array().expect("nodes");
        nodes.iter().map(|node| node["client"].as_str().expect("an address")).collect::<Vec<_>>().join(",")
    }

    /// Each server as `conclave://HOST:PORT/CLUSTER-ID`, for the client library.
    pub(crate) fn pinned(&self) -> Vec<String> {
        let id = self.ready["authority"].as_str().expect("the cluster uses TLS");
        self.servers().split(',').map(|server| format!("conclave://{server}/{id}")).collect()
    }

    /// A client command for this cluster.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = command(args);
        command
            .env("CONCLAVE_SERVERS", self.servers())
            .env("CONCLAVE_STATE_DIR", &self.state)
            .env("CONCLAVE_USER", "ana");
        command
    }

    /// A client command that only knows the name server.
    pub(crate) fn finding(&self, args: &[&str]) -> Command {
        let mut command = self.command(args);
        command.env_remove("CONCLAVE_SERVERS").env("CONCLAVE_NAME_SERVER", self.resolver().dns.to_string());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        run(&mut self.command(args), b"")
    }

    pub(crate) fn find(&self, args: &[&str]) -> Ran {
        run(&mut self.finding(args), b"")
    }

    pub(crate) fn feed(&self, args: &[&str], input: &[u8]) -> Ran {
        run(&mut self.command(args), input)
    }

    pub(crate) fn status(&self) -> Value {
        let ran = self.run(&["status", "--json"]);
        serde_json::from_str(&ran.out).unwrap_or(Value::Null)
    }

    /// The process that leads the shard of `general`.
    pub(crate) fn leader_of_general(&self) -> u32 {
        let rooms = self.run(&["rooms", "--json"]).expect(0).json();
        let general = rooms.iter().find(|room| room["room"] == "general").expect("it always exists");
        let leads = |node: &&Value| {
            let shards = node["shards"].as_array().expect("shards");
            shards.iter().any(|shard| shard["shard"] == general["shard"] && shard["role"] == "leader")
        };
        let mut name = None;
        until("somebody leads", || {
            let status = self.status();
            let node = status["nodes"].as_array().and_then(|nodes| nodes.iter().find(leads));
            name = node.map(|node| node["name"].as_str().expect("a name").to_owned());
            name.is_some()
        });
        self.pid_of(&name.expect("somebody leads"))
    }

    pub(crate) fn until_healthy(&self) {
        until("the cluster is healthy", || self.run(&["status", "--json"]).code == Some(0));
    }

    /// Stops the cluster as Ctrl-C does, and checks that no process is left.
    pub(crate) fn stop(mut self) {
        signal(self.child.id(), Signal::TERM);
        let mut code = None;
        until("it stops", || {
            code = self.child.try_wait().expect("it is our child");
            code.is_some()
        });
        assert!(code.is_some_and(|code| code.success()), "{code:?}");
        for pid in self.pids().into_iter().chain([self.resolver().pid]) {
            assert!(!runs(pid), "process {pid} outlived the cluster");
        }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // The servers stop by themselves, which another test covers.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
