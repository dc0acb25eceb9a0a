//! The simulated cluster as a place where faults are applied.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use conclave_chaos::backend::{Backend, BackendError, Kind, Target};
use conclave_chaos::fault::{Fault, Means};
use conclave_chaos::journal::Applied;
use conclave_store::simulated::Remains;
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::cluster::{Cluster, Machine};
use crate::life::{Death, HostState, Life, lock};
use crate::name_server::{self, NameServer};

/// Timeout for a healed node to serve again.
const BACK_DEADLINE: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// A killed node dies within this many disk writes, so that it may die during a commit.
const OPERATIONS_MAX: u64 = 12;

/// The simulated cluster.
#[derive(Debug)]
pub(crate) struct Simulated(pub(crate) Arc<Cluster>);

impl Simulated {
    fn machines<'a>(&'a self, fault: &'a Applied) -> impl Iterator<Item = &'a Machine> {
        fault.nodes.iter().filter_map(|name| self.0.machine(name))
    }

    fn name_servers<'a>(&'a self, fault: &'a Applied) -> impl Iterator<Item = &'a NameServer> {
        fault.nodes.iter().filter_map(|name| self.0.name_server(name))
    }

    fn states<'a>(&'a self, fault: &'a Applied) -> impl Iterator<Item = &'a Mutex<HostState>> {
        let machines = self.machines(fault).map(|machine| &machine.state);
        machines.chain(self.name_servers(fault).map(|name_server| &name_server.state))
    }

    fn kill(&self, fault: &Applied, death: Death) {
        for name_server in self.name_servers(fault) {
            let mut state = lock(&name_server.state);
            if matches!(state.life, Life::Up | Life::Ended(_)) {
                (state.life, state.revive) = (Life::Dying(death), false);
            }
        }
        for machine in self.machines(fault) {
            let mut state = lock(&machine.state);
            if matches!(state.life, Life::Up | Life::Ended(_)) {
                (state.life, state.revive) = (Life::Dying(death), false);
                machine.disk.fail_after(rand::random_range(0..OPERATIONS_MAX));
            }
        }
    }

    fn apply_fault(&self, fault: &Applied) {
        let affected = self.machines(fault).count() as u64;
        let mut fault_counts = lock(&self.0.fault_counts);
        fault_counts.resolver_faults += self.name_servers(fault).count() as u64;
        match &fault.fault {
            Fault::Kill => {
                fault_counts.kills += affected;
                self.kill(fault, Death::Killed);
            }
            Fault::PowerCut { torn } => {
                fault_counts.power_cuts += affected;
                self.kill(fault, Death::Unpowered(if *torn { Remains::Some } else { Remains::Nothing }));
            }
            Fault::Restart => {
                fault_counts.restarts += affected;
                self.machines(fault).for_each(|machine| machine.stop.notify_one());
                self.name_servers(fault).for_each(|name_server| name_server.stop.notify_one());
            }
            Fault::Isolate | Fault::Partition { .. } => fault_counts.partitions += affected.min(1),
            Fault::Pause => fault_counts.pauses += affected,
            Fault::Delay { .. } | Fault::Loss { .. } | Fault::Bandwidth { .. } | Fault::Duplicate { .. } => {
                fault_counts.network_faults += 1;
            }
            Fault::SlowDisk { .. } | Fault::FailSync | Fault::FullDisk => {
                fault_counts.disk_faults += affected
            }
            Fault::ClockStep { .. } | Fault::ClockSkew { .. } => fault_counts.clock_steps += affected,
            // Refused before: a simulated disk is not copied.
            Fault::CopyDataDir | Fault::RestoreOldCopy => {}
            // Counted above already, in `resolver_faults`.
            Fault::ResolverStale | Fault::ResolverSlow { .. } => {}
        }
        drop(fault_counts);
        lock(&self.0.open).push(fault.clone());
        self.0.apply_open_faults();
    }

    async fn heal_fault(&self, fault: &Applied) -> Result<(), BackendError> {
        lock(&self.0.open).retain(|known| known.id != fault.id);
        self.0.apply_open_faults();
        if matches!(fault.fault, Fault::Kill | Fault::PowerCut { .. }) {
            self.states(fault).for_each(|state| lock(state).revive = true);
        }
        let deadline = Instant::now() + BACK_DEADLINE;
        let is_back = |state: &Mutex<HostState>| {
            let state = lock(state);
            state.started && state.life == Life::Up
        };
        // The node's disk may still have a fault. Whether the node comes back at the end is for the verdict.
        while matches!(fault.fault, Fault::Kill | Fault::Restart | Fault::PowerCut { .. })
            && !self.states(fault).all(is_back)
            && Instant::now() < deadline
        {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }
}

impl Backend for Simulated {
    fn name(&self) -> &'static str {
        "a simulation"
    }

    fn means(&self) -> BoxFuture<'_, Result<BTreeSet<Means>, BackendError>> {
        Box::pin(async {
            Ok(Means::INSIDE.into_iter().chain([Means::Process, Means::Freeze, Means::Resolver]).collect())
        })
    }

    fn targets(&self) -> BoxFuture<'_, Result<Vec<Target>, BackendError>> {
        let target = |machine: &Machine| {
            let name = machine.config.name.clone();
            let member = machine.config.initial.iter().find(|member| member.name == name);
            Target {
                name,
                kind: Kind::Server,
                client: member.map(|m| m.client.clone()).unwrap_or_default(),
                authority: None,
            }
        };
        let named = |name_server: &NameServer| Target {
            name: name_server.name.clone(),
            kind: Kind::Resolver,
            client: NameServer::registry(name_server.ip),
            authority: None,
        };
        let name_servers = self.0.name_servers.iter().map(named);
        let all = self.0.machines.iter().map(target).chain(name_servers).collect();
        Box::pin(async move { Ok(all) })
    }

    fn apply<'a>(&'a self, fault: &'a Applied) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            self.apply_fault(fault);
            Ok(())
        })
    }

    fn heal<'a>(&'a self, fault: &'a Applied) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(self.heal_fault(fault))
    }

    fn zone(&self) -> Option<String> {
        name_server::zone(&self.0.name_servers)
    }

    fn reapply(&self) -> BoxFuture<'_, Result<(), BackendError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn cuts_in_force(&self) -> BoxFuture<'_, Result<bool, BackendError>> {
        Box::pin(std::future::ready(Ok(self.0.cuts.are(&self.0.links().cut))))
    }
}
