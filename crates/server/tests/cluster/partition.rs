//! Partitions under load, in both or in one direction. The nodes run with fault injection enabled.

use std::time::Duration;

use conclave_client::HistoryQuery;
use conclave_client::api::GetServerStatusRequest;
use conclave_client::api::chat_service_client::ChatServiceClient;
use conclave_proto::fault::fault_service_client::FaultServiceClient;
use conclave_proto::fault::{PeerFault, ResolverFault, SetFaultsRequest};
use conclave_server::Faults;
use tonic::{Code, Request};

use crate::harness::{Cluster, eventually, within};
use crate::load::Load;

/// Drops the bytes from the first to the second node of each pair, and heals all other connections.
async fn cut(cluster: &Cluster, pairs: &[(usize, usize)]) {
    cut_and_repeat(cluster, pairs, 0).await;
}

/// As [`cut`], and repeats `repeat_percent` of the calls. Returns how many repeated calls were answered so far.
async fn cut_and_repeat(cluster: &Cluster, pairs: &[(usize, usize)], repeat_percent: u32) -> u64 {
    let mut repeated = 0;
    for (index, member) in cluster.members().iter().enumerate() {
        let peers = cluster.members().iter().enumerate().map(|(other, peer)| PeerFault {
            peer: peer.name.clone(),
            lose_to: pairs.contains(&(index, other)),
            lose_from: pairs.contains(&(other, index)),
            repeat_percent,
            repeat_delay_ms: 500,
            ..PeerFault::default()
        });
        let request = SetFaultsRequest { peers: peers.collect(), ..SetFaultsRequest::default() };
        let mut client = FaultServiceClient::connect(format!("http://{}", member.client)).await.unwrap();
        let set = within("the faults are set", client.set_faults(request)).await.unwrap();
        repeated += set.into_inner().repeated_calls;
    }
    repeated
}

/// Sets the faults of one node's connections: those to `mute` carry nothing to the peer, those to `deaf` nothing back.
async fn fault(cluster: &Cluster, node: usize, mute: &[usize], deaf: &[usize]) {
    let peers = cluster.members().iter().enumerate().map(|(other, peer)| PeerFault {
        peer: peer.name.clone(),
        lose_to: mute.contains(&other),
        lose_from: deaf.contains(&other),
        ..PeerFault::default()
    });
    let request = SetFaultsRequest { peers: peers.collect(), ..SetFaultsRequest::default() };
    let address = format!("http://{}", cluster.members()[node].client);
    let mut client = FaultServiceClient::connect(address).await.unwrap();
    within("the faults are set", client.set_faults(request)).await.unwrap();
}

/// A status with the deadline of a patient caller tells more than one without.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_with_time_hears_of_slow_nodes() {
    let cluster = breakable().await;
    let members = cluster.members().to_vec();
    let slow = |peer: &conclave_server::Member| PeerFault {
        peer: peer.name.clone(),
        delay_ms: 600,
        ..PeerFault::default()
    };
    let request =
        SetFaultsRequest { peers: members[1..].iter().map(slow).collect(), ..SetFaultsRequest::default() };
    let address = format!("http://{}", members[0].client);
    let mut faults = FaultServiceClient::connect(address.clone()).await.unwrap();
    within("the faults are set", faults.set_faults(request)).await.unwrap();
    let mut chat = ChatServiceClient::connect(address).await.unwrap();
    let mut reachable = async |patience: Option<Duration>| {
        let mut question = Request::new(GetServerStatusRequest { local_only: false });
        if let Some(patience) = patience {
            question.set_timeout(patience);
        }
        let status = within("a status", chat.get_server_status(question)).await.unwrap().into_inner();
        status.nodes.iter().filter(|node| node.reachable).count()
    };
    eventually("a hasty caller is told of the node that answers", async || reachable(None).await == 1).await;
    eventually("a patient one of all", async || reachable(Some(Duration::from_secs(30))).await == 3).await;
}

async fn breakable() -> Cluster {
    Cluster::start_with(|config| config.faults = Some(Faults::default())).await
}

/// A load that makes progress in a room, the room's shard, and the node that leads the shard.
async fn loaded(cluster: &Cluster) -> (Load, u32, usize) {
    let load = Load::start(cluster, "deploys", 3, 3).await;
    load.progress(100).await;
    let client = cluster.client("ops").await;
    let shard = cluster.shard_of(&client, "deploys").await;
    (load, shard, cluster.leader_of(shard).await)
}

/// The node that leads the shard according to `witness`.
async fn leader_by(cluster: &Cluster, witness: usize, shard: u32) -> u64 {
    let nodes = cluster.statuses(witness).await;
    let own = nodes.iter().find(|node| node.name == cluster.members()[witness].name);
    own.and_then(|node| node.shards.iter().find(|one| one.shard == shard)).map_or(0, |one| one.leader_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_leader_is_replaced_and_acks_nothing() {
    let cluster = breakable().await;
    let (load, shard, old) = loaded(&cluster).await;
    let (b, c) = ((old + 1) % 3, (old + 2) % 3);
    cut(&cluster, &[(old, b), (old, c), (b, old), (c, old)]).await;
    let old_id = old as u64 + 1;
    eventually("the others have another leader", async || {
        let by = leader_by(&cluster, b, shard).await;
        by != 0 && by != old_id
    })
    .await;
    load.progress(100).await;
    cut(&cluster, &[]).await;
    eventually("the old leader follows", async || leader_by(&cluster, old, shard).await != old_id).await;
    load.progress(100).await;
    load.judge(&cluster).await;
}

/// Nobody answers the pre-votes of a follower that is alone, so it stays in the term of the leader that it lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_is_cut_off_names_no_leader() {
    let cluster = breakable().await;
    let (load, shard, leader) = loaded(&cluster).await;
    let (alone, other) = ((leader + 1) % 3, (leader + 2) % 3);
    cut(&cluster, &[(alone, leader), (alone, other), (leader, alone), (other, alone)]).await;
    eventually("the follower names no leader", async || {
        let status = cluster.status(alone).await.expect("a status");
        let problem = format!("shard {shard} has no leader: messages to its rooms wait");
        let is_named = |found: &String| *found == problem || found.starts_with("no leader in any shard");
        leader_by(&cluster, alone, shard).await == 0 && status.problems.iter().any(is_named)
    })
    .await;
    let has_leader = format!("conclave_raft_has_leader{{shard=\"{shard}\"}}");
    eventually("its metrics say so", async || cluster.metric(alone, &has_leader).await == 0.0).await;
    load.progress(100).await;
    cut(&cluster, &[]).await;
    eventually("the follower names the leader", async || leader_by(&cluster, alone, shard).await != 0).await;
    load.judge(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_can_receive_but_not_send_is_replaced() {
    let cluster = breakable().await;
    let (load, _, old) = loaded(&cluster).await;
    let (b, c) = ((old + 1) % 3, (old + 2) % 3);
    cut(&cluster, &[(old, b), (old, c)]).await;
    load.progress(100).await;
    cut(&cluster, &[]).await;
    load.progress(100).await;
    load.judge(&cluster).await;
}

/// What a leader meets that was frozen: answers from before the freeze, after which it sends new requests. openraft takes
/// one of these answers for the answer to a new request.
#[tokio::test(flavor = "multi_thread")]
async fn old_answers_do_not_let_a_replaced_leader_read_as_if_it_led() {
    let cluster = breakable().await;
    cluster.client("ana").await.send("general", "first").await.unwrap();
    let shard = cluster.shard_of(&cluster.client("ana").await, "general").await;
    let index = async |node, name: &str| cluster.metric(node, &format!("{name}{{shard=\"{shard}\"}}")).await;
    for _ in 0..5 {
        let old = cluster.leader_of(shard).await;
        let (b, c) = ((old + 1) % 3, (old + 2) % 3);
        let [sender, reader] = [cluster.client_of(old).await, cluster.client_of(old).await];
        let [at_b, at_c] = [cluster.client_of(b).await, cluster.client_of(c).await];
        // The followers store a message, but their answers do not arrive.
        fault(&cluster, old, &[], &[b, c]).await;
        let committed = index(old, "conclave_raft_committed_index").await;
        let sending = tokio::spawn(async move { sender.send("general", "unanswered").await });
        for follower in [b, c] {
            eventually("the follower has stored the message", async || {
                index(follower, "conclave_raft_last_log_index").await > committed
            })
            .await;
        }
        // The followers elect another leader, which acks a message.
        for (node, lost) in [(old, [b, c]), (b, [old, old]), (c, [old, old])] {
            fault(&cluster, node, &lost, &lost).await;
        }
        let leads = async |node| index(node, "conclave_raft_is_leader").await > 0.0;
        let mut next = None;
        eventually("the followers have another leader", async || {
            next = if leads(b).await { Some(&at_b) } else { leads(c).await.then_some(&at_c) };
            next.is_some()
        })
        .await;
        let acked = next.unwrap().send("general", "acked by the next leader").await.unwrap().seq;
        let reading = tokio::spawn(async move {
            let query = HistoryQuery { linearizable: true, ..HistoryQuery::newest("general", 1) };
            reader.history(query).await
        });
        // The answer of the first follower commits the first message; the leader tells the second one, with an append that
        // has no entries. Then the old answer of the second follower arrives.
        fault(&cluster, old, &[b, c], &[c]).await;
        let commits = eventually("the old leader has committed its message", async || {
            index(old, "conclave_raft_committed_index").await > committed
        });
        // A starved machine may be too late: connections close that were silent this long. Then this round shows nothing.
        let _ = tokio::time::timeout(Duration::from_secs(3), commits).await;
        fault(&cluster, old, &[b, c], &[]).await;
        cut(&cluster, &[]).await;
        let read = within("the read ends", reading).await.unwrap();
        if let Ok(page) = read {
            assert!(page.last_seq >= acked, "read {} after {acked} was acked", page.last_seq);
        }
        within("the first message is sent", sending).await.unwrap().unwrap();
    }
}

/// Every vote, append and forwarded proposal arrives twice, the second time up to half a second later, during leader
/// changes.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_arrive_twice_take_effect_once() {
    let cluster = breakable().await;
    cut_and_repeat(&cluster, &[], 100).await;
    let (load, _, old) = loaded(&cluster).await;
    load.progress(100).await;
    // The node rejoins a cluster in which repeated calls from before the partition still arrive.
    cut_and_repeat(&cluster, &[(old, (old + 1) % 3), (old, (old + 2) % 3)], 100).await;
    load.progress(100).await;
    let repeated = cut_and_repeat(&cluster, &[], 100).await;
    assert!(repeated > 100, "only {repeated} calls were made twice");
    load.progress(100).await;
    load.judge(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_refuses_faults_that_only_a_name_server_can_have() {
    let cluster = breakable().await;
    let address = format!("http://{}", cluster.members()[0].client);
    let mut client = FaultServiceClient::connect(address).await.unwrap();
    let stale = Some(ResolverFault { stale: true, ..ResolverFault::default() });
    let request = SetFaultsRequest { resolver: stale, ..SetFaultsRequest::default() };
    let refused = within("an answer", client.set_faults(request)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_are_refused_unless_fault_injection_is_enabled() {
    let cluster = Cluster::start().await;
    let address = format!("http://{}", cluster.members()[0].client);
    let mut client = FaultServiceClient::connect(address).await.unwrap();
    let refused = within("an answer", client.set_faults(SetFaultsRequest::default())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}
