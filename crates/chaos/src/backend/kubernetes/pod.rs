//! What this backend reads from a pod: whether it is a target, is ready, and allows faults. Pure.

use std::collections::BTreeMap;

use conclave_client::CaId;
use serde::Deserialize;

use crate::backend::{Kind, Target};

/// The label, and its value, with which a pod allows faults.
pub const ALLOWED: (&str, &str) = ("conclave.chaos", "allowed");
/// The label with the component: `server` or `dns`.
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// The port of a server's client API, unless the pod names another one.
const CLIENT_PORT: u16 = 7400;

/// The API's list of pods.
#[derive(Debug, Deserialize)]
pub struct Pods {
    /// The list's metadata.
    #[serde(default)]
    pub metadata: ListMetadata,
    /// The pods.
    pub items: Vec<Pod>,
}

/// Metadata of a list.
#[derive(Debug, Default, Deserialize)]
pub struct ListMetadata {
    /// Not empty if the list is incomplete.
    #[serde(default, rename = "continue")]
    pub more: String,
}

/// The parts of a pod that this backend reads.
#[derive(Clone, Debug, Deserialize)]
pub struct Pod {
    /// Name and labels.
    pub metadata: Metadata,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

/// Name and labels.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// The pod's name. In a `StatefulSet`, its replacement has the same name.
    pub name: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The unique id, which a replacement does not have.
    pub uid: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    deletion_timestamp: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Spec {
    hostname: Option<String>,
    subdomain: Option<String>,
    #[serde(default)]
    containers: Vec<Container>,
}

#[derive(Clone, Debug, Deserialize)]
struct Container {
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
    #[serde(default)]
    ports: Vec<Port>,
}

#[derive(Clone, Debug, Deserialize)]
struct Variable {
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    #[serde(default)]
    name: String,
    container_port: u16,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(default)]
    phase: String,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl Pod {
    /// Whether the pod allows faults.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.metadata.labels.get(ALLOWED.0).is_some_and(|value| value == ALLOWED.1)
    }

    /// Whether the pod is ready and not being deleted.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let ready = |condition: &Condition| condition.kind == "Ready" && condition.status == "True";
        self.metadata.deletion_timestamp.is_none() && self.status.conditions.iter().any(ready)
    }

    /// Whether the pod's phase is running.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.status.phase == "Running"
    }

    /// Whether the server was started with fault injection enabled.
    #[must_use]
    pub fn allows_faults_inside(&self) -> bool {
        self.spec.containers.iter().any(|container| {
            let variable = |known: &Variable| known.name == "CONCLAVE_ALLOW_FAULTS" && known.value == "true";
            container.args.iter().any(|arg| arg == "--allow-faults") || container.env.iter().any(variable)
        })
    }

    /// The pod as a target, whether it allows faults or not; `None` if it is neither server nor name server.
    ///
    /// Its cluster has this certificate authority, if it uses TLS. A pod of a `StatefulSet` is reached by its stable host name, any other pod by its address.
    #[must_use]
    pub fn target(&self, authority: Option<CaId>) -> Option<Target> {
        let kind = match self.metadata.labels.get(COMPONENT)?.as_str() {
            "server" => Kind::Server,
            "dns" => Kind::Resolver,
            _ => return None,
        };
        let host = match (&self.spec.hostname, &self.spec.subdomain, &self.status.pod_ip) {
            (Some(hostname), Some(subdomain), _) => {
                format!("{hostname}.{subdomain}.{}.svc", self.metadata.namespace)
            }
            (.., Some(address)) if address.contains(':') => format!("[{address}]"),
            (.., Some(address)) => address.clone(),
            // A pod without an address has not been started yet.
            (.., None) => return None,
        };
        let ports = self.spec.containers.iter().flat_map(|container| &container.ports);
        let port = ports.into_iter().find(|port| port.name == "client");
        let port = port.map_or(CLIENT_PORT, |port| port.container_port);
        let client = if kind == Kind::Server { format!("{host}:{port}") } else { String::new() };
        Some(Target { name: self.metadata.name.clone(), kind, client, authority })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pod as the API server returns it, with the parts that are read.
    fn pod(change: impl FnOnce(&mut serde_json::Value)) -> Pod {
        let mut pod = serde_json::json!({
            "metadata": {"name": "conclave-1", "namespace": "talk", "uid": "u1", "labels": {
                "app.kubernetes.io/component": "server", "conclave.chaos": "allowed"}},
            "spec": {"hostname": "conclave-1", "subdomain": "conclave-peers", "containers": [{
                "name": "server", "args": ["server"],
                "env": [{"name": "CONCLAVE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "ports": [{"name": "peer", "containerPort": 7401}, {"name": "client", "containerPort": 7500}]}]},
            "status": {"podIP": "10.0.0.7", "conditions": [
                {"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"}]},
        });
        change(&mut pod);
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_server_of_a_stateful_set_is_reached_by_its_stable_name() {
        let target = pod(|_| {}).target(None).unwrap();
        assert_eq!((target.name.as_str(), target.kind), ("conclave-1", Kind::Server));
        assert_eq!(target.client, "conclave-1.conclave-peers.talk.svc:7500");
        assert_eq!(target.authority, None);
        assert_eq!(pod(|_| {}).target(Some(CaId(7))).unwrap().authority, Some(CaId(7)));
        // Also while the pod starts.
        assert!(pod(|pod| pod["status"] = serde_json::json!({})).target(None).is_some());
    }

    #[test]
    fn a_pod_without_a_stable_name_is_reached_by_its_address() {
        let nameless = |address: &str| {
            pod(|pod| {
                pod["spec"] = serde_json::json!({"containers": [{"name": "server"}]});
                pod["status"]["podIP"] = address.into();
            })
        };
        assert_eq!(nameless("10.0.0.7").target(None).unwrap().client, "10.0.0.7:7400");
        assert_eq!(nameless("fd00::7").target(None).unwrap().client, "[fd00::7]:7400");
        let unborn = pod(|pod| {
            pod["spec"] = serde_json::json!({"containers": []});
            pod["status"] = serde_json::json!({});
        });
        assert_eq!(unborn.target(None), None);
    }

    #[test]
    fn labels_decide_kind_and_permission() {
        let labelled = |label: &str, value: &str| pod(|pod| pod["metadata"]["labels"][label] = value.into());
        assert!(pod(|_| {}).is_allowed());
        assert!(!labelled("conclave.chaos", "no").is_allowed());
        assert_eq!(labelled(COMPONENT, "cli").target(None), None);
        let bare = pod(|pod| pod["metadata"]["labels"] = serde_json::json!({}));
        assert!(!bare.is_allowed() && bare.target(None).is_none());
        let resolver = pod(|pod| pod["metadata"]["labels"][COMPONENT] = "dns".into()).target(None).unwrap();
        assert_eq!((resolver.kind, resolver.client.as_str()), (Kind::Resolver, ""));
    }

    #[test]
    fn a_pod_that_is_being_deleted_is_not_ready() {
        assert!(pod(|_| {}).is_ready());
        assert!(!pod(|pod| pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into()).is_ready());
        assert!(!pod(|pod| pod["status"]["conditions"][1]["status"] = "False".into()).is_ready());
        assert!(!pod(|pod| pod["status"] = serde_json::json!({})).is_ready());
    }

    #[test]
    fn fault_injection_is_enabled_by_argument_or_environment() {
        assert!(!pod(|_| {}).allows_faults_inside());
        let container = |key: &str, value: serde_json::Value| {
            pod(|pod| pod["spec"]["containers"][0][key] = value).allows_faults_inside()
        };
        assert!(container("args", serde_json::json!(["server", "--allow-faults"])));
        let variable = |value: &str| serde_json::json!([{"name": "CONCLAVE_ALLOW_FAULTS", "value": value}]);
        assert!(container("env", variable("true")));
        assert!(!container("env", variable("false")));
    }
}
