//! The containers of a composition.
//!
//! They are found by their labels, and each has to allow it by one of its own. Processes are killed, stopped and frozen, and
//! networks pulled, through the engine; the rest happens inside the servers, if they allow it.

mod api;
mod containers;
mod endpoints;
mod model;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::{BoxFuture, try_join_all};

use self::api::Api;
use self::containers::Containers;
use self::endpoints::Places;
use self::model::{Inspected, Listed, Own, Part, State};
use crate::backend::inside::{self, InForce};
use crate::backend::{Backend, BackendError, Kind, Target, url};
use crate::fault::{Fault, Means};
use crate::journal::Applied;

/// The cluster of one composition.
#[derive(Debug)]
pub struct Docker {
    project: String,
    own: Option<Own>,
    containers: Containers,
    /// What is in force that a container forgets when it is started again.
    inside: InForce,
    /// Those whose networks are pulled.
    pulled: InForce,
    /// How clients find the cluster by name.
    zone: Option<String>,
    /// Servers were told to suffer something, which one that was frozen or cut off then may not have heard the end of.
    told: AtomicBool,
}

impl Docker {
    /// The cluster of a composition on the engine of this machine: the one with this name, that of the container in which this
    /// runs, or the only one. What has to be remembered goes into the directory.
    ///
    /// # Errors
    /// If the engine cannot be reached, or it cannot be said which composition.
    pub async fn open(named: Option<&str>, state_dir: &Path) -> Result<Self, BackendError> {
        let docker_host = std::env::var("DOCKER_HOST").ok();
        let api = Api::connect(api::socket(docker_host.as_deref())?).await?;
        let own = own(&api).await?;
        let anywhere = list(&api, &[model::KIND.to_owned()]).await?;
        let project = model::project(named, own.as_ref(), &anywhere)?;
        let places = Places::new(state_dir.join(format!("docker-{project}.places")));
        let mut docker = Self {
            project,
            own,
            containers: Containers::new(api, places),
            inside: InForce::default(),
            pulled: InForce::default(),
            zone: None,
            told: AtomicBool::new(false),
        };
        // Whoever comes to heal need not find the cluster in order.
        docker.zone = docker.find_zone().await.unwrap_or_default();
        Ok(docker)
    }

    /// The file of its journal in the directory.
    #[must_use]
    pub fn journal(&self, state_dir: &Path) -> PathBuf {
        state_dir.join(format!("docker-{}.journal", self.project))
    }

    /// Where the resolvers are asked, and about what.
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
        model::parts(&self.project, &listed, self.own.as_ref())
    }

    async fn servers(&self) -> Result<Vec<Target>, BackendError> {
        let targets = self.parts().await?.into_iter().map(|part| part.target);
        Ok(targets.filter(|target| target.kind == Kind::Server).collect())
    }

    /// The containers of a fault, as they are. For applying: each of them is there, and allows it.
    async fn of(&self, fault: &Applied) -> Result<Vec<(String, String)>, BackendError> {
        let parts = self.parts().await?;
        let find = |name: &String| {
            let part = parts.iter().find(|part| part.target.name == *name);
            part.map(|part| (name.clone(), part.id.clone()))
                .ok_or_else(|| BackendError::Unknown(name.clone()))
        };
        fault.nodes.iter().map(find).collect()
    }

    /// The containers of a fault that are still there. For healing: who was broken is put right, whatever its labels are.
    async fn left_of(&self, fault: &Applied) -> Result<Vec<(String, String)>, BackendError> {
        let listed = list(&self.containers.api, &[format!("{}={}", model::PROJECT, self.project)]).await?;
        Ok(model::named(&fault.nodes, listed))
    }

    /// Tells the servers what they suffer.
    async fn tell(&self) -> Result<Vec<String>, BackendError> {
        self.told.store(true, Ordering::Relaxed);
        self.inside.tell(&self.servers().await?).await
    }

    async fn apply_to(&self, fault: &Applied) -> Result<(), BackendError> {
        let chosen = self.of(fault).await?;
        match &fault.fault {
            Fault::Kill => {
                let kills =
                    chosen.iter().map(|(_, id)| self.containers.make(id, "kill?signal=KILL", State::is_down));
                try_join_all(kills).await.map(drop)
            }
            Fault::Restart => {
                chosen.iter().for_each(|(_, id)| self.containers.restart(fault.id, id));
                Ok(())
            }
            Fault::Pause => {
                let frozen = |state: &State| state.is_paused() || state.is_down();
                try_join_all(chosen.iter().map(|(_, id)| self.containers.make(id, "pause", frozen)))
                    .await
                    .map(drop)
            }
            Fault::Isolate => {
                self.pulled.add(fault);
                try_join_all(chosen.iter().map(|(name, id)| self.containers.pull(name, id))).await.map(drop)
            }
            Fault::PowerCut { torn } => {
                let servers = self.servers().await?;
                let hit = servers.iter().filter(|server| fault.nodes.contains(&server.name));
                try_join_all(hit.map(|server| inside::cut_power(server, *torn, fault.id))).await.map(drop)
            }
            _ => {
                self.inside.add(fault);
                self.tell().await.map(drop)
            }
        }
    }

    async fn heal_it(&self, fault: &Applied) -> Result<(), BackendError> {
        self.pulled.remove(fault);
        self.inside.remove(fault);
        let left = self.left_of(fault).await?;
        match &fault.fault {
            Fault::Kill | Fault::PowerCut { .. } => self.start_all(&left).await,
            Fault::Restart => {
                self.containers.restarted(fault.id).await?;
                self.start_all(&left).await
            }
            Fault::Pause => {
                let runs = |state: &State| !state.is_paused();
                self.told.store(true, Ordering::Relaxed);
                try_join_all(left.iter().map(|(_, id)| self.containers.make(id, "unpause", runs)))
                    .await
                    .map(drop)
            }
            Fault::Isolate => {
                self.told.store(true, Ordering::Relaxed);
                try_join_all(left.iter().map(|(name, id)| self.containers.plug(name, id))).await.map(drop)
            }
            _ => {
                self.told.store(true, Ordering::Relaxed);
                // A server whose disk fails has stopped.
                self.start_all(&left).await
            }
        }?;
        if self.told.load(Ordering::Relaxed) { self.heal_inside(fault).await } else { Ok(()) }
    }

    /// Tells the servers what they still suffer. One that does not run has forgotten it, and one that is frozen or cut off is told
    /// when that is healed.
    async fn heal_inside(&self, fault: &Applied) -> Result<(), BackendError> {
        let servers = match self.servers().await {
            // Whoever does not allow faults suffers none.
            Err(BackendError::NotAllowed { .. }) => return Ok(()),
            servers => servers?,
        };
        let mut away = BTreeSet::new();
        for (name, id) in self.left_of(&Applied { nodes: names(&servers), ..fault.clone() }).await? {
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

    /// Containers that were started meanwhile are cut off again, and servers told again what they suffer.
    async fn repeat(&self) -> Result<(), BackendError> {
        for fault in self.pulled.all() {
            let left = self.left_of(&fault).await?;
            try_join_all(left.iter().map(|(name, id)| self.containers.pull(name, id))).await?;
        }
        if self.inside.all().is_empty() { Ok(()) } else { self.tell().await.map(drop) }
    }
}

fn names(targets: &[Target]) -> Vec<String> {
    targets.iter().map(|target| target.name.clone()).collect()
}

/// The container in which this runs, if it does.
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
        Box::pin(self.heal_it(fault))
    }

    fn again(&self) -> BoxFuture<'_, Result<(), BackendError>> {
        Box::pin(self.repeat())
    }

    fn cuts_in_force(&self) -> BoxFuture<'_, Result<bool, BackendError>> {
        Box::pin(async {
            for fault in self.pulled.all() {
                for (_, id) in self.left_of(&fault).await? {
                    if self.containers.inspect(&id).await?.is_none_or(|now| now.is_connected()) {
                        return Ok(false);
                    }
                }
            }
            Ok(self.inside.all().is_empty() || self.tell().await?.is_empty())
        })
    }

    fn zone(&self) -> Option<String> {
        self.zone.clone()
    }
}
