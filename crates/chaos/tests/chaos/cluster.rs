//! A cluster in this process, and a backend that injects faults inside its servers.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use conclave_chaos::backend::inside::InForce;
use conclave_chaos::backend::{Backend, BackendError, Kind, Target};
use conclave_chaos::fault::Means;
use conclave_chaos::journal::Applied;
use conclave_client::Client;
use conclave_server::{Config, Faults, Member};
use futures::future::BoxFuture;
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinSet;

use crate::calls::wait_for;

/// One cluster at a time: six servers are too many for a machine with two cores.
static ONE_CLUSTER: Mutex<()> = Mutex::const_new(());

/// Three nodes, which end when this is dropped.
pub(crate) struct Cluster {
    _only: MutexGuard<'static, ()>,
    _dir: TempDir,
    members: Vec<Member>,
    _nodes: JoinSet<()>,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let only = ONE_CLUSTER.lock().await;
        let dir = tempfile::tempdir().unwrap();
        // Below the ephemeral ports (from 32768 on Linux).
        let first = 12_000 + u16::try_from(std::process::id() % 1_900).unwrap() * 10;
        let mut free = (first..first + 1_000).filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
        let mut address = || format!("127.0.0.1:{}", free.next().unwrap());
        let members: Vec<Member> = (1..=3)
            .map(|number| Member {
                name: format!("node{number}"),
                peer: address(),
                client: address(),
                http: address(),
            })
            .collect();
        let mut nodes = JoinSet::new();
        for member in &members {
            let listen = [&member.client, &member.peer, &member.http].map(|one| one.parse().unwrap());
            let home = dir.path().join(&member.name);
            let mut config = Config::new(member.name.clone(), home, members.clone(), listen);
            config.shards = 2;
            config.faults = Some(Faults::default());
            nodes.spawn(async move {
                conclave_server::run(config, std::future::pending())
                    .await
                    .expect("a node runs until the test ends");
            });
        }
        let servers: Vec<String> = members.iter().map(|member| member.client.clone()).collect();
        wait_for("the cluster to be well", async || {
            let builder =
                Client::builder().servers(servers.clone()).user("test").patience(Duration::from_secs(5));
            let Ok(client) = builder.observe().await else { return false };
            let well = client.status().await.is_ok_and(|status| status.healthy);
            client.close().await;
            well
        })
        .await;
        Self { _only: only, _dir: dir, members, _nodes: nodes }
    }

    pub(crate) fn backend(&self) -> Here {
        let server = |member: &Member| Target {
            name: member.name.clone(),
            kind: Kind::Server,
            client: member.client.clone(),
            authority: None,
        };
        Here { targets: self.members.iter().map(server).collect(), inside: Arc::default() }
    }
}

/// The backend of an empty cluster.
pub(crate) fn empty() -> Here {
    Here { targets: Vec::new(), inside: Arc::default() }
}

/// Injects faults inside servers of this process. Active faults outlive the controller, as they do in real servers.
#[derive(Clone, Debug)]
pub(crate) struct Here {
    targets: Vec<Target>,
    inside: Arc<InForce>,
}

impl Here {
    /// The number of active faults.
    pub(crate) fn in_force(&self) -> usize {
        self.inside.all().len()
    }

    async fn send_faults(&self) -> Result<(), BackendError> {
        self.inside.send_faults(&self.targets).await.map(drop)
    }
}

impl Backend for Here {
    fn name(&self) -> &'static str {
        "this process"
    }

    fn means(&self) -> BoxFuture<'_, Result<BTreeSet<Means>, BackendError>> {
        Box::pin(async { Ok([Means::Network, Means::Disk, Means::Clock].into()) })
    }

    fn targets(&self) -> BoxFuture<'_, Result<Vec<Target>, BackendError>> {
        Box::pin(async {
            if self.targets.is_empty() {
                return Err(BackendError::Unknown("target: nobody is here".to_owned()));
            }
            Ok(self.targets.clone())
        })
    }

    fn apply<'a>(&'a self, fault: &'a Applied) -> BoxFuture<'a, Result<(), BackendError>> {
        self.inside.add(fault);
        Box::pin(self.send_faults())
    }

    fn heal<'a>(&'a self, fault: &'a Applied) -> BoxFuture<'a, Result<(), BackendError>> {
        self.inside.remove(fault);
        Box::pin(self.send_faults())
    }

    fn reapply(&self) -> BoxFuture<'_, Result<(), BackendError>> {
        Box::pin(self.send_faults())
    }
}
