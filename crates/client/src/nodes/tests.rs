use conclave_proto::chat::{NodeStatus, NodeView, ShardStatus};
use proptest::prelude::*;

use super::*;
use crate::find::{Candidate, PRIORITY_LAST, Source};

fn found(source: Source, addresses: &[&str]) -> Found {
    let candidates = addresses.iter().map(|address| Candidate::at(*address)).collect();
    Found { candidates, fresh_for: None, source, notes: Vec::new() }
}

fn nodes() -> Nodes {
    let nodes = Nodes::in_order();
    nodes.add_found(&found(Source::Given, &["a:1", "b:2", "c:3"]));
    nodes
}

fn pick(nodes: &Nodes) -> String {
    nodes.pick(&[]).unwrap().address.to_string()
}

fn seen(id: u64, name: &str, address: &str) -> NodeView {
    NodeView { node_id: id, name: name.into(), address: address.into(), alive: true, ..NodeView::default() }
}

fn view(nodes: Vec<NodeView>) -> ClusterView {
    ClusterView { nodes, ..ClusterView::default() }
}

#[tokio::test]
async fn a_node_that_failed_is_asked_after_the_others() {
    let nodes = nodes();
    assert_eq!(pick(&nodes), "a:1");
    nodes.mark_failed("a:1");
    assert_eq!(pick(&nodes), "b:2");
    nodes.mark_failed("b:2");
    assert_eq!(pick(&nodes), "c:3");
    assert!(!nodes.all_failed());
    assert_eq!(nodes.addresses()[0], "c:3");
    nodes.mark_worked("a:1");
    assert_eq!(&*nodes.pick(&["c:3".into()]).unwrap().address, "a:1");
    assert_eq!(pick(&nodes), "c:3", "the preferred node stays the same");
}

#[tokio::test]
async fn if_all_nodes_failed_one_is_picked_for_later() {
    let nodes = nodes();
    for _ in 0..3 {
        for address in ["a:1", "b:2", "c:3"] {
            nodes.mark_failed(address);
        }
    }
    assert!(nodes.all_failed());
    assert!(nodes.pick(&[]).unwrap().at.is_some());
}

#[tokio::test]
async fn clients_spread_evenly_also_after_a_node_has_died() {
    const CLIENTS: usize = 3_000;
    let all = ["a:1", "b:2", "c:3"];
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let nodes = Nodes::spread();
            nodes.add_found(&found(Source::Given, &all));
            nodes
        })
        .collect();
    let count = |at: &str| clients.iter().filter(|nodes| pick(nodes) == at).count();
    for address in all {
        assert!((800..1_200).contains(&count(address)), "{address}: {}", count(address));
    }
    for nodes in &clients {
        nodes.mark_failed("b:2");
    }
    for address in ["a:1", "c:3"] {
        assert!((1_350..1_650).contains(&count(address)), "{address}: {}", count(address));
    }
}

#[tokio::test]
async fn clients_prefer_nodes_with_free_capacity() {
    let mut full = seen(1, "a", "a:1");
    (full.clients, full.clients_max) = (100, 100);
    let mut half = seen(2, "b", "b:2");
    (half.clients, half.clients_max) = (50, 100);
    let mut leaving = seen(4, "d", "d:4");
    leaving.draining = true;
    let view = view(vec![full, half, seen(3, "c", "c:3"), leaving]);
    let mut counts = std::collections::HashMap::<String, u32>::new();
    for _ in 0..3_000 {
        let nodes = Nodes::spread();
        nodes.observe_view(&view);
        *counts.entry(pick(&nodes)).or_default() += 1;
    }
    let count = |at: &str| counts.get(at).copied().unwrap_or(0);
    assert!(count("a:1") < 100 && count("d:4") == 0, "{counts:?}");
    assert!((850..1_150).contains(&count("b:2")), "{counts:?}");
}

#[tokio::test]
async fn nodes_of_the_last_priority_are_asked_last() {
    let nodes = Nodes::spread();
    let mut some = found(Source::Srv, &["a:1", "b:2"]);
    some.candidates[0].priority = PRIORITY_LAST;
    nodes.add_found(&some);
    assert_eq!(pick(&nodes), "b:2");
    nodes.mark_failed("b:2");
    assert_eq!(pick(&nodes), "a:1");
}

#[tokio::test]
async fn a_full_node_still_gets_requests_and_no_subscriptions() {
    let nodes = nodes();
    nodes.observe_status(&GetServerStatusResponse { shards: 1, ..GetServerStatusResponse::default() });
    nodes.learn_leader(&LeaderHint { shard: 1, term: 4, node_id: 0, address: "a:1".into() });
    let failure = chat::Failure {
        code: "node_full".into(),
        try_addresses: vec!["d:4".into(), "b:2".into()],
        ..chat::Failure::default()
    };
    let others = nodes.redirected("a:1", &failure).unwrap();
    assert_eq!(others.iter().map(|other| &**other).collect::<Vec<_>>(), ["d:4", "b:2"]);
    assert_eq!(nodes.leader_of(9).as_deref(), Some("a:1"));
    assert!(nodes.refuses_clients("a:1") && !nodes.avoided("a:1"));
    assert_eq!(pick(&nodes), "b:2");
    nodes.mark_subscribed("a:1");
    assert_eq!(pick(&nodes), "a:1", "a subscription is open there after all");
    let other = chat::Failure { code: "room_unknown".into(), ..chat::Failure::default() };
    assert_eq!(nodes.redirected("a:1", &other), None);
}

#[tokio::test]
async fn a_node_that_is_named_nowhere_is_removed_once_it_fails() {
    let nodes = nodes();
    nodes.add(["d:4"]);
    nodes.observe_view(&view(vec![seen(1, "a", "a:1"), seen(2, "b", "b:2")]));
    nodes.add_found(&found(Source::Srv, &["b:2"]));
    for address in ["a:1", "b:2", "c:3", "d:4"] {
        assert_eq!(nodes.addresses().len(), if address == "d:4" { 3 } else { 4 }, "before {address}");
        nodes.mark_failed(address);
    }
    assert_eq!(nodes.count(), 2);
    nodes.observe_view(&view(vec![seen(2, "b", "b:2")]));
    assert_eq!(nodes.addresses(), ["b:2"], "a:1 has failed, and is no longer a member");
    nodes.add_found(&found(Source::Cache, &["x:1"]));
    nodes.mark_failed("b:2");
    assert_eq!(nodes.count(), 2, "a remembered list does not remove nodes");
    assert_eq!(nodes.members(), ["b:2"]);
}

#[tokio::test]
async fn a_node_with_two_addresses_is_one_entry() {
    let nodes = Nodes::in_order();
    let mut some = found(Source::Srv, &["10.0.0.1:7400", "10.0.0.2:7400"]);
    for (candidate, name) in some.candidates.iter_mut().zip(["n1", "n2"]) {
        candidate.name = name.into();
    }
    nodes.add_found(&some);
    nodes.observe_status(&GetServerStatusResponse { shards: 1, ..GetServerStatusResponse::default() });
    nodes.observe_view(&view(vec![
        seen(1, "n1", "n1:7400"),
        seen(2, "n2", "n2:7400"),
        seen(3, "n3", "n3:7400"),
    ]));
    assert_eq!(nodes.addresses(), ["10.0.0.1:7400", "10.0.0.2:7400", "n3:7400"]);
    nodes.learn_leader(&LeaderHint { shard: 1, term: 4, node_id: 2, address: "n2:7400".into() });
    assert_eq!(nodes.leader_of(9).as_deref(), Some("10.0.0.2:7400"));
    nodes.learn_leader(&LeaderHint { shard: 1, term: 5, node_id: 1, address: String::new() });
    assert_eq!(nodes.leader_of(9).as_deref(), Some("10.0.0.1:7400"), "by its id");
    assert!(!nodes.take_search_wanted());
    assert!(!nodes.learn_leader(&LeaderHint { shard: 1, term: 6, node_id: 9, address: String::new() }));
    assert!(nodes.take_search_wanted(), "the address of node 9 must be searched for");
}

#[tokio::test]
async fn leaders_are_learned_from_a_status() {
    let nodes = nodes();
    let shard = |leader_id| ShardStatus { shard: 1, term: 2, leader_id, ..ShardStatus::default() };
    let node = |node_id, address: &str, leader_id| NodeStatus {
        node_id,
        address: address.into(),
        shards: vec![shard(leader_id)],
        ..NodeStatus::default()
    };
    let status = |nodes| GetServerStatusResponse { shards: 1, nodes, ..GetServerStatusResponse::default() };
    assert!(!nodes.observe_status(&status(vec![node(1, "a:1", 2)])), "the address of node 2 is unknown");
    assert!(nodes.observe_status(&status(vec![node(1, "a:1", 2), node(2, "b:2", 2)])));
    assert_eq!(nodes.leader_of(9).as_deref(), Some("b:2"));
}

#[tokio::test]
async fn the_leader_of_the_highest_term_wins() {
    let nodes = nodes();
    nodes.observe_status(&GetServerStatusResponse { shards: 1, ..GetServerStatusResponse::default() });
    let hint = |term, address: &str| LeaderHint { shard: 1, term, node_id: 0, address: address.into() };
    assert!(nodes.learn_leader(&hint(4, "b:2")));
    assert!(!nodes.learn_leader(&hint(3, "a:1")));
    assert_eq!(nodes.leader_of(9).as_deref(), Some("b:2"));
    assert!(nodes.learn_leader(&hint(5, "d:4")), "a hint may name a node that was not known");
    assert_eq!(nodes.leader_of(9).as_deref(), Some("d:4"));
    nodes.mark_silent("d:4");
    assert_eq!(nodes.leader_of(9), None);
    assert!(nodes.misses_leaders());
    assert!(!nodes.learn_leader(&hint(5, "d:4")), "a hint of the same term may be older than the failure");
    nodes.mark_worked("d:4");
    assert_eq!(nodes.leader_of(9), None, "it may have lost the leadership meanwhile");
    assert!(!nodes.learn_leader(&hint(4, "b:2")), "an older term is ignored");
    assert!(nodes.learn_leader(&hint(5, "d:4")));
    assert_eq!(nodes.leader_of(9).as_deref(), Some("d:4"));
}

proptest! {
    /// Whatever nodes say, the table stays bounded, and a named node has an entry.
    #[test]
    fn the_table_stays_bounded(heard in proptest::collection::vec((0_u8..4, 0_u32..400), 0..600)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let nodes = Nodes::spread();
        for (kind, n) in heard {
            let address = format!("n{n}:7400");
            match kind {
                0 => nodes.add([address.as_str()]),
                1 => nodes.mark_failed(&address),
                2 => { nodes.add_found(&found(Source::Srv, &[&address])); }
                _ => nodes.observe_view(&view(vec![seen(u64::from(n) + 1, "", &address)])),
            }
            prop_assert!(nodes.count() <= conclave_core::limits::NODES_MAX * 2);
            if kind > 1 {
                prop_assert!(nodes.addresses().contains(&address));
            }
        }
        prop_assert!(nodes.members().len() <= 1);
    }
}

#[test]
fn a_leaving_node_is_available_again_once_others_name_it() {
    let nodes = Nodes::in_order();
    nodes.add(["a:1", "b:2"]);
    nodes.mark_leaving("a:1");
    assert_eq!(nodes.pick(&[]).unwrap().address.as_ref(), "b:2");
    // It was restarted meanwhile, and the next leaving node names it.
    nodes.mark_available(["a:1"]);
    nodes.mark_leaving("b:2");
    assert_eq!(nodes.pick(&[]).unwrap().address.as_ref(), "a:1");
    assert_eq!(nodes.pick(&[]).unwrap().at, None);
}
