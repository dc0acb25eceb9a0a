//! What a member of the cluster, or somebody who knows a member's name, may send to the peer port. Each case stopped or
//! robbed a cluster of version 0.1.0.

use conclave_client::HistoryQuery;
use conclave_client::api;
use conclave_core::access::Powers;
use conclave_core::{
    Action, Command, DataDirId, NodeId, Origin, Reply, RequestNo, RoomId, SessionId, UserId,
};
use conclave_proto::command::encode;
use conclave_proto::log::{Entry, LogId, MemberSet, Membership, StoredMembership, Vote};
use conclave_proto::raft::proposal_result::Outcome;
use conclave_proto::raft::raft_service_client::RaftServiceClient;
use conclave_proto::raft::{
    AppendEntriesRequest, InstallSnapshotResponse, LinkRequest, MoveClientsRequest, NodeStatusRequest,
    Proposal, RequestVoteRequest, SnapshotChunk, SnapshotHeader,
};
use conclave_proto::reply;
use conclave_store::{Boots, Identity};
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::harness::{Cluster, eventually, within};

/// A caller at the peer port of one node.
struct Caller {
    client: RaftServiceClient<Channel>,
    cluster_id: String,
    from: u64,
    from_dir: String,
    to: usize,
    to_dir: Option<String>,
    boots: [String; 2],
}

impl Caller {
    /// Calls node `to` in the name of node `from`, with that node's data dir.
    async fn member(cluster: &Cluster, from: usize, to: usize) -> Self {
        let identity = Identity::read(&cluster.node_dir(from)).unwrap().unwrap();
        let address = format!("http://{}", cluster.members()[to].peer);
        Self {
            client: RaftServiceClient::connect(address).await.unwrap(),
            cluster_id: cluster.status(to).await.unwrap().cluster_id,
            from: from as u64 + 1,
            from_dir: identity.directory.to_string(),
            to,
            to_dir: None,
            boots: [from, to].map(|node| current_boot(cluster, node)),
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert("conclave-cluster", self.cluster_id.parse().unwrap());
        metadata.insert("conclave-from", self.from.to_string().parse().unwrap());
        metadata.insert("conclave-from-dir", self.from_dir.parse().unwrap());
        metadata.insert("conclave-to", (self.to + 1).to_string().parse().unwrap());
        let [from, to] = &self.boots;
        metadata.insert("conclave-boot", from.parse().unwrap());
        metadata.insert("conclave-to-boot", to.parse().unwrap());
        if let Some(directory) = &self.to_dir {
            metadata.insert("conclave-to-dir", directory.parse().unwrap());
        }
        request
    }

    async fn status(&mut self) -> Result<(), Status> {
        let request = self.request(NodeStatusRequest {});
        within("the node answers", self.client.node_status(request)).await.map(drop)
    }

    async fn vote(&mut self, message: RequestVoteRequest) -> Result<bool, Status> {
        let request = self.request(message);
        Ok(within("the node answers", self.client.request_vote(request)).await?.into_inner().granted)
    }

    async fn outcome(&mut self, shard: u32, command: &[u8]) -> Outcome {
        let proposal = Proposal { id: 1, shard, commands: vec![command.to_vec().into()], min_level: 0 };
        let request = self.request(tokio_stream::iter([LinkRequest { proposals: vec![proposal] }]));
        let mut answers = self.client.link(request).await.unwrap().into_inner();
        let answer = within("the leader answers", answers.message()).await.unwrap().unwrap();
        answer.results.into_iter().next().and_then(|result| result.outcome).unwrap()
    }

    async fn propose(&mut self, shard: u32, command: &[u8]) -> api::Failure {
        match self.outcome(shard, command).await {
            Outcome::Failure(failure) => failure,
            Outcome::Replies(replies) => panic!("the command was not refused: {replies:?}"),
        }
    }

    async fn append(&mut self, message: AppendEntriesRequest) -> Result<(), Status> {
        let request = self.request(tokio_stream::iter([message]));
        let mut answers = self.client.append_entries(request).await?.into_inner();
        within("the node answers", answers.message()).await.map(drop)
    }

    async fn install(&mut self, header: SnapshotHeader) -> Result<InstallSnapshotResponse, Status> {
        let chunk = SnapshotChunk { header: Some(header), last: true, ..SnapshotChunk::default() };
        let request = self.request(tokio_stream::iter([chunk]));
        Ok(within("the node answers", self.client.install_snapshot(request)).await?.into_inner())
    }
}

/// The current boot of a node.
fn current_boot(cluster: &Cluster, node: usize) -> String {
    Boots::read(&cluster.node_dir(node)).unwrap().current().unwrap().to_string()
}

/// Proposes a command to the shard's leader as a peer would.
pub(crate) async fn propose(cluster: &Cluster, shard: u32, command: &[u8]) -> api::Failure {
    propose_to(cluster, cluster.leader_of(shard).await, shard, command).await
}

/// Proposes a command to a node as a peer would.
pub(crate) async fn propose_to(cluster: &Cluster, to: usize, shard: u32, command: &[u8]) -> api::Failure {
    Caller::member(cluster, (to + 1) % 3, to).await.propose(shard, command).await
}

/// Gets a command decided as a peer would: as a gateway that knows nothing of what was decided elsewhere meanwhile. The
/// error is the code with which the shard's leader refuses to propose it.
pub(crate) async fn decided(cluster: &Cluster, shard: u32, command: &Command) -> Result<Reply, String> {
    let to = cluster.leader_of(shard).await;
    let from = (0..3).find(|index| *index != to && cluster.is_running(*index)).unwrap();
    let mut caller = Caller::member(cluster, from, to).await;
    match caller.outcome(shard, &encode(command).into_bytes()).await {
        Outcome::Replies(replies) => Ok(reply::from_proto(&replies.replies[0]).unwrap()),
        Outcome::Failure(failure) => Err(failure.code),
    }
}

/// Checks that the cluster works, with all of its nodes, and again after all of them were restarted.
async fn still_works(cluster: &mut Cluster) {
    for round in ["as it is", "restarted"] {
        cluster.settled().await;
        let client = cluster.client("bob").await;
        client.send("general", round).await.unwrap();
        for index in 0..3 {
            assert!(cluster.status(index).await.is_some(), "node {index} answers, {round}");
        }
        if round == "as it is" {
            for index in 0..3 {
                cluster.stop(index).await;
            }
            for index in 0..3 {
                cluster.start_node(index).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_refused_and_no_callers_word_stops_a_node() {
    let mut cluster = Cluster::start().await;
    for index in 0..3 {
        let mut caller = Caller::member(&cluster, (index + 1) % 3, index).await;
        caller.status().await.unwrap();
        // A member that is wrong about the node's data dir.
        caller.to_dir = Some(DataDirId(7).to_string());
        assert_eq!(caller.status().await.unwrap_err().code(), Code::FailedPrecondition);
        caller.to_dir = None;
        // A node id that is no member, and the node itself.
        for from in [99, index as u64 + 1] {
            caller.from = from;
            assert_eq!(caller.status().await.unwrap_err().code(), Code::PermissionDenied);
        }
        // A member with another data dir than the one that it registered.
        caller.from = (index as u64 + 1) % 3 + 1;
        caller.from_dir = DataDirId(7).to_string();
        assert_eq!(caller.status().await.unwrap_err().code(), Code::FailedPrecondition);
    }
    still_works(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_counter_of_terms_cannot_be_used_up() {
    let mut cluster = Cluster::start().await;
    for to in 0..3 {
        let mut caller = Caller::member(&cluster, (to + 1) % 3, to).await;
        for shard in 0..=2 {
            let vote = Some(Vote { term: u64::MAX, node_id: caller.from, committed: false });
            let message = RequestVoteRequest { shard, vote, leadership_transfer: true, ..Default::default() };
            assert_eq!(caller.vote(message).await.unwrap_err().code(), Code::InvalidArgument);
        }
    }
    still_works(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_takes_nothing_away_and_is_of_no_newer_version() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client("ana").await;
    let sent = client.send("general", "kept").await.unwrap();
    let shard = cluster.shard_of(&client, "general").await;
    let members = || Membership { configs: vec![MemberSet { voters: vec![1, 2, 3] }], nodes: vec![1, 2, 3] };
    for to in 0..3 {
        // A node that lags has nothing yet that could be taken away.
        let local = cluster.client_of(to).await;
        eventually("the node has the room and the message", async || {
            let newest = local.history(HistoryQuery::newest("general", 1)).await;
            newest.is_ok_and(|page| page.last_seq >= sent.seq)
                && local.all_rooms().await.is_ok_and(|rooms| rooms.iter().any(|room| room.name == "general"))
        })
        .await;
        let mut caller = Caller::member(&cluster, (to + 1) % 3, to).await;
        let term = cluster.term_of(to, shard).await + 5;
        for shard in [0, shard] {
            let header = SnapshotHeader {
                shard,
                vote: Some(Vote { term, node_id: caller.from, committed: true }),
                last_log_id: Some(LogId { term, index: 1_000_000 }),
                membership: Some(StoredMembership {
                    log_id: Some(LogId { term: 0, index: 0 }),
                    membership: Some(members()),
                }),
                left_out: Vec::new(),
                digest: None,
                feature_level: 0,
            };
            let newer = SnapshotHeader { feature_level: 1_000, ..header.clone() };
            let status = caller.install(newer).await.unwrap_err();
            assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
            assert!(status.message().contains("upgrade the node"), "{status}");
            let status = caller.install(header).await.unwrap_err();
            assert_eq!(status.code(), Code::DataLoss, "{status}");
        }
    }
    still_works(&mut cluster).await;
    let query = HistoryQuery { linearizable: true, ..HistoryQuery::newest("general", 10) };
    let events = cluster.client("bob").await.history(query).await.unwrap().events;
    assert!(events.iter().any(|event| event.seq == sent.seq), "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_proposes_only_what_a_session_asked_for_and_registers_only_itself() {
    let mut cluster = Cluster::start().await;
    let (ana, bob) = (cluster.client("ana").await, cluster.client("bob").await);
    let sent = ana.send("general", "by ana").await.unwrap();
    let shard = cluster.shard_of(&ana, "general").await;
    let forged = |session: u64, author: u64, name: &str| {
        let origin = Origin {
            session: SessionId(session),
            author: UserId(author),
            author_name: name.to_owned(),
            request: RequestNo(1),
            settled: RequestNo(0),
            powers: Powers::default(),
        };
        let action = Action::Post("forged".to_owned());
        encode(&Command::Act { room: RoomId(sent.room_id), origin, action }).into_bytes()
    };
    let (ana, bob) = (ana.session(), bob.session());
    let failure = propose(&cluster, shard, &forged(987_654, ana.user_id, "ana")).await;
    assert_eq!(failure.code, "session_not_applied");
    let failure = propose(&cluster, shard, &forged(bob.id, ana.user_id, "ana")).await;
    assert_eq!(failure.code, "proposal_invalid");
    let failure = propose(&cluster, shard, &forged(bob.id, bob.user_id, "ana")).await;
    assert_eq!(failure.code, "proposal_invalid");
    let register = Command::RegisterNode(conclave_core::record::NodeRecord {
        node: NodeId(77),
        directory: DataDirId(7),
        name: "node77".to_owned(),
        client_address: "h:1".to_owned(),
        peer_address: "h:2".to_owned(),
        http_address: "h:3".to_owned(),
        web_address: String::new(),
        version: "1".to_owned(),
        feature_level: 1,
    });
    let failure = propose(&cluster, 0, &encode(&register).into_bytes()).await;
    assert_eq!(failure.code, "proposal_invalid");
    still_works(&mut cluster).await;
    let query = HistoryQuery { linearizable: true, ..HistoryQuery::newest("general", 100) };
    let events = cluster.client("carl").await.history(query).await.unwrap().events;
    assert!(!format!("{events:?}").contains("forged"), "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_sent_to_members_only() {
    let cluster = Cluster::start().await;
    let mut caller = Caller::member(&cluster, 1, 0).await;
    let mut ask = async |targets: Vec<String>| {
        let request = caller.request(MoveClientsRequest { sessions: 10, targets, reason: "test".to_owned() });
        within("the node answers", caller.client.move_clients(request)).await.map(drop)
    };
    let member = cluster.members()[2].client.clone();
    ask(vec![member]).await.unwrap();
    let status = ask(vec!["127.0.0.1:17390".to_owned()]).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

/// Messages that no honest peer sends, out of a seed: no node may stop, and nothing that was acked may be lost.
#[tokio::test(flavor = "multi_thread")]
async fn malformed_appends_and_snapshots_stop_no_node() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client("ana").await;
    let sent = client.send("general", "kept").await.unwrap();
    let mut random = StdRng::seed_from_u64(11);
    for round in 0..300 {
        let to = round % 3;
        let shard = random.random_range(0..3);
        let mut caller = Caller::member(&cluster, (to + 1) % 3, to).await;
        let term = cluster.term_of(to, shard).await;
        // Terms from far below to far above the replica's, and small indexes beside large ones.
        let near = |random: &mut StdRng, at: u64| match random.random_range(0..4) {
            0 => random.next_u64(),
            1 => at.saturating_sub(random.random_range(0..3)),
            _ => at + random.random_range(0..3),
        };
        let id = |random: &mut StdRng| LogId { term: near(random, term), index: near(random, 3) };
        let committed = random.random_bool(0.7);
        let vote = Some(Vote { term: near(&mut random, term), node_id: caller.from, committed });
        let log_id = |random: &mut StdRng| random.random_bool(0.7).then(|| id(random));
        if random.random_bool(0.5) {
            let entry = |random: &mut StdRng| Entry { log_id: log_id(random), payload: None };
            let entries = (0..random.random_range(0..3)).map(|_| entry(&mut random)).collect();
            let (prev_log_id, leader_commit) = (log_id(&mut random), log_id(&mut random));
            let _ = caller
                .append(AppendEntriesRequest { shard, vote, prev_log_id, leader_commit, entries })
                .await;
        } else {
            let last_log_id = log_id(&mut random);
            let header = SnapshotHeader { shard, vote, last_log_id, ..SnapshotHeader::default() };
            let _ = caller.install(header).await;
        }
        assert!(cluster.status(to).await.is_some(), "node {to} is gone after round {round}");
    }
    still_works(&mut cluster).await;
    let query = HistoryQuery { linearizable: true, ..HistoryQuery::newest("general", 10) };
    let events = cluster.client("bob").await.history(query).await.unwrap().events;
    assert!(events.iter().any(|event| event.seq == sent.seq), "{events:?}");
}
