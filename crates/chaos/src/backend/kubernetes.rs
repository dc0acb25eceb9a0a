//! The pods of a cluster in one Kubernetes namespace. All pods must have the label that allows faults: a leader or a majority
//! cannot be chosen among some of the servers.
//!
//! The only operation on a pod is to delete it; its `StatefulSet` then creates another one. Deleting sends SIGTERM first, even
//! without grace, so a server could hand over its leaderships. To get the effect of SIGKILL, a server with `--allow-faults` is
//! first asked to die at once. All other faults happen inside the servers. Nothing needs privileges on a Kubernetes node.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use conclave_client::CaId;
use conclave_proto::admin_token::AdminToken;
use futures::future::{BoxFuture, try_join_all};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::backend::inside::InForce;
use crate::backend::kubernetes::api::{Api, Grace};
use crate::backend::kubernetes::config::Config;
use crate::backend::kubernetes::pod::{ALLOWED, COMPONENT, Pod};
use crate::backend::{Backend, BackendError, Kind, Target, cannot_exchange_data_dirs};
use crate::fault::{Fault, Means};
use crate::journal::Applied;

pub mod api;
pub mod config;
pub mod pod;

/// Timeout for a pod to be scheduled, started and ready again. Its volume may have to move to another node.
const BACK_DEADLINE: Duration = Duration::from_secs(120);
/// Interval between two polls of a pod until it is ready.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Timeout for connecting to a server that is ready.
const CONNECT: Duration = Duration::from_secs(1);

/// The label that the manifests give to the pods of a cluster.
pub const OURS: &str = "app.kubernetes.io/name=conclave";

/// Where the pods are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodLocation {
    /// The kubeconfig; `None` looks for one, as [`Config::find`] says.
    pub kubeconfig: Option<PathBuf>,
    /// The namespace; `None` is the kubeconfig's, or the pod's own.
    pub namespace: Option<String>,
    /// The labels of the cluster's pods, as `kubectl -l` takes them; `None` is [`OURS`].
    pub selector: Option<String>,
}

/// The pods of one cluster.
#[derive(Debug)]
pub struct Kubernetes {
    api: Api,
    selector: String,
    /// Every target that was ever listed: a pod that was just deleted comes back under its name.
    seen: Mutex<BTreeMap<String, Target>>,
    /// Active faults inside servers.
    inside: InForce,
    /// The cluster's certificate authority, if it uses TLS.
    authority: Option<CaId>,
}

impl Kubernetes {
    /// Opens the cluster in this place. Faults inside servers need their admin token, and servers with TLS
    /// their authority.
    ///
    /// # Errors
    /// If the API cannot be reached or refuses, or no pod allows faults.
    pub async fn open(
        place: &PodLocation,
        token: Option<Result<AdminToken, BackendError>>,
        authority: Option<CaId>,
    ) -> Result<Self, BackendError> {
        let config = Config::find(place.kubeconfig.as_deref()).map_err(|error| BackendError::Failed {
            what: "find the Kubernetes API".to_owned(),
            why: error.to_string(),
        })?;
        let kubernetes = Self {
            api: Api::new(config, place.namespace.clone())?,
            selector: selector(place.selector.as_deref()).to_owned(),
            seen: Mutex::default(),
            inside: InForce::new(token),
            authority,
        };
        if kubernetes.list().await?.is_empty() {
            return Err(BackendError::Failed {
                what: format!("find pods in namespace {}", kubernetes.api.namespace()),
                why: format!(
                    "none has the labels {} and a {COMPONENT} (server or dns); see --namespace and --selector",
                    kubernetes.selector
                ),
            });
        }
        Ok(kubernetes)
    }

    /// A name of the cluster, unique in this API, in characters that a file name may have.
    #[must_use]
    pub fn name_of_cluster(&self) -> String {
        name_of_cluster(self.api.namespace(), &self.selector)
    }

    /// Lists the pods and returns every target that was ever listed.
    async fn list(&self) -> Result<Vec<Target>, BackendError> {
        let pods = self.api.pods(&self.selector).await?;
        if let Some(pod) = pods.iter().find(|pod| pod.target(self.authority).is_some() && !pod.is_allowed()) {
            return Err(not_allowed(pod));
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.extend(
            pods.iter()
                .filter_map(|pod| pod.target(self.authority))
                .map(|target| (target.name.clone(), target)),
        );
        Ok(seen.values().cloned().collect())
    }

    fn known_target(&self, name: &str) -> Result<Target, BackendError> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(name).cloned().ok_or_else(|| BackendError::Unknown(name.to_owned()))
    }

    fn servers(&self) -> Vec<Target> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.values().filter(|target| target.kind == Kind::Server).cloned().collect()
    }

    /// The pod, if it allows faults; `None` while the pod is deleted and not created again.
    async fn allowed(&self, name: &str) -> Result<Option<Pod>, BackendError> {
        let Some(pod) = self.api.pod(name).await? else {
            self.known_target(name)?;
            return Ok(None);
        };
        if pod.is_allowed() { Ok(Some(pod)) } else { Err(not_allowed(&pod)) }
    }

    /// Deletes the pod. With a `death`, first ends the server's process at once.
    async fn delete(&self, name: &str, death: Option<Death>) -> Result<(), BackendError> {
        let Some(pod) = self.allowed(name).await? else { return Ok(()) };
        let Some(Death { torn, seed, must }) = death else { return self.api.delete(&pod, Grace::Its).await };
        if let Some(target) = pod.target(self.authority).filter(|target| target.kind == Kind::Server)
            && (must || pod.allows_faults_inside())
        {
            let reached = self.inside.cut_power(&target, torn, seed).await?;
            if must && !reached {
                return Err(BackendError::Failed {
                    what: format!("cut the power of {name}"),
                    why: "the server cannot be reached, and deleting its pod would let it shut down in order"
                        .to_owned(),
                });
            }
        }
        // Kubernetes restarts a container ever later the more often it dies; it starts a new pod at once.
        self.api.delete(&pod, Grace::None).await
    }

    /// Waits until a pod of that name is ready and takes connections.
    async fn wait_until_ready(&self, name: &str) -> Result<(), BackendError> {
        let deadline = Instant::now() + BACK_DEADLINE;
        loop {
            let is_back = match self.api.pod(name).await {
                Ok(Some(pod)) if pod.is_ready() => match pod.target(self.authority) {
                    Some(target) => takes_connections(&target).await,
                    None => true,
                },
                Ok(_) => false,
                // The API server may be unavailable for a moment.
                Err(error @ BackendError::Failed { .. }) if Instant::now() > deadline => return Err(error),
                Err(BackendError::Failed { .. }) => false,
                Err(error) => return Err(error),
            };
            if is_back {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(BackendError::Failed {
                    what: format!("wait for the pod {name}"),
                    why: format!(
                        "it is not ready after {} s; see kubectl -n {} describe pod {name}",
                        BACK_DEADLINE.as_secs(),
                        self.api.namespace()
                    ),
                });
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Sends the servers their active faults. Returns the names of those that did not confirm.
    async fn send_faults(&self) -> Result<Vec<String>, BackendError> {
        self.inside.send_faults(&self.servers()).await
    }

    async fn apply_to(&self, fault: &Applied) -> Result<(), BackendError> {
        let death = match &fault.fault {
            Fault::Pause => return Err(cannot_pause()),
            copied @ (Fault::CopyDataDir | Fault::RestoreOldCopy) => {
                return Err(cannot_exchange_data_dirs(copied, "a pod"));
            }
            Fault::Kill => Some(Death { torn: false, seed: fault.id, must: false }),
            Fault::PowerCut { torn } => Some(Death { torn: *torn, seed: fault.id, must: true }),
            Fault::Restart => None,
            _ => {
                self.inside.add(fault);
                return self.send_faults().await.map(drop);
            }
        };
        try_join_all(fault.nodes.iter().map(|name| self.delete(name, death))).await.map(drop)
    }

    async fn heal_fault(&self, fault: &Applied) -> Result<(), BackendError> {
        match &fault.fault {
            Fault::Kill | Fault::Restart | Fault::PowerCut { .. } => {
                try_join_all(fault.nodes.iter().map(|name| self.wait_until_ready(name))).await.map(drop)
            }
            // `apply` refuses them.
            Fault::Pause | Fault::CopyDataDir | Fault::RestoreOldCopy => Ok(()),
            // A server without a running pod has forgotten its faults.
            _ => {
                let servers = self.servers();
                let pods = self.api.pods(&self.selector).await?;
                let runs = |name: &str| pods.iter().any(|pod| pod.metadata.name == name && pod.runs());
                self.inside.heal(fault, &servers, |name| !runs(name)).await
            }
        }
    }
}

/// How a server's process ends before its pod does.
#[derive(Clone, Copy, Debug)]
struct Death {
    torn: bool,
    seed: u64,
    /// Whether the process has to die at once: a power cut is meaningless if the server can sync first.
    must: bool,
}

fn not_allowed(pod: &Pod) -> BackendError {
    let (label, value) = ALLOWED;
    BackendError::NotAllowed {
        target: format!("pod {}", pod.metadata.name),
        advice: format!(
            "no fault is applied to any pod of the cluster until the pod's template has the label {label}={value}"
        ),
    }
}

fn cannot_pause() -> BackendError {
    BackendError::Unable {
        fault: "pause".to_owned(),
        what: "a pod",
        advice: "Kubernetes cannot freeze processes; isolate it instead, or run the experiment on containers",
    }
}

fn selector(given: Option<&str>) -> &str {
    given.map(str::trim).filter(|given| !given.is_empty()).unwrap_or(OURS)
}

/// The namespace, and the labels if they are not those of the manifests.
fn name_of_cluster(namespace: &str, selector: &str) -> String {
    let plain = |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    if selector == OURS { plain(namespace) } else { format!("{}-{}", plain(namespace), plain(selector)) }
}

/// Whether a server accepts connections. Name servers have no address here: readiness is enough.
async fn takes_connections(target: &Target) -> bool {
    let connect = timeout(CONNECT, TcpStream::connect(&target.client));
    target.kind == Kind::Resolver || matches!(connect.await, Ok(Ok(_)))
}

impl Backend for Kubernetes {
    fn name(&self) -> &'static str {
        "Kubernetes"
    }

    fn means(&self) -> BoxFuture<'_, Result<BTreeSet<Means>, BackendError>> {
        Box::pin(async {
            let pods = self.api.pods(&self.selector).await?;
            Ok(means(&pods))
        })
    }

    fn targets(&self) -> BoxFuture<'_, Result<Vec<Target>, BackendError>> {
        Box::pin(self.list())
    }

    fn apply<'a>(&'a self, fault: &'a Applied) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(self.apply_to(fault))
    }

    fn heal<'a>(&'a self, fault: &'a Applied) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(self.heal_fault(fault))
    }

    fn reapply(&self) -> BoxFuture<'_, Result<(), BackendError>> {
        let nothing = self.inside.all().is_empty();
        Box::pin(async move { if nothing { Ok(()) } else { self.send_faults().await.map(drop) } })
    }

    fn cuts_in_force(&self) -> BoxFuture<'_, Result<bool, BackendError>> {
        Box::pin(async { Ok(self.send_faults().await?.is_empty()) })
    }
}

/// The means for these pods: faults inside need permission of every server.
fn means(pods: &[Pod]) -> BTreeSet<Means> {
    let server = |pod: &&Pod| pod.target(None).is_some_and(|target| target.kind == Kind::Server);
    let mut servers = pods.iter().filter(server).peekable();
    let inside = servers.peek().is_some() && servers.all(Pod::allows_faults_inside);
    let more = Means::INSIDE.into_iter().filter(|_| inside);
    more.chain([Means::Process]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods(list: &[(&str, &str)]) -> Vec<Pod> {
        let pod = |(component, arg): &(&str, &str)| {
            serde_json::from_value(serde_json::json!({
                "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {
                    "app.kubernetes.io/component": component, "conclave.chaos": "allowed"}},
                "spec": {"hostname": "p", "subdomain": "s", "containers": [{"args": [arg]}]},
            }))
            .unwrap()
        };
        list.iter().map(pod).collect()
    }

    #[test]
    fn a_given_selector_replaces_the_default() {
        assert_eq!(selector(None), OURS);
        assert_eq!(selector(Some("  ")), OURS);
        assert_eq!(selector(Some(" app=x,env in (a,b)")), "app=x,env in (a,b)");
    }

    #[test]
    fn clusters_of_one_namespace_have_journals_of_their_own() {
        assert_eq!(name_of_cluster("talk", OURS), "talk");
        assert_eq!(name_of_cluster("talk", "env=../a"), "talk-env----a");
    }

    #[test]
    fn faults_inside_servers_need_allow_faults_on_every_server() {
        let process = BTreeSet::from([Means::Process]);
        let all: BTreeSet<Means> = Means::INSIDE.into_iter().chain([Means::Process]).collect();
        assert_eq!(means(&pods(&[("server", "--allow-faults"), ("dns", "dns")])), all);
        assert_eq!(means(&pods(&[("server", "--allow-faults"), ("server", "")])), process);
        assert_eq!(means(&pods(&[("dns", "--allow-faults")])), process);
        assert!(!all.contains(&Fault::Pause.means()), "a pod cannot be frozen");
    }
}
