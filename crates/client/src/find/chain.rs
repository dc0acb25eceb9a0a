//! Tries all sources of servers in turn, until one finds a server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use conclave_core::limits::NODES_MAX;
use conclave_net::Net;
use futures::future::{BoxFuture, join_all};

use super::mdns::{self, Announced};
use super::srv::{self, Service};
use super::{Candidate, Finder, Found, NotFound, Seed, Source, ZONE, cache};
use crate::limits::{
    DNS_TIMEOUT_WITH_MEMBERS, DNS_TOTAL_TIMEOUT, MDNS_HEAD_START, MDNS_TIMEOUT, MDNS_TIMEOUT_WITH_MEMBERS,
};

/// The sources to search.
#[derive(Clone, Debug)]
pub struct Options {
    /// The given seeds. If there are any, nothing else is tried, except the members that the same seeds led to earlier.
    pub seeds: Vec<Seed>,
    /// The zone to look up if there are no seeds; empty for none.
    pub zone: String,
    /// The name servers for zones; if empty, [`srv::usual_name_servers`].
    pub name_servers: Vec<SocketAddr>,
    /// Whether to browse the local network if there are no seeds.
    pub mdns: bool,
    /// Takes only nodes of the cluster with this name from the local network.
    pub cluster: Option<String>,
    /// The file in which members are kept for the next start.
    pub members: Option<PathBuf>,
    /// The addresses to try if no source knows a node.
    pub defaults: Vec<String>,
    /// The network to reach name servers over.
    pub net: Net,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seeds: Vec::new(),
            zone: ZONE.to_owned(),
            name_servers: Vec::new(),
            mdns: true,
            cluster: None,
            members: None,
            defaults: ["127.0.0.1:7400", "127.0.0.1:7410", "127.0.0.1:7420"].map(str::to_owned).to_vec(),
            net: Net::System,
        }
    }
}

/// Tries, in this order: the given seeds, name servers, the local network, the members of an earlier connection, the
/// default addresses. Keeps no connection open, and no state except the file of members.
#[derive(Clone, Debug)]
pub struct Chain {
    options: Options,
}

/// The answers of all sources, to show people why servers are found or not found.
#[derive(Clone, Debug)]
pub struct Examined {
    /// For each zone, the answer of each name server.
    pub zones: Vec<(String, Vec<srv::NameServerAnswer>)>,
    /// The nodes that announce themselves on the local network, if it was browsed.
    pub network: Option<Result<Vec<Announced>, String>>,
    /// The members of an earlier connection, or why the file cannot be read.
    pub members: Result<Vec<String>, String>,
}

impl Chain {
    /// A chain over these sources.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    /// A chain over these seeds.
    #[must_use]
    pub fn of(seeds: Vec<Seed>) -> Self {
        Self::new(Options { seeds, ..Options::default() })
    }

    /// Asks all sources and waits for all of them. Takes about a second.
    pub async fn examine(&self) -> Examined {
        let zones = join_all(self.zones().into_iter().map(|(zone, servers)| async move {
            let answers = srv::ask_each(&self.options.net, &servers, &srv::clients(&zone)).await;
            (zone, answers)
        }));
        let network = async {
            if !self.asks_network() {
                return None;
            }
            Some(mdns::browse(MDNS_TIMEOUT, self.options.cluster.as_deref()).await)
        };
        let (zones, network, members) = futures::join!(zones, network, self.members());
        Examined { zones, network, members }
    }

    fn asks_network(&self) -> bool {
        self.options.mdns && self.options.seeds.is_empty()
    }

    /// The zones to look up, and the name servers for each.
    fn zones(&self) -> Vec<(String, Vec<SocketAddr>)> {
        let usual = || match self.options.name_servers.as_slice() {
            [] => srv::usual_name_servers(),
            given => given.to_vec(),
        };
        if self.options.seeds.is_empty() && !self.options.zone.is_empty() {
            return vec![(self.options.zone.clone(), usual())];
        }
        let zone = |seed: &Seed| match seed {
            Seed::Zone { zone, name_servers } if name_servers.is_empty() => Some((zone.clone(), usual())),
            Seed::Zone { zone, name_servers } => Some((zone.clone(), name_servers.clone())),
            Seed::Node(_) | Seed::Pinned { .. } => None,
        };
        self.options.seeds.iter().filter_map(zone).collect()
    }

    /// The key of the remembered members: the given seeds as text.
    fn asked(&self) -> String {
        if self.options.seeds.is_empty() {
            return format!("{} or anybody", self.options.zone);
        }
        self.options.seeds.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    async fn members(&self) -> Result<Vec<String>, String> {
        let Some(file) = self.options.members.clone() else { return Ok(Vec::new()) };
        let asked = self.asked();
        let name = file.display().to_string();
        match tokio::task::spawn_blocking(move || cache::recall(&file, &asked)).await {
            Ok(Ok(members)) => Ok(members),
            Ok(Err(error)) => Err(format!("the remembered members cannot be read from {name}: {error}")),
            Err(error) => Err(format!("the remembered members cannot be read from {name}: {error}")),
        }
    }

    async fn search(&self) -> Result<Found, NotFound> {
        let mut notes = Vec::new();
        let members = self.members().await.unwrap_or_else(|note| {
            notes.push(note);
            Vec::new()
        });
        let found = if self.options.seeds.is_empty() {
            self.anybody(!members.is_empty(), &mut notes).await
        } else {
            self.given(!members.is_empty(), &mut notes).await
        };
        let members = members.iter().map(Candidate::at);
        let (candidates, source, fresh_for) = match found {
            // The members of an earlier connection are a fallback.
            Some((mut candidates, source, fresh_for)) => {
                candidates.extend(members.map(Candidate::last));
                (candidates, source, fresh_for)
            }
            None => match members.collect::<Vec<_>>() {
                members if !members.is_empty() => (members, Source::Cache, None),
                _ if self.options.seeds.is_empty() => {
                    (self.options.defaults.iter().map(Candidate::at).collect(), Source::Default, None)
                }
                _ => (Vec::new(), Source::Given, None),
            },
        };
        let candidates = distinct(candidates);
        if candidates.is_empty() {
            return Err(NotFound { notes });
        }
        Ok(Found { candidates, fresh_for, source, notes })
    }

    /// The nodes that the seeds lead to.
    async fn given(&self, members_known: bool, notes: &mut Vec<String>) -> Option<Nodes> {
        let node = |seed: &Seed| match seed {
            Seed::Node(address) | Seed::Pinned { address, .. } => Some(Candidate::at(address)),
            Seed::Zone { .. } => None,
        };
        let mut candidates: Vec<_> = self.options.seeds.iter().filter_map(node).collect();
        let source = if candidates.is_empty() { Source::Srv } else { Source::Given };
        let services = self.services(members_known, notes).await;
        let fresh_for = services.iter().map(|service| service.fresh_for).min();
        candidates.extend(services.into_iter().flat_map(|service| service.candidates));
        (!candidates.is_empty()).then_some((candidates, source, fresh_for))
    }

    /// The nodes of the default zone or, if no name server knows any, of the local network. The network is browsed
    /// while the name servers are silent.
    async fn anybody(&self, members_known: bool, notes: &mut Vec<String>) -> Option<Nodes> {
        let mut notes_of_network = Vec::new();
        let found = {
            let services = self.services(members_known, notes);
            let network = self.network(members_known, &mut notes_of_network);
            tokio::pin!(services, network);
            let mut on_network = None;
            let services = loop {
                tokio::select! {
                    biased;
                    services = &mut services => break services,
                    found = &mut network, if on_network.is_none() => on_network = Some(found),
                }
            };
            let fresh_for = services.iter().map(|service| service.fresh_for).min();
            let candidates: Vec<_> = services.into_iter().flat_map(|service| service.candidates).collect();
            if candidates.is_empty() {
                let candidates = match on_network {
                    Some(found) => found,
                    None => network.await,
                };
                (!candidates.is_empty()).then_some((candidates, Source::Mdns, None))
            } else {
                Some((candidates, Source::Srv, fresh_for))
            }
        };
        notes.append(&mut notes_of_network);
        found
    }

    /// The answers of name servers for the zones.
    async fn services(&self, members_known: bool, notes: &mut Vec<String>) -> Vec<Service> {
        let within = if members_known { DNS_TIMEOUT_WITH_MEMBERS } else { DNS_TOTAL_TIMEOUT * 2 };
        let asked = self.zones().into_iter().map(|(zone, servers)| async move {
            let service = srv::clients(&zone);
            let answer = tokio::time::timeout(within, srv::ask(&self.options.net, &servers, &service)).await;
            answer.unwrap_or_else(|_| {
                Err(vec![format!("no name server answers for {service} within {within:?}")])
            })
        });
        let mut services = Vec::new();
        for answer in join_all(asked).await {
            match answer {
                Ok(service) => services.push(service),
                Err(mut said) => notes.append(&mut said),
            }
        }
        services
    }

    async fn network(&self, members_known: bool, notes: &mut Vec<String>) -> Vec<Candidate> {
        if !self.asks_network() {
            return Vec::new();
        }
        if !self.options.zone.is_empty() {
            tokio::time::sleep(MDNS_HEAD_START).await;
        }
        let within = if members_known { MDNS_TIMEOUT_WITH_MEMBERS } else { MDNS_TIMEOUT };
        match mdns::browse(within, self.options.cluster.as_deref()).await {
            Ok(found) if found.is_empty() => notes.push("no node answers on the local network".to_owned()),
            Ok(found) => return found.iter().flat_map(Announced::candidates).collect(),
            Err(note) => notes.push(note),
        }
        Vec::new()
    }
}

/// Candidates, their source, and how long they are fresh.
type Nodes = (Vec<Candidate>, Source, Option<Duration>);

/// Removes duplicate addresses and moves fallbacks to the end.
fn distinct(candidates: Vec<Candidate>) -> Vec<Candidate> {
    let mut distinct: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        let known = distinct.iter().any(|known| known.address == candidate.address);
        if !known && distinct.len() < NODES_MAX * 2 {
            distinct.push(candidate);
        }
    }
    distinct.sort_by_key(|candidate| candidate.priority);
    distinct
}

impl Finder for Chain {
    fn find(&self) -> BoxFuture<'_, Result<Found, NotFound>> {
        Box::pin(self.search())
    }

    fn save_members(&self, members: Vec<String>) -> BoxFuture<'_, ()> {
        let Some(file) = self.options.members.clone() else { return Box::pin(std::future::ready(())) };
        let asked = self.asked();
        Box::pin(async move {
            let name = file.display().to_string();
            let written = tokio::task::spawn_blocking(move || cache::remember(&file, &asked, &members)).await;
            let written = written.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            if let Err(error) = written {
                tracing::warn!(file = %name, %error, "failed to persist the cluster's members");
            }
        })
    }
}
