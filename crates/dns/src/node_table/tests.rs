use std::net::Ipv4Addr;

use conclave_core::limits::REGISTER_INTERVAL;
use conclave_proto::cluster::{MemberRole, ShardLead};
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::limits::REGISTER_LEASE;

const HERE: RecordSource = RecordSource::Itself(Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9))));
const LEASE: Duration = REGISTER_LEASE;

pub(crate) fn record(id: u64, revision: u64) -> NodeRecord {
    NodeRecord {
        node_id: id,
        name: format!("n{id}"),
        cluster_id: "0123456789abcdef0123456789abcdef".to_owned(),
        client: format!("n{id}:7400"),
        peer: format!("n{id}:7401"),
        http: format!("n{id}:7480"),
        ips: vec![format!("10.0.0.{id}")],
        version: "0.1.0".to_owned(),
        revision,
        ready: true,
        draining: false,
        full: false,
        role: MemberRole::Voter.into(),
        // Differs with the revision, so that another revision has another content.
        weight: 1 + u32::try_from(revision % 100).unwrap(),
        leads: vec![ShardLead { shard: 0, term: revision }],
        votes_in: vec![0, 1],
    }
}

fn states(table: &NodeTable) -> Vec<&'static str> {
    table.nodes().map(|node| node.state.name()).collect()
}

/// A table with `count` live nodes at revision 10, heard one after the other with 100 ms between them.
fn live(count: u64, start: Instant) -> NodeTable {
    let mut table = NodeTable::new(LEASE);
    for id in 1..=count {
        let at = start + Duration::from_millis(100) * u32::try_from(id - 1).unwrap();
        table.merge(record(id, 10), HERE, at).unwrap();
    }
    table
}

/// Whether `b` is behind `a` by RFC 1982.
fn behind(a: u32, b: u32) -> bool {
    b != a && b.wrapping_sub(a) > 1 << 31
}

#[test]
fn a_silent_node_lapses_and_returns_with_a_higher_revision() {
    let start = Instant::now();
    let mut table = live(3, start);
    for step in 1..=4 {
        let now = start + Duration::from_millis(500) * step;
        table.merge(record(1, 10), HERE, now).unwrap();
        table.merge(record(2, 10), HERE, now).unwrap();
        table.expire(now);
    }
    assert_eq!(table.next_expiry(), Some(start + Duration::from_millis(200) + LEASE));
    assert_eq!(states(&table), ["live", "live", "live"]);
    let before = table.serial();
    let now = start + Duration::from_millis(200) + LEASE;
    table.expire(now);
    assert_eq!(states(&table), ["live", "live", "lapsed"]);
    assert!(!table.stale());
    assert_eq!(table.serial(), before + 2);

    let heard = table.merge(record(3, 10), HERE, now).unwrap();
    assert_eq!(heard, MergeOutcome { known_revision: 10, lapsed: true });
    assert_eq!(states(&table)[2], "lapsed");
    let heard = table.merge(record(3, 11), HERE, now).unwrap();
    assert_eq!(heard, MergeOutcome { known_revision: 11, lapsed: false });
    assert_eq!(states(&table)[2], "live");
}

#[test]
fn nodes_that_die_one_after_the_other_all_lapse() {
    let start = Instant::now();
    let mut table = live(3, start);
    let mut now = start;
    let mut run = |table: &mut NodeTable, speaking: &[u64], until: Duration| {
        while now < start + until {
            now += Duration::from_millis(100);
            for id in speaking {
                table.merge(record(*id, 10), HERE, now).unwrap();
            }
            table.expire(now);
        }
    };
    run(&mut table, &[1, 2], Duration::from_millis(1_500));
    run(&mut table, &[1], Duration::from_secs(5));
    assert_eq!(states(&table), ["live", "lapsed", "lapsed"], "they died one after the other");
}

#[test]
fn when_most_leases_end_together_nodes_are_kept_until_most_return() {
    let start = Instant::now();
    let mut table = live(3, start);
    let cut_off = start + Duration::from_secs(10);
    table.expire(start + LEASE);
    assert_eq!(states(&table), ["kept"; 3], "the others have been silent for almost as long");
    table.expire(cut_off);
    assert_eq!(states(&table), ["kept"; 3]);
    let view = table.view(&Name::root(), &[]).unwrap();
    assert!(view.stale && view.nodes.iter().all(|node| node.live));

    // One of three is not enough.
    assert!(table.merge(record(1, 10), HERE, cut_off).unwrap().lapsed);
    assert!(!table.merge(record(1, 11), HERE, cut_off).unwrap().lapsed);
    table.expire(cut_off + LEASE / 4);
    assert_eq!(states(&table), ["live", "kept", "kept"]);
    // Two are enough, and then the third has one lease to return.
    table.merge(record(2, 11), HERE, cut_off + LEASE / 4).unwrap();
    table.expire(cut_off + LEASE / 4);
    assert_eq!(table.next_expiry(), Some(cut_off + LEASE));
    let given_up = cut_off + LEASE / 4 + LEASE;
    for id in [1, 2] {
        table.merge(record(id, 11), HERE, cut_off + LEASE).unwrap();
    }
    table.expire(cut_off + LEASE);
    assert_eq!(states(&table), ["live", "live", "kept"]);
    table.expire(given_up);
    assert_eq!(states(&table), ["live", "live", "lapsed"]);
    assert!(!table.stale());
}

#[test]
fn a_node_known_from_others_only_is_not_live_until_it_registers() {
    let start = Instant::now();
    let mut table = NodeTable::new(LEASE);
    assert_eq!(table.view(&Name::root(), &[]), None, "SERVFAIL before the first record");
    table.merge(record(1, 10), HERE, start).unwrap();
    table.merge(record(2, 10), RecordSource::Another, start).unwrap();
    table.merge(record(3, 10), RecordSource::Another, start).unwrap();
    assert_eq!(states(&table), ["live", "awaited", "awaited"]);
    assert!(!table.merge(record(2, 10), HERE, start + LEASE / 2).unwrap().lapsed);
    table.merge(record(1, 10), HERE, start + LEASE / 2).unwrap();
    table.expire(start + LEASE);
    assert_eq!(states(&table), ["live", "live", "lapsed"]);
    // Another node reports a newer record: the node is awaited again.
    table.merge(record(3, 11), RecordSource::Another, start + LEASE).unwrap();
    assert_eq!(states(&table), ["live", "live", "awaited"]);
    // A record from another node does not renew a lease.
    table.merge(record(1, 12), RecordSource::Another, start + LEASE).unwrap();
    table.merge(record(2, 10), HERE, start + LEASE).unwrap();
    table.expire(start + LEASE + LEASE / 2);
    assert_eq!(states(&table), ["lapsed", "live", "awaited"]);
}

#[test]
fn a_record_without_addresses_gets_the_sender_address() {
    let now = Instant::now();
    let mut table = NodeTable::new(LEASE);
    let bare = |revision| NodeRecord { ips: Vec::new(), ..record(1, revision) };
    let mapped = RecordSource::Itself(Some("::ffff:10.1.2.3".parse().unwrap()));
    let ips = |table: &NodeTable| table.view(&Name::root(), &[]).unwrap().nodes[0].record.ips.clone();
    table.merge(bare(1), RecordSource::Another, now).unwrap();
    assert!(ips(&table).is_empty());
    table.merge(bare(1), mapped, now).unwrap();
    assert_eq!(ips(&table), ["10.1.2.3"]);
    table.merge(bare(2), RecordSource::Another, now).unwrap();
    assert_eq!(ips(&table), ["10.1.2.3"], "a record from another node keeps the address");
}

#[test]
fn invalid_records_are_rejected_with_a_reason() {
    let now = Instant::now();
    let mut table = live(1, now);
    let before = table.clone();
    let long = "x".repeat(300);
    type Spoil = fn(&mut NodeRecord, &str);
    let cases: [(&str, Spoil); 16] = [
        ("name", |record, _| record.name = "N1".to_owned()),
        ("name", |record, _| record.name = "-n1".to_owned()),
        ("name", |record, long| record.name = long.to_owned()),
        ("cluster's id", |record, _| record.cluster_id.truncate(31)),
        ("of the cluster", |record, _| record.cluster_id = "f".repeat(32)),
        ("id 0", |record, _| record.node_id = 0),
        ("revision", |record, _| record.revision = 0),
        ("clock", |record, _| record.revision = u64::MAX),
        ("client address", |record, _| record.client = "n1".to_owned()),
        ("peer address", |record, _| record.peer = "n1:0".to_owned()),
        ("http address", |record, long| record.http = format!("{long}:1")),
        ("addresses", |record, _| record.ips = vec!["10.0.0.1".to_owned(); 9]),
        ("not one of a host", |record, _| record.ips = vec!["0.0.0.0".to_owned()]),
        ("version", |record, long| record.version = long.to_owned()),
        ("weight", |record, _| record.weight = 101),
        ("ascend", |record, _| record.votes_in = vec![1, 1]),
    ];
    for (part, spoil) in cases {
        let mut bad = record(2, 20);
        spoil(&mut bad, &long);
        let why = table.merge(bad, HERE, now).unwrap_err().to_string();
        assert!(why.contains(part), "{part}: {why}");
        assert!(why.len() < 400, "{why}");
    }
    assert!(table.merge(NodeRecord { role: 0, ..record(2, 20) }, HERE, now).is_err());
    assert!(table.nodes().eq(before.nodes()));
    for id in 2..=64 {
        table.merge(record(id, 1), RecordSource::Another, now).unwrap();
    }
    assert!(table.merge(record(65, 1), HERE, now).unwrap_err().to_string().contains("64 nodes"));
}

#[test]
fn a_node_that_sent_two_contents_with_one_revision_must_send_a_higher_one() {
    let now = Instant::now();
    let mut table = live(1, now);
    let other = NodeRecord { full: true, ..record(1, 10) };
    assert_eq!(table.merge(other, HERE, now).unwrap(), MergeOutcome { known_revision: 10, lapsed: true });
    assert_eq!(
        table.merge(record(1, 9), HERE, now).unwrap(),
        MergeOutcome { known_revision: 10, lapsed: false }
    );
}

proptest! {
    /// A node with the right secret may still send anything.
    #[test]
    fn damaged_records_never_panic(noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = record(1, 10).encode_to_vec();
        for (index, byte) in noise {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        let Ok(record) = NodeRecord::decode(bytes.as_slice()) else { return Ok(()) };
        let (now, name) = (Instant::now(), record.name.clone());
        let mut table = NodeTable::new(LEASE);
        let heard = table.merge(record, HERE, now);
        let view = table.view(&crate::names::zone_name("conclave.internal").unwrap(), &[]);
        prop_assert_eq!(heard.is_ok(), view.is_some());
        if let Some(view) = view {
            let zone = crate::zone::Zone::build(&view);
            prop_assert_eq!(zone.targets("peers").unwrap()[0].node.as_str(), name);
            prop_assert_eq!(zone.targets("").unwrap().len(), 1);
        }
    }

    /// Renewals are spread at random, and either all nodes fall silent at once or only the first one.
    #[test]
    fn all_silent_nodes_are_kept_and_a_single_one_lapses(
        phases in prop::collection::vec(0..500_u64, 2..10),
        all in any::<bool>(),
    ) {
        prop_assume!(all || phases.len() > 2);
        let start = Instant::now();
        let mut table = NodeTable::new(LEASE);
        let at = |phase: u64, round: u32| start + Duration::from_millis(phase) + REGISTER_INTERVAL * round;
        for round in 0..8 {
            for (id, phase) in (1..).zip(&phases) {
                if round == 0 || (!all && id != 1) {
                    table.merge(record(id, 10), HERE, at(*phase, round)).unwrap();
                }
            }
            // Expire as often as the registry task would have by now.
            while let Some(due) = table.next_expiry().filter(|due| *due < at(0, round + 1)) {
                table.expire(due);
            }
        }
        let live = table.nodes().filter(|node| node.state.is_live()).count();
        prop_assert_eq!(live, if all { phases.len() } else { phases.len() - 1 });
        prop_assert_eq!(table.stale(), all);
    }

    #[test]
    fn the_order_of_arrival_decides_nothing(
        (heard, shuffled) in prop::collection::vec((1..6_u64, 1..6_u64, any::<bool>()), 1..40)
            .prop_flat_map(|heard| (Just(heard.clone()), Just(heard).prop_shuffle())),
    ) {
        let now = Instant::now();
        let listen = |heard: &[(u64, u64, bool)]| {
            let mut table = NodeTable::new(LEASE);
            for (id, revision, itself) in heard {
                let source = if *itself { HERE } else { RecordSource::Another };
                table.merge(record(*id, *revision), source, now).unwrap();
            }
            table
        };
        let (a, b) = (listen(&heard), listen(&shuffled));
        prop_assert_eq!(a.view(&Name::root(), &[]), b.view(&Name::root(), &[]));
        prop_assert_eq!(a.serial(), b.serial());
    }

    /// Nodes register, change, fall silent, are reported by others and return as the protocol requires, in any order.
    #[test]
    fn the_serial_moves_with_the_content_and_never_goes_backwards(
        first in prop::array::uniform4(1..1_u64 << 40),
        steps in prop::collection::vec((0..4_usize, 0..4_u8, 0..3_000_u64), 1..200),
    ) {
        let mut now = Instant::now();
        let mut table = NodeTable::new(LEASE);
        let mut revisions = first;
        // The first record of a node moves the serial by its whole revision, so all register first.
        for (id, revision) in (1..).zip(first) {
            table.merge(record(id, revision), HERE, now).unwrap();
        }
        let mut view = table.view(&Name::root(), &[]).unwrap();
        for (node, what, millis) in steps {
            now += Duration::from_millis(millis);
            let id = node as u64 + 1;
            match what {
                0 => table.expire(now),
                1 => {
                    revisions[node] += 1 + millis;
                    table.merge(record(id, revisions[node]), RecordSource::Another, now).unwrap();
                }
                2 => revisions[node] += 1,
                _ => {}
            }
            if what > 1 {
                let heard = table.merge(record(id, revisions[node]), HERE, now).unwrap();
                prop_assert_eq!(heard.known_revision, revisions[node]);
                if heard.lapsed {
                    revisions[node] += 1;
                    prop_assert!(!table.merge(record(id, revisions[node]), HERE, now).unwrap().lapsed);
                }
            }
            let new = table.view(&Name::root(), &[]).unwrap();
            prop_assert!(!behind(view.serial, new.serial), "{} -> {}", view.serial, new.serial);
            if new.serial == view.serial {
                prop_assert_eq!(&new, &view, "other content, same serial");
            }
            view = new;
        }
    }
}

#[test]
fn nodes_learn_where_the_others_registered_from() {
    let start = Instant::now();
    let mut table = NodeTable::new(LEASE);
    let from = |ip: &str| RecordSource::Itself(Some(ip.parse().unwrap()));
    let elsewhere = "10.0.0.7".parse().unwrap();
    table.merge(record(1, 10), from("::ffff:10.0.0.1"), start).unwrap();
    table.merge(record(2, 10), from("127.0.0.1"), start).unwrap();
    table.merge(record(3, 10), RecordSource::Another, start).unwrap();
    table.merge(record(4, 10), from("fe80::1"), start).unwrap();
    table.merge(record(5, 10), from("fd00::5"), start).unwrap();
    let first = (1, "10.0.0.1:7401".parse().unwrap());
    let fifth = (5, "[fd00::5]:7401".parse().unwrap());
    assert_eq!(table.peer_addresses(elsewhere), [first, fifth]);
    let second = (2, "127.0.0.1:7401".parse().unwrap());
    let here = "::ffff:127.0.0.1".parse().unwrap();
    assert_eq!(table.peer_addresses(here), [first, second, fifth], "it is on the asker's machine");

    // Node 1 moved. Its old stream may still say something.
    table.merge(record(1, 11), from("10.0.0.9"), start).unwrap();
    table.merge(record(1, 10), from("10.0.0.1"), start).unwrap();
    let moved = (1, "10.0.0.9:7401".parse().unwrap());
    assert_eq!(table.peer_addresses(elsewhere), [moved, fifth]);
    // Its record says nothing new, and it calls from somewhere else.
    table.merge(record(1, 11), from("10.0.0.8"), start).unwrap();
    let moved = (1, "10.0.0.8:7401".parse().unwrap());
    assert_eq!(table.peer_addresses(elsewhere), [moved, fifth]);

    for step in 1..=5 {
        table.merge(record(5, 10), from("fd00::5"), start + LEASE / 2 * step).unwrap();
        table.merge(record(2, 10), from("127.0.0.1"), start + LEASE / 2 * step).unwrap();
        table.merge(record(4, 10), from("fe80::1"), start + LEASE / 2 * step).unwrap();
        table.expire(start + LEASE / 2 * step);
    }
    assert_eq!(table.peer_addresses(elsewhere), [fifth], "a node that is gone is nowhere");
}
