//! Applies and heals the planned faults of a run, and records which servers are cut off.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use conclave_check::History;
use tokio::time::Instant;

use crate::backend::{Kind, Target};
use crate::engine::{Engine, REAPPLY_INTERVAL, RunError, names};
use crate::events::Event;
use crate::fault::Nodes;
use crate::journal::Applied;
use crate::schedule::{Known, Planned, choose};
use crate::server_states::Observed;
use crate::sides::{all_cuts, cut_off};
use crate::verdict::Band;
use crate::workload::ClientView;

/// How long a fault waits for enough healthy targets, when servers are silent although no fault takes them away.
const WAIT: Duration = Duration::from_secs(5);
/// Interval between two tries while a fault waits.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The part of a run in which faults are applied and healed.
pub(super) struct Faults<'a> {
    pub(super) engine: &'a mut Engine,
    pub(super) seen: &'a Arc<ClientView>,
    pub(super) observed: &'a Observed,
    pub(super) targets: &'a [Target],
    /// The run's history, which also says which servers are cut off.
    pub(super) history: History,
    /// Replicas of each shard; 0 if unknown.
    pub(super) replicas: usize,
    /// The servers that the history shows as cut off with a minority at this moment.
    pub(super) cut_off: BTreeSet<String>,
    /// The active faults: when each is healed, and the index of its band.
    pub(super) healing: Vec<(Instant, Applied, usize)>,
    pub(super) bands: Vec<Band>,
    /// [`Observed::counts`] from just before the first fault; `None` until then.
    pub(super) before: Option<(u64, u64)>,
}

impl Faults<'_> {
    /// Applies and heals the planned faults, each at its time, and returns at the end of the workload.
    pub(super) async fn run(&mut self, planned: &[Planned], lasts: Duration) -> Result<(), RunError> {
        let began = Instant::now();
        let end = began + lasts;
        let mut next = planned.iter().peekable();
        let mut look_at = None;
        let mut again = tokio::time::interval(REAPPLY_INTERVAL);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let heal_at = self.healing.iter().map(|(at, ..)| *at).min();
            let apply_at = next.peek().map(|planned| look_at.unwrap_or(began + planned.at));
            let wake = [heal_at, apply_at, Some(end)].into_iter().flatten().min().unwrap_or(end);
            tokio::select! {
                // Due faults go before the repetition of active ones.
                biased;
                () = self.engine.stop.cancelled() => return Err(RunError::Stopped),
                () = tokio::time::sleep_until(wake) => {}
                _ = again.tick(), if !self.healing.is_empty() => {
                    self.engine.reapply().await?;
                    self.claim_cuts().await?;
                    continue;
                }
            }
            let now = Instant::now();
            if heal_at.is_some_and(|at| at <= now) {
                self.heal_due(now).await?;
            } else if apply_at.is_some_and(|at| at <= now) {
                let Some(planned) = next.peek() else { continue };
                look_at = if self.apply(planned, now < began + planned.at + WAIT).await? {
                    next.next();
                    None
                } else {
                    Some(now + POLL_INTERVAL)
                };
            } else if now >= end {
                next.for_each(|planned| self.report_skipped(planned));
                return Ok(());
            }
        }
    }

    fn report_skipped(&self, planned: &Planned) {
        let Planned { fault, nodes, .. } = planned.clone();
        self.engine.observer.event(&Event::LeftOut { fault, nodes });
    }

    /// Applies a planned fault, or skips it for lack of targets, and returns true. Returns false if the fault `may_wait` and has
    /// too few targets now: then it has to be tried again.
    async fn apply(&mut self, planned: &Planned, may_wait: bool) -> Result<bool, RunError> {
        let servers = names(self.targets, Kind::Server);
        // A server with a slow disk or a wrong clock still counts as present, and can be hit by a second fault.
        let away = self.healing.iter().filter(|(_, applied, _)| applied.fault.takes_away());
        let hurt: Vec<String> = away.flat_map(|(_, applied, _)| applied.nodes.iter().cloned()).collect();
        let known = self.observed.known(&servers, names(self.targets, Kind::Resolver), &hurt);
        let chosen = choose(&planned.nodes, planned.draw, &known);
        if may_wait && is_worth_waiting(&planned.nodes, &chosen, &known, &hurt) {
            return Ok(false);
        }
        if chosen.is_empty() {
            self.report_skipped(planned);
            return Ok(true);
        }
        let leads = known.servers.iter().any(|server| server.leads > 0 && chosen.contains(&server.name));
        if planned.fault.stops_process() {
            // A restarted server reaches every other one until its cuts are applied again.
            self.retract_cuts(&BTreeSet::new());
        }
        if self.before.is_none() {
            self.before = Some(self.observed.counts());
            self.seen.reset_longest_gap();
        }
        let from_us = self.seen.now_us();
        let applied = self.engine.apply(planned.fault.clone(), chosen.clone()).await?;
        self.bands.push(Band { fault: planned.fault.clone(), nodes: chosen, leads, from_us, to_us: None });
        self.healing.push((Instant::now() + planned.lasts, applied, self.bands.len() - 1));
        self.claim_cuts().await?;
        Ok(true)
    }

    /// The servers that the active faults certainly cut off with a minority. None while a process-stopping fault is active: a
    /// server that restarts has no cuts until they are applied again.
    fn surely_cut_off(&self) -> BTreeSet<String> {
        let open = || self.healing.iter().map(|(_, applied, _)| applied);
        if open().any(|applied| applied.fault.stops_process()) {
            return BTreeSet::new();
        }
        cut_off(&all_cuts(open()), &names(self.targets, Kind::Server), self.replicas)
    }

    /// Records in the history which servers are cut off, once every server has confirmed the cuts.
    async fn claim_cuts(&mut self) -> Result<(), RunError> {
        let off = self.surely_cut_off();
        if off.is_subset(&self.cut_off) {
            return Ok(());
        }
        let in_force = tokio::time::timeout(REAPPLY_INTERVAL, self.engine.backend.cuts_in_force());
        if in_force.await.unwrap_or(Ok(false))? {
            for node in off.difference(&self.cut_off) {
                self.history.cut(node);
            }
            self.cut_off.extend(off);
        }
        Ok(())
    }

    /// Records that servers outside of `still` are no longer cut off, before they are reconnected.
    fn retract_cuts(&mut self, still: &BTreeSet<String>) {
        for node in self.cut_off.difference(still) {
            self.history.healed(node);
        }
        self.cut_off.retain(|node| still.contains(node));
    }

    async fn heal_due(&mut self, now: Instant) -> Result<(), RunError> {
        let (due, rest): (Vec<_>, Vec<_>) = self.healing.drain(..).partition(|(at, ..)| *at <= now);
        self.healing = rest;
        self.retract_cuts(&self.surely_cut_off());
        for (_, applied, band) in due {
            self.engine.heal(&applied).await?;
            self.bands[band].to_us = Some(self.seen.now_us());
        }
        Ok(())
    }

    pub(super) async fn heal_the_rest(&mut self) -> Result<(), RunError> {
        for (at, ..) in &mut self.healing {
            *at = Instant::now();
        }
        self.heal_due(Instant::now()).await
    }
}

/// Whether a fault would find more targets a little later: no active fault takes servers away, and it has no target now, or not
/// all servers where all are meant. A busy machine or an election is enough for that.
fn is_worth_waiting(nodes: &Nodes, chosen: &[String], known: &Known, hurt: &[String]) -> bool {
    hurt.is_empty() && (chosen.is_empty() || (*nodes == Nodes::All && chosen.len() < known.servers.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Server;

    #[test]
    fn a_fault_waits_for_servers_that_are_silent_without_a_fault() {
        let server = |name: &str, well| Server { name: name.to_owned(), well, ..Server::default() };
        let known = |well: [bool; 2]| Known {
            servers: vec![server("a", well[0]), server("b", well[1])],
            resolvers: Vec::new(),
        };
        let waits = |nodes: &Nodes, known: &Known, hurt: &[String]| {
            is_worth_waiting(nodes, &choose(nodes, 1, known), known, hurt)
        };
        let (all, one, none) = (known([true, true]), known([true, false]), known([false, false]));
        assert!(waits(&Nodes::One, &none, &[]) && waits(&Nodes::All, &none, &[]));
        assert!(waits(&Nodes::All, &one, &[]) && !waits(&Nodes::One, &one, &[]));
        assert!(!waits(&Nodes::All, &all, &[]));
        // A server taken away by another fault comes back when that is healed, which may be after the end of the run.
        assert!(!waits(&Nodes::All, &one, &["b".to_owned()]));
        assert!(!waits(&Nodes::Minority, &none, &["a".to_owned(), "b".to_owned()]));
    }
}
