//! The middle of a run: what is planned is done to the cluster, and undone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use conclave_check::History;
use tokio::time::Instant;

use crate::backend::{Kind, Target};
use crate::engine::{AGAIN, Engine, RunError, names};
use crate::events::Event;
use crate::journal::Applied;
use crate::observer::Observed;
use crate::schedule::{Planned, choose};
use crate::sides::{all_cuts, cut_off};
use crate::verdict::Band;
use crate::workload::Seen;

/// The middle of a run.
pub(super) struct Faults<'a> {
    pub(super) engine: &'a mut Engine,
    pub(super) seen: &'a Arc<Seen>,
    pub(super) observed: &'a Observed,
    pub(super) targets: &'a [Target],
    /// Where it is written down who is cut off.
    pub(super) history: History,
    /// How many replicas a shard has.
    pub(super) replicas: usize,
    /// Of whom the history says at the moment that they are cut off with a minority.
    pub(super) cut_off: BTreeSet<String>,
    /// What is in force, until when, and where its band is.
    pub(super) healing: Vec<(Instant, Applied, usize)>,
    pub(super) bands: Vec<Band>,
    /// What [`Observed::counts`] said when the first one began.
    pub(super) before: Option<(u64, u64)>,
}

impl Faults<'_> {
    /// Does what is planned, each thing at its time.
    pub(super) async fn all(&mut self, planned: &[Planned], lasts: Duration) -> Result<(), RunError> {
        let began = Instant::now();
        let end = began + lasts;
        let mut next = planned.iter().peekable();
        let mut again = tokio::time::interval(AGAIN);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let heal_at = self.healing.iter().map(|(at, ..)| *at).min();
            let apply_at = next.peek().map(|planned| began + planned.at);
            let wake = [heal_at, apply_at, Some(end)].into_iter().flatten().min().unwrap_or(end);
            tokio::select! {
                // What is due comes before what is only repeated.
                biased;
                () = self.engine.stop.cancelled() => return Err(RunError::Stopped),
                () = tokio::time::sleep_until(wake) => {}
                _ = again.tick(), if !self.healing.is_empty() => {
                    self.engine.again().await?;
                    self.claim_cuts().await?;
                    continue;
                }
            }
            let now = Instant::now();
            if heal_at.is_some_and(|at| at <= now) {
                self.heal_due(now).await?;
            } else if apply_at.is_some_and(|at| at <= now) {
                if let Some(planned) = next.next() {
                    self.apply(planned).await?;
                }
            } else if now >= end {
                return Ok(());
            }
        }
    }

    async fn apply(&mut self, planned: &Planned) -> Result<(), RunError> {
        let servers = names(self.targets, Kind::Server);
        // Somebody whose disk or clock is bad is still there, and may lose its power besides.
        let away = self.healing.iter().filter(|(_, applied, _)| applied.fault.takes_away());
        let hurt: Vec<String> = away.flat_map(|(_, applied, _)| applied.nodes.iter().cloned()).collect();
        let known = self.observed.known(&servers, names(self.targets, Kind::Resolver), &hurt);
        let chosen = choose(&planned.nodes, planned.draw, &known);
        if chosen.is_empty() {
            let Planned { fault, nodes, .. } = planned.clone();
            self.engine.observer.event(&Event::LeftOut { fault, nodes });
            return Ok(());
        }
        let leads = known.servers.iter().any(|server| server.leads > 0 && chosen.contains(&server.name));
        if planned.fault.stops_process() {
            // A server that starts again speaks with everybody until it is told anew whom it does not reach.
            self.retract_cuts(&BTreeSet::new());
        }
        self.before.get_or_insert_with(|| self.observed.counts());
        let from_us = self.seen.now_us();
        let applied = self.engine.apply(planned.fault.clone(), chosen.clone()).await?;
        self.bands.push(Band { fault: planned.fault.clone(), nodes: chosen, leads, from_us, to_us: None });
        self.healing.push((Instant::now() + planned.lasts, applied, self.bands.len() - 1));
        self.claim_cuts().await
    }

    /// Who is cut off with a minority for sure, by what is being done: nobody while processes stop and start, in whose absence the
    /// rest may be in force or not.
    fn surely_cut_off(&self) -> BTreeSet<String> {
        let open = || self.healing.iter().map(|(_, applied, _)| applied);
        if open().any(|applied| applied.fault.stops_process()) {
            return BTreeSet::new();
        }
        cut_off(&all_cuts(open()), &names(self.targets, Kind::Server), self.replicas)
    }

    /// Writes down who is cut off, once every server has confirmed that it is so.
    async fn claim_cuts(&mut self) -> Result<(), RunError> {
        let off = self.surely_cut_off();
        if off.is_subset(&self.cut_off) {
            return Ok(());
        }
        let in_force = tokio::time::timeout(AGAIN, self.engine.backend.cuts_in_force());
        if in_force.await.unwrap_or(Ok(false))? {
            for node in off.difference(&self.cut_off) {
                self.history.cut(node);
            }
            self.cut_off.extend(off);
        }
        Ok(())
    }

    /// Writes down who is not, before it becomes true.
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
