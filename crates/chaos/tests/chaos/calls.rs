//! A running controller, and calls to it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use conclave_chaos::connect;
use conclave_chaos::engine::Engine;
use conclave_chaos::events::NoObserver;
use conclave_chaos::experiment::Experiment;
use conclave_chaos::journal::Journal;
use conclave_chaos::serve;
use conclave_chaos::serve::guard::Guard;
use conclave_chaos::serve::keeper::{Keeper, Settings};
use conclave_chaos::serve::timetable::Schedule;
use conclave_proto::chaos::chaos_service_client::ChaosServiceClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::cluster::Here;

/// Long enough for a busy machine; nothing waits this long unless it is broken.
const DEADLINE: Duration = Duration::from_secs(90);
/// Interval between two checks of a condition.
const POLL: Duration = Duration::from_millis(20);

/// Experiments that pass on a busy machine, and `strict`, which no cluster passes.
const EXPERIMENTS: [&str; 3] = [
    "{name: short, proves: A slow disk costs nobody a message., workload: {senders: 2, readers: 2, rooms: 1, rate: 40, duration: 4s},
      steady: {acked_per_second: 1, p99: 60s}, method: [{at: 1s, fault: slow-disk, delay: 2ms, nodes: one, for: 1s}], recover: 60s}",
    "{name: strict, proves: Nothing., workload: {senders: 1, readers: 1, rooms: 1, rate: 20, duration: 2s},
      steady: {acked_per_second: 1, p99: 60s}, method: [{at: 100ms, fault: slow-disk, delay: 2ms, nodes: one, for: 1s}], recover: 60s,
      expect: {longest_gap: 1ms}}",
    "{name: long, proves: Nothing., workload: {senders: 1, readers: 1, rooms: 1, rate: 10, duration: 10m},
      steady: {acked_per_second: 1, p99: 60s}, method: [{at: 100ms, fault: slow-disk, delay: 2ms, nodes: one, for: 9m}], recover: 60s}",
];

pub(crate) struct Serving {
    grpc: SocketAddr,
    http: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Serving {
    pub(crate) async fn start(backend: Here, dir: &Path, token: Option<&str>) -> Self {
        Self::start_with(backend, dir, token, Schedule::default()).await
    }

    pub(crate) async fn start_with(
        backend: Here,
        dir: &Path,
        token: Option<&str>,
        schedule: Schedule,
    ) -> Self {
        let journal = wait_for_journal(&dir.join("journal")).await;
        let stop = CancellationToken::new();
        let engine = Engine {
            backend: Box::new(backend),
            connect: connect::to(Vec::new()),
            net: conclave_client::Net::System,
            journal,
            stop: stop.clone(),
            observer: Arc::new(NoObserver),
        };
        let experiments = EXPERIMENTS.map(|text| Experiment::parse(text).unwrap());
        let settings = Settings {
            experiments: experiments.map(|experiment| (experiment.name.clone(), experiment)).into(),
            schedule,
            seed: 1,
            runs: dir.join("runs"),
            keep: 10,
        };
        let (grpc, http) = (bind().await, bind().await);
        let addresses = [grpc.local_addr().unwrap(), http.local_addr().unwrap()];
        let guard = Arc::new(Guard::new(token.map(str::to_owned), &addresses).unwrap());
        let (keeper, desk, metrics) = Keeper::new(engine, settings).unwrap();
        let serving = serve::run(keeper, desk, metrics, guard, grpc, http);
        let task = tokio::spawn(async move { serving.await.expect("all faults are healed at the end") });
        Self { grpc: addresses[0], http: addresses[1], stop, task }
    }

    /// Ends the controller as SIGTERM does.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(DEADLINE, self.task).await.expect("it ends").expect("without a panic");
    }

    /// Ends the controller as SIGKILL does.
    pub(crate) async fn die(self) {
        self.task.abort();
        let ended = tokio::time::timeout(DEADLINE, self.task).await.expect("it ends");
        assert!(ended.unwrap_err().is_cancelled());
    }

    pub(crate) async fn api(&self) -> ChaosServiceClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.grpc)).unwrap();
        ChaosServiceClient::new(endpoint.connect().await.unwrap())
    }

    /// The status and the body.
    pub(crate) async fn http(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (u16, String) {
        let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: {}\r\n{more}\r\n{body}",
            self.http,
            body.len()
        );
        let answer = async {
            let mut stream = TcpStream::connect(self.http).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            // A body that is too large is answered before it is read, and the connection is closed.
            let read = stream.read_to_end(&mut answer).await;
            assert!(read.is_ok() || !answer.is_empty(), "{read:?}");
            String::from_utf8(answer).unwrap()
        };
        let answer = tokio::time::timeout(DEADLINE, answer).await.expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.expect("a status"), body.to_owned())
    }

    pub(crate) async fn metrics(&self) -> String {
        let (status, text) = self.http("GET", "/metrics", &[], "").await;
        assert_eq!(status, 200);
        text
    }
}

async fn bind() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// Opens the journal, which a controller that has just died may still hold locked.
async fn wait_for_journal(path: &Path) -> Journal {
    let began = Instant::now();
    loop {
        match Journal::open(path) {
            Ok(journal) => return journal,
            Err(error) => assert!(began.elapsed() < DEADLINE, "{error}"),
        }
        tokio::time::sleep(POLL).await;
    }
}

pub(crate) async fn wait_for(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !condition().await {
        assert!(began.elapsed() < DEADLINE, "waited in vain for {what}");
        tokio::time::sleep(POLL).await;
    }
}
