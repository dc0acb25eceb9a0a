//! Renders the cluster's status for people; `json` does for programs.

mod json;

use conclave_proto::chat::{GetServerStatusResponse, NodeStatus, Role, ShardStatus};

use super::paint::{Ink, paint};
use super::table::{Align, Cell, render, render_within};
use super::text::{age, at_most, bytes, count, flow, grouped, safe};
use crate::limits::HEARTBEAT_GAP_MS_MAX;
use crate::settings::Style;
pub(crate) use json::json;

/// The shards that no reachable node leads; the meta shard is number 0.
pub(crate) fn leaderless(status: &GetServerStatusResponse) -> Vec<u32> {
    (0..=status.shards).filter(|shard| leader(status, *shard).is_none()).collect()
}

/// A sentence for each server that hears its leaders late, as it happens on a machine that has too little processor time.
pub(crate) fn late_heartbeats(status: &GetServerStatusResponse) -> Vec<String> {
    let late =
        status.nodes.iter().filter(|node| node.reachable && node.heartbeat_gap_ms >= HEARTBEAT_GAP_MS_MAX);
    late.map(|node| {
        format!(
            "heartbeats took up to {} ms to {} in the last minute: its machine, or that of a leader, has too little processor \
             time, or the network between them is slow",
            node.heartbeat_gap_ms, node.name
        )
    })
    .collect()
}

/// The node that leads the shard, with a quorum. If two claim to, the one with the higher term does.
fn leader(status: &GetServerStatusResponse, shard: u32) -> Option<(&NodeStatus, &ShardStatus)> {
    replicas(status, shard).filter(|(node, state)| leads(node, state)).max_by_key(|(_, state)| state.term)
}

/// Whether the node leads the shard. A leader that has lost its quorum leads nobody.
fn leads(node: &NodeStatus, state: &ShardStatus) -> bool {
    state.role() == Role::Leader && state.leader_id == node.node_id
}

/// The name of the shard's leader.
pub(crate) fn leader_name(status: &GetServerStatusResponse, shard: u32) -> Option<String> {
    leader(status, shard).map(|(node, _)| node.name.clone())
}

fn replicas(
    status: &GetServerStatusResponse,
    shard: u32,
) -> impl Iterator<Item = (&NodeStatus, &ShardStatus)> {
    status
        .nodes
        .iter()
        .filter(|node| node.reachable)
        .filter_map(move |node| node.shards.iter().find(|s| s.shard == shard).map(|state| (node, state)))
}

/// The applied index of the most advanced replica of the shard.
fn newest(status: &GetServerStatusResponse, shard: u32) -> u64 {
    replicas(status, shard).map(|(_, s)| s.committed_index.max(s.applied_index)).max().unwrap_or(0)
}

/// The log entries that the node has applied and those that it lacks, summed over its shards.
fn applied_and_lag(status: &GetServerStatusResponse, node: &NodeStatus) -> (u64, u64) {
    node.shards.iter().fold((0, 0), |(applied, lag), state| {
        let behind = newest(status, state.shard).saturating_sub(state.applied_index);
        (applied + state.applied_index, lag + behind)
    })
}

/// The columns of the table of nodes that are left out first where a terminal is too narrow for all of them.
const DISPENSABLE: [&str; 7] = ["UP", "VERSION", "APPLIED", "DISK", "LOAD", "SYNC p99", "CLIENTS"];

/// The page: a line about the cluster, its nodes, its shards, and its problems. In a terminal of `within` columns nothing
/// takes more than one row that need not: columns of the table of nodes are left out, and the first line and sentences
/// are broken between words. `None` leaves nothing out and breaks nothing.
pub(crate) fn page(style: Style, status: &GetServerStatusResponse, within: Option<usize>) -> String {
    let mut out = headline(style, status, within);
    out.push_str(&nodes(style, status, within));
    out.push('\n');
    out.push_str(&shards(style, status));
    let late = late_heartbeats(status);
    for problem in status.problems.iter().chain(&late) {
        let sentence = format!("! {}", safe(problem, "  "));
        for line in flow(sentence.split(' '), " ", "  ", within).lines() {
            out.push_str(&paint(style, Ink::Warn, line));
            out.push('\n');
        }
    }
    out
}

/// `cluster local   HEALTHY   3/3 nodes   can lose 1   8 shards x 3 replicas   layout 1   id be10…`
fn headline(style: Style, status: &GetServerStatusResponse, within: Option<usize>) -> String {
    let up = status.nodes.iter().filter(|node| node.reachable).count();
    let all = status.nodes.len();
    let health = if status.healthy {
        paint(style, Ink::Good, "HEALTHY")
    } else {
        match status.can_lose {
            ..0 => paint(style, Ink::Bad, "NOT WRITABLE"),
            _ if only_drains(status) => paint(style, Ink::Warn, "DRAINING"),
            _ => paint(style, Ink::Bad, "NOT HEALTHY"),
        }
    };
    let mut parts = vec![
        format!("cluster {}", paint(style, Ink::Bold, &safe(&status.cluster_name, ""))),
        health,
        format!("{up}/{all} nodes"),
        can_lose(style, status.can_lose),
        format!(
            "{} x {}",
            count(u64::from(status.shards), "shard"),
            count(u64::from(status.replicas), "replica")
        ),
        format!("layout {}", status.layout_version),
    ];
    if !status.cluster_id.is_empty() {
        parts.push(format!("id {}", safe(&status.cluster_id, "")));
    }
    let mut line = flow(parts.iter().map(String::as_str), "   ", "  ", within);
    line.push('\n');
    line
}

/// Whether all problems are that servers drain, which an operator asked for.
fn only_drains(status: &GetServerStatusResponse) -> bool {
    let draining = status.nodes.iter().filter(|node| node.reachable && node.draining).count();
    draining > 0 && draining == status.problems.len()
}

fn can_lose(style: Style, nodes: i32) -> String {
    match nodes {
        ..0 => paint(style, Ink::Bad, "quorum lost"),
        0 => paint(style, Ink::Warn, "can lose 0"),
        _ => format!("can lose {nodes}"),
    }
}

/// The role of a node, for example `leads 3 of 9`.
fn role(node: &NodeStatus) -> Cell {
    if !node.reachable {
        return Cell::inked("unreachable", Ink::Bad);
    }
    if node.draining {
        return Cell::inked("draining", Ink::Warn);
    }
    let leads = node.shards.iter().filter(|state| leads(node, state)).count();
    let learns = node.shards.iter().filter(|state| state.role() == Role::Learner).count();
    match (leads, learns) {
        (0, 0) => "follower".into(),
        (0, n) if n == node.shards.len() => "learner".into(),
        (leads, _) => format!("leads {leads} of {}", node.shards.len()).into(),
    }
}

fn nodes(style: Style, status: &GetServerStatusResponse, within: Option<usize>) -> String {
    let columns = [
        ("NODE", Align::Left),
        ("ROLE", Align::Left),
        ("ADDRESS", Align::Left),
        ("VERSION", Align::Left),
        ("APPLIED", Align::Right),
        ("LAG", Align::Right),
        ("SYNC p99", Align::Right),
        ("CLIENTS", Align::Right),
        ("LOAD", Align::Right),
        ("DISK", Align::Right),
        ("FREE", Align::Right),
        ("UP", Align::Right),
    ];
    let row = |node: &NodeStatus| {
        let mut row = vec![Cell::from(safe(&node.name, "")), role(node), safe(&node.address, "").into()];
        if node.reachable {
            let (applied, lag) = applied_and_lag(status, node);
            row.extend([
                safe(&node.version, "").into(),
                grouped(applied).into(),
                if lag == 0 { "0".into() } else { Cell::inked(grouped(lag), Ink::Warn) },
                at_most(node.sync_p99_us, style.unicode).into(),
                clients(node),
                format!("{} %", node.load_permille.div_ceil(10)).into(),
                bytes(node.log_bytes + node.state_bytes).into(),
                free(node),
                age(node.uptime_ms).into(),
            ]);
        }
        row
    };
    render_within(style, &columns, &status.nodes.iter().map(row).collect::<Vec<_>>(), within, &DISPENSABLE)
}

/// The room on the node's disk.
fn free(node: &NodeStatus) -> Cell {
    match node.disk_size_bytes {
        // An older version, or a file system that does not tell.
        0 => "-".into(),
        _ if node.disk_full => Cell::inked(bytes(node.disk_free_bytes), Ink::Bad),
        _ => bytes(node.disk_free_bytes).into(),
    }
}

/// `41`, or `41/10,000` if the maximum is known.
fn clients(node: &NodeStatus) -> Cell {
    let now = grouped(u64::from(node.clients));
    match node.clients_max {
        0 => now.into(),
        max if node.clients >= max => Cell::inked(format!("{now}/{}", grouped(u64::from(max))), Ink::Warn),
        max => format!("{now}/{}", grouped(u64::from(max))).into(),
    }
}

fn shards(style: Style, status: &GetServerStatusResponse) -> String {
    let columns = [
        ("SHARD", Align::Left),
        ("LEADER", Align::Left),
        ("TERM", Align::Right),
        ("APPLIED", Align::Right),
        ("LAG", Align::Right),
        ("REPLICAS", Align::Left),
    ];
    let row = |shard: u32| {
        let name = if shard == 0 { "0 (meta)".to_owned() } else { shard.to_string() };
        let Some((node, state)) = leader(status, shard) else {
            return vec![Cell::from(name), Cell::inked("none", Ink::Bad)];
        };
        let slowest = replicas(status, shard).map(|(_, s)| s.applied_index).min().unwrap_or(0);
        let voters: Vec<String> = state.voters.iter().map(|id| node_name(status, *id)).collect();
        vec![
            name.into(),
            safe(&node.name, "").into(),
            grouped(state.term).into(),
            grouped(state.applied_index).into(),
            grouped(newest(status, shard).saturating_sub(slowest)).into(),
            voters.join(" ").into(),
        ]
    };
    render(style, &columns, &(0..=status.shards).map(row).collect::<Vec<_>>())
}

fn node_name(status: &GetServerStatusResponse, id: u64) -> String {
    let node = status.nodes.iter().find(|node| node.node_id == id);
    node.map_or_else(|| format!("#{id}"), |node| safe(&node.name, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64, leads: &[u32], applied: u64) -> NodeStatus {
        let shard = |shard: u32| ShardStatus {
            shard,
            role: (if leads.contains(&shard) { Role::Leader } else { Role::Follower }).into(),
            term: 4,
            leader_id: if leads.contains(&shard) { id } else { 0 },
            applied_index: applied,
            committed_index: applied,
            voters: vec![1, 2, 3],
            ..ShardStatus::default()
        };
        NodeStatus {
            node_id: id,
            name: format!("node{id}"),
            address: format!("127.0.0.1:74{}0", id - 1),
            version: "0.1.0".into(),
            reachable: true,
            uptime_ms: 7_200_000,
            clients: 41,
            clients_max: 10_000,
            load_permille: 83,
            sync_p99_us: 3_100,
            log_bytes: 8 << 20,
            state_bytes: (4 << 20) + (1 << 19),
            disk_free_bytes: 7 << 30,
            disk_size_bytes: 20 << 30,
            shards: (0..=2).map(shard).collect(),
            ..NodeStatus::default()
        }
    }

    fn healthy() -> GetServerStatusResponse {
        GetServerStatusResponse {
            cluster_name: "local".into(),
            cluster_id: "be10".into(),
            nodes: vec![node(1, &[0], 400_000), node(2, &[1, 2], 400_000), node(3, &[], 399_998)],
            can_lose: 1,
            healthy: true,
            shards: 2,
            replicas: 3,
            layout_version: 1,
            feature_level: 2,
            ..GetServerStatusResponse::default()
        }
    }

    #[test]
    fn a_healthy_cluster() {
        let expected = "\
cluster local   HEALTHY   3/3 nodes   can lose 1   2 shards x 3 replicas   layout 1   id be10
NODE   ROLE          ADDRESS         VERSION    APPLIED  LAG   SYNC p99    CLIENTS  LOAD      DISK     FREE  UP
node1  leads 1 of 3  127.0.0.1:7400  0.1.0    1,200,000    0  <= 3.1 ms  41/10,000   9 %  12.5 MiB  7.0 GiB  2h
node2  leads 2 of 3  127.0.0.1:7410  0.1.0    1,200,000    0  <= 3.1 ms  41/10,000   9 %  12.5 MiB  7.0 GiB  2h
node3  follower      127.0.0.1:7420  0.1.0    1,199,994    6  <= 3.1 ms  41/10,000   9 %  12.5 MiB  7.0 GiB  2h

SHARD     LEADER  TERM  APPLIED  LAG  REPLICAS
0 (meta)  node1      4  400,000    2  node1 node2 node3
1         node2      4  400,000    2  node1 node2 node3
2         node2      4  400,000    2  node1 node2 node3
";
        assert_eq!(page(Style::default(), &healthy(), None), expected);
    }

    #[test]
    fn late_heartbeats_are_named_and_make_no_cluster_unhealthy() {
        let mut status = healthy();
        status.nodes[2].heartbeat_gap_ms = HEARTBEAT_GAP_MS_MAX - 1;
        assert_eq!(late_heartbeats(&status), [""; 0]);
        status.nodes[1].heartbeat_gap_ms = 430;
        let text = page(Style::default(), &status, None);
        assert!(
            text.contains("! heartbeats took up to 430 ms to node2") && text.contains("   HEALTHY   "),
            "{text}"
        );
        status.nodes[1].reachable = false;
        assert_eq!(late_heartbeats(&status), [""; 0]);
    }

    #[test]
    fn the_page_fits_a_terminal_of_80_columns() {
        let mut status = healthy();
        status.cluster_name = "local-a1ea9570".into();
        status.cluster_id = "be".repeat(16);
        status.nodes[1].reachable = false;
        status.problems = vec![
            "the disk of node2 has less room than its reserve, and as a leader it takes no writes of clients"
                .into(),
        ];
        let text = page(Style::default(), &status, Some(80));
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "{text}");
        for part in
            ["NODE   ROLE", "ADDRESS", "LAG", "FREE", "7.0 GiB", "  id bebe", "\n  writes of clients\n"]
        {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        // Narrower terminals lose columns and no rows.
        let narrow = page(Style::default(), &status, Some(50));
        assert!(narrow.contains("node3  follower") && !narrow.contains("CLIENTS"), "{narrow}");
    }

    #[test]
    fn a_lost_node_and_its_shards_are_marked() {
        let mut status = healthy();
        status.nodes[1].reachable = false;
        status.can_lose = -1;
        status.healthy = false;
        status.problems = vec!["node2 does not answer".into()];
        let text = page(Style::default(), &status, None);
        assert_eq!(leaderless(&status), [1, 2]);
        for part in
            ["NOT WRITABLE   2/3 nodes   quorum lost", "node2  unreachable", "1         none", "! node2 does"]
        {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }

    #[test]
    fn a_cluster_that_only_drains_says_so() {
        let mut status = healthy();
        status.healthy = false;
        status.nodes[1].draining = true;
        status.problems = vec!["node2 is draining".into()];
        assert!(page(Style::default(), &status, None).contains("   DRAINING   "));
        status.problems.push("shard 1 has no leader: messages to its rooms wait".into());
        assert!(page(Style::default(), &status, None).contains("   NOT HEALTHY   "));
    }

    #[test]
    fn the_higher_term_leads() {
        let mut status = healthy();
        status.nodes[2].shards[0].role = Role::Leader.into();
        status.nodes[2].shards[0].term = 5;
        status.nodes[2].shards[0].leader_id = 3;
        assert_eq!(leader(&status, 0).map(|(node, _)| node.node_id), Some(3));
        // It has lost its quorum.
        status.nodes[2].shards[0].leader_id = 0;
        assert_eq!(leader(&status, 0).map(|(node, _)| node.node_id), Some(1));
    }

    #[test]
    fn keys_are_stable() {
        let value = serde_json::to_value(json(&healthy())).unwrap();
        assert_eq!(value["can_lose"], 1);
        assert_eq!(value["nodes"][2]["lag"], 6);
        assert_eq!(value["nodes"][1]["shards"][2]["role"], "leader");
    }
}
