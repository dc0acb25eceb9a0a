use std::net::IpAddr;

use conclave_proto::cluster::{MemberRole, NodeRecord, ShardLead};
use proptest::prelude::*;

use super::*;
use crate::names::{NameServer, zone_name};

#[path = "../../tests/dns/sample.rs"]
mod sample;

fn node(id: u64) -> NodeView {
    NodeView { record: sample::record(id), live: true }
}

fn view(nodes: Vec<NodeView>) -> ZoneInput {
    ZoneInput {
        zone: zone_name("conclave.internal").unwrap(),
        name_servers: vec![NameServer { name: "ns1".to_owned(), ips: vec![[127, 0, 0, 1].into()] }],
        nodes,
        stale: false,
        serial: 42,
    }
}

fn three() -> Vec<NodeView> {
    let mut nodes = vec![node(1), node(2), node(3)];
    nodes[0].record.leads = vec![ShardLead { shard: 0, term: 7 }];
    nodes[1].record.leads = vec![ShardLead { shard: 1, term: 3 }];
    nodes
}

/// Name and priority of each target of a set.
fn ranks(nodes: Vec<NodeView>, set: &str) -> Vec<(String, u16)> {
    let zone = Zone::build(&view(nodes));
    let targets = zone.targets(set).unwrap_or_else(|| panic!("no set {set:?}"));
    targets.iter().map(|target| (target.node.clone(), target.priority)).collect()
}

fn named(expected: &[(&str, u16)]) -> Vec<(String, u16)> {
    expected.iter().map(|(name, priority)| ((*name).to_owned(), *priority)).collect()
}

#[test]
fn client_targets_rank_leader_voters_learners_and_then_who_takes_no_clients() {
    let mut nodes = three();
    nodes.push(node(4));
    nodes[3].record.set_role(MemberRole::Learner);
    nodes.push(node(5));
    (nodes[4].record.draining, nodes[4].record.ready) = (true, false);
    nodes.push(node(6));
    nodes[5].record.ready = false;
    nodes.push(node(7));
    nodes[6].record.full = true;
    nodes.push(node(8));
    nodes[7].live = false;
    assert_eq!(
        ranks(nodes, ""),
        named(&[("n1", 10), ("n2", 20), ("n3", 20), ("n4", 30), ("n5", 40), ("n6", 40)])
    );
}

#[test]
fn equal_priorities_sort_by_weight_and_weights_are_clamped() {
    let mut nodes = three();
    nodes[1].record.weight = 0;
    nodes[2].record.weight = 4_000_000_000;
    let zone = Zone::build(&view(nodes));
    let weights: Vec<_> =
        zone.targets("").unwrap().iter().map(|target| (target.node.as_str(), target.weight)).collect();
    assert_eq!(weights, [("n1", 50), ("n3", 100), ("n2", 1)]);
}

#[test]
fn full_nodes_are_listed_only_when_no_other_node_takes_clients() {
    let mut nodes = three();
    nodes[0].record.full = true;
    assert_eq!(ranks(nodes.clone(), ""), named(&[("n2", 20), ("n3", 20)]));
    (nodes[1].record.full, nodes[2].record.full) = (true, true);
    assert_eq!(ranks(nodes.clone(), ""), named(&[("n1", 40), ("n2", 40), ("n3", 40)]));
    (nodes[2].record.full, nodes[2].record.draining, nodes[2].record.ready) = (false, true, false);
    assert_eq!(ranks(nodes, ""), named(&[("n1", 40), ("n2", 40), ("n3", 40)]));
}

#[test]
fn there_is_no_leader_when_the_claim_with_the_highest_term_is_not_live() {
    let mut nodes = three();
    assert_eq!(ranks(nodes.clone(), "leader"), named(&[("n1", 10)]));
    nodes[0].live = false;
    assert_eq!(ranks(nodes.clone(), "leader"), []);
    assert_eq!(ranks(nodes.clone(), ""), named(&[("n2", 20), ("n3", 20)]));
    nodes[2].record.leads = vec![ShardLead { shard: 0, term: 8 }];
    assert_eq!(ranks(nodes.clone(), "leader"), named(&[("n3", 10)]));
    // The old leader comes back with its old term.
    nodes[0].live = true;
    assert_eq!(ranks(nodes, "leader"), named(&[("n3", 10)]));
}

#[test]
fn a_living_node_without_a_leader_stays_listed_behind_all_others() {
    // From here, two dead nodes whose records are kept look like this.
    let mut nodes = three();
    nodes[2].record.ready = false;
    assert_eq!(ranks(nodes.clone(), ""), named(&[("n1", 10), ("n2", 20), ("n3", 40)]));
    assert_eq!(ranks(nodes.clone(), "shard-1"), named(&[("n2", 10), ("n1", 20), ("n3", 40)]));
    nodes[0].live = false;
    nodes[1].live = false;
    assert_eq!(ranks(nodes.clone(), ""), named(&[("n3", 40)]));
    assert_eq!(ranks(nodes, "shard-1"), named(&[("n3", 40)]));
}

#[test]
fn a_shards_targets_are_its_leader_and_then_its_voters() {
    let mut nodes = three();
    nodes[2].record.votes_in = vec![0];
    assert_eq!(ranks(nodes.clone(), "shard-1"), named(&[("n2", 10), ("n1", 20)]));
    nodes[1].live = false;
    assert_eq!(ranks(nodes.clone(), "shard-1"), named(&[("n1", 20)]));
    nodes[0].live = false;
    assert_eq!(ranks(nodes.clone(), "shard-1"), []);
    assert_eq!(Zone::build(&view(nodes)).targets("shard-2"), None);
}

#[test]
fn peers_and_metrics_list_every_member() {
    let mut nodes = three();
    nodes[2].live = false;
    nodes[1].record.ready = false;
    let zone = Zone::build(&view(nodes));
    for (set, port) in [("peers", 7401), ("metrics", 7480)] {
        let ports: Vec<_> =
            zone.targets(set).unwrap().iter().map(|target| (target.node.as_str(), target.port)).collect();
        assert_eq!(ports, [("n1", port), ("n2", port), ("n3", port)]);
    }
}

#[test]
fn sets_are_found_by_short_and_by_whole_names_in_any_case() {
    let zone = Zone::build(&view(three()));
    let expected = zone.targets("leader").unwrap();
    assert_eq!(expected[0].host, "n1.node.conclave.internal");
    assert_eq!(expected[0].ips, ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
    assert_eq!(zone.targets("_Conclave._TCP.leader.conclave.internal."), Some(expected));
    assert_eq!(zone.targets("n2").unwrap()[0].port, 7400);
    assert_eq!(zone.targets("n2._conclave._tcp.conclave.internal").unwrap()[0].port, 7400);
    assert_eq!(zone.targets("n9"), None);
}

#[test]
fn of_two_nodes_with_the_same_name_the_live_one_is_listed() {
    let mut nodes = vec![node(1), node(1)];
    nodes[1].record.node_id = 9;
    nodes[1].record.revision = 5_000;
    nodes[1].live = false;
    let zone = Zone::build(&view(nodes));
    assert_eq!(zone.targets("peers").unwrap().len(), 1);
    assert_eq!(zone.targets("n1").unwrap()[0].node_id, 1);
}

#[test]
fn a_name_is_below_another_only_label_by_label() {
    let key = |name: &str| key(&Name::from_ascii(name).unwrap());
    assert!(is_below(&key("a.conclave.internal."), &key("conclave.internal.")));
    assert!(is_below(&key("conclave.internal."), &key("conclave.internal.")));
    assert!(!is_below(&key("internal."), &key("conclave.internal.")));
    assert!(!is_below(&key("xconclave.internal."), &key("conclave.internal.")));
    // The same bytes at the end, inside a label.
    assert!(!is_below(b"\x0aa\x08conclave\x08internal\0", &key("conclave.internal.")));
}

fn any_node() -> impl Strategy<Value = NodeView> {
    let text = || prop_oneof![Just("n1".to_owned()), "[a-z0-9-]{0,63}", ".{0,20}", Just("leader".to_owned())];
    let address = || prop_oneof!["[a-z0-9.]{0,12}:[0-9]{0,6}", ".{0,12}", Just("[::1]:7400".to_owned())];
    let ip = prop_oneof!["10\\.0\\.[0-9]\\.[0-9]", "fd00::[0-9a-f]{1,4}", ".{0,8}"];
    let texts = (text(), text(), ".{0,300}", address(), address(), address());
    let lists = (
        proptest::collection::vec(ip, 0..12),
        proptest::collection::vec((0_u32..70, 0_u64..4), 0..6),
        proptest::collection::vec(0_u32..70, 0..6),
    );
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (texts, lists, flags, (0_u64..6, any::<u64>(), any::<u32>(), any::<i32>())).prop_map(
        |((name, cluster_id, version, client, peer, http), (ips, leads, votes_in), flags, numbers)| {
            NodeView {
                record: NodeRecord {
                    node_id: numbers.0,
                    name,
                    cluster_id,
                    client,
                    peer,
                    http,
                    ips,
                    version,
                    revision: numbers.1,
                    ready: flags.0,
                    draining: flags.1,
                    full: flags.2,
                    role: numbers.3 % 5,
                    weight: numbers.2,
                    leads: leads.into_iter().map(|(shard, term)| ShardLead { shard, term }).collect(),
                    votes_in,
                },
                live: flags.3,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_records_make_a_consistent_zone(
        nodes in proptest::collection::vec(any_node(), 0..12),
        label in "[a-z]{1,20}",
        stale in any::<bool>(),
    ) {
        let mut view = ZoneInput { stale, ..view(nodes) };
        view.zone = zone_name(&format!("{label}.internal")).unwrap();
        let zone = Zone::build(&view);

        let names: Vec<_> = zone.records().map(|record| record.name.clone()).collect();
        for record in zone.records() {
            // Every name lies in the zone, and so does every name between (RFC 8020).
            let mut name = record.name.clone();
            while name != view.zone {
                prop_assert!(zone.find(&key(&name)).is_some(), "{} is missing below {}", name, record.name);
                name = name.base_name();
            }
            if let RData::SRV(srv) = &record.data {
                prop_assert!(names.contains(&srv.target), "{} leads to {}", record.name, srv.target);
                prop_assert!(srv.port != 0);
            }
        }
        // Every target comes with all of its addresses.
        for entry in zone.names.values() {
            for set in entry.sets.iter().filter(|set| set.kind == RecordType::SRV) {
                let mut known: Vec<_> = set.records.iter().filter_map(|record| match &record.data {
                    RData::SRV(srv) => zone.find(&key(&srv.target)),
                    _ => None,
                }).flat_map(|entry| ADDRESS_TYPES.iter().filter_map(|kind| entry.set(*kind))).collect();
                known.sort_by_key(|set| std::ptr::from_ref(*set));
                known.dedup_by_key(|set| std::ptr::from_ref(*set));
                let addresses = known.iter().map(|set| set.records.len()).sum::<usize>();
                let with = set.with_additional.as_ref().map_or(0, |body| usize::from(body.additional));
                prop_assert_eq!(addresses, with);
            }
        }
        let sent: usize = zone.transfer().iter().map(|body| usize::from(body.answers)).sum();
        prop_assert_eq!(sent, names.len() + 1);
        for name in ["", "leader", "peers", "metrics"] {
            prop_assert!(zone.targets(name).is_some());
        }
    }

    #[test]
    fn the_same_records_make_the_same_zone_in_any_order(
        nodes in proptest::collection::vec(any_node(), 0..8),
        turn in any::<prop::sample::Index>(),
    ) {
        // No two records of one node at one revision: that is what revisions are for.
        let nodes: Vec<_> = nodes.into_iter().enumerate().map(|(at, mut node)| {
            node.record.node_id = at as u64;
            node
        }).collect();
        let mut turned = nodes.clone();
        turned.rotate_left(turn.index(nodes.len().max(1)).min(nodes.len()));
        turned.reverse();
        let (one, two) = (Zone::build(&view(nodes)), Zone::build(&view(turned)));
        prop_assert_eq!(one.transfer(), two.transfer());
        prop_assert_eq!(one.serial(), two.serial());
    }
}
