//! What is done to one container, through the engine. Each can be done again: what is so already is no error, and a container that
//! is gone needs nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::backend::BackendError;
use crate::backend::docker::api::{Answer, Api};
use crate::backend::docker::endpoints::{Place, Places};
use crate::backend::docker::model::{Inspected, Ipam, State};

/// A server that is asked to stop is given so long; as in compose.yaml.
const GRACE: Duration = Duration::from_secs(30);
/// A container that should run does so within this time, also on a machine that is busy.
const BACK_DEADLINE: Duration = Duration::from_secs(60);
/// The engine is left so long to start by itself what died by itself.
const RESTART_PATIENCE: Duration = Duration::from_secs(3);
/// How often a container is looked at while it is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// A restart that is under way.
type Restart = AbortOnDropHandle<Result<(), BackendError>>;

/// The containers of an engine.
#[derive(Debug)]
pub(super) struct Containers {
    pub(super) api: Arc<Api>,
    places: Places,
    /// By the number of their fault.
    restarts: Mutex<BTreeMap<u64, Vec<Restart>>>,
}

/// `POST /networks/NETWORK/disconnect`
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Disconnect<'a> {
    container: &'a str,
    force: bool,
}

/// `POST /networks/NETWORK/connect`
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Connect<'a> {
    container: &'a str,
    endpoint_config: EndpointConfig<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct EndpointConfig<'a> {
    #[serde(rename = "IPAMConfig", skip_serializing_if = "Option::is_none")]
    ipam_config: Option<Ipam>,
    aliases: &'a [String],
}

impl Containers {
    pub(super) fn new(api: Api, places: Places) -> Self {
        Self { api: api.into(), places, restarts: Mutex::default() }
    }

    pub(super) async fn inspect(&self, id: &str) -> Result<Option<Inspected>, BackendError> {
        self.api.find(&format!("/containers/{id}/json")).await
    }

    /// Does something to a container after which it is as wanted; that it was so already is no error.
    pub(super) async fn make(
        &self,
        id: &str,
        what: &str,
        wanted: impl Fn(&State) -> bool + Send,
    ) -> Result<(), BackendError> {
        let answer = self.api.post(&format!("/containers/{id}/{what}")).await?;
        if answer.is_ok() || answer.is_absent() {
            return Ok(());
        }
        match self.inspect(id).await? {
            Some(container) if !wanted(&container.state) => Err(answer.refusal()),
            Some(_) | None => Ok(()),
        }
    }

    /// Starts what does not run, and waits until it does.
    pub(super) async fn start(&self, name: &str, id: &str) -> Result<(), BackendError> {
        let began = Instant::now();
        let mut waits_since = None;
        loop {
            let Some(container) = self.inspect(id).await? else { return Ok(()) };
            // Frozen is another fault's doing.
            if container.state.is_up() || container.state.is_paused() {
                return Ok(());
            }
            if began.elapsed() > BACK_DEADLINE {
                let why = "it does not stay up; see docker logs".to_owned();
                return Err(BackendError::Failed { what: format!("start the container of {name}"), why });
            }
            if container.state.is_restarting() {
                // The engine is about to start it, and waits longer each time: not that long.
                if waits_since.get_or_insert_with(Instant::now).elapsed() > RESTART_PATIENCE {
                    let path = format!("/containers/{id}/restart?t=0");
                    let answer = self.api.post_and_wait(&path, BACK_DEADLINE).await?;
                    if !answer.is_ok() && !answer.is_absent() {
                        return Err(answer.refusal());
                    }
                    waits_since = None;
                }
            } else {
                self.make(id, "start", |state| !state.is_down()).await?;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Asks to stop and starts again, without waiting for it: the engine does both even if nobody waits.
    pub(super) fn restart(&self, fault: u64, id: &str) {
        let api = Arc::clone(&self.api);
        let path = format!("/containers/{id}/restart?t={}", GRACE.as_secs());
        let task = tokio::spawn(async move {
            let answer = api.post_and_wait(&path, GRACE).await?;
            if answer.is_ok() || answer.is_absent() { Ok(()) } else { Err(answer.refusal()) }
        });
        let mut restarts = self.restarts.lock().unwrap_or_else(PoisonError::into_inner);
        restarts.entry(fault).or_default().push(AbortOnDropHandle::new(task));
    }

    pub(super) async fn restarted(&self, fault: u64) -> Result<(), BackendError> {
        let tasks = self.restarts.lock().unwrap_or_else(PoisonError::into_inner).remove(&fault);
        for task in tasks.unwrap_or_default() {
            task.await.map_err(|error| BackendError::Failed {
                what: "restart a container".to_owned(),
                why: error.to_string(),
            })??;
        }
        Ok(())
    }

    /// Takes a container out of all its networks, and remembers where it was.
    pub(super) async fn pull(&self, name: &str, id: &str) -> Result<(), BackendError> {
        let Some(container) = self.inspect(id).await? else { return Ok(()) };
        self.places.keep(name, Place::of(&container))?;
        for network in container.network_settings.networks.keys() {
            self.disconnect(network, id).await?;
        }
        Ok(())
    }

    async fn disconnect(&self, network: &str, id: &str) -> Result<(), BackendError> {
        let pulled = Disconnect { container: id, force: true };
        let answer = self.api.send(&format!("/networks/{network}/disconnect"), &pulled).await?;
        if answer.is_ok() || answer.is_absent() {
            return Ok(());
        }
        let now = self.inspect(id).await?;
        let still = now.is_some_and(|now| now.network_settings.networks.contains_key(network));
        if still { Err(answer.refusal()) } else { Ok(()) }
    }

    /// Puts a container back where it was.
    pub(super) async fn plug(&self, name: &str, id: &str) -> Result<(), BackendError> {
        let places = self.places.read()?.remove(name).unwrap_or_default();
        for place in &places {
            let Some(container) = self.inspect(id).await? else { break };
            if place.is_taken_by(&container) {
                continue;
            }
            if container.network_settings.networks.contains_key(&place.network) {
                // Started meanwhile, the engine put it somewhere in the network that it was made for.
                self.disconnect(&place.network, id).await?;
            }
            let mut answer = self.connect(place, id, true).await?;
            if !answer.is_ok() && !place.address.is_empty() {
                // Somebody else has its address: names are enough to be found by.
                answer = self.connect(place, id, false).await?;
            }
            if !answer.is_ok() && !answer.is_absent() {
                return Err(answer.refusal());
            }
        }
        self.places.forget(name)
    }

    async fn connect(&self, place: &Place, id: &str, with_address: bool) -> Result<Answer, BackendError> {
        let ipam_config = (with_address && !place.address.is_empty()).then(|| Ipam::at(&place.address));
        let endpoint_config = EndpointConfig { ipam_config, aliases: &place.aliases };
        let path = format!("/networks/{}/connect", place.network);
        self.api.send(&path, &Connect { container: id, endpoint_config }).await
    }
}
