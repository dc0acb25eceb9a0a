//! Finding servers: with working and broken name servers, and without any.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use conclave_client::find::{Chain, Finder as _, Found, Options, Seed, Source, cache, srv};
use conclave_client::limits::DNS_TIMEOUT;
use conclave_client::{Client, Incoming};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::dns::{NameServer, entry};
use crate::fake::Cluster;
use crate::{one_of_several, soon, until};

const SERVICE: &str = "_conclave._tcp.conclave.internal.";

/// A chain that only asks name servers.
fn options(name_servers: Vec<SocketAddr>) -> Options {
    Options { name_servers, mdns: false, defaults: Vec::new(), ..Options::default() }
}

/// The servers that a search finds by name servers. A busy machine may answer too late for one search.
async fn found(chain: &Chain) -> Found {
    one_of_several("servers are found", async || chain.find().await.ok()).await
}

#[tokio::test]
async fn addresses_of_the_additional_section_are_used() {
    let mut entries = vec![
        entry("n1.node.conclave.internal.", "127.0.0.1:7400"),
        entry("n2.node.conclave.internal.", "127.0.0.2:7410"),
    ];
    entries[0].priority = 20;
    let server = NameServer::start(entries).await;
    let chain = Chain::new(options(vec![server.address]));
    // A busy machine may take the second for which an answer is fresh.
    let found = one_of_several("an answer that is fresh", async || {
        Some(found(&chain).await).filter(|found| found.fresh_for.is_some_and(|fresh| !fresh.is_zero()))
    })
    .await;
    assert_eq!(found.source, Source::Srv);
    assert_eq!(found.addresses(), ["127.0.0.2:7410", "127.0.0.1:7400"], "by priority");
    assert_eq!((found.candidates[0].name.as_str(), found.candidates[0].weight), ("n2", 50));
    assert!(found.fresh_for.unwrap() <= Duration::from_secs(1), "{:?}", found.fresh_for);
    assert_eq!(server.asked(RecordType::A), 0);

    server.set(|zone| zone.without_glue = true);
    server.set(|zone| zone.ttl = 3_600);
    let found = one_of_several("missing addresses are looked up", async || {
        let found = self::found(&chain).await;
        found.addresses().iter().all(|address| address.starts_with("127.")).then_some(found)
    })
    .await;
    assert_eq!(found.addresses(), ["127.0.0.2:7410", "127.0.0.1:7400"]);
    assert!(server.asked(RecordType::A) >= 2);
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
    // A search that waits for the silent one takes as long as two queries to it.
    let found =
        one_of_several("a search that is over before the first query to the silent one", async || {
            tokio::time::timeout(DNS_TIMEOUT, chain.find()).await.ok()?.ok()
        });
    assert_eq!(found.await.addresses(), ["127.0.0.1:7400"]);
    until("the silent one was asked, too", || silent.asked(RecordType::SRV) > 0).await;
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
        assert_eq!(found(&chain).await.addresses(), ["127.0.0.1:7400"], "{code:?}");
    }
}

#[tokio::test]
async fn a_truncated_answer_is_fetched_over_tcp() {
    let server = NameServer::start(vec![entry("n1.node.conclave.internal.", "127.0.0.1:7400")]).await;
    server.set(|zone| zone.truncated = true);
    let found = one_of_several("found", async || {
        srv::ask(&conclave_client::Net::System, &[server.address], SERVICE).await.ok()
    });
    assert_eq!(found.await.candidates[0].address, "127.0.0.1:7400");
    assert!(server.asked(RecordType::SRV) >= 2);
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
    let chain = Chain::new(options(addresses.clone()));
    let says = ["", "does not answer", "does not know", "SERVFAIL", "REFUSED", "has no servers for"];
    // On a busy machine, others than the silent one may be too late.
    one_of_several("every name server's own answer", async || {
        let examined = chain.examine().await;
        assert!(examined.network.is_none());
        let (zone, answers) = &examined.zones[0];
        assert_eq!((zone.as_str(), answers.len()), ("conclave.internal", 6));
        let mut as_expected = true;
        for (answer, (address, says)) in answers.iter().zip(addresses.iter().zip(says)) {
            assert_eq!(answer.name_server, *address);
            assert!(!answer.took.is_zero());
            as_expected &= match &answer.result {
                Ok(service) => says.is_empty() && service.candidates.len() == 1,
                Err(why) => {
                    assert!(why.contains(&address.to_string()), "{why}");
                    !says.is_empty() && why.contains(says)
                }
            };
        }
        as_expected.then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_name_servers_a_client_starts_from_remembered_members() {
    let cluster = Cluster::start(2).await;
    let members: Vec<String> = cluster.nodes.iter().map(|node| node.address.clone()).collect();
    cluster.name_members();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("members");
    let server = NameServer::start(vec![entry("n1.node.conclave.internal.", &members[0])]).await;
    let options = Options { members: Some(file.clone()), ..options(vec![server.address]) };
    let chain = std::sync::Arc::new(Chain::new(options));
    let builder = || Client::builder().finder(chain.clone()).user("ana");
    let client = soon("connect", builder().connect()).await.unwrap();
    client.close().await;
    let remembered = cache::recall(&file, "conclave.internal or anybody").unwrap();
    assert_eq!(remembered.iter().collect::<BTreeSet<_>>(), members.iter().collect(), "not only who answered");

    server.set(|zone| zone.silent = true);
    // With members at hand, the search gives up before the name server's own time is over: the note says which it was.
    one_of_several("the search gives up early", async || {
        let found = chain.find().await.unwrap();
        assert_eq!((found.source, found.addresses()), (Source::Cache, remembered.clone()));
        found.notes[0].contains("no name server answers").then_some(())
    })
    .await;
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
    let chain = Chain::of(seeds);
    let found = one_of_several("both seeds", async || {
        let found = chain.find().await.unwrap();
        assert_eq!(found.source, Source::Given);
        found.fresh_for.is_some().then_some(found)
    });
    assert_eq!(found.await.addresses().len(), 2);
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
    until("heard of it", || client.addresses().len() == 2).await;
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
    until("forgotten", || {
        !client.addresses().contains(&cluster.nodes[0].address) && client.addresses().len() >= 2
    })
    .await;
    client.close().await;
}
