//! Operations on one container. Each is idempotent: a container that is in the wanted state already, or no longer exists, is no
//! error.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::backend::BackendError;
use crate::backend::docker::api::{Answer, Api};
use crate::backend::docker::endpoints::{EndpointFile, SavedEndpoint};
use crate::backend::docker::model::{ContainerState, Inspected, Ipam};

/// How long the engine waits for a server to stop before it kills it; as `stop_grace_period` in compose.yaml.
const GRACE: Duration = Duration::from_secs(30);
/// Timeout for a container to run again, long enough for a busy machine.
const BACK_DEADLINE: Duration = Duration::from_secs(60);
/// How long the engine may take to restart a container by its own restart policy.
const RESTART_PATIENCE: Duration = Duration::from_secs(3);
/// Interval between two inspections while a container is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A restart in progress.
type Restart = AbortOnDropHandle<Result<(), BackendError>>;

/// The containers of an engine.
#[derive(Debug)]
pub(super) struct Containers {
    pub(super) api: Arc<Api>,
    places: EndpointFile,
    /// By the fault's number in the journal.
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
    pub(super) fn new(api: Api, places: EndpointFile) -> Self {
        Self { api: api.into(), places, restarts: Mutex::default() }
    }

    pub(super) async fn inspect(&self, id: &str) -> Result<Option<Inspected>, BackendError> {
        self.api.find(&format!("/containers/{id}/json")).await
    }

    /// Posts an action. If the engine refuses it, the container's state must be as `wanted` already.
    pub(super) async fn post_action(
        &self,
        id: &str,
        what: &str,
        wanted: impl Fn(&ContainerState) -> bool + Send,
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

    /// Starts a container unless it runs, and waits until it runs.
    pub(super) async fn start(&self, name: &str, id: &str) -> Result<(), BackendError> {
        let began = Instant::now();
        let mut waits_since = None;
        loop {
            let Some(container) = self.inspect(id).await? else { return Ok(()) };
            // Another fault has frozen the container.
            if container.state.is_up() || container.state.is_paused() {
                return Ok(());
            }
            if began.elapsed() > BACK_DEADLINE {
                let why = "it does not stay up; see docker logs".to_owned();
                return Err(BackendError::Failed { what: format!("start the container of {name}"), why });
            }
            if container.state.is_restarting() {
                // The engine will restart the container, but doubles its delay each time: do not wait that long.
                if waits_since.get_or_insert_with(Instant::now).elapsed() > RESTART_PATIENCE {
                    let path = format!("/containers/{id}/restart?t=0");
                    let answer = self.api.post_and_wait(&path, BACK_DEADLINE).await?;
                    if !answer.is_ok() && !answer.is_absent() {
                        return Err(answer.refusal());
                    }
                    waits_since = None;
                }
            } else {
                self.post_action(id, "start", |state| !state.is_down()).await?;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Restarts a container in the background. The engine completes the restart even if the controller ends.
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

    /// Waits for the restarts of a fault.
    pub(super) async fn wait_for_restarts(&self, fault: u64) -> Result<(), BackendError> {
        let tasks = self.restarts.lock().unwrap_or_else(PoisonError::into_inner).remove(&fault);
        for task in tasks.unwrap_or_default() {
            task.await.map_err(|error| BackendError::Failed {
                what: "restart a container".to_owned(),
                why: error.to_string(),
            })??;
        }
        Ok(())
    }

    /// Disconnects a container from all its networks, after it has written its addresses and names to disk.
    pub(super) async fn disconnect_all(&self, name: &str, id: &str) -> Result<(), BackendError> {
        let Some(container) = self.inspect(id).await? else { return Ok(()) };
        self.places.save(name, SavedEndpoint::of(&container))?;
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

    /// Connects a container to its networks again, with its former addresses and names.
    pub(super) async fn reconnect(&self, name: &str, id: &str) -> Result<(), BackendError> {
        let places = self.places.read()?.remove(name).unwrap_or_default();
        for place in &places {
            let Some(container) = self.inspect(id).await? else { break };
            if place.is_taken_by(&container) {
                continue;
            }
            if container.network_settings.networks.contains_key(&place.network) {
                // The container was restarted, and the engine has connected it with another address or other names.
                self.disconnect(&place.network, id).await?;
            }
            let mut answer = self.connect(place, id, true).await?;
            if !answer.is_ok() && !place.address.is_empty() {
                // Another container has the address by now: the names are enough to be found.
                answer = self.connect(place, id, false).await?;
            }
            if !answer.is_ok() && !answer.is_absent() {
                return Err(answer.refusal());
            }
        }
        self.places.remove(name)
    }

    async fn connect(
        &self,
        place: &SavedEndpoint,
        id: &str,
        with_address: bool,
    ) -> Result<Answer, BackendError> {
        let ipam_config = (with_address && !place.address.is_empty()).then(|| Ipam::at(&place.address));
        let endpoint_config = EndpointConfig { ipam_config, aliases: &place.aliases };
        let path = format!("/networks/{}/connect", place.network);
        self.api.send(&path, &Connect { container: id, endpoint_config }).await
    }
}
