//! The engine's answers, and what this backend concludes from them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use conclave_client::CaId;
use serde::{Deserialize, Serialize};

use crate::backend::{BackendError, Kind, Target};

/// The label of a container that allows faults; its value is [`ALLOWED`].
pub(super) const ALLOW: &str = "org.conclave.chaos";
/// The value of [`ALLOW`] that allows faults.
pub(super) const ALLOWED: &str = "allowed";
/// The label with `server` or `resolver`. A container without it is not part of the cluster.
pub(super) const KIND: &str = "org.conclave.chaos.kind";
/// The label with the port of a server's client API, or of a name server, if it is not the default.
pub(super) const PORT: &str = "org.conclave.chaos.port";
/// Compose's label with the project's name.
pub(super) const PROJECT: &str = "com.docker.compose.project";
/// Compose's label with the service's name, which is the node's name.
pub(super) const SERVICE: &str = "com.docker.compose.service";
/// Compose's label of containers that `docker compose run` has created.
const ONE_OFF: &str = "com.docker.compose.oneoff";
/// The default port of a server's client API.
const CLIENT_PORT: u16 = 7400;
/// The default port of a name server.
const DNS_PORT: u16 = 53;

/// The newest version of the engine's API that this client was checked against, and the oldest with all calls that it makes.
const NEWEST: (u32, u32) = (1, 51);
const OLDEST: (u32, u32) = (1, 40);

/// `GET /version`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Version {
    api_version: String,
    #[serde(rename = "MinAPIVersion", default)]
    min_api_version: String,
}

/// The body of a refusal.
#[derive(Debug, Deserialize)]
pub(super) struct Complaint {
    pub(super) message: String,
}

/// One element of `GET /containers/json`
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Listed {
    pub(super) id: String,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default)]
    host_config: HostConfig,
    #[serde(default)]
    network_settings: NetworkSettings,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    #[serde(default)]
    network_mode: String,
}

/// The networks of a container by their names.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NetworkSettings {
    #[serde(default)]
    pub(super) networks: BTreeMap<String, Endpoint>,
}

/// A container's endpoint in a network.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Endpoint {
    /// Empty while the container does not run.
    #[serde(rename = "IPAddress", default)]
    pub(super) ip_address: String,
    /// The address that was asked for.
    #[serde(rename = "IPAMConfig", default)]
    ipam_config: Option<Ipam>,
    #[serde(default)]
    pub(super) aliases: Option<Vec<String>>,
}

/// The address that a container asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Ipam {
    #[serde(rename = "IPv4Address", default)]
    ipv4_address: String,
}

impl Ipam {
    pub(super) fn at(address: &str) -> Self {
        Self { ipv4_address: address.to_owned() }
    }
}

impl Endpoint {
    /// The current address, or the one that the container will have when it runs.
    pub(super) fn address(&self) -> Option<&str> {
        let wanted = self.ipam_config.as_ref().map(|wanted| wanted.ipv4_address.as_str());
        [Some(self.ip_address.as_str()), wanted].into_iter().flatten().find(|address| !address.is_empty())
    }
}

/// `GET /containers/ID/json`
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Inspected {
    pub(super) id: String,
    pub(super) state: ContainerState,
    pub(super) config: Config,
    #[serde(default)]
    pub(super) network_settings: NetworkSettings,
}

impl Inspected {
    /// Whether the container is connected to any network.
    pub(super) fn is_connected(&self) -> bool {
        !self.network_settings.networks.is_empty()
    }
}

/// The state of a container.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ContainerState {
    #[serde(default)]
    running: bool,
    #[serde(default)]
    paused: bool,
    /// The container has died, and the engine waits before it restarts it.
    #[serde(default)]
    restarting: bool,
}

impl ContainerState {
    /// Whether the container runs and is not frozen.
    pub(super) fn is_up(&self) -> bool {
        self.running && !self.paused && !self.restarting
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    pub(super) fn is_restarting(&self) -> bool {
        self.restarting
    }

    /// Whether the container has no process.
    pub(super) fn is_down(&self) -> bool {
        !self.running || self.restarting
    }
}

/// The configuration of a container.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Config {
    #[serde(default)]
    pub(super) labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    cmd: Option<Vec<String>>,
}

impl Config {
    /// The zone of a name server's container, if it is not the default.
    pub(super) fn zone(&self) -> Option<&str> {
        let zone = |variable: &'_ String| variable.starts_with("CONCLAVE_ZONE=");
        self.env.iter().flatten().find(|variable| zone(variable))?.split_once('=').map(|(_, zone)| zone)
    }

    /// Whether the server in the container was started with fault injection enabled.
    pub(super) fn allows_faults(&self) -> bool {
        let allows = |variable: &String| {
            let value = variable.strip_prefix("CONCLAVE_ALLOW_FAULTS=");
            value.is_some_and(|value| value.eq_ignore_ascii_case("true"))
        };
        self.env.iter().flatten().any(allows)
            || self.cmd.iter().flatten().any(|word| word == "--allow-faults")
    }
}

/// The container in which this program runs: its networks and its project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Own {
    /// Names of its networks.
    pub(super) networks: BTreeSet<String>,
    pub(super) project: Option<String>,
}

impl From<Inspected> for Own {
    fn from(own: Inspected) -> Self {
        Self {
            networks: own.network_settings.networks.into_keys().collect(),
            project: own.config.labels.unwrap_or_default().remove(PROJECT),
        }
    }
}

/// Whether a host name is a container's short id, which the engine gives to containers by default.
pub(super) fn is_container_id(hostname: &str) -> bool {
    hostname.len() == 12 && hostname.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The version of the API to use.
///
/// # Errors
/// If the engine is too old or too new.
pub(super) fn agree(engine: &Version) -> Result<String, String> {
    let parse = |text: &str| {
        let (major, minor) = text.split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    };
    let newest = parse(&engine.api_version).ok_or_else(|| {
        format!("the engine names its API version {:?}, which cannot be read", engine.api_version)
    })?;
    let oldest = parse(&engine.min_api_version).unwrap_or_default();
    let agreed = newest.min(NEWEST);
    if agreed < OLDEST {
        return Err(format!(
            "the engine has API version {}; at least 1.40 is needed (Docker 19.03)",
            engine.api_version
        ));
    }
    if agreed < oldest {
        return Err(format!(
            "the engine needs API version {} or newer; this controller has up to 1.51",
            engine.min_api_version
        ));
    }
    Ok(format!("{}.{}", agreed.0, agreed.1))
}

/// The Compose project of the cluster: the named one, that of the container in which this program runs, or the only one.
///
/// # Errors
/// If there is none, or several.
pub(super) fn project(
    named: Option<&str>,
    own: Option<&Own>,
    parts: &[Listed],
) -> Result<String, BackendError> {
    if let Some(project) = named.or_else(|| own.and_then(|own| own.project.as_deref())) {
        return Ok(project.to_owned());
    }
    let projects: BTreeSet<&String> = parts.iter().filter_map(|part| part.labels.get(PROJECT)).collect();
    let failed = |why: String| BackendError::Failed { what: "find the cluster's containers".to_owned(), why };
    let mut all = projects.iter();
    match (all.next(), all.next()) {
        (Some(only), None) => Ok((*only).clone()),
        (None, _) => Err(failed(format!(
            "no container of a Compose project has the label {KIND}; start the cluster with docker compose up -d"
        ))),
        (Some(_), Some(_)) => {
            let names: Vec<&str> = projects.iter().map(|name| name.as_str()).collect();
            Err(failed(format!(
                "there are several Compose projects; choose one with --project: {}",
                names.join(", ")
            )))
        }
    }
}

/// A container of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) id: String,
    pub(super) target: Target,
    /// `IP:PORT` of a name server's DNS, if it has an address.
    pub(super) asked_at: Option<String>,
}

/// The containers of the cluster, by name; with its certificate authority, if it uses TLS.
///
/// # Errors
/// If one does not allow faults, or its labels are wrong.
pub(super) fn parts(
    project: &str,
    listed: &[Listed],
    own: Option<&Own>,
    authority: Option<CaId>,
) -> Result<Vec<Part>, BackendError> {
    let mut parts: BTreeMap<&str, Part> = BTreeMap::new();
    for container in listed {
        let label = |name: &str| container.labels.get(name).map(String::as_str);
        if label(PROJECT) != Some(project) || label(ONE_OFF) == Some("True") || label(KIND).is_none() {
            continue;
        }
        let name = label(SERVICE).unwrap_or(&container.id);
        let failed = |why: String| BackendError::Failed { what: format!("read the labels of {name}"), why };
        let kind = match label(KIND) {
            Some("server") => Kind::Server,
            Some("resolver") => Kind::Resolver,
            other => {
                return Err(failed(format!(
                    "the label {KIND} is {:?} and must be server or resolver",
                    other.unwrap_or_default()
                )));
            }
        };
        if label(ALLOW) != Some(ALLOWED) {
            return Err(BackendError::NotAllowed {
                target: format!("the container of {name} ({})", container.id.get(..12).unwrap_or_default()),
                advice: format!(
                    "unless it has people's messages, start the composition with --env-file docker/chaos.env, which gives it \
                     the label {ALLOW}={ALLOWED}"
                ),
            });
        }
        let usual = if kind == Kind::Server { CLIENT_PORT } else { DNS_PORT };
        let port = label(PORT).map_or(Ok(usual), str::parse);
        let port = port.map_err(|_| failed(format!("the label {PORT} is not a port")))?;
        let address = address(container, own);
        let (client, asked_at) = match kind {
            Kind::Server => (format!("{}:{port}", host(name, container, own)), None),
            Kind::Resolver => (String::new(), address.map(|address| format!("{address}:{port}"))),
        };
        let target = Target { name: name.to_owned(), kind, client, authority };
        if parts.insert(name, Part { id: container.id.clone(), target, asked_at }).is_some() {
            return Err(failed("two containers have this name: a server must not be scaled".to_owned()));
        }
    }
    if parts.is_empty() {
        return Err(BackendError::Failed {
            what: format!("find the containers of the Compose project {project}"),
            why: format!(
                "none has the label {KIND}; start the cluster with docker compose up -d, or choose another one with --project"
            ),
        });
    }
    Ok(parts.into_values().collect())
}

/// The address by which clients find the cluster; `None` if no name server has an IP address.
pub(super) fn zone(zone: &str, parts: &[Part]) -> Option<String> {
    let asked: Vec<&str> = parts.iter().filter_map(|part| part.asked_at.as_deref()).collect();
    (!asked.is_empty()).then(|| format!("conclave+srv://{zone}?ns={}", asked.join(",")))
}

/// Names and ids of the listed containers with these names.
pub(super) fn named(names: &[String], listed: Vec<Listed>) -> Vec<(String, String)> {
    let one = |container: Listed| {
        let is_one_off = container.labels.get(ONE_OFF).is_some_and(|value| value == "True");
        let service = container.labels.get(SERVICE).filter(|_| !is_one_off)?;
        names.contains(service).then(|| (service.clone(), container.id))
    };
    listed.into_iter().filter_map(one).collect()
}

/// The host of a server: its name in a shared network, which stays right when the address changes; otherwise its address.
fn host<'a>(name: &'a str, container: &'a Listed, own: Option<&Own>) -> &'a str {
    let networks = &container.network_settings.networks;
    let shares = |network: &String| own.is_some_and(|own| own.networks.contains(network));
    if shares(&container.host_config.network_mode) || networks.keys().any(shares) {
        return name;
    }
    address(container, own).unwrap_or(name)
}

/// The address of a container in a network that this program's container shares, otherwise in any network.
fn address<'a>(container: &'a Listed, own: Option<&Own>) -> Option<&'a str> {
    let networks = &container.network_settings.networks;
    let shared =
        networks.iter().filter(|(network, _)| own.is_some_and(|own| own.networks.contains(*network)));
    shared.map(|(_, endpoint)| endpoint).chain(networks.values()).find_map(Endpoint::address)
}

#[cfg(test)]
mod tests;
