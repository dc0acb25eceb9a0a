//! The records that nodes send to name servers and serve to others.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use conclave_client::HistoryQuery;
use conclave_dns::DnsServer;
use conclave_proto::admin::admin_service_client::AdminServiceClient;
use conclave_proto::admin::{DrainRequest, RecordsRequest};
use conclave_proto::cluster::{MemberRole, NodeRecord, NodeRecords};
use conclave_proto::dns::dns_service_server::{DnsService, DnsServiceServer};
use conclave_proto::dns::{LookupRequest, LookupResponse, RegisterRequest, RegisterResponse};
use conclave_proto::mac::{RECORDS, REGISTER, Secret};
use futures::Stream;
use prost::Message as _;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::harness::{Cluster, eventually, within};

const NONCE: [u8; 16] = *b"0123456789abcdef";

fn secret() -> Secret {
    Secret::new(b"a secret of the whole cluster").unwrap()
}

/// A name server that stores the records it receives, and answers as the test wants.
#[derive(Clone, Default)]
struct Resolver {
    /// By node: the last record received, and when.
    told: Arc<Mutex<BTreeMap<u64, (NodeRecord, Instant)>>>,
    /// All errors found.
    wrong: Arc<Mutex<Vec<String>>>,
    /// The node whose lease lapses once.
    lapse: Arc<AtomicU64>,
    /// Number of streams opened.
    streams: Arc<AtomicU64>,
    /// When this is raised, all streams opened before it end.
    generation: Arc<tokio::sync::watch::Sender<u64>>,
}

impl Resolver {
    async fn start(&self) -> (SocketAddr, JoinHandle<()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = Server::builder().add_service(DnsServiceServer::new(self.clone()));
        (address, tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() }))
    }

    fn take(&self, counter: u64, request: &RegisterRequest) -> RegisterResponse {
        let mut wrong = self.wrong.lock().unwrap();
        if request.counter != counter {
            wrong.push(format!("message {counter} says that it is {}", request.counter));
        }
        if !secret().verify(REGISTER, &NONCE, counter, &request.record, &request.mac) {
            wrong.push(format!("message {counter} is not sealed"));
        }
        let record = NodeRecord::decode(request.record.as_slice()).unwrap();
        let revision = record.revision;
        let mut told = self.told.lock().unwrap();
        if let Some((before, _)) = told.get(&record.node_id)
            && (before.revision > revision || (before.revision == revision && *before != record))
        {
            wrong.push(format!("{before:?} became {record:?}"));
        }
        let node = record.node_id;
        told.insert(node, (record, Instant::now()));
        let lapsed = self.lapse.compare_exchange(node, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        RegisterResponse { known_revision: revision, lapsed, lease_ms: 2_000, ..RegisterResponse::default() }
    }

    fn record(&self, node: u64) -> Option<NodeRecord> {
        Some(self.told.lock().unwrap().get(&node)?.0.clone())
    }

    fn records(&self) -> Vec<NodeRecord> {
        self.told.lock().unwrap().values().map(|(record, _)| record.clone()).collect()
    }

    /// The node that leads the meta shard according to the record with the highest term.
    fn leader(&self) -> Option<(u64, u64)> {
        let records = self.records();
        let leads = records.iter().flat_map(|record| {
            record.leads.iter().filter(|lead| lead.shard == 0).map(|lead| (lead.term, record.node_id))
        });
        leads.max()
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl DnsService for Resolver {
    type RegisterStream = Answers<RegisterResponse>;

    async fn register(
        &self,
        request: Request<Streaming<RegisterRequest>>,
    ) -> Result<Response<Self::RegisterStream>, Status> {
        self.streams.fetch_add(1, Ordering::SeqCst);
        let mut generation = self.generation.subscribe();
        let state = (self.clone(), request.into_inner(), 0_u64);
        let answers = futures::stream::unfold(state, |(resolver, mut requests, counter)| async move {
            if counter == 0 {
                let hello = RegisterResponse { nonce: NONCE.to_vec(), ..RegisterResponse::default() };
                return Some((Ok(hello), (resolver, requests, 1)));
            }
            let request = requests.message().await.ok()??;
            let answer = resolver.take(counter, &request);
            Some((Ok(answer), (resolver, requests, counter + 1)))
        });
        let ended = async move { drop(generation.changed().await) };
        Ok(Response::new(Box::pin(futures::StreamExt::take_until(answers, Box::pin(ended)))))
    }

    async fn lookup(&self, _: Request<LookupRequest>) -> Result<Response<LookupResponse>, Status> {
        Err(Status::unavailable("nobody asks this one"))
    }

    type WatchStream = Answers<LookupResponse>;

    async fn watch(&self, _: Request<LookupRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unavailable("nobody asks this one"))
    }
}

/// A real name server, on free ports of loopback.
async fn name_server() -> DnsServer {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let config = conclave_dns::Config {
        zone: "conclave.internal".to_owned(),
        listen: vec![any],
        grpc_listen: any,
        http_listen: any,
        name_servers: vec![conclave_dns::config::NameServer { name: "ns1".to_owned(), ips: vec![any.ip()] }],
        secret: secret(),
        nodes: Vec::new(),
        transfer_to: Vec::new(),
        tls: None,
        insecure: false,
        forward_for: Vec::new(),
        forward_to: Vec::new(),
        export: None,
        admin_token: None,
        faults: None,
    };
    let listeners = conclave_dns::Listeners::bind(&config).await.unwrap();
    DnsServer::start(config, listeners).unwrap()
}

async fn admin(cluster: &Cluster, index: usize) -> AdminServiceClient<Channel> {
    AdminServiceClient::connect(format!("http://{}", cluster.members()[index].client)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_register_and_report_changes_at_once() {
    let resolver = Resolver::default();
    let (address, _serving) = resolver.start().await;
    // The second name server is never reachable, which must not matter.
    let nobody = "127.0.0.1:9".to_owned();
    let mut cluster = Cluster::start_with(move |config| {
        config.name_servers = vec![address.to_string(), nobody.clone()];
        config.secret = Some(secret());
    })
    .await;
    eventually("three nodes are ready", async || {
        resolver.records().iter().filter(|record| record.ready).count() == 3
    })
    .await;
    eventually("every shard is led by one", async || {
        let records = resolver.records();
        let led: Vec<_> = records.iter().flat_map(|record| &record.leads).map(|lead| lead.shard).collect();
        (0..=2).all(|shard| led.iter().filter(|one| **one == shard).count() == 1)
    })
    .await;
    let record = resolver.record(1).unwrap();
    let member = &cluster.members()[0];
    assert_eq!(
        (&record.name, &record.client, &record.peer, &record.http),
        (&member.name, &member.client, &member.peer, &member.http)
    );
    assert_eq!((record.ips.clone(), record.cluster_id.len()), (vec!["127.0.0.1".to_owned()], 32));
    assert_eq!((record.role(), record.votes_in.clone()), (MemberRole::Voter, vec![0, 1, 2]));
    assert!(!record.draining && !record.full && (10..=100).contains(&record.weight), "{record:?}");

    // A leader's death is reported as soon as there is a new leader.
    let (term, leader) = resolver.leader().unwrap();
    cluster.kill(usize::try_from(leader - 1).unwrap());
    let killed = Instant::now();
    eventually("another one says that it leads", async || {
        resolver.leader().is_some_and(|(now, node)| now > term && node != leader)
    })
    .await;
    let took = killed.elapsed();
    println!("the next leader was registered after {took:?}");
    // The last revision may be a little ahead of the clock, after many changes at once.
    let last = resolver.record(leader).unwrap().revision;
    eventually("the clock is past it", async || {
        u64::try_from(cluster.clock(0).now_ms() / 100).unwrap() > last
    })
    .await;
    cluster.start_node(usize::try_from(leader - 1).unwrap()).await;
    cluster.settled().await;

    // A node whose lease lapsed returns with a higher revision, and one whose stream broke with a new stream.
    let before = resolver.record(2).unwrap();
    resolver.lapse.store(2, Ordering::SeqCst);
    eventually("it outbids itself", async || resolver.record(2).unwrap().revision > before.revision).await;
    let streams = resolver.streams.load(Ordering::SeqCst);
    let broken = Instant::now();
    resolver.generation.send_modify(|generation| *generation += 1);
    eventually("all come back", async || {
        resolver.streams.load(Ordering::SeqCst) >= streams + 3
            && resolver.told.lock().unwrap().values().all(|(_, at)| *at > broken)
    })
    .await;

    // A drained node reports what it no longer offers.
    admin(&cluster, 0).await.drain(DrainRequest { node: "node2".to_owned(), force: false }).await.unwrap();
    eventually("it says so", async || {
        let record = resolver.record(2).unwrap();
        record.draining && !record.ready && record.leads.is_empty()
    })
    .await;
    assert_eq!(*resolver.wrong.lock().unwrap(), Vec::<String>::new());
    eventually("it is registered at one", async || {
        cluster.metric(0, "conclave_name_server_registered").await.total_cmp(&1.0).is_eq()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_serves_the_records_of_all() {
    let mut cluster = Cluster::start_with(|config| config.secret = Some(secret())).await;
    let mut asked = admin(&cluster, 0).await;
    let refused = asked.records(RecordsRequest { nonce: vec![1; 15] }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let mut stream = asked.records(RecordsRequest { nonce: NONCE.to_vec() }).await.unwrap().into_inner();
    let mut counter = 0;
    let mut next = async || -> Vec<NodeRecord> {
        let told = within("records come", stream.message()).await.unwrap().unwrap();
        counter += 1;
        assert_eq!(told.counter, counter);
        assert!(secret().verify(RECORDS, &NONCE, counter, &told.records, &told.mac), "not sealed");
        let records = NodeRecords::decode(told.records.as_slice()).unwrap().records;
        assert!(records.is_sorted_by_key(|record| record.node_id), "{records:?}");
        records
    };
    while next().await.iter().filter(|record| record.ready).count() < 3 {}
    cluster.kill(2);
    // Once node 2 is stopped, too, no majority is left.
    admin(&cluster, 0).await.drain(DrainRequest { node: "2".to_owned(), force: true }).await.unwrap();
    loop {
        let records = next().await;
        assert_eq!(records.len(), 3, "what is gone is still known");
        if records[1].draining {
            assert!(records[2].ready, "it could not say anything else any more");
            break;
        }
    }
}

/// As where two nodes moved at the same time, and the resolver's cache of each still has the other one's old address: neither
/// can call the other to say where it is, and to register in the meta shard takes both.
#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_moved_find_each_other_through_a_name_server() {
    let name_server = name_server().await;
    let grpc = name_server.addresses().grpc.to_string();
    let mut cluster = Cluster::start().await;
    let before = cluster.client("ana").await.send("general", "before").await.unwrap();
    for index in 0..3 {
        cluster.stop(index).await;
    }
    let old = cluster.members().to_vec();
    cluster.relocate(0);
    cluster.relocate(1);
    cluster.tune(move |config| {
        (config.name_servers, config.secret) = (vec![grpc.clone()], Some(secret()));
        for (member, old) in config.initial.iter_mut().zip(&old) {
            if member.name != config.name {
                member.clone_from(old);
            }
        }
    });
    cluster.start_node(0).await;
    cluster.start_node(1).await;
    let query = HistoryQuery { linearizable: true, ..HistoryQuery::newest("general", 10) };
    for index in 0..2 {
        let reader = cluster.client_of(index).await;
        eventually("the two nodes are a majority", async || {
            reader.history(query.clone()).await.is_ok_and(|page| page.last_seq == before.seq)
        })
        .await;
    }
    name_server.stop().await;
}
