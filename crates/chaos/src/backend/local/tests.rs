use std::process::{Child as Running, Command};
use std::sync::{Arc, Mutex};

use conclave_proto::fault::fault_service_server::{FaultService, FaultServiceServer};
use conclave_proto::fault::{CutPowerRequest, CutPowerResponse, SetFaultsRequest, SetFaultsResponse};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::*;

/// A process in place of a child of `up`, and the directory with its list.
struct Started {
    dir: TempDir,
    process: Running,
}

impl Started {
    fn new(client: &str) -> Self {
        let started = Self { dir: tempfile::tempdir().unwrap(), process: sleeping() };
        started.list(true, client);
        started
    }

    /// Writes the list of children: a server, or without an address a resolver.
    fn list(&self, allow_faults: bool, client: &str) {
        let kind = if client.is_empty() { "resolver" } else { "server" };
        let list = serde_json::json!({
            "allow_faults": allow_faults,
            "restarts": true,
            "children": [{ "name": "node1", "kind": kind, "pid": self.process.id(), "client": client }],
        });
        let (file, new) = (self.dir.path().join(PROCESSES), self.dir.path().join("new"));
        fs::write(&new, list.to_string()).unwrap();
        fs::rename(new, file).unwrap();
    }

    /// Starts the child again whenever it has died, as `up` does. Never ends.
    async fn keep(&mut self) -> ! {
        loop {
            if self.process.try_wait().unwrap().is_some() {
                self.process = sleeping();
                self.list(true, "127.0.0.1:1");
            }
            tokio::task::yield_now().await;
        }
    }

    /// Takes the lock that a running `up` holds.
    fn lock(&self) -> fs::File {
        let lock = fs::File::create(self.dir.path().join(LOCK)).unwrap();
        lock.lock().unwrap();
        lock
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// The process in the list of children.
fn listed(up: &Path) -> i32 {
    let list = fs::read_to_string(up.join(PROCESSES)).unwrap();
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    i32::try_from(list["children"][0]["pid"].as_i64().unwrap()).unwrap()
}

fn sleeping() -> Running {
    Command::new("sleep").arg("600").spawn().unwrap()
}

/// A `FaultService` that answers for the process, and fails while the process is stopped.
#[derive(Clone)]
struct Inside {
    pid: i32,
    suffers: Arc<Mutex<SetFaultsRequest>>,
}

#[tonic::async_trait]
impl FaultService for Inside {
    async fn set_faults(
        &self,
        request: Request<SetFaultsRequest>,
    ) -> Result<Response<SetFaultsResponse>, Status> {
        if state(self.pid) == Some('T') {
            return Err(Status::unavailable("it is stopped"));
        }
        *self.suffers.lock().unwrap() = request.into_inner();
        Ok(Response::new(SetFaultsResponse::default()))
    }

    async fn cut_power(&self, _: Request<CutPowerRequest>) -> Result<Response<CutPowerResponse>, Status> {
        Err(Status::unimplemented("nobody asks for it"))
    }
}

fn applied(id: u64, fault: Fault) -> Applied {
    Applied { id, fault, nodes: vec!["node1".to_owned()], all: vec!["node1".to_owned()] }
}

#[tokio::test]
async fn a_child_of_an_up_that_has_ended_gets_no_signal() {
    let mut started = Started::new("127.0.0.1:1");
    let local = Local::open(started.dir.path()).unwrap();
    let kill = applied(1, Fault::Kill);
    // The lock's file exists, and is not locked.
    fs::write(started.dir.path().join(LOCK), "").unwrap();
    let refused = local.apply(&kill).await.unwrap_err().to_string();
    assert!(refused.contains("no conclave up runs in"), "{refused}");
    assert_eq!(started.process.try_wait().unwrap(), None, "the process was killed");

    let _lock = started.lock();
    local.apply(&kill).await.unwrap();
    assert!(!started.process.wait().unwrap().success());
}

#[tokio::test]
async fn a_thawed_server_learns_of_faults_that_ended_while_it_was_frozen() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let started = Started::new(&listener.local_addr().unwrap().to_string());
    let _lock = started.lock();
    let pid = i32::try_from(started.process.id()).unwrap();
    let inside = Inside { pid, suffers: Arc::default() };
    let service = FaultServiceServer::new(inside.clone());
    let server = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(TcpIncoming::from(listener));
    let local = Local::open(started.dir.path()).unwrap();
    let (late, pause) = (applied(1, Fault::ClockStep { offset_ms: 7 }), applied(2, Fault::Pause));
    let offset = || inside.suffers.lock().unwrap().clock_offset_ms;
    let broken = async {
        local.apply(&late).await.unwrap();
        assert_eq!(offset(), 7);
        local.apply(&pause).await.unwrap();
        until(|| state(pid) == Some('T')).await;
        local.heal(&late).await.unwrap();
        assert_eq!(offset(), 7, "a frozen server keeps its faults");
        local.heal(&pause).await.unwrap();
        assert_eq!(offset(), 0);
    };
    tokio::select! {
        ended = server => panic!("the server ended: {ended:?}"),
        () = broken => {}
    }
}

#[tokio::test]
async fn a_server_gets_its_older_copy_and_its_own_data_dir_back() {
    let mut started = Started::new("127.0.0.1:1");
    let _lock = started.lock();
    let pid = i32::try_from(started.process.id()).unwrap();
    let up = started.dir.path().to_owned();
    let (boots, theirs) = (up.join("node1/boots"), up.join("node1.copy/boots"));
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    fs::create_dir(up.join("node1")).unwrap();
    for file in ["boots", "lock", "ballast"] {
        fs::write(up.join("node1").join(file), "one").unwrap();
    }
    let (copy, restore) = (applied(1, Fault::CopyDataDir), applied(2, Fault::RestoreOldCopy));
    let local = Local::open(&up).unwrap();
    assert!(local.means().await.unwrap().contains(&Means::Copies));

    let refused = local.apply(&restore).await.unwrap_err().to_string();
    assert!(refused.contains("there is no copy"), "{refused}");
    local.apply(&copy).await.unwrap();
    assert_ne!(state(pid), Some('T'), "the server is still frozen");
    assert!(!up.join("node1.copy/ballast").exists() && !up.join("node1.copy/lock").exists());
    fs::write(&boots, "one two").unwrap();
    // The rest of a fault that was applied already, or in part, is no error.
    for _ in 0..2 {
        local.apply(&restore).await.unwrap();
        assert_eq!((read(&boots), read(&theirs)), ("one".to_owned(), "one two".to_owned()));
    }
    assert!(!started.process.wait().unwrap().success(), "the server was not killed");
    let refused = local.apply(&copy).await.unwrap_err().to_string();
    assert!(refused.contains("an older copy is in its place"), "{refused}");

    // The controller was killed: the next one begins with the oldest fault.
    fs::write(&boots, "one three").unwrap();
    let local = Local::open(&up).unwrap();
    let healed = async {
        local.heal(&copy).await.unwrap();
        assert_eq!((read(&boots), up.join("node1.copy").exists()), ("one two".to_owned(), false));
        local.heal(&restore).await.unwrap();
        // A process that was killed a moment ago does not sleep any more.
        until(|| state(listed(&up)) == Some('S')).await;
    };
    tokio::select! {
        () = healed => {}
        _ = started.keep() => {}
    }
    assert_eq!(read(&boots), "one two");

    // In the usual order.
    local.apply(&copy).await.unwrap();
    local.apply(&restore).await.unwrap();
    let healed = async {
        local.heal(&restore).await.unwrap();
        assert_eq!((read(&boots), read(&theirs)), ("one two".to_owned(), "one two".to_owned()));
        local.heal(&copy).await.unwrap();
    };
    tokio::select! {
        () = healed => {}
        _ = started.keep() => {}
    }
    let left: BTreeSet<_> = fs::read_dir(&up).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [PROCESSES, LOCK, "node1"].map(std::ffi::OsString::from).into());
}

#[tokio::test]
async fn a_data_dir_is_exchanged_only_at_servers_that_allow_faults() {
    let started = Started::new("127.0.0.1:1");
    let _lock = started.lock();
    let local = Local::open(started.dir.path()).unwrap();
    started.list(true, "");
    let refused = local.apply(&applied(1, Fault::CopyDataDir)).await.unwrap_err().to_string();
    assert!(refused.contains("cannot be applied to a resolver"), "{refused}");
    started.list(false, "127.0.0.1:1");
    assert!(!local.means().await.unwrap().contains(&Means::Copies));
    for fault in [Fault::CopyDataDir, Fault::RestoreOldCopy] {
        let refused = local.apply(&applied(1, fault)).await.unwrap_err().to_string();
        assert!(refused.contains("--allow-faults"), "{refused}");
    }
}

#[tokio::test]
async fn a_server_that_was_stopped_for_a_copy_goes_on_when_that_is_healed() {
    let started = Started::new("127.0.0.1:1");
    let _lock = started.lock();
    let pid = i32::try_from(started.process.id()).unwrap();
    let local = Local::open(started.dir.path()).unwrap();
    fs::create_dir(started.dir.path().join("node1")).unwrap();
    // A controller was killed here.
    local.data_dirs("node1").begin().unwrap();
    local.apply(&applied(1, Fault::Pause)).await.unwrap();
    until(|| state(pid) == Some('T')).await;
    local.heal(&applied(2, Fault::CopyDataDir)).await.unwrap();
    until(|| state(pid) != Some('T')).await;
    assert!(!started.dir.path().join("node1.copy.unfinished").exists());

    // A finished copy says nothing about why a server is frozen.
    local.apply(&applied(3, Fault::CopyDataDir)).await.unwrap();
    local.apply(&applied(1, Fault::Pause)).await.unwrap();
    until(|| state(pid) == Some('T')).await;
    local.heal(&applied(3, Fault::CopyDataDir)).await.unwrap();
    assert_eq!(state(pid), Some('T'));
}

async fn until(holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "it never holds");
        tokio::task::yield_now().await;
    }
}
