//! Routes commands to their shard's leader, on this node or another.

use std::sync::Arc;
use std::time::Duration;

use conclave_core::planted::{Bug, planted};
use conclave_core::record::DirectoryEntry;
use conclave_core::{Command, NodeId, Refusal, Reply, RoomId, UserId, level};
use conclave_proto::chat::RoomRef;
use conclave_proto::command::{Encoded, encode};
use conclave_proto::raft::ReadIndexRequest;
use conclave_proto::status::{Failure, NOT_YET, NOT_YET_RETRY};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::limits::REQUEST_DEADLINE;
use crate::peer::Peers;
use crate::peer::link::Forwarded;
use crate::shard::{Answer, ProposeError, Replica, Shards};

/// How long to wait for a change of leader before retrying with the same one.
const RETRY: Duration = Duration::from_millis(20);
/// Deadline for a read's replica to catch up.
const READ_DEADLINE: Duration = Duration::from_secs(3);

/// Routes commands from any node to the leader of any shard.
#[derive(Clone, Debug)]
pub(crate) struct Router {
    pub(crate) shards: Arc<Shards>,
    pub(crate) peers: Arc<Peers>,
}

impl Router {
    /// Gets commands of one shard decided, in their order, retrying over changes of leader until the deadline. A retry
    /// after an unknown outcome is safe because every command is idempotent, by its request number or by its nature.
    ///
    /// With a steady leader, the commands of successive calls reach the leader in the order of the calls.
    pub(crate) async fn submit(
        &self,
        replica: &Arc<Replica>,
        commands: Vec<Encoded>,
    ) -> impl Future<Output = Result<Vec<Reply>, Failure>> + Send + use<> {
        let known = replica.leader();
        let first = self.attempt(replica, commands.clone(), known.leader).await;
        let router = self.clone();
        let replica = Arc::clone(replica);
        async move {
            let error = match first.await {
                Ok(replies) => return Ok(replies),
                Err(error) => error,
            };
            router.insist(&replica, &commands, error).await
        }
    }

    /// [`Router::submit`] for one command; waits for the reply.
    pub(crate) async fn decide(&self, replica: &Arc<Replica>, command: &Command) -> Result<Reply, Failure> {
        let replies = self.submit(replica, vec![encode(command)]).await.await?;
        let reply = replies.into_iter().next();
        reply.ok_or_else(|| Failure::unknown("undecided", "the shard answered with nothing"))
    }

    async fn insist(
        &self,
        replica: &Arc<Replica>,
        commands: &[Encoded],
        first: ProposeError,
    ) -> Result<Vec<Reply>, Failure> {
        let deadline = Instant::now() + REQUEST_DEADLINE;
        let mut error = first;
        let mut undecided = false;
        loop {
            undecided |= matches!(error, ProposeError::Unknown(_));
            if let ProposeError::NotUnderstood(why) = &error {
                // An earlier copy may still be applied: only a repeat finds out.
                return Err(if undecided {
                    Failure::unknown("undecided", why.clone())
                } else {
                    Failure::not_sent(NOT_YET, why.clone(), NOT_YET_RETRY)
                });
            }
            let now = Instant::now();
            if now >= deadline {
                let hint = self.shards.hint(replica);
                let failure = if undecided {
                    Failure::unknown(
                        "undecided",
                        format!("no answer from shard {} in time; {error}", replica.shard),
                    )
                } else {
                    Failure::not_sent(
                        "no_leader",
                        format!("shard {} has no leader now", replica.shard),
                        RETRY,
                    )
                };
                return Err(failure.with_leader(hint));
            }
            // A leader named by the refusal itself is tried at once.
            let hint = match error {
                ProposeError::NotSent { leader } => leader.filter(|leader| *leader != self.shards.me),
                ProposeError::NotUnderstood(_) | ProposeError::Unknown(_) => None,
            };
            let known = replica.leader();
            if hint.is_none() {
                replica.leader_change(known, RETRY.min(deadline - now)).await;
            }
            let leader = hint.or(replica.leader().leader);
            let attempt = self.attempt(replica, commands.to_vec(), leader).await;
            error = match tokio::time::timeout_at(deadline, attempt).await {
                Ok(Ok(replies)) => return Ok(replies),
                Ok(Err(error)) => error,
                Err(_) => ProposeError::Unknown("the leader did not answer".to_owned()),
            };
            // The hint was wrong: from here on this replica's own view of the leader counts.
            if hint.is_some() && matches!(error, ProposeError::NotSent { .. }) {
                error = ProposeError::NotSent { leader: None };
            }
        }
    }

    /// Hands the commands to the leader's proposer, on this node or over the link to the leader's node.
    async fn attempt(
        &self,
        replica: &Arc<Replica>,
        commands: Vec<Encoded>,
        leader: Option<NodeId>,
    ) -> impl Future<Output = Answer> + Send + use<> {
        let not_sent = ProposeError::NotSent { leader: None };
        let mut local = None;
        let mut remote = None;
        match leader {
            Some(leader) if leader == self.shards.me => local = Some(replica.propose(commands).await),
            Some(leader) => {
                if let Some(peer) = self.peers.get(leader).filter(|peer| peer.is_alive()) {
                    let (answer, outcome) = oneshot::channel();
                    let forwarded = Forwarded { shard: replica.shard, commands, answer };
                    remote = peer.forward.send(forwarded).await.ok().map(|()| outcome);
                }
            }
            None => {}
        }
        async move {
            match (local, remote) {
                (Some(local), _) => local.await,
                (None, Some(outcome)) => outcome
                    .await
                    .unwrap_or_else(|_| Err(ProposeError::Unknown("the link stopped".to_owned()))),
                (None, None) => Err(not_sent),
            }
        }
    }

    /// Returns once this node's replica has applied everything that was acknowledged before the call.
    pub(crate) async fn barrier(&self, replica: &Arc<Replica>) -> Result<(), Failure> {
        let deadline = Instant::now() + READ_DEADLINE;
        loop {
            let known = replica.leader();
            let index = match known.leader {
                Some(leader) if leader == self.shards.me => replica.read_index_as_leader().await.ok(),
                Some(leader) => self.read_index_of(leader, replica, deadline).await,
                None => None,
            };
            if let Some(index) = index {
                let left = deadline.saturating_duration_since(Instant::now());
                if replica.applied(index, left).await.is_ok() {
                    return Ok(());
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let why = format!("shard {} has no quorum to read from; read locally or wait", replica.shard);
                return Err(Failure::not_sent("no_quorum", why, Duration::from_millis(500)));
            }
            replica.leader_change(known, RETRY.min(left)).await;
        }
    }

    async fn read_index_of(&self, leader: NodeId, replica: &Replica, deadline: Instant) -> Option<u64> {
        let mut client = self.peers.get(leader).filter(|peer| peer.is_alive())?.client();
        let call = client.read_index(ReadIndexRequest { shard: replica.shard.0 });
        let answer = tokio::time::timeout_at(deadline, call).await.ok()?;
        Some(answer.ok()?.into_inner().index)
    }

    /// Refuses requests that the cluster's feature level does not allow yet. The check uses the level that this node
    /// has applied: levels only rise, so a lagging node may refuse too much, never too little.
    ///
    /// # Errors
    /// `not_yet`: nothing was sent.
    pub(crate) fn check_level(&self, needs: u32) -> Result<(), Failure> {
        let level = self.shards.meta().state.meta().feature_level.max(level::FIRST);
        if needs <= level || planted(Bug::SkipLevelGate) {
            return Ok(());
        }
        let why = format!(
            "the cluster does not take this kind of request yet: it needs feature level {needs}, and the cluster has {level} \
             until all of its servers are upgraded and none is held back (--feature-level)"
        );
        Err(Failure::not_sent(NOT_YET, why, NOT_YET_RETRY))
    }

    /// The room that a client refers to. A room unknown to this node may be newer than the applied state, so the
    /// answer "unknown" is given only after a linearizable read.
    pub(crate) async fn room(&self, reference: Option<&RoomRef>) -> Result<RoomId, Failure> {
        let reference =
            reference.ok_or_else(|| Failure::invalid("room_missing", "the call names no room"))?;
        if let Some(room) = self.known_room(reference)? {
            return Ok(room);
        }
        self.barrier(self.shards.meta()).await?;
        self.known_room(reference)?.ok_or(Failure::Refused(Refusal::RoomUnknown))
    }

    /// The room, if this node knows it.
    pub(crate) fn known_room(&self, reference: &RoomRef) -> Result<Option<RoomId>, Failure> {
        if reference.id != 0 {
            // Ids are allotted densely from 1, so every id up to the room directory's head exists.
            let head = self.shards.meta().state.meta();
            return Ok((reference.id <= head.last_room.0).then_some(RoomId(reference.id)));
        }
        let name = reference.name.strip_prefix('#').unwrap_or(&reference.name);
        let entry = self.shards.meta().state.room_named(name).map_err(storage)?;
        Ok(entry.map(|entry| entry.room))
    }

    /// Creates the room in its own shard, as the room directory describes it. Called when the shard lacks the room.
    pub(crate) async fn open_room(&self, room: RoomId) -> Result<(), Failure> {
        let meta = Arc::clone(self.shards.meta());
        let entry = match directory_entry(&meta, room)? {
            Some(entry) => entry,
            None => {
                self.barrier(&meta).await?;
                directory_entry(&meta, room)?.ok_or(Failure::Refused(Refusal::RoomUnknown))?
            }
        };
        let DirectoryEntry { name, creator, creator_name, .. } = entry;
        let command = Command::OpenRoom { room, name, creator, creator_name };
        match self.decide(self.shards.of_room(room), &command).await? {
            Reply::Refused(refusal) => Err(Failure::Refused(refusal)),
            _ => Ok(()),
        }
    }

    /// Adds a room to the room directory and creates it in its shard.
    pub(crate) async fn create_room(&self, name: &str, creator: UserId) -> Result<(RoomId, bool), Failure> {
        let command = Command::CreateRoom { name: name.to_owned(), creator };
        let meta = Arc::clone(self.shards.meta());
        match self.decide(&meta, &command).await? {
            Reply::RoomCreated { room, created } => {
                self.open_room(room).await?;
                Ok((room, created))
            }
            Reply::Refused(refusal) => Err(Failure::Refused(refusal)),
            other => Err(Failure::unknown("undecided", format!("an answer that does not fit: {other:?}"))),
        }
    }
}

fn directory_entry(meta: &Replica, room: RoomId) -> Result<Option<DirectoryEntry>, Failure> {
    meta.state.directory_entry(room).map_err(storage)
}

/// The failure of a read because of a disk error. The store stops the node on its own; the client uses another node.
pub(crate) fn storage(error: impl std::fmt::Display) -> Failure {
    Failure::not_sent("storage", format!("this node cannot read its data: {error}"), Duration::from_secs(1))
}
