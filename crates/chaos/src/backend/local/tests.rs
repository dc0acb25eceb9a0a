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
        let dir = tempfile::tempdir().unwrap();
        let process = Command::new("sleep").arg("600").spawn().unwrap();
        let list = serde_json::json!({
            "allow_faults": true,
            "restarts": true,
            "children": [{ "name": "node1", "kind": "server", "pid": process.id(), "client": client }],
        });
        fs::write(dir.path().join(PROCESSES), list.to_string()).unwrap();
        Self { dir, process }
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
        let deadline = Instant::now() + Duration::from_secs(60);
        while state(pid) != Some('T') {
            assert!(Instant::now() < deadline, "the process is not stopped");
            tokio::task::yield_now().await;
        }
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
