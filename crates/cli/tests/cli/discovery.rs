//! Clients that only know a name server, and the records of that name server.

use std::net::{SocketAddr, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{DEADLINE, Up, finish, lines_of, run, signal, until, until_says};

/// Targets of a name: the first label, and the priority.
pub(crate) fn targets(resolver: SocketAddr, name: &str) -> Vec<(String, u16)> {
    let mut found = None;
    until("the resolver answers", || {
        found = ask(resolver, name);
        found.is_some()
    });
    found.unwrap()
}

/// As [`targets`]; `None` if no answer comes within a second.
fn ask(resolver: SocketAddr, name: &str) -> Option<Vec<(String, u16)>> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut question = Message::query();
    let name = Name::from_ascii(format!("{name}.conclave.internal.")).unwrap();
    question.add_query(Query::query(name, RecordType::SRV));
    socket.send_to(&question.to_vec().unwrap(), resolver).unwrap();
    let mut datagram = [0; 4096];
    let length = socket.recv(&mut datagram).ok()?;
    let answer = Message::from_vec(&datagram[..length]).unwrap();
    assert_eq!(answer.metadata.id, question.metadata.id);
    let target = |data: &RData| match data {
        RData::SRV(srv) => {
            Some((String::from_utf8_lossy(srv.target.iter().next()?).into_owned(), srv.priority))
        }
        _ => None,
    };
    let mut targets: Vec<_> = answer.answers.iter().filter_map(|record| target(&record.data)).collect();
    targets.sort();
    Some(targets)
}

fn leader(resolver: SocketAddr) -> Option<String> {
    targets(resolver, "_conclave._tcp.leader").pop().map(|(name, _)| name)
}

fn names(targets: &[(String, u16)]) -> Vec<&str> {
    targets.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn dns_records_follow_the_cluster() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "1", "--no-restart"]);
    let dns = up.resolver().dns;
    let everybody = ["node1", "node2", "node3"];
    let mut victim = String::new();
    until("everybody is named, the leader first", || {
        let servers = targets(dns, "_conclave._tcp");
        victim = leader(dns).filter(|name| servers.contains(&(name.clone(), 10))).unwrap_or_default();
        names(&servers) == everybody && !victim.is_empty()
    });
    for service in ["_conclave-peer._tcp", "_conclave._tcp.shard-0.shard"] {
        until(service, || names(&targets(dns, service)) == everybody);
    }

    signal(up.pid_of(&victim), Signal::KILL);
    let killed = Instant::now();
    until("another leader is named", || leader(dns).is_some_and(|name| name != victim));
    let named = killed.elapsed();
    until("the dead one leaves", || !names(&targets(dns, "_conclave._tcp")).contains(&victim.as_str()));
    // `.ci/measure-dns` measures how long this takes; here the machine is shared.
    println!("another leader was named after {named:?}, the dead one left after {:?}", killed.elapsed());
    until("the others stay", || targets(dns, "_conclave._tcp").len() == 2);
    assert_eq!(targets(dns, "_conclave-peer._tcp").len(), 3, "it is still a member");
    up.find(&["send", "general", "still here"]).expect(0);
}

#[test]
fn clients_need_the_name_server_only_once() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "1", "--no-restart"]);
    up.find(&["send", "general", "one"]).expect(0);
    assert_eq!(up.find(&["ping"]).expect(0).lines().len(), 3);
    let zone = format!("conclave+srv://conclave.internal?ns={}", up.resolver().dns);
    let mut by_zone = up.command(&["-s", &zone, "send", "general", "two"]);
    run(&mut by_zone, b"").expect(0);

    let mut tail = up.finding(&["tail", "general", "--json", "--since", "0"]);
    let mut tail = tail.stdout(Stdio::piped()).spawn().unwrap();
    let read = lines_of(tail.stdout.take().unwrap());
    let seen_until = |text: &str| loop {
        let line = read.recv_timeout(DEADLINE).expect("the next event");
        if serde_json::from_str::<Value>(&line).unwrap()["body"] == text {
            return;
        }
    };
    seen_until("two");
    signal(up.resolver().pid, Signal::KILL);
    let note = up.notes.iter().find(|note| note.contains("name server")).unwrap();
    assert_eq!(note, "the name server was killed (signal 9)");
    up.find(&["send", "general", "three"]).expect(0);
    seen_until("three");
    // Another user, with another session, uses the same file of members.
    let mut other = up.finding(&["send", "general", "four"]);
    run(other.env("CONCLAVE_USER", "bo"), b"").expect(0);
    seen_until("four");
    signal(tail.id(), Signal::TERM);
    finish(tail);

    // A state directory without members leads to an error that lists the searched sources.
    let elsewhere = scratch.path().join("elsewhere");
    let mut stranger = up.finding(&["rooms", "--timeout", "1s"]);
    let ran = run(stranger.env("CONCLAVE_STATE_DIR", &elsewhere), b"").expect(6);
    let dns = up.resolver().dns.to_string();
    assert!(ran.err.contains(&format!("tried: the name server {dns}")), "{ran:#?}");
}

#[test]
fn a_reader_shows_servers_by_name() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "1", "--no-restart"]);
    let mut tail = up.finding(&["tail", "general", "--since", "0"]).spawn().unwrap();
    let read = lines_of(tail.stdout.take().unwrap());
    let said = lines_of(tail.stderr.take().unwrap());
    read.recv_timeout(DEADLINE).expect("the first event");
    let mut victim = String::new();
    until("the reader is counted", || {
        let status = up.status();
        let node =
            status["nodes"].as_array().and_then(|nodes| nodes.iter().find(|node| node["clients"] == 1));
        victim = node.map(|node| node["name"].as_str().unwrap().to_owned()).unwrap_or_default();
        !victim.is_empty()
    });
    signal(up.pid_of(&victim), Signal::KILL);
    let mut note = String::new();
    while !note.contains(&format!("{victim} lost, ")) {
        note = said.recv_timeout(DEADLINE).expect("the loss is worth a line");
        assert!(!note.contains("127.0.0.1"), "{note}");
    }
    signal(tail.id(), Signal::TERM);
    finish(tail);
}

#[test]
fn a_drained_server_has_no_clients_and_no_leaderships() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "4"]);
    let even = up.find(&["admin", "rebalance"]).expect(0);
    assert_eq!(even.out, "the clients are spread evenly already\n");
    assert_eq!(up.find(&["admin", "rebalance", "--json"]).expect(0).out, "{\"moves\":[]}\n");

    // Draining is idempotent; a second call completes what a busy machine did not complete in time.
    until("it is drained", || {
        let drained = up.find(&["admin", "drain", "node2", "--json"]).json();
        drained.first().is_some_and(|node| node["still_leads"] == 0 && node["clients"] == 0)
    });
    let dns = up.resolver().dns;
    until("its priority is the last", || targets(dns, "_conclave._tcp").contains(&("node2".to_owned(), 40)));
    let leads = |shard: &Value| shard["role"] == "leader";
    until("it leads nothing, and says why", || {
        let status = up.status();
        let nodes = status["nodes"].as_array();
        let node = nodes.and_then(|nodes| nodes.iter().find(|node| node["name"] == "node2"));
        node.is_some_and(|node| {
            let shards = node["shards"].as_array();
            node["draining"] == true && shards.is_some_and(|shards| !shards.iter().any(leads))
        })
    });
    up.find(&["send", "general", "still here"]).expect(0);
    until_says(0, &["leads nothing"], || up.find(&["admin", "drain", "node2"]));

    let nobody = up.find(&["admin", "drain", "node9"]).expect(4);
    assert!(nobody.err.contains("node9") && nobody.err.contains("next: "), "{nobody:#?}");
    up.stop();
}

#[test]
fn a_cluster_without_a_name_server_is_found_by_its_addresses() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "1", "--no-dns", "--nodes", "1", "--no-restart"]);
    assert_eq!(up.ready["resolver"], Value::Null);
    up.run(&["send", "general", "hello"]).expect(0);

    // Lines that are piped into a chat without a cluster are kept, and the chat ends after its timeout.
    signal(up.pids()[0], Signal::KILL);
    let kept = up.feed(&["chat", "general", "--timeout", "1s"], b"later\n").expect(5);
    assert!(kept.out.contains("later ◷") && kept.err.contains("1 message not sent yet, kept"), "{kept:#?}");
}
