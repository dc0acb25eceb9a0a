//! Rooms, members, sessions and the cluster as JSON.

use conclave_proto::chat::{self, NodeStatus, NodeView, Role};
use conclave_proto::people;
use serde::Serialize;

use crate::api::http::event::{Policy, policy, role_word};

#[derive(Debug, Serialize)]
pub(super) struct Session<'a> {
    token: &'a str,
    session_id: u64,
    user: &'a str,
    user_id: u64,
    cluster_id: &'a str,
    feature_level: u32,
}

pub(super) fn session(session: &chat::OpenSessionResponse) -> Session<'_> {
    Session {
        token: &session.token,
        session_id: session.session_id,
        user: &session.user,
        user_id: session.user_id,
        cluster_id: &session.cluster_id,
        feature_level: session.feature_level,
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Me<'a> {
    user: &'a str,
    user_id: u64,
    role: &'static str,
    /// The account has a password.
    has_password: bool,
    session_id: u64,
    cluster_id: String,
    feature_level: u32,
}

pub(super) fn me(answer: &people::WhoAmIResponse, cluster_id: String, feature_level: u32) -> Me<'_> {
    let user = answer.user.as_ref();
    Me {
        user: user.map_or("", |user| user.name.as_str()),
        user_id: user.map_or(0, |user| user.user_id),
        role: match user.map(people::User::role) {
            None | Some(people::ClusterRole::None) => "none",
            Some(people::ClusterRole::Auditor) => "auditor",
            Some(people::ClusterRole::Operator) => "operator",
            Some(people::ClusterRole::Admin) => "admin",
        },
        has_password: user.is_some_and(|user| user.claimed),
        session_id: answer.session.as_ref().map_or(0, |session| session.session_id),
        cluster_id,
        feature_level,
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Rooms<'a> {
    rooms: Vec<Room<'a>>,
    more: bool,
    next_after: u64,
}

#[derive(Debug, Serialize)]
struct Room<'a> {
    room_id: u64,
    name: &'a str,
    topic: &'a str,
    last_seq: u64,
    members: u32,
    shard: u32,
    joined: bool,
    role: Option<&'static str>,
    policy: Policy,
    people: Vec<Person<'a>>,
}

#[derive(Debug, Serialize)]
struct Person<'a> {
    user_id: u64,
    name: &'a str,
}

fn people(people: &[chat::Person]) -> Vec<Person<'_>> {
    people.iter().map(|person| Person { user_id: person.user_id, name: &person.name }).collect()
}

pub(super) fn rooms(page: &chat::ListRoomsResponse) -> Rooms<'_> {
    let policy_of = |room: &chat::Room| policy(&room.policy.unwrap_or_default());
    let rooms = page.rooms.iter().map(|one| Room {
        room_id: one.id,
        name: &one.name,
        topic: &one.topic,
        last_seq: one.last_seq,
        members: one.members,
        shard: one.shard,
        joined: one.joined,
        role: role_word(one.role()),
        policy: policy_of(one),
        people: people(&one.people),
    });
    Rooms { rooms: rooms.collect(), more: page.more, next_after: page.next_after_room_id }
}

#[derive(Debug, Serialize)]
pub(super) struct Opened<'a> {
    room_id: u64,
    created: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    people: Vec<Person<'a>>,
}

pub(super) fn created(room: &chat::CreateRoomResponse) -> Opened<'_> {
    Opened { room_id: room.room_id, created: room.created, name: None, people: Vec::new() }
}

pub(super) fn direct(room: &chat::OpenDirectResponse) -> Opened<'_> {
    Opened {
        room_id: room.room_id,
        created: room.created,
        name: Some(&room.name),
        people: people(&room.people),
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Members<'a> {
    members: Vec<Member<'a>>,
    more: bool,
    next_after: u64,
}

#[derive(Debug, Serialize)]
struct Member<'a> {
    user_id: u64,
    name: &'a str,
    role: Option<&'static str>,
    /// Milliseconds since 1970; 0 for somebody who may write.
    muted_until_ms: i64,
}

pub(super) fn members(page: &chat::MembersResponse) -> Members<'_> {
    let members = page.members.iter().map(|member| Member {
        user_id: member.user_id,
        name: &member.name,
        role: role_word(member.role()),
        muted_until_ms: member.muted_until_ms,
    });
    Members { members: members.collect(), more: page.more, next_after: page.next_after_user_id }
}

#[derive(Debug, Serialize)]
pub(super) struct Decided {
    room_id: u64,
    request_no: u64,
    seq: u64,
    time_ms: i64,
    duplicate: bool,
    answer_forgotten: bool,
}

pub(super) fn decided(answer: &chat::SendMessageResponse) -> Decided {
    Decided {
        room_id: answer.room_id,
        request_no: answer.request_no,
        seq: answer.seq,
        time_ms: answer.time_ms,
        duplicate: answer.duplicate,
        answer_forgotten: answer.answer_forgotten,
    }
}

/// The status of the cluster, in the words of `conclave status --json`.
#[derive(Debug, Serialize)]
pub(super) struct Cluster<'a> {
    cluster: &'a str,
    cluster_id: &'a str,
    /// The node that answers.
    node_id: u64,
    healthy: bool,
    can_lose: i32,
    problems: &'a [String],
    shards: u32,
    replicas: u32,
    feature_level: u32,
    /// One for each shard that has a leader.
    leaders: Vec<Leader>,
    nodes: Vec<Node<'a>>,
}

#[derive(Debug, Serialize)]
struct Leader {
    shard: u32,
    node_id: u64,
    term: u64,
}

#[derive(Debug, Serialize)]
struct Node<'a> {
    node_id: u64,
    name: &'a str,
    address: &'a str,
    /// The origin at which browsers reach the node; empty without one.
    web_address: String,
    version: &'a str,
    reachable: bool,
    draining: bool,
    uptime_ms: u64,
    clients: u32,
    clients_max: u32,
    load_permille: u32,
    send_p99_us: u32,
    heartbeat_gap_ms: u32,
    disk_full: bool,
}

pub(super) fn cluster(
    status: &chat::GetServerStatusResponse,
    node_id: u64,
    web_address: impl Fn(u64) -> String,
) -> Cluster<'_> {
    let mut leaders: Vec<Leader> = Vec::new();
    for node in status.nodes.iter().filter(|node| node.reachable) {
        for shard in node.shards.iter().filter(|shard| shard.role() == Role::Leader) {
            let leader = Leader { shard: shard.shard, node_id: node.node_id, term: shard.term };
            match leaders.iter_mut().find(|known| known.shard == leader.shard) {
                Some(known) if known.term < leader.term => *known = leader,
                Some(_) => {}
                None => leaders.push(leader),
            }
        }
    }
    leaders.sort_by_key(|leader| leader.shard);
    let node = |node: &NodeStatus| web_address(node.node_id);
    let nodes = status.nodes.iter().map(|one| Node {
        node_id: one.node_id,
        name: &one.name,
        address: &one.address,
        web_address: node(one),
        version: &one.version,
        reachable: one.reachable,
        draining: one.draining,
        uptime_ms: one.uptime_ms,
        clients: one.clients,
        clients_max: one.clients_max,
        load_permille: one.load_permille,
        send_p99_us: one.send_p99_us,
        heartbeat_gap_ms: one.heartbeat_gap_ms,
        disk_full: one.disk_full,
    });
    Cluster {
        cluster: &status.cluster_name,
        cluster_id: &status.cluster_id,
        node_id,
        healthy: status.healthy,
        can_lose: status.can_lose,
        problems: &status.problems,
        shards: status.shards,
        replicas: status.replicas,
        feature_level: status.feature_level,
        leaders,
        nodes: nodes.collect(),
    }
}

/// A node as streams describe it.
#[derive(Debug, Serialize)]
pub(super) struct Place<'a> {
    node_id: u64,
    name: &'a str,
    web_address: &'a str,
    alive: bool,
    draining: bool,
    clients: u32,
    clients_max: u32,
    load_permille: u32,
}

pub(super) fn place(node: &NodeView) -> Place<'_> {
    Place {
        node_id: node.node_id,
        name: &node.name,
        web_address: &node.web_address,
        alive: node.alive,
        draining: node.draining,
        clients: node.clients,
        clients_max: node.clients_max,
        load_permille: node.load_permille,
    }
}
