//! The containers of a Compose project.
//!
//! Containers are found by their labels, and one label of each has to allow faults. The Docker engine kills, stops, freezes and
//! disconnects containers; all other faults happen inside the servers, if these allow it.

mod api;
mod containers;
mod endpoints;
mod model;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use conclave_client::CaId;
use conclave_proto::admin_token::AdminToken;
use futures::future::{BoxFuture, try_join_all};

use self::api::Api;
use self::containers::Containers;
use self::endpoints::EndpointFile;
use self::model::{ContainerState, Inspected, Listed, Own, Part};
use crate::backend::inside::InForce;
use crate::backend::{Backend, BackendError, Kind, Target, cannot_exchange_data_dirs, url};
use crate::fault::{Fault, Means};
use crate::journal::Applied;

/// The cluster of one Compose project.
#[derive(Debug)]
pub struct Docker {
    project: String,
    own: Option<Own>,
    containers: Containers,
    /// Active faults inside servers, which a restarted server forgets.
    inside: InForce,
    /// Active `isolate` faults, whose containers are disconnected.
    disconnected: InForce,
    /// The cluster's certificate authority, if it uses TLS.
    authority: Option<CaId>,
    /// How clients find the cluster by name.
    zone: Option<String>,
    /// Whether servers may have faults inside. A server that was frozen or cut off may have missed that a fault ended.
    may_have_faults_inside: AtomicBool,
}

impl Docker {
    /// Opens the cluster of a Compose project on this machine's engine: the named project, the project of the container in which
    /// this program runs, or the only one. `state_dir` gets the file of disconnected containers. Faults inside servers need their
    /// admin token, and servers with TLS their authority.
    ///
    /// # Errors
    /// If the engine cannot be reached, or the project is ambiguous.
    pub async fn open(
        named: Option<&str>,
        state_dir: &Path,
        token: Option<Result<AdminToken, BackendError>>,
        authority: Option<CaId>,
    ) -> Result<Self, BackendError> {
        let docker_host = std::env::var("DOCKER_HOST").ok();
        let api = Api::connect(api::socket(docker_host.as_deref())?).await?;
        let own = own(&api).await?;
        let anywhere = list(&api, &[model::KIND.to_owned()]).await?;
        let project = model::project(named, own.as_ref(), &anywhere)?;
        let places = EndpointFile::new(state_dir.join(format!("docker-{project}.places")));
        let mut docker = Self {
            project,
            own,
            containers: Containers::new(api, places),
            inside: InForce::new(token),
            disconnected: InForce::default(),
            authority,
            zone: None,
            may_have_faults_inside: AtomicBool::new(false),
        };
        // Opening must work for healing, too, when the cluster is incomplete.
        docker.zone = docker.find_zone().await.unwrap_or_default();
        Ok(docker)
    }

    /// The journal's file in this directory.
    #[must_use]
    pub fn journal(&self, state_dir: &Path) -> PathBuf {
        state_dir.join(format!("docker-{}.journal", self.project))
    }

    /// The address by which clients find the cluster through its name servers.
    async fn find_zone(&self) -> Result<Option<String>, BackendError> {
        let parts = self.parts().await?;
        let Some(resolver) = parts.iter().find(|part| part.target.kind == Kind::Resolver) else {
            return Ok(None);
        };
        let resolver = self.containers.inspect(&resolver.id).await?;
        let zone = resolver.as_ref().and_then(|resolver| resolver.config.zone());
        Ok(model::zone(zone.unwrap_or(conclave_client::find::ZONE), &parts))
    }

    async fn parts(&self) -> Result<Vec<Part>, BackendError> {
        let listed = list(&self.containers.api, &[format!("{}={}", model::PROJECT, self.project)]).await?;
        model::parts(&self.project, &listed, self.own.as_ref(), self.authority)
    }

    async fn servers(&self) -> Result<Vec<Target>, BackendError> {
        let targets = self.parts().await?.into_iter().map(|part| part.target);
        Ok(targets.filter(|target| target.kind == Kind::Server).collect())
    }

    /// Names and ids of a fault's containers, for applying: every container must exist and allow faults.
    async fn containers_of(&self, fault: &Applied) -> Result<Vec<(String, String)>, BackendError> {
        let parts = self.parts().await?;
        let find = |name: &String| {
            let part = parts.iter().find(|part| part.target.name == *name);
            part.map(|part| (name.clone(), part.id.clone()))
                .ok_or_else(|| BackendError::Unknown(name.clone()))
        };
        fault.nodes.iter().map(find).collect()
    }

    /// Names and ids of a fault's containers that still exist, for healing: also those whose labels no longer allow faults.
    async fn existing_containers_of(&self, fault: &Applied) -> Result<Vec<(String, String)>, BackendError> {
        let listed = list(&self.containers.api, &[format!("{}={}", model::PROJECT, self.project)]).await?;
        Ok(model::named(&fault.nodes, listed))
    }

    /// Sends the servers their active faults. Returns the names of those that did not confirm.
    async fn send_faults(&self) -> Result<Vec<String>, BackendError> {
        self.may_have_faults_inside.store(true, Ordering::Relaxed);
        self.inside.send_faults(&self.servers().await?).await
    }

    async fn apply_to(&self, fault: &Applied) -> Result<(), BackendError> {
        let chosen = self.containers_of(fault).await?;
        match &fault.fault {
            Fault::Kill => {
                let kills = chosen.iter().map(|(_, id)| {
                    self.containers.post_action(id, "kill?signal=KILL", ContainerState::is_down)
                });
                try_join_all(kills).await.map(drop)
            }
            Fault::Restart => {
                chosen.iter().for_each(|(_, id)| self.containers.restart(fault.id, id));
                Ok(())
            }
            Fault::Pause => {
                let frozen = |state: &ContainerState| state.is_paused() || state.is_down();
                try_join_all(chosen.iter().map(|(_, id)| self.containers.post_action(id, "pause", frozen)))
                    .await
                    .map(drop)
            }
            Fault::Isolate => {
                self.disconnected.add(fault);
                try_join_all(chosen.iter().map(|(name, id)| self.containers.disconnect_all(name, id)))
                    .await
                    .map(drop)
            }
            Fault::PowerCut { torn } => {
                let servers = self.servers().await?;
                let hit = servers.iter().filter(|server| fault.nodes.contains(&server.name));
                try_join_all(hit.map(|server| self.inside.cut_power(server, *torn, fault.id))).await.map(drop)
            }
            copied @ (Fault::CopyDataDir | Fault::RestoreOldCopy) => {
                Err(cannot_exchange_data_dirs(copied, "a container"))
            }
            _ => {
                self.inside.add(fault);
                self.send_faults().await.map(drop)
            }
        }
    }

    async fn heal_fault(&self, fault: &Applied) -> Result<(), BackendError> {
        self.disconnected.remove(fault);
        self.inside.remove(fault);
        let left = self.existing_containers_of(fault).await?;
        match &fault.fault {
            Fault::Kill | Fault::PowerCut { .. } => self.start_all(&left).await,
            Fault::Restart => {
                self.containers.wait_for_restarts(fault.id).await?;
                self.start_all(&left).await
            }
            Fault::Pause => {
                let runs = |state: &ContainerState| !state.is_paused();
                self.may_have_faults_inside.store(true, Ordering::Relaxed);
                try_join_all(left.iter().map(|(_, id)| self.containers.post_action(id, "unpause", runs)))
                    .await
                    .map(drop)
            }
            Fault::Isolate => {
                self.may_have_faults_inside.store(true, Ordering::Relaxed);
                try_join_all(left.iter().map(|(name, id)| self.containers.reconnect(name, id)))
                    .await
                    .map(drop)
            }
            // `apply` refuses them.
            Fault::CopyDataDir | Fault::RestoreOldCopy => Ok(()),
            _ => {
                self.may_have_faults_inside.store(true, Ordering::Relaxed);
                // A server with a failing disk has stopped.
                self.start_all(&left).await
            }
        }?;
        if self.may_have_faults_inside.load(Ordering::Relaxed) {
            self.heal_inside(fault).await
        } else {
            Ok(())
        }
    }

    /// Sends the servers the faults that remain. A stopped server has forgotten its faults; a frozen or cut-off one gets them when
    /// that fault is healed.
    async fn heal_inside(&self, fault: &Applied) -> Result<(), BackendError> {
        let servers = match self.servers().await {
            // A server that does not allow faults has none.
            Err(BackendError::NotAllowed { .. }) => return Ok(()),
            servers => servers?,
        };
        let mut away = BTreeSet::new();
        for (name, id) in
            self.existing_containers_of(&Applied { nodes: names(&servers), ..fault.clone() }).await?
        {
            let now = self.containers.inspect(&id).await?;
            if now.is_none_or(|now| now.state.is_paused() || now.state.is_down() || !now.is_connected()) {
                away.insert(name);
            }
        }
        self.inside.heal(fault, &servers, |name| away.contains(name)).await
    }

    async fn start_all(&self, containers: &[(String, String)]) -> Result<(), BackendError> {
        try_join_all(containers.iter().map(|(name, id)| self.containers.start(name, id))).await.map(drop)
    }

    /// Disconnects restarted containers again, and sends the servers their active faults again.
    async fn reapply_all(&self) -> Result<(), BackendError> {
        for fault in self.disconnected.all() {
            let left = self.existing_containers_of(&fault).await?;
            try_join_all(left.iter().map(|(name, id)| self.containers.disconnect_all(name, id))).await?;
        }
        if self.inside.all().is_empty() { Ok(()) } else { self.send_faults().await.map(drop) }
    }
}

fn names(targets: &[Target]) -> Vec<String> {
    targets.iter().map(|target| target.name.clone()).collect()
}

/// The container in which this program runs, if it runs in one.
async fn own(api: &Api) -> Result<Option<Own>, BackendError> {
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let hostname = hostname.trim_end();
    if !model::is_container_id(hostname) {
        return Ok(None);
    }
    let found: Option<Inspected> = api.find(&format!("/containers/{hostname}/json")).await?;
    Ok(found.filter(|found| found.id.starts_with(hostname)).map(Own::from))
}

async fn list(api: &Api, labels: &[String]) -> Result<Vec<Listed>, BackendError> {
    let filters = serde_json::json!({ "label": labels }).to_string();
    api.get(&format!("/containers/json?all=true&filters={}", url::encoded(&filters))).await
}

impl Backend for Docker {
    fn name(&self) -> &'static str {
        "containers"
    }

    fn means(&self) -> BoxFuture<'_, Result<BTreeSet<Means>, BackendError>> {
        Box::pin(async {
            let parts = self.parts().await?;
            let servers = parts.iter().filter(|part| part.target.kind == Kind::Server);
            let all = try_join_all(servers.map(|part| self.containers.inspect(&part.id))).await?;
            let inside = all.iter().flatten().all(|server| server.config.allows_faults());
            let more = Means::INSIDE.into_iter().filter(|_| inside);
            Ok(more.chain([Means::Process, Means::Freeze, Means::Isolation]).collect())
        })
    }

    fn targets(&self) -> BoxFuture<'_, Result<Vec<Target>, BackendError>> {
        Box::pin(async { Ok(self.parts().await?.into_iter().map(|part| part.target).collect()) })
    }

    fn apply<'a>(&'a self, fault: &'a Applied) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(self.apply_to(fault))
    }

    fn heal<'a>(&'a self, fault: &'a Applied) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(self.heal_fault(fault))
    }

    fn reapply(&self) -> BoxFuture<'_, Result<(), BackendError>> {
        Box::pin(self.reapply_all())
    }

    fn cuts_in_force(&self) -> BoxFuture<'_, Result<bool, BackendError>> {
        Box::pin(async {
            for fault in self.disconnected.all() {
                for (_, id) in self.existing_containers_of(&fault).await? {
                    if self.containers.inspect(&id).await?.is_none_or(|now| now.is_connected()) {
                        return Ok(false);
                    }
                }
            }
            Ok(self.inside.all().is_empty() || self.send_faults().await?.is_empty())
        })
    }

    fn zone(&self) -> Option<String> {
        self.zone.clone()
    }
}
