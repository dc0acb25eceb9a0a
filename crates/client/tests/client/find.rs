//! Finding servers: with working and broken name servers, and without any.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use conclave_client::find::{Chain, Finder as _, Options, Seed, Source, cache, srv};
use conclave_client::{Client, Incoming};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::dns::{NameServer, entry};
use crate::fake::Cluster;
use crate::soon;

const SERVICE: &str = "_conclave._tcp.conclave.internal.";

/// A chain that only asks name servers.
fn options(name_servers: Vec<SocketAddr>) -> Options {
    Options { name_servers, mdns: false, defaults: Vec::new(), ..Options::default() }
}

#[tokio::test]
async fn addresses_of_the_additional_section_are_used() {
    let mut entries = vec![
        entry("n1.node.conclave.internal.", "127.0.0.1:7400"),
        entry("n2.node.conclave.internal.", "127.0.0.2:7410"),
    ];
    entries[0].priority = 20;
    let server = NameServer::start(entries).await;
    let found = soon("found", Chain::new(options(vec![server.address])).find()).await.unwrap();
    assert_eq!(found.source, Source::Srv);
    assert_eq!(found.addresses(), ["127.0.0.2:7410", "127.0.0.1:7400"], "by priority");
    assert_eq!((found.candidates[0].name.as_str(), found.candidates[0].weight), ("n2", 50));
    let fresh = found.fresh_for.unwrap();
    assert!(fresh <= Duration::from_secs(1) && fresh > Duration::from_millis(500), "{fresh:?}");
    assert_eq!((server.asked(RecordType::SRV), server.asked(RecordType::A)), (1, 0));

    server.set(|zone| zone.without_glue = true);
    server.set(|zone| zone.ttl = 3_600);
    let found = soon("found", Chain::new(options(vec![server.address])).find()).await.unwrap();
    assert_eq!(found.addresses(), ["127.0.0.2:7410", "127.0.0.1:7400"]);
    assert_eq!(server.asked(RecordType::A), 2, "missing addresses are looked up");
    assert!(
        found.fresh_for.unwrap() <= Duration::from_secs(2),
        "a DNS answer is fresh for two seconds at most"
    );
}

#[tokio::test]
async fn a_silent_name_server_does_not_delay_the_search() {
    let silent = NameServer::silent().await;
    let server = NameServer::start(vec![entry("n1.node.conclave.internal.", "127.0.0.1:7400")]).await;
    let chain = Chain::new(options(vec![silent.address, server.address]));
    let mut times = Vec::new();
    for _ in 0..20 {
        let begun = Instant::now();
        assert_eq!(soon("found", chain.find()).await.unwrap().addresses(), ["127.0.0.1:7400"]);
        times.push(begun.elapsed());
    }
    times.sort();
    assert!(times[10] < Duration::from_millis(50), "{times:?}");
    assert!(silent.asked(RecordType::SRV) >= 20, "it was asked each time");
    println!("first of two name servers silent: median {:?}, worst {:?}", times[10], times[19]);
}

#[tokio::test]
async fn a_quick_negative_answer_does_not_end_the_search() {
    let no = NameServer::start(Vec::new()).await;
    let slow = NameServer::start(vec![entry("n1.node.conclave.internal.", "127.0.0.1:7400")]).await;
    slow.set(|zone| zone.delay = Duration::from_millis(40));
    let chain = Chain::new(options(vec![no.address, slow.address]));
    for code in
        [None, Some(ResponseCode::NXDomain), Some(ResponseCode::ServFail), Some(ResponseCode::Refused)]
    {
        no.set(|zone| zone.code = code);
        let found = soon("found", chain.find()).await;
        assert_eq!(found.unwrap().addresses(), ["127.0.0.1:7400"], "{code:?}");
    }
}

#[tokio::test]
async fn a_truncated_answer_is_fetched_over_tcp() {
    let server = NameServer::start(vec![entry("n1.node.conclave.internal.", "127.0.0.1:7400")]).await;
    server.set(|zone| zone.truncated = true);
    let found =
        soon("found", srv::ask(&conclave_client::Net::System, &[server.address], SERVICE)).await.unwrap();
    assert_eq!(found.candidates[0].address, "127.0.0.1:7400");
    assert_eq!(server.asked(RecordType::SRV), 2);
}

#[tokio::test]
async fn examine_reports_the_answer_of_each_name_server() {
    let good = NameServer::start(vec![entry("n1.node.conclave.internal.", "127.0.0.1:7400")]).await;
    let silent = NameServer::silent().await;
    let servers: Vec<_> = [ResponseCode::NXDomain, ResponseCode::ServFail, ResponseCode::Refused]
        .into_iter()
        .map(Some)
        .collect();
    let mut all = vec![good, silent];
    for code in servers {
        let server = NameServer::start(Vec::new()).await;
        server.set(|zone| zone.code = code);
        all.push(server);
    }
    all.push(NameServer::start(Vec::new()).await);
    let addresses: Vec<_> = all.iter().map(|server| server.address).collect();
    let examined = soon("examined", Chain::new(options(addresses.clone())).examine()).await;
    let (zone, answers) = &examined.zones[0];
    assert_eq!((zone.as_str(), answers.len()), ("conclave.internal", 6));
    for (answer, (address, says)) in answers.iter().zip(addresses.iter().zip([
        "",
        "does not answer",
        "does not know",
        "SERVFAIL",
        "REFUSED",
        "has no servers for",
    ])) {
        assert_eq!(answer.name_server, *address);
        match &answer.result {
            Ok(service) => assert!(says.is_empty() && service.candidates.len() == 1),
            Err(why) => {
                assert!(!says.is_empty() && why.contains(says) && why.contains(&address.to_string()), "{why}")
            }
        }
    }
    assert!(answers[0].took < answers[1].took);
    assert!(examined.network.is_none());
}

#[tokio::test]
async fn without_name_servers_a_client_starts_from_remembered_members() {
    let cluster = Cluster::start(2).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("members");
    let server =
        NameServer::start(vec![entry("n1.node.conclave.internal.", &cluster.nodes[0].address)]).await;
    let options = Options { members: Some(file.clone()), ..options(vec![server.address]) };
    let chain = std::sync::Arc::new(Chain::new(options));
    let builder = || Client::builder().finder(chain.clone()).user("ana");
    let client = soon("connect", builder().connect()).await.unwrap();
    client.close().await;
    let remembered = cache::recall(&file, "conclave.internal or anybody").unwrap();
    assert_eq!(remembered, [cluster.nodes[0].address.clone()]);

    server.set(|zone| zone.silent = true);
    // On a busy machine, one of several runs is fast enough.
    let mut times = Vec::new();
    while times.last().is_none_or(|took| *took >= Duration::from_secs(1)) {
        assert!(times.len() < 5, "{times:?}");
        let begun = Instant::now();
        let found = soon("found", chain.find()).await.unwrap();
        times.push(begun.elapsed());
        assert_eq!((found.source, found.addresses()), (Source::Cache, remembered.clone()));
        assert!(found.notes[0].contains("no name server answers"), "{:?}", found.notes);
    }
    let client = soon("connect", builder().connect()).await.unwrap();
    soon("ack", client.send("general", "here again")).await.unwrap();
    client.close().await;

    // A running client does not need name servers at all.
    server.set(|zone| zone.silent = false);
    let client = soon("connect", builder().connect()).await.unwrap();
    drop(server);
    for n in 0..10 {
        soon("ack", client.send("general", n.to_string())).await.unwrap();
    }
    client.close().await;
}

#[tokio::test]
async fn the_error_names_every_source_that_was_asked() {
    let server = NameServer::silent().await;
    let chain = Chain::new(options(vec![server.address]));
    let error = soon("not found", chain.find()).await.unwrap_err().to_string();
    assert!(error.contains(&server.address.to_string()) && error.contains("does not answer"), "{error}");
    let options = Options { defaults: vec!["127.0.0.1:9".into()], ..options(vec![server.address]) };
    let found = soon("defaults", Chain::new(options).find()).await.unwrap();
    assert_eq!((found.source, found.addresses()), (Source::Default, vec!["127.0.0.1:9".to_owned()]));

    let zone: Seed = format!("conclave+srv://elsewhere.test?ns={}", server.address).parse().unwrap();
    let error = soon("not found", Chain::of(vec![zone]).find()).await.unwrap_err().to_string();
    assert!(error.contains("does not answer"), "{error}");
    let builder = Client::builder().servers(["n1:port"]).user("ana");
    let error = soon("error", builder.connect()).await.unwrap_err().to_string();
    assert!(error.contains("is not a port") && error.contains("conclave+srv://"), "{error}");
}

#[tokio::test]
async fn seeds_of_both_kinds_can_be_mixed() {
    let server = NameServer::start(vec![entry("n1.node.z.", "127.0.0.1:7410")]).await;
    let seeds = ["127.0.0.1:7400", &format!("conclave+srv://z?ns={}", server.address), "127.0.0.1:7400"];
    let seeds = seeds.iter().map(|seed| seed.parse().unwrap()).collect();
    let found = soon("found", Chain::of(seeds).find()).await.unwrap();
    assert_eq!((found.source, found.addresses().len()), (Source::Given, 2));
    assert!(found.fresh_for.is_some());
}

#[tokio::test]
async fn a_running_client_learns_new_nodes_without_a_failure() {
    let cluster = Cluster::start(3).await;
    let named = |at: usize| entry("n.node.z.", &cluster.nodes[at].address);
    let server = NameServer::start(vec![named(0)]).await;
    let zone = format!("conclave+srv://z?ns={}", server.address);
    let client = soon("connect", Client::builder().servers([zone]).user("ana").connect()).await.unwrap();
    let mut subscription = client.subscribe(vec![conclave_client::Follow::room("general")]);
    assert!(matches!(soon("open", subscription.next()).await, Ok(Incoming::Connected { .. })));
    assert_eq!(client.addresses(), [cluster.nodes[0].address.clone()]);
    server.set(|zone| zone.entries = vec![named(0), named(1)]);
    soon("heard of it", async {
        while client.addresses().len() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(subscription.node(), Some(cluster.nodes[0].address.as_str()), "and stays where it is");
    // A node that is no longer named is removed once it fails.
    server.set(|zone| zone.entries = vec![named(1), named(2)]);
    cluster.nodes[0].set(|f| f.dead = true);
    let moved = async {
        while subscription.node().is_none_or(|node| node == cluster.nodes[0].address) {
            subscription.next().await.unwrap();
        }
    };
    soon("moved", moved).await;
    soon("forgotten", async {
        while client.addresses().contains(&cluster.nodes[0].address) || client.addresses().len() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    client.close().await;
}
