//! Faults inside servers and name servers, over their `FaultService`.
//!
//! The complete set of faults of each server is computed from the open faults and sent as a whole. So sending is idempotent, and
//! a restarted server gets its faults again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conclave_client::Net;
use conclave_proto::admin_token::{AdminToken, WithAdminToken};
use conclave_proto::fault::fault_service_client::FaultServiceClient;
use conclave_proto::fault::{CutPowerRequest, DiskFault, PeerFault, ResolverFault, SetFaultsRequest};
use tokio::time::Instant;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::backend::{BackendError, Kind, Target};
use crate::fault::Fault;
use crate::journal::Applied;
use crate::sides::cut_by;

/// Timeout of a call. A server that does not answer within it is taken for dead or frozen.
const DEADLINE: Duration = Duration::from_secs(2);
/// Timeout for a server to confirm that a fault ended: it may be starting.
const HEAL_DEADLINE: Duration = Duration::from_secs(15);
/// Pause between two tries.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Parts per million in one percent.
const PPM_IN_PERCENT: i64 = 10_000;

/// The faults of every server, by name. Pure.
#[must_use]
pub fn desired(open: &[Applied], servers: &[String]) -> BTreeMap<String, SetFaultsRequest> {
    let mut wanted: BTreeMap<String, Suffering> =
        servers.iter().map(|name| (name.clone(), Suffering::default())).collect();
    for applied in open {
        for (from, to) in cut_by(&applied.fault, &applied.nodes, &applied.all) {
            // The server that opened a connection cuts it, so both ends must know of the cut.
            if let Some(server) = wanted.get_mut(&from) {
                server.peer(&to).lose_to = true;
            }
            if let Some(server) = wanted.get_mut(&to) {
                server.peer(&from).lose_from = true;
            }
        }
        for name in &applied.nodes {
            let Some(server) = wanted.get_mut(name) else { continue };
            server.add(&applied.fault, name, servers);
        }
    }
    wanted.into_iter().map(|(name, server)| (name, server.into())).collect()
}

/// The faults of a name server. Pure.
#[must_use]
pub fn desired_of_resolver(open: &[Applied], name: &str) -> ResolverFault {
    let mut suffering = Suffering::default();
    for applied in open.iter().filter(|applied| applied.nodes.iter().any(|node| node == name)) {
        suffering.add(&applied.fault, name, &[]);
    }
    suffering.resolver.unwrap_or_default()
}

/// The faults of one server.
#[derive(Debug, Default)]
struct Suffering {
    peers: BTreeMap<String, PeerFault>,
    disk: DiskFault,
    clock_offset_ms: i64,
    clock_rate_ppm: i64,
    resolver: Option<ResolverFault>,
}

impl Suffering {
    fn peer(&mut self, name: &str) -> &mut PeerFault {
        self.peers
            .entry(name.to_owned())
            .or_insert_with(|| PeerFault { peer: name.to_owned(), ..PeerFault::default() })
    }

    /// Adds a fault. Of two faults of one kind, the worse one counts.
    fn add(&mut self, fault: &Fault, me: &str, servers: &[String]) {
        let millis = |time: &Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        for peer in servers.iter().filter(|name| *name != me) {
            match fault {
                Fault::Delay { delay, jitter } => {
                    let peer = self.peer(peer);
                    peer.delay_ms = peer.delay_ms.max(millis(delay));
                    peer.jitter_ms = peer.jitter_ms.max(millis(jitter));
                }
                Fault::Loss { percent } => {
                    let peer = self.peer(peer);
                    peer.loss_percent = peer.loss_percent.max((*percent).into());
                }
                Fault::Duplicate { percent, delay } => {
                    let peer = self.peer(peer);
                    peer.repeat_percent = peer.repeat_percent.max((*percent).into());
                    peer.repeat_delay_ms = peer.repeat_delay_ms.max(millis(delay));
                }
                Fault::Bandwidth { bytes_per_second } => {
                    let peer = self.peer(peer);
                    let known = if peer.bytes_per_second == 0 { u64::MAX } else { peer.bytes_per_second };
                    peer.bytes_per_second = known.min(*bytes_per_second);
                }
                _ => {}
            }
        }
        match fault {
            Fault::SlowDisk { delay } => self.disk.sync_delay_ms = self.disk.sync_delay_ms.max(millis(delay)),
            Fault::FailSync => self.disk.fail_sync = true,
            Fault::FullDisk => self.disk.full = true,
            Fault::ClockStep { offset_ms } => {
                self.clock_offset_ms = self.clock_offset_ms.saturating_add(*offset_ms);
            }
            Fault::ClockSkew { percent } => self.clock_rate_ppm += percent * PPM_IN_PERCENT,
            Fault::ResolverStale => self.resolver.get_or_insert_default().stale = true,
            Fault::ResolverSlow { delay } => {
                let resolver = self.resolver.get_or_insert_default();
                resolver.answer_delay_ms = resolver.answer_delay_ms.max(millis(delay));
            }
            _ => {}
        }
    }
}

impl From<Suffering> for SetFaultsRequest {
    fn from(server: Suffering) -> Self {
        Self {
            peers: server.peers.into_values().collect(),
            disk: Some(server.disk),
            clock_offset_ms: server.clock_offset_ms,
            clock_rate_ppm: server.clock_rate_ppm,
            resolver: server.resolver,
        }
    }
}

/// The active faults inside the servers and name servers of one backend.
#[derive(Debug, Default)]
pub struct InForce {
    open: Mutex<Vec<Applied>>,
    token: Option<AdminToken>,
    /// Why there is no token although there should be one. Only targets that want a token make this an error.
    unreadable: Option<String>,
}

impl InForce {
    /// No faults yet. The targets are told with this admin token, if they have one.
    #[must_use]
    pub fn new(token: Option<Result<AdminToken, BackendError>>) -> Self {
        let (token, unreadable) = match token {
            None => (None, None),
            Some(Ok(token)) => (Some(token), None),
            Some(Err(error)) => (None, Some(error.to_string())),
        };
        Self { open: Mutex::default(), token, unreadable }
    }

    /// Adds an active fault, to be sent by [`InForce::send_faults`].
    pub fn add(&self, fault: &Applied) {
        self.lock().push(fault.clone());
    }

    /// Removes a fault.
    pub fn remove(&self, fault: &Applied) {
        self.lock().retain(|known| known.id != fault.id);
    }

    /// All active faults, the oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Applied> {
        self.lock().clone()
    }

    /// Sends these targets their faults. Returns the names of the targets that did not confirm; if there are none, all faults
    /// are in force. A target that does not answer is no error here; healing needs its answer, see [`InForce::heal`].
    ///
    /// # Errors
    /// If a target does not allow faults, or refuses one.
    pub async fn send_faults(&self, targets: &[Target]) -> Result<Vec<String>, BackendError> {
        send_faults(&self.all(), targets, self).await
    }

    /// Removes a fault and sends the remaining faults to all targets. `excused` says of a silent target that it need not answer:
    /// its process is gone and has forgotten its faults, or it is frozen by another fault and gets them when that is healed.
    ///
    /// # Errors
    /// If a target neither answers nor is excused: the fault may still be active there. A target that does not allow faults has
    /// none, which is no error.
    pub async fn heal(
        &self,
        fault: &Applied,
        targets: &[Target],
        excused: impl Fn(&str) -> bool,
    ) -> Result<(), BackendError> {
        self.remove(fault);
        let deadline = Instant::now() + HEAL_DEADLINE;
        loop {
            let silent = match self.send_faults(targets).await {
                Ok(silent) => silent,
                Err(BackendError::NotAllowed { .. }) => return Ok(()),
                Err(other) => return Err(other),
            };
            let Some(name) = silent.into_iter().find(|name| !excused(name)) else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(BackendError::Failed {
                    what: format!("end a fault at {name}"),
                    why: format!("no answer within {} s", HEAL_DEADLINE.as_secs()),
                });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Simulates a power cut at a server: it ends at once and loses unsynced writes. Returns whether the server was reached; one
    /// that was not is down already.
    ///
    /// # Errors
    /// If the server does not allow faults, or refuses.
    pub async fn cut_power(&self, target: &Target, torn: bool, seed: u64) -> Result<bool, BackendError> {
        let net = target.net()?;
        let connected = net.connected(&endpoint(&net, target)?, &target.client).await;
        let Ok(channel) = connected else { return Ok(false) };
        let mut client = client(channel, self.token.as_ref());
        match tokio::time::timeout(DEADLINE, client.cut_power(CutPowerRequest { torn, seed })).await {
            Ok(Err(status)) if status.code() == Code::Unimplemented => Err(not_allowed(target)),
            Ok(Err(status)) if is_refusal(status.code()) => Err(BackendError::Failed {
                what: format!("cut the power of {}", target.name),
                why: self.why_refused(&status),
            }),
            // A server that has lost its power cannot answer.
            Ok(Ok(_) | Err(_)) | Err(_) => Ok(true),
        }
    }

    fn why_refused(&self, status: &Status) -> String {
        match &self.unreadable {
            Some(why) if status.code() == Code::Unauthenticated => format!("{}; {why}", status.message()),
            _ => status.message().to_owned(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Applied>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends these faults to these targets, as [`InForce::send_faults`] does.
async fn send_faults(
    open: &[Applied],
    targets: &[Target],
    force: &InForce,
) -> Result<Vec<String>, BackendError> {
    let names: Vec<String> = targets
        .iter()
        .filter(|target| target.kind == Kind::Server)
        .map(|target| target.name.clone())
        .collect();
    let mut wanted = desired(open, &names);
    let resolvers = targets.iter().filter(|target| target.kind == Kind::Resolver);
    wanted.extend(resolvers.map(|target| {
        let resolver = Some(desired_of_resolver(open, &target.name));
        (target.name.clone(), SetFaultsRequest { resolver, ..SetFaultsRequest::default() })
    }));
    let calls = targets.iter().map(|target| {
        let request = wanted.get(&target.name).cloned().unwrap_or_default();
        async move {
            let net = target.net()?;
            let channel = net.channel(&endpoint(&net, target)?, &target.client);
            let mut client = client(channel, force.token.as_ref());
            match tokio::time::timeout(DEADLINE, client.set_faults(request)).await {
                Ok(Err(status)) if status.code() == Code::Unimplemented => Err(not_allowed(target)),
                Ok(Err(status)) if is_refusal(status.code()) => Err(BackendError::Failed {
                    what: format!("set the faults of {}", target.name),
                    why: force.why_refused(&status),
                }),
                Ok(Ok(_)) => Ok(None),
                Ok(Err(_)) | Err(_) => Ok(Some(target.name.clone())),
            }
        }
    });
    // Every target gets its faults, even if one of them refuses.
    let results = futures::future::join_all(calls).await;
    results.into_iter().filter_map(Result::transpose).collect()
}

/// Whether a status is the answer of a target, and not the lack of one.
fn is_refusal(code: Code) -> bool {
    matches!(code, Code::InvalidArgument | Code::Unauthenticated | Code::PermissionDenied)
}

fn endpoint(net: &Net, target: &Target) -> Result<Endpoint, BackendError> {
    let endpoint = net.endpoint(&target.client);
    let endpoint = endpoint.map_err(|error| BackendError::Failed {
        what: format!("reach {}", target.name),
        why: error.to_string(),
    })?;
    Ok(endpoint.connect_timeout(DEADLINE))
}

fn client(
    channel: Channel,
    token: Option<&AdminToken>,
) -> FaultServiceClient<InterceptedService<Channel, WithAdminToken>> {
    FaultServiceClient::with_interceptor(channel, WithAdminToken(token.cloned()))
}

fn not_allowed(target: &Target) -> BackendError {
    BackendError::NotAllowed {
        target: target.name.clone(),
        advice:
            "start it with --allow-faults (conclave up --allow-faults), or with CONCLAVE_ALLOW_FAULTS=true"
                .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Grudge;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn applied(fault: Fault, nodes: &[&str]) -> Applied {
        Applied { id: 1, fault, nodes: names(nodes), all: names(&["a", "b", "c"]) }
    }

    #[test]
    fn a_one_way_cut_is_sent_to_the_nodes_on_both_sides() {
        let one_way = applied(Fault::Partition { grudge: Grudge::OneWay }, &["a"]);
        let wanted = desired(&[one_way], &names(&["a", "b", "c"]));
        let peers = |name: &str| wanted[name].peers.clone();
        assert!(peers("a").iter().all(|peer| peer.lose_to && !peer.lose_from));
        assert_eq!(peers("a").len(), 2);
        assert!(peers("b").iter().all(|peer| peer.peer == "a" && peer.lose_from && !peer.lose_to));
        assert_eq!(peers("b").len(), 1);
    }

    #[test]
    fn clock_repeat_and_name_server_faults_go_to_their_targets_only() {
        let open = [
            applied(Fault::ClockSkew { percent: -5 }, &["a"]),
            applied(Fault::Duplicate { percent: 20, delay: Duration::from_millis(300) }, &["b"]),
            applied(Fault::ResolverStale, &["ns"]),
            applied(Fault::ResolverSlow { delay: Duration::from_secs(1) }, &["ns"]),
        ];
        let wanted = desired(&open, &names(&["a", "b", "c"]));
        assert_eq!(wanted["a"].clock_rate_ppm, -50_000);
        assert_eq!(wanted["b"].peers.len(), 2);
        assert!(
            wanted["b"].peers.iter().all(|peer| peer.repeat_percent == 20 && peer.repeat_delay_ms == 300)
        );
        assert!(wanted.values().all(|server| server.resolver.is_none()));
        let faults = desired_of_resolver(&open, "ns");
        assert_eq!(faults, ResolverFault { stale: true, answer_delay_ms: 1_000 });
        assert_eq!(desired_of_resolver(&open, "other"), ResolverFault::default());
    }

    #[test]
    fn the_worse_of_two_faults_counts_and_other_servers_have_none() {
        let slow = |millis| Fault::SlowDisk { delay: Duration::from_millis(millis) };
        let open =
            [applied(slow(20), &["a"]), applied(slow(5), &["a"]), applied(Fault::FullDisk, &["b", "gone"])];
        let wanted = desired(&open, &names(&["a", "b", "c"]));
        assert_eq!(wanted["a"].disk.unwrap().sync_delay_ms, 20);
        assert!(wanted["b"].disk.unwrap().full);
        assert_eq!(wanted["c"], SetFaultsRequest { disk: Some(DiskFault::default()), ..Default::default() });
        assert_eq!(wanted.len(), 3);
    }
}
