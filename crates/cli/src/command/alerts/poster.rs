//! The poster: queues the lines of webhooks, one webhook at a time.
//!
//! It alone reads and changes the states of alerts, so two webhooks with the same change cannot both be news.

use std::collections::BTreeMap;

use conclave_client::{Ack, CallError, Client, Content, HistoryQuery, Position, SendError};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{mpsc, oneshot, watch};

use super::notification::{Known, News, Notification, is_resolved, number};
use crate::errors::{of_call, of_send};
use crate::exit::Failed;
use crate::limits::{ALERTS_KNOWN_MAX, ALERTS_REQUESTS_MAX, ALERTS_ROOM_AGAIN_AFTER};

/// What became of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Posted {
    /// Its line is on disk.
    Queued,
    /// It changed nothing.
    Known,
}

/// A webhook, and where its answer goes.
struct Asked {
    notification: Notification,
    answer: oneshot::Sender<Result<Posted, SendError>>,
}

/// Hands webhooks to the poster.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    asks: mpsc::Sender<Asked>,
    ready: watch::Receiver<bool>,
}

impl Desk {
    /// Posts a notification; `None` if the poster has ended.
    pub(super) async fn post(&self, notification: Notification) -> Option<Result<Posted, SendError>> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(Asked { notification, answer }).await.ok()?;
        answered.await.ok()
    }

    /// Whether the poster runs and the room is known to exist.
    pub(super) fn is_ready(&self) -> bool {
        !self.asks.is_closed() && *self.ready.borrow()
    }
}

/// The outcome of a line.
type Outcome = Result<Ack, SendError>;

/// Queues the lines of webhooks, and keeps the states of the alerts.
pub(super) struct Poster {
    client: Client,
    room: String,
    create: bool,
    asks: mpsc::Receiver<Asked>,
    ready: watch::Sender<bool>,
    /// Lines without an ack; the outbox bounds how many.
    lines: FuturesUnordered<BoxFuture<'static, Outcome>>,
}

impl Poster {
    /// A poster to this room, and its desk.
    pub(super) fn new(client: &Client, room: &str, create: bool) -> (Self, Desk) {
        let (sender, asks) = mpsc::channel(ALERTS_REQUESTS_MAX);
        let (ready, is_ready) = watch::channel(false);
        let desk = Desk { asks: sender, ready: is_ready };
        let lines = FuturesUnordered::new();
        (Self { client: client.clone(), room: room.to_owned(), create, asks, ready, lines }, desk)
    }

    /// Posts until it is dropped, or cannot go on.
    pub(super) async fn run(mut self) -> Failed {
        if let Err(failed) = self.find_room().await {
            return failed;
        }
        self.ready.send_replace(true);
        loop {
            tokio::select! {
                Some(outcome) = self.lines.next(), if !self.lines.is_empty() => self.settled(&outcome),
                asked = self.asks.recv() => {
                    // The desk is part of the routes, which end after the poster.
                    let Some(Asked { notification, answer }) = asked else { return std::future::pending().await };
                    // A webhook whose sender is gone is posted all the same.
                    let _ = answer.send(self.post(&notification).await);
                }
            }
        }
    }

    /// Waits until the room is known to exist: a line for another room would be refused for ever. That it exists is kept, so
    /// that a later start needs no server.
    async fn find_room(&self) -> Result<(), Failed> {
        let mark = Position { room_id: number(&[&self.room], &BTreeMap::new()), seq: 1 };
        if self.client.positions().contains_key(&mark.room_id) {
            return Ok(());
        }
        loop {
            let found = if self.create {
                self.client.create_room(&self.room).await.map(drop)
            } else {
                self.client.history(HistoryQuery::newest(self.room.as_str(), 1)).await.map(drop)
            };
            match found {
                Ok(()) => break,
                Err(error @ (CallError::NoServer { .. } | CallError::Unavailable { .. })) => {
                    tracing::warn!(%error, room = self.room, "room not found yet, trying again");
                    tokio::time::sleep(ALERTS_ROOM_AGAIN_AFTER).await;
                }
                Err(error) => return Err(of_call(Some(&self.room), &error)),
            }
        }
        self.client.reply(mark, Vec::new()).await.map_err(|error| of_send(&self.room, &error))?;
        Ok(())
    }

    /// Queues the line of a webhook and the new states of its alerts, as one record.
    async fn post(&mut self, notification: &Notification) -> Result<Posted, SendError> {
        let Some(News { states, text }) = notification.news(&self.room, &self.client.positions()) else {
            return Ok(Posted::Known);
        };
        let states = states.into_iter().map(|(room_id, seq)| Position { room_id, seq }).collect();
        let line = vec![(self.room.clone(), Content::Text(text))];
        let tickets = self.client.reply_to_all(states, line).await;
        let tickets = tickets.inspect_err(|error| tracing::warn!(%error, "alerts not queued"))?;
        self.lines.extend(tickets.into_iter().map(|ticket| -> BoxFuture<_> { Box::pin(ticket.wait()) }));
        self.forget();
        Ok(Posted::Queued)
    }

    fn settled(&self, outcome: &Outcome) {
        match outcome {
            Ok(ack) => tracing::info!(room = self.room, seq = ack.seq, "alerts posted"),
            Err(error) => tracing::error!(%error, room = self.room, "alerts refused by the cluster"),
        }
    }

    /// Forgets the alerts that began first if there are too many.
    fn forget(&self) {
        let known = self.client.positions();
        if known.len() > ALERTS_KNOWN_MAX {
            let kept = kept(known, &[number(&[&self.room], &BTreeMap::new())]);
            self.client.retain_positions(|at| kept.contains_key(&at.room_id));
        }
    }
}

/// The states to keep of too many: these, then those of firing alerts, and of each kind those that began last. A quarter less
/// than may be kept, so that this is done rarely.
fn kept(known: Known, always: &[u64]) -> Known {
    let mut by_worth: Vec<(u64, u64)> = known.into_iter().collect();
    by_worth.sort_unstable_by_key(|&(number, state)| {
        std::cmp::Reverse((always.contains(&number), !is_resolved(state), state))
    });
    by_worth.truncate(ALERTS_KNOWN_MAX / 4 * 3);
    by_worth.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_alerts_the_oldest_are_forgotten_and_resolved_ones_first() {
        let keeps = (ALERTS_KNOWN_MAX / 4 * 3) as u64;
        let known: Known = (0..=ALERTS_KNOWN_MAX as u64).map(|n| (n, n << 16 | (n & 1))).collect();
        let all = known.len() as u64;
        let kept = kept(known, &[1]);
        assert_eq!(kept.len() as u64, keeps);
        assert!((0..all).step_by(2).all(|firing| kept.contains_key(&firing)), "all that fire fit");
        assert!(kept.contains_key(&1) && !kept.contains_key(&3) && kept.contains_key(&(all - 2)));
    }
}
