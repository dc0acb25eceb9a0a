//! A cluster in this process, and a backend that breaks it from inside.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use conclave_chaos::backend::{Backend, BackendError, Kind, Target, inside};
use conclave_chaos::fault::Means;
use conclave_chaos::journal::Applied;
use conclave_client::Client;
use conclave_server::{Config, Faults, Member};
use futures::future::BoxFuture;
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinSet;

use crate::calls::wait_for;

/// Clusters one at a time: a machine with two cores runs three servers well and six badly.
static ONE_CLUSTER: Mutex<()> = Mutex::const_new(());

/// Three nodes, which end with this.
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
        // Held until all are chosen, so that no two are the same.
        let mut held = Vec::new();
        let mut address = || {
            held.push(TcpListener::bind("127.0.0.1:0").unwrap());
            held.last().unwrap().local_addr().unwrap().to_string()
        };
        let members: Vec<Member> = (1..=3)
            .map(|number| Member {
                name: format!("node{number}"),
                peer: address(),
                client: address(),
                http: address(),
            })
            .collect();
        drop(held);
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
        };
        Here { targets: self.members.iter().map(server).collect(), open: Arc::default() }
    }
}

/// A backend without anybody to break.
pub(crate) fn nobody() -> Here {
    Here { targets: Vec::new(), open: Arc::default() }
}

/// Breaks servers of this process from inside. What is in force outlives the controller, as it does in servers.
#[derive(Clone, Debug)]
pub(crate) struct Here {
    targets: Vec<Target>,
    open: Arc<std::sync::Mutex<Vec<Applied>>>,
}

impl Here {
    /// How many faults the servers suffer.
    pub(crate) fn in_force(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    async fn change(&self, change: impl FnOnce(&mut Vec<Applied>)) -> Result<(), BackendError> {
        let open = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut open);
            open.clone()
        };
        inside::set(&open, &self.targets).await
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
        Box::pin(self.change(|open| open.push(fault.clone())))
    }

    fn heal<'a>(&'a self, fault: &'a Applied) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(self.change(|open| open.retain(|known| known.id != fault.id)))
    }

    fn again(&self) -> BoxFuture<'_, Result<(), BackendError>> {
        Box::pin(self.change(|_| {}))
    }
}
