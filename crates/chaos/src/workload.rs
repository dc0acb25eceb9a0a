//! The workload: clients that send, follow and read during a run, and record everything in the history.

mod client_view;
mod clients;
mod direct;
mod edits;
mod private;
mod visitors;

use std::sync::Arc;
use std::time::Duration;

use conclave_check::History;
use conclave_client::{CallError, ConnectError, Net};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::events::Observer;
use crate::experiment::Workload;
use crate::time::show;

pub use client_view::{ClientView, Sample};

/// The most probers of one server.
const PROBERS: usize = 4;
/// Timeout of each step of [`Running::finish`] for a cluster that has failed already: it did not recover, or not finish an earlier
/// step.
pub const PATIENCE_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// What the workload could not do. It says nothing about the cluster's promises.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// A client could not connect.
    #[error("a client cannot connect: {0}")]
    Connect(#[from] ConnectError),
    /// A call failed that works on a healthy cluster.
    #[error("a call failed before any fault was applied: {0}")]
    Call(#[from] CallError),
    /// A client did not finish.
    #[error("{0}")]
    Stuck(String),
}

/// A server of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The server's name.
    pub name: String,
    /// `host:port` of the client API.
    pub client: String,
}

/// A room of the workload.
#[derive(Clone, Debug)]
struct Room {
    name: String,
    id: u64,
}

/// Makes the client of a user.
pub type Connect = Arc<dyn Fn(&str) -> conclave_client::Builder + Send + Sync>;
/// Makes a channel to one server only, at `host:port` of its client API.
pub type Dial = Arc<dyn Fn(&str) -> Result<Channel, String> + Send + Sync>;

/// The parameters of a workload.
pub struct Setup<'a> {
    /// The experiment's workload.
    pub workload: &'a Workload,
    /// The run's id, which is part of the rooms' names.
    pub run: &'a str,
    /// The servers; each gets clients that are pinned to it.
    pub servers: &'a [Server],
    /// Makes ordinary clients.
    pub connect: &'a Connect,
    /// Makes the channels of pinned clients.
    pub dial: &'a Dial,
    /// `conclave+srv://ZONE?ns=IP:PORT` where there is a name server; visitors find the cluster by it.
    pub zone: Option<&'a str>,
    /// Where everything is recorded.
    pub history: History,
    /// Is notified of every send.
    pub observer: Arc<dyn Observer>,
}

impl std::fmt::Debug for Setup<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup")
            .field("run", &self.run)
            .field("servers", &self.servers)
            .finish_non_exhaustive()
    }
}

/// [`Dial`] over this network.
#[must_use]
pub fn over(net: Net) -> Dial {
    Arc::new(move |address| {
        let endpoint = net.endpoint(address).map_err(|error| error.to_string())?;
        // For one try: the pinned clients connect to a cut-off server again and again.
        let endpoint = endpoint.connect_timeout(Duration::from_secs(1));
        Ok(net.channel(&endpoint, address))
    })
}

/// A running workload.
#[derive(Debug)]
pub struct Running {
    pub(crate) seen: Arc<ClientView>,
    history: History,
    rooms: Vec<Room>,
    /// The private room, if the workload has one.
    private: Option<Room>,
    /// The room whose messages are edited, if the workload has one.
    edited: Option<Room>,
    /// Ends the senders.
    stop_sending: CancellationToken,
    /// Ends the readers once they have read up to the end of their rooms.
    stop_reading: CancellationToken,
    senders: JoinSet<Result<(), String>>,
    readers: JoinSet<Result<(), String>>,
}

impl Running {
    /// Creates the rooms and the clients, and starts them.
    ///
    /// # Errors
    /// If the cluster does not serve a client.
    pub async fn start(setup: Setup<'_>) -> Result<Self, WorkloadError> {
        let Setup { workload, run, connect, .. } = setup;
        let creator = connect("chaos").connect().await?;
        let mut rooms = Vec::new();
        for number in 0..workload.rooms {
            let name = format!("chaos-{run}-{number}");
            let id = creator.create_room(&name).await?.room_id;
            rooms.push(Room { name, id });
        }
        creator.close().await;
        let mut running = Self {
            seen: Arc::new(ClientView::new(Arc::clone(&setup.observer))),
            history: setup.history.clone(),
            rooms,
            private: None,
            edited: None,
            stop_sending: CancellationToken::new(),
            stop_reading: CancellationToken::new(),
            senders: JoinSet::new(),
            readers: JoinSet::new(),
        };
        running.start_readers(&setup).await?;
        for server in setup.servers {
            running.start_direct(&setup, server).await?;
        }
        for number in 0..workload.visitors {
            let visitor = visitors::Visitor {
                number,
                connect: Arc::clone(connect),
                zone: setup.zone.map(str::to_owned),
                rooms: running.rooms.clone(),
                history: running.history.clone(),
                seen: Arc::clone(&running.seen),
            };
            running.senders.spawn(visitor.run(running.stop_sending.clone()));
        }
        running.start_senders(&setup).await?;
        if workload.private_room {
            let stop = running.stop_sending.clone();
            running.private = Some(private::start(&setup, &mut running.senders, &stop).await?);
        }
        if workload.edits {
            let stop = running.stop_sending.clone();
            running.edited = Some(edits::start(&setup, &mut running.senders, &stop).await?);
        }
        Ok(running)
    }

    async fn start_readers(&mut self, setup: &Setup<'_>) -> Result<(), WorkloadError> {
        for (number, room) in (0..setup.workload.readers).zip(self.rooms.clone().into_iter().cycle()) {
            let reader = clients::Reader {
                client: (setup.connect)(&format!("chaos-reader{number}")).connect().await?,
                name: format!("reader{number}"),
                room,
                history: self.history.clone(),
                seen: Arc::clone(&self.seen),
            };
            self.readers.spawn(reader.run(self.stop_reading.clone()));
        }
        Ok(())
    }

    async fn start_senders(&mut self, setup: &Setup<'_>) -> Result<(), WorkloadError> {
        let Workload { senders, rate, text_bytes, .. } = *setup.workload;
        let pace = (rate > 0).then(|| Duration::from_secs_f64(f64::from(senders) / f64::from(rate)));
        for (number, room) in (0..senders).zip(self.rooms.clone().into_iter().cycle()) {
            let sender = clients::Sender {
                client: (setup.connect)(&format!("chaos-sender{number}")).connect().await?,
                room,
                pace,
                phase: number,
                text_bytes: usize::try_from(text_bytes).unwrap_or(usize::MAX),
                history: self.history.clone(),
                seen: Arc::clone(&self.seen),
            };
            self.senders.spawn(sender.run(self.stop_sending.clone()));
        }
        Ok(())
    }

    /// Starts the clients that are pinned to one server.
    async fn start_direct(&mut self, setup: &Setup<'_>, server: &Server) -> Result<(), WorkloadError> {
        let (rooms, history) = (self.rooms.clone(), self.history.clone());
        let open = |role: &str| {
            let user = format!("chaos-{role}");
            async move { direct::Direct::open(server, &user, setup.dial).await }
        };
        // A read of a shard without a leader waits. It must not keep the prober from a shard whose isolated leader would answer.
        for rooms in rooms.chunks(rooms.len().div_ceil(PROBERS)) {
            let (rooms, history) = (rooms.to_vec(), history.clone());
            let prober = direct::Prober { direct: open("prober").await?, rooms, history };
            self.senders.spawn(prober.run(self.stop_sending.clone()));
        }
        let follower = direct::Follower {
            direct: open("follower").await?,
            rooms: rooms.clone(),
            history: history.clone(),
        };
        self.senders.spawn(follower.run(self.stop_sending.clone()));
        // One sender for each room, so that an unanswered send does not hold up the other rooms.
        for room in rooms {
            let (history, seen) = (history.clone(), Arc::clone(&self.seen));
            let sender = direct::Sender { direct: open("direct").await?, room, history, seen };
            self.senders.spawn(sender.run(self.stop_sending.clone()));
        }
        Ok(())
    }

    /// Ends the workload in three steps: in-flight sends get their answers, the readers read to the end, and every server is read
    /// in full. Each step has the timeout `patience`, or less once something was not finished. Returns what was not finished, one sentence each: with all faults healed,
    /// that is a failure of the cluster.
    pub async fn finish(mut self, servers: &[Server], dial: &Dial, patience: Duration) -> Vec<String> {
        let mut undone = Vec::new();
        let rest = |undone: &[String]| {
            if undone.is_empty() { patience } else { patience.min(PATIENCE_AFTER_FAILURE) }
        };
        self.stop_sending.cancel();
        join_within(&mut self.senders, patience, "a sender's last message stayed in doubt", &mut undone)
            .await;
        self.stop_reading.cancel();
        let patience = rest(&undone);
        join_within(&mut self.readers, patience, "a reader did not reach the end of its room", &mut undone)
            .await;
        for server in servers {
            let patience = rest(&undone);
            let read = tokio::time::timeout(patience, self.final_read(server, dial)).await;
            let late = || Err(WorkloadError::Stuck(format!("no answer within {}", show(patience))));
            if let Err(error) = read.unwrap_or_else(|_| late()) {
                undone.push(format!("the final read of {} failed: {error}", server.name));
            }
        }
        undone
    }

    /// Reads every room from one server only.
    async fn final_read(&self, server: &Server, dial: &Dial) -> Result<(), WorkloadError> {
        let direct = direct::Direct::open(server, "chaos-final", dial).await?;
        let rooms = self.rooms.iter().chain(&self.edited).cloned().collect();
        direct::Prober { direct, rooms, history: self.history.clone() }.read_all().await;
        if let Some(room) = self.private.clone() {
            let direct = direct::Direct::open(server, private::OWNER, dial).await?;
            direct::Prober { direct, rooms: vec![room], history: self.history.clone() }.read_all().await;
        }
        Ok(())
    }
}

/// Waits for these clients, at most `patience`, and adds to `undone` what they did not finish.
async fn join_within(
    tasks: &mut JoinSet<Result<(), String>>,
    patience: Duration,
    late: &str,
    undone: &mut Vec<String>,
) {
    let deadline = Instant::now() + patience;
    loop {
        match tokio::time::timeout_at(deadline, tasks.join_next()).await {
            Ok(None) => return,
            Ok(Some(Ok(Ok(())))) => {}
            Ok(Some(Ok(Err(why)))) => undone.push(why),
            Ok(Some(Err(error))) => undone.push(error.to_string()),
            Err(_) => {
                undone.push(format!("{late} within {} ({} clients)", show(patience), tasks.len()));
                return tasks.shutdown().await;
            }
        }
    }
}
