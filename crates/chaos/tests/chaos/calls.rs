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
use conclave_telemetry::door::{Door, Listening};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::Here;
use crate::contract::Contract;

/// Long enough for a busy machine; nothing waits this long unless it is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);
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

/// An answer of the controller.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The head, in lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The JSON of an answer with this status.
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.json()
    }

    /// The reason and the advice of a problem with this status.
    pub(crate) fn problem(&self, status: u16) -> String {
        let problem = self.expect(status);
        assert_eq!(problem["status"], status);
        format!("{}; {}", problem["detail"].as_str().unwrap(), problem["advice"].as_str().unwrap())
    }
}

pub(crate) struct Serving {
    address: SocketAddr,
    /// The document of this controller, which every answer is checked against.
    pub(crate) contract: Contract,
    pub(crate) stop: CancellationToken,
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
        let address = "127.0.0.1:0".parse().unwrap();
        let door = Door::open(&Listening { purpose: serve::PORT, address, tls_dir: None, insecure: false })
            .await
            .unwrap();
        let address = door.address();
        let (stop, task) = Self::open(backend, dir, token, schedule, door).await;
        let document = send(address, "GET", "/openapi.json", &[], "").await;
        assert_eq!(document.status, 200, "{document:?}");
        Self { address, contract: Contract::new(&document.body), stop, task }
    }

    /// Starts a controller behind this door: what stops it, and its task.
    pub(crate) async fn open(
        backend: Here,
        dir: &Path,
        token: Option<&str>,
        schedule: Schedule,
        door: Door,
    ) -> (CancellationToken, JoinHandle<()>) {
        let journal = wait_for_journal(&dir.join("journal")).await;
        let stop = CancellationToken::new();
        let engine = Engine {
            backend: Box::new(backend),
            connect: connect::to(Vec::new(), None),
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
        let guard = Arc::new(Guard::new(token.map(str::to_owned), door.address()).unwrap());
        let (keeper, desk, metrics) = Keeper::new(engine, settings).unwrap();
        let serving = serve::run(keeper, desk, metrics, guard, door);
        let task = tokio::spawn(async move { serving.await.expect("all faults are healed at the end") });
        (stop, task)
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

    /// Sends a request and checks the answer against the document.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let answer = send(self.address, method, path, headers, body).await;
        let kind = answer.header("content-type").unwrap_or_default();
        self.contract.check((method, path, body), (answer.status, kind, &answer.body));
        answer
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        self.send("POST", path, &[], body).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], "").await
    }

    /// Subscribes to events.
    pub(crate) async fn events(&self) -> Events<'_> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(b"GET /v1/events HTTP/1.0\r\n\r\n").await.unwrap();
        let mut events = Events { contract: &self.contract, lines: BufReader::new(stream).lines() };
        let head = events.block().await.expect("a head");
        assert!(head[0].contains(" 200 "), "{head:?}");
        assert!(head.iter().any(|line| line == "content-type: text/event-stream"), "{head:?}");
        events
    }

    pub(crate) async fn metrics(&self) -> String {
        let answer = self.get("/metrics").await;
        assert_eq!(answer.status, 200);
        answer.body
    }
}

/// A stream of events.
pub(crate) struct Events<'a> {
    contract: &'a Contract,
    lines: Lines<BufReader<TcpStream>>,
}

impl Events<'_> {
    /// The next event; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            let block = self.block().await?;
            let field = |name: &str| block.iter().find_map(|line| line.strip_prefix(name));
            // Without data it is a comment, which only keeps the connection open.
            let Some(data) = field("data: ") else { continue };
            self.contract.check_event(data);
            let event: Value = serde_json::from_str(data).unwrap();
            assert_eq!(event["kind"].as_str(), field("event: "));
            return Some(event);
        }
    }

    /// The lines up to an empty line; `None` at the end of the stream.
    async fn block(&mut self) -> Option<Vec<String>> {
        let mut block = Vec::new();
        loop {
            let line = tokio::time::timeout(DEADLINE, self.lines.next_line()).await.expect("a line");
            match line.unwrap()? {
                line if line.is_empty() => return Some(block),
                line => block.push(line),
            }
        }
    }
}

/// Sends a request as HTTP/1.0: the answer ends with the connection, so that its body has no frames.
async fn send(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    let request = format!("{method} {path} HTTP/1.0\r\ncontent-length: {length}\r\n{more}\r\n{body}");
    let answer = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A body that is too large is answered before it is read, and the connection is closed.
        let read = stream.read_to_end(&mut answer).await;
        assert!(read.is_ok() || !answer.is_empty(), "{read:?}");
        String::from_utf8(answer).unwrap()
    };
    let answer = tokio::time::timeout(DEADLINE, answer).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
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
