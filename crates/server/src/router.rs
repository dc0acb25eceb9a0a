//! Routes commands to their shard's leader, on this node or another.

use std::sync::Arc;
use std::time::Duration;

use conclave_core::access::RoomKind;
use conclave_core::level::RIGHTS;
use conclave_core::meta::is_of_direct;
use conclave_core::name::{check_room_name, check_user_name, is_direct_name};
use conclave_core::planted::{Bug, planted};
use conclave_core::record::{DirectoryEntry, Person};
use conclave_core::{Command, NodeId, Refusal, Reply, RoomId, ShardId, UserId};
use conclave_proto::chat::RoomRef;
use conclave_proto::command::{Encoded, encode};
use conclave_proto::raft::ReadIndexRequest;
use conclave_proto::status::{DISK_FULL, DISK_FULL_RETRY, Failure, NOT_YET, NOT_YET_RETRY};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::coalesced::Coalesced;
use crate::limits::REQUEST_DEADLINE;
use crate::peer::Peers;
use crate::peer::link::ForwardedProposal;
use crate::shard::{ProposeError, ProposeResult, Replica, Shard, ShardReader, Shards};

/// How long to wait for a change of leader before retrying with the same one.
const RETRY: Duration = Duration::from_millis(20);
/// How long a request waits for a leader whose disk has room: longer than such a leader needs to hand over.
const DISK_FULL_PATIENCE: Duration = Duration::from_secs(1);
/// How long it waits for a change of leader meanwhile before it asks again.
const DISK_FULL_RECHECK: Duration = Duration::from_millis(200);
/// Deadline for a read's replica to catch up.
const READ_DEADLINE: Duration = Duration::from_secs(3);

/// Routes commands from any node to the leader of any shard.
#[derive(Clone, Debug)]
pub(crate) struct Router {
    pub(crate) shards: Arc<Shards>,
    pub(crate) peers: Arc<Peers>,
    /// For each shard, the linearizable reads of calls at the same time.
    barriers: Arc<[Coalesced<Result<(), Failure>>]>,
}

impl Router {
    pub(crate) fn new(shards: Arc<Shards>, peers: Arc<Peers>) -> Self {
        let barriers = (0..=shards.topology.data_shards()).map(|_| Coalesced::default()).collect();
        Self { shards, peers, barriers }
    }

    /// Gets commands of one shard decided, in their order, retrying over changes of leader until the deadline. A retry
    /// after an unknown outcome is safe because every command is idempotent, by its request number or by its nature.
    ///
    /// With a steady leader, the commands of successive calls reach the leader in the order of the calls.
    pub(crate) async fn submit(
        &self,
        shard: ShardId,
        commands: Vec<Encoded>,
    ) -> impl Future<Output = Result<Vec<Reply>, Failure>> + Send + use<> {
        let router = self.clone();
        let first = match self.shards.get(shard) {
            Some(shard) => {
                let leader = self.target(shard, shard.leader().leader);
                Ok((Arc::clone(shard), self.attempt(shard, commands.clone(), leader).await))
            }
            None => Err(no_such_shard(shard)),
        };
        async move {
            let (shard, first) = first?;
            match first.await {
                Ok(replies) => Ok(replies),
                Err(error) => router.retry_until_deadline(&shard, &commands, error).await,
            }
        }
    }

    /// [`Router::submit`] for one command; waits for the reply.
    pub(crate) async fn decide(&self, shard: ShardId, command: &Command) -> Result<Reply, Failure> {
        let replies = self.submit(shard, vec![encode(command)]).await.await?;
        let reply = replies.into_iter().next();
        reply.ok_or_else(|| Failure::unknown("undecided", "the shard sent an empty answer"))
    }

    async fn retry_until_deadline(
        &self,
        shard: &Shard,
        commands: &[Encoded],
        first: ProposeError,
    ) -> Result<Vec<Reply>, Failure> {
        let began = Instant::now();
        let deadline = began + REQUEST_DEADLINE;
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
            if error == ProposeError::DiskFull && began.elapsed() >= DISK_FULL_PATIENCE {
                let why = format!("{error}: free some space there");
                return Err(if undecided {
                    Failure::unknown("undecided", why)
                } else {
                    Failure::not_sent(DISK_FULL, why, DISK_FULL_RETRY)
                });
            }
            if let ProposeError::Invalid(why) = &error {
                return Err(if undecided {
                    Failure::unknown("undecided", why.clone())
                } else {
                    Failure::invalid("proposal_invalid", why.clone())
                });
            }
            let now = Instant::now();
            if now >= deadline {
                let failure = if undecided {
                    let why = format!("no answer from shard {} in time; {error}", shard.id);
                    Failure::unknown("undecided", why)
                } else {
                    Failure::not_sent("no_leader", format!("shard {} has no leader now", shard.id), RETRY)
                };
                return Err(failure.with_leader(shard.hint()));
            }
            // A leader named by the refusal itself is tried at once.
            let hint = match error {
                ProposeError::NotSent { leader } => leader.filter(|leader| *leader != self.shards.me()),
                ProposeError::NotUnderstood(_)
                | ProposeError::Invalid(_)
                | ProposeError::DiskFull
                | ProposeError::Unknown(_) => None,
            };
            let pause = if error == ProposeError::DiskFull { DISK_FULL_RECHECK } else { RETRY };
            let known = shard.leader();
            if hint.is_none() {
                shard.leader_change(known, pause.min(deadline - now)).await;
            }
            let leader = self.target(shard, hint.or(shard.leader().leader));
            let attempt = self.attempt(shard, commands.to_vec(), leader).await;
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

    /// The node to send commands to: the leader. A node without a replica does not know the leader: then the first
    /// replica that is alive, which names the leader when it refuses.
    fn target(&self, shard: &Shard, leader: Option<NodeId>) -> Option<NodeId> {
        if leader.is_some() || shard.replica().is_some() {
            return leader;
        }
        shard.replicas().into_iter().find(|node| self.peers.get(*node).is_some_and(|peer| peer.is_alive()))
    }

    /// Hands the commands to a node's proposer: this node's, or another one's over the link to it.
    async fn attempt(
        &self,
        shard: &Shard,
        commands: Vec<Encoded>,
        node: Option<NodeId>,
    ) -> impl Future<Output = ProposeResult> + Send + use<> {
        let not_sent = ProposeError::NotSent { leader: None };
        let mut local = None;
        let mut remote = None;
        match (node, shard.replica()) {
            (Some(node), Some(replica)) if node == self.shards.me() => {
                local = Some(replica.propose(commands).await);
            }
            (Some(node), _) => {
                if let Some(peer) = self.peers.get(node).filter(|peer| peer.is_alive()) {
                    let (answer, outcome) = oneshot::channel();
                    let forwarded = ForwardedProposal { shard: shard.id, commands, answer };
                    remote = peer.forward.send(forwarded).await.ok().map(|()| outcome);
                }
            }
            (None, _) => {}
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

    /// A reader of a shard's applied state, which may lag behind. See [`Router::barrier`].
    ///
    /// # Errors
    /// `no_replica` if this node holds no replica: the client uses another node.
    pub(crate) fn reader(&self, shard: ShardId) -> Result<ShardReader, Failure> {
        let replica = local(&self.shards, shard)?;
        Ok(ShardReader::new(shard, Arc::clone(&replica.state)))
    }

    /// The reader of the shard of a room.
    ///
    /// # Errors
    /// As [`Router::reader`].
    pub(crate) fn room_reader(&self, room: RoomId) -> Result<ShardReader, Failure> {
        self.reader(self.shards.of_room(room).id)
    }

    /// Returns once the shard's reader shows everything that was acknowledged before the call. Calls at the same time share
    /// one question to the leader: whoever names what does not exist costs the leader no more than that.
    pub(crate) async fn barrier(&self, shard: ShardId) -> Result<(), Failure> {
        let place = usize::try_from(shard.0).unwrap_or(usize::MAX);
        let shared = self.barriers.get(place).ok_or_else(|| no_such_shard(shard))?;
        let (shards, peers) = (Arc::clone(&self.shards), Arc::clone(&self.peers));
        let barrier = shared.run(move || async move { barrier(&shards, &peers, shard).await });
        tokio::time::timeout(READ_DEADLINE, barrier).await.unwrap_or_else(|_| Err(no_quorum(shard)))
    }

    /// Refuses requests that the cluster's feature level does not allow yet. The check uses the level that this node
    /// has applied: levels only rise, so a lagging node may refuse too much, never too little.
    ///
    /// # Errors
    /// `not_yet`: nothing was sent.
    pub(crate) fn check_level(&self, needs: u32) -> Result<(), Failure> {
        let level = self.shards.topology.feature_level();
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
    pub(crate) async fn room(&self, reference: Option<&RoomRef>, user: UserId) -> Result<RoomId, Failure> {
        self.room_of_several(reference, user, &mut None).await
    }

    /// As [`Router::room`], for one of several rooms of a call: all that are unknown share one linearizable read, of which
    /// `asked` keeps the result.
    pub(crate) async fn room_of_several(
        &self,
        reference: Option<&RoomRef>,
        user: UserId,
        asked: &mut Option<Result<(), Failure>>,
    ) -> Result<RoomId, Failure> {
        let reference =
            reference.ok_or_else(|| Failure::invalid("room_missing", "the call names no room"))?;
        // Whether others talk with each other is not the caller's to know.
        if reference.id == 0 && is_direct_name(&reference.name) && !is_of_direct(&reference.name, user) {
            return Err(Failure::Refused(Refusal::RoomUnknown));
        }
        if let Some(room) = self.known_room(reference).await? {
            return Ok(room);
        }
        self.ask_once(asked).await?;
        self.known_room(reference).await?.ok_or(Failure::Refused(Refusal::RoomUnknown))
    }

    /// The user of this name; 0 if there is none. A user unknown to this node may be newer than the applied state, so the
    /// answer "none" is given only after a linearizable read.
    pub(crate) async fn user_named(&self, name: &str) -> Result<UserId, Failure> {
        self.user_of_several(name, &mut None).await
    }

    /// As [`Router::user_named`], for one of several names of a call: all that are unknown share one linearizable read, of
    /// which `asked` keeps the result.
    pub(crate) async fn user_of_several(
        &self,
        name: &str,
        asked: &mut Option<Result<(), Failure>>,
    ) -> Result<UserId, Failure> {
        if check_user_name(name).is_err() {
            return Ok(UserId(0));
        }
        let meta = self.reader(ShardId::META)?;
        if let Some(user) = meta.user_named(name).await? {
            return Ok(user.user);
        }
        self.ask_once(asked).await?;
        Ok(meta.user_named(name).await?.map_or(UserId(0), |user| user.user))
    }

    /// One linearizable read of the meta shard for all that ask with this place.
    async fn ask_once(&self, asked: &mut Option<Result<(), Failure>>) -> Result<(), Failure> {
        if asked.is_none() {
            *asked = Some(self.barrier(ShardId::META).await);
        }
        asked.clone().unwrap_or(Ok(()))
    }

    /// The room, if this node knows it.
    async fn known_room(&self, reference: &RoomRef) -> Result<Option<RoomId>, Failure> {
        let meta = self.reader(ShardId::META)?;
        if reference.id != 0 {
            return Ok((reference.id <= meta.last_room().0).then_some(RoomId(reference.id)));
        }
        let name = reference.name.strip_prefix('#').unwrap_or(&reference.name);
        Ok(meta.room_named(name).await?.map(|entry| entry.room))
    }

    /// Creates the room in its own shard, as the room directory describes it. Called when the shard lacks the room.
    pub(crate) async fn open_room(&self, room: RoomId) -> Result<(), Failure> {
        let meta = self.reader(ShardId::META)?;
        let entry = match meta.directory_entry(room).await? {
            Some(entry) => entry,
            None => {
                self.barrier(ShardId::META).await?;
                meta.directory_entry(room).await?.ok_or(Failure::Refused(Refusal::RoomUnknown))?
            }
        };
        let DirectoryEntry { name, creator, creator_name, founding, .. } = entry;
        let creator = Person { user: creator, name: creator_name };
        let command = Command::OpenRoom { room, name, creator, founding };
        match self.decide(self.shards.of_room(room).id, &command).await? {
            Reply::Refused(refusal) => Err(Failure::Refused(refusal)),
            _ => Ok(()),
        }
    }

    /// Adds a room to the room directory and creates it in its shard.
    pub(crate) async fn create_room(
        &self,
        name: &str,
        creator: UserId,
        kind: Option<RoomKind>,
    ) -> Result<(RoomId, bool), Failure> {
        check_room_name(name).map_err(Failure::Refused)?;
        // Before the level, rooms have no rights, and are open.
        let kind = if self.shards.topology.feature_level() >= RIGHTS {
            kind.or(Some(RoomKind::Open))
        } else {
            kind.filter(|kind| *kind != RoomKind::Open)
        };
        let command = Command::CreateRoom { name: name.to_owned(), creator, kind };
        self.check_level(command.level())?;
        self.add_room(&command).await
    }

    /// Adds the direct conversation between these people to the room directory and creates it in its shard.
    pub(crate) async fn open_direct(
        &self,
        creator: UserId,
        people: Vec<UserId>,
    ) -> Result<(RoomId, bool), Failure> {
        let command = Command::OpenDirect { creator, people };
        self.check_level(command.level())?;
        self.add_room(&command).await
    }

    async fn add_room(&self, command: &Command) -> Result<(RoomId, bool), Failure> {
        match self.decide(ShardId::META, command).await? {
            Reply::RoomCreated { room, created } => {
                self.open_room(room).await?;
                Ok((room, created))
            }
            Reply::Refused(refusal) => Err(Failure::Refused(refusal)),
            other => Err(Failure::unknown("undecided", format!("unexpected reply: {other:?}"))),
        }
    }
}

fn local(shards: &Shards, shard: ShardId) -> Result<&Arc<Replica>, Failure> {
    let shard = shards.get(shard).ok_or_else(|| no_such_shard(shard))?;
    shard.replica().ok_or_else(|| {
        let why = format!("this node holds no replica of shard {}; use another node", shard.id);
        Failure::not_sent("no_replica", why, RETRY).with_leader(shard.hint())
    })
}

async fn barrier(shards: &Shards, peers: &Peers, shard: ShardId) -> Result<(), Failure> {
    let replica = local(shards, shard)?;
    let deadline = Instant::now() + READ_DEADLINE;
    loop {
        let known = replica.leader();
        let index = match known.leader {
            Some(leader) if leader == shards.me() => replica.read_index_as_leader().await.ok(),
            // A leader that hangs must not hold up the calls that wait for this one once there is another leader.
            Some(leader) => tokio::select! {
                index = read_index_of(peers, leader, shard, deadline) => index,
                () = replica.leader_change(known, READ_DEADLINE) => None,
            },
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
            return Err(no_quorum(shard));
        }
        replica.leader_change(known, RETRY.min(left)).await;
    }
}

async fn read_index_of(peers: &Peers, leader: NodeId, shard: ShardId, deadline: Instant) -> Option<u64> {
    let mut client = peers.get(leader).filter(|peer| peer.is_alive())?.client();
    let call = client.read_index(ReadIndexRequest { shard: shard.0 });
    let answer = tokio::time::timeout_at(deadline, call).await.ok()?;
    Some(answer.ok()?.into_inner().index)
}

fn no_quorum(shard: ShardId) -> Failure {
    let why = format!("shard {shard} has no quorum to read from; read locally or wait");
    Failure::not_sent("no_quorum", why, Duration::from_millis(500))
}

fn no_such_shard(shard: ShardId) -> Failure {
    Failure::invalid("shard_unknown", format!("this cluster has no shard {shard}"))
}
