//! The end of sessions.
//!
//! [`run`] is the work of the meta shard's leader: it closes sessions that time has ended, tells every data shard of each
//! session that was closed, and forgets the session once all of them know. What is left to do is in the meta shard, so that
//! the next leader goes on where this one stopped; every step may be repeated.
//!
//! [`end_streams`] ends the streams of sessions on this node, as soon as this node's replica of the meta shard knows.

use std::sync::Arc;

use conclave_core::people::{Closing, is_open, is_over};
use conclave_core::record::Invite;
use conclave_core::{Command, SessionId, ShardId, level};
use conclave_proto::command::encode;
use conclave_proto::status::Failure;
use conclave_store::EndedSessions;
use futures::future::try_join_all;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::cluster::peer_statuses::PeerStatuses;
use crate::limits::{
    CLOCKS_DIFFER_MAX_MS, ENDINGS_AT_ONCE, ENDINGS_INTERVAL, SWEEP_AT_ONCE, SWEEP_INTERVAL_TICKS,
};
use crate::local_sessions::LocalSessions;
use crate::router::Router;

/// Where the sweeps through sessions and invites stand.
#[derive(Debug, Default)]
struct Sweeps {
    session: SessionId,
    invite: Option<[u8; 16]>,
    ticks: u32,
    /// The clock of this node was not believed at the last sweep.
    waits: bool,
}

/// Ends sessions until the node stops. Only the meta shard's leader does it.
pub(crate) async fn run(
    router: Router,
    peer_statuses: Arc<PeerStatuses>,
    clock: Clock,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(ENDINGS_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut sweeps = Sweeps::default();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        if !router.shards.meta().leads() || router.shards.topology.feature_level() < level::ACCOUNTS {
            continue;
        }
        let work = async {
            end_closed(&router).await?;
            sweeps.ticks += 1;
            if sweeps.ticks >= SWEEP_INTERVAL_TICKS {
                sweeps.ticks = 0;
                let now_ms = clock.now_ms();
                let others = peer_statuses.statuses();
                let clocks_ms: Vec<_> = others.values().map(|status| status.clock_ms).collect();
                let believed = is_believed(now_ms, &clocks_ms, router.peers.iter().count() + 1);
                if !believed && !sweeps.waits {
                    tracing::warn!(
                        now_ms,
                        ?clocks_ms,
                        "stopped to end sessions by time: the clock differs from most others"
                    );
                }
                sweeps.waits = !believed;
                if believed {
                    sweep(&router, &mut sweeps, now_ms).await?;
                }
            }
            Ok::<_, Failure>(())
        };
        tokio::select! {
            done = work => {
                if let Err(failure) = done {
                    tracing::debug!(%failure, "failed to end sessions on every shard, retrying");
                }
            }
            () = stop.cancelled() => return,
        }
    }
}

/// Whether this node's clock is one of most nodes' clocks: one clock that is far ahead ends no session. The clocks of the
/// others are those of their last reports, and 0 for a node that told none.
fn is_believed(now_ms: i64, others_ms: &[i64], nodes: usize) -> bool {
    let agrees = |other_ms: &&i64| **other_ms != 0 && now_ms.abs_diff(**other_ms) <= CLOCKS_DIFFER_MAX_MS;
    2 * (1 + others_ms.iter().filter(agrees).count()) > nodes
}

/// Tells every data shard of the sessions that were closed, then forgets them.
async fn end_closed(router: &Router) -> Result<(), Failure> {
    let ended = router.reader(ShardId::META)?.endings(ENDINGS_AT_ONCE).await?;
    if ended.is_empty() {
        return Ok(());
    }
    let commands: Vec<_> =
        ended.iter().map(|session| encode(&Command::EndSession { session: *session })).collect();
    let shards = router.shards.iter().map(|shard| shard.id).filter(|shard| !shard.is_meta());
    try_join_all(shards.map(|shard| {
        let commands = commands.clone();
        async move { router.submit(shard, commands).await.await }
    }))
    .await?;
    let count = ended.len();
    router.decide(ShardId::META, &Command::ForgetSessions(ended)).await?;
    tracing::debug!(count, "sessions ended on every shard");
    Ok(())
}

/// Closes sessions that time has ended, and withdraws invites that have expired: some of each at a time.
async fn sweep(router: &Router, sweeps: &mut Sweeps, now_ms: i64) -> Result<(), Failure> {
    let meta = router.reader(ShardId::META)?;
    let page = meta.sessions_page(sweeps.session, SWEEP_AT_ONCE).await?;
    sweeps.session = page.last().map_or(SessionId(0), |last| last.session);
    let mut commands = Vec::new();
    for session in page.into_iter().filter(|session| !session.closed) {
        let mut over = is_over(&session, now_ms);
        if !over && !session.listed {
            let user = meta.user_named(&session.user_name).await?;
            over = user.is_some_and(|user| user.unlisted_ended);
        }
        if over {
            commands.push(encode(&Command::CloseSessions(Closing::One(session.session))));
        }
    }
    let page = meta.invites_page(sweeps.invite, SWEEP_AT_ONCE).await?;
    sweeps.invite = page.last().map(|last| last.digest);
    let expired = |invite: &Invite| invite.expires_ms != 0 && now_ms >= invite.expires_ms;
    let withdrawn = page.into_iter().filter(expired);
    commands.extend(withdrawn.map(|invite| encode(&Command::PutInvite(Invite { uses: 0, ..invite }))));
    if !commands.is_empty() {
        router.submit(ShardId::META, commands).await.await?;
    }
    Ok(())
}

/// Ends the streams of sessions that have ended, until the node stops.
pub(crate) async fn end_streams(
    router: Router,
    sessions: Arc<LocalSessions>,
    clock: Clock,
    mut ended: Receiver<EndedSessions>,
    stop: CancellationToken,
) {
    loop {
        let news = tokio::select! {
            news = ended.recv() => news,
            () = stop.cancelled() => return,
        };
        match news {
            Ok(EndedSessions::One(session)) => sessions.end(session),
            // Whatever was missed: each session of this node is looked at.
            Ok(EndedSessions::Any) | Err(RecvError::Lagged(_)) => {
                for session in sessions.here() {
                    match is_open_now(&router, session, clock.now_ms()).await {
                        Ok(true) => {}
                        Ok(false) => sessions.end(session),
                        Err(failure) => {
                            tracing::debug!(session = session.0, %failure, "failed to look whether a session has ended")
                        }
                    }
                }
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// Whether this node's replica of the meta shard has the session as an open one. Sessions for reading only are not there.
pub(crate) async fn is_open_now(router: &Router, session: SessionId, now_ms: i64) -> Result<bool, Failure> {
    if crate::local_sessions::is_reading(session) {
        return Ok(true);
    }
    let meta = router.reader(ShardId::META)?;
    let Some(record) = meta.session(session).await? else { return Ok(false) };
    let user = meta.user_named(&record.user_name).await?;
    Ok(user.is_some_and(|user| is_open(&record, &user, now_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_alone_is_not_believed() {
        const YEAR_MS: i64 = 365 * 86_400_000;
        assert!(is_believed(YEAR_MS, &[], 1), "there is no other clock");
        assert!(is_believed(YEAR_MS, &[YEAR_MS - 1, 1], 3));
        assert!(!is_believed(2 * YEAR_MS, &[YEAR_MS, YEAR_MS], 3));
        assert!(!is_believed(YEAR_MS, &[0, 0], 3), "nobody has told");
        assert!(!is_believed(YEAR_MS, &[YEAR_MS, 0, 0], 4), "two of four are not most");
        assert!(!is_believed(i64::MAX, &[i64::MIN, 1], 3));
    }
}
