//! TLS between nodes: who is let in, and how a cluster comes to it.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use conclave_client::Client;
use conclave_net::{Credentials, Expect, Identity, Net, TlsClient, Trust, Wire};
use conclave_pki::{Ca, Subject};
use conclave_proto::admin::RecordsRequest;
use conclave_proto::admin::admin_service_client::AdminServiceClient;
use conclave_proto::mac::NONCE_BYTES;
use conclave_proto::raft::raft_service_client::RaftServiceClient;
use conclave_proto::raft::{ReadIndexRequest, RequestVoteRequest};
use conclave_server::{NodeTls, Plain, RunError};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::harness::{Cluster, within};
use crate::load::Load;

#[expect(clippy::disallowed_methods, reason = "verifiers compare certificates with the system's clock")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// An authority, and a directory for each node `node1`, `node2` and so on.
struct Authority {
    ca: Ca,
    dir: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let made = Self { ca: Ca::create(now()).unwrap(), dir: tempfile::tempdir().unwrap() };
        for id in 1..=3 {
            made.issue(Identity::Node(id), &made.node_dir(&format!("node{id}")));
        }
        made
    }

    fn issue(&self, identity: Identity, dir: &Path) {
        self.ca.issue(&Subject { identity, hosts: Vec::new() }, now()).unwrap().write(dir).unwrap();
    }

    fn node_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// From now on nodes start with TLS.
    fn equip(&self, cluster: &mut Cluster, plain: Plain) {
        let dir = self.dir.path().to_owned();
        cluster.tune(move |config| {
            config.tls = Some(NodeTls { dir: dir.join(&config.name), plain, public: None })
        });
    }

    async fn start(&self) -> Cluster {
        let mut cluster = Cluster::prepare(3, 2);
        self.equip(&mut cluster, Plain::Refuse);
        cluster.clients_use(self.client_net(Plain::Refuse));
        for index in 0..3 {
            cluster.start_node(index).await;
        }
        cluster.settled().await;
        cluster
    }

    /// A network of clients, who have no certificate and know the cluster.
    fn client_net(&self, plain: Plain) -> Net {
        let trust = Trust::Cluster(self.ca.id(), Expect::AnyNode);
        Net::System.secured_with(TlsClient::new(trust, None).unwrap(), plain)
    }

    /// A network of somebody with a certificate of this authority.
    fn net(&self, identity: Identity) -> Net {
        let dir = self.node_dir("somebody");
        self.issue(identity, &dir);
        let own = Credentials::read(&dir).unwrap();
        let trust = Trust::Cluster(self.ca.id(), Expect::AnyNode);
        Net::System.secured(TlsClient::new(trust, Some(&own)).unwrap())
    }
}

async fn cluster_id(cluster: &Cluster) -> String {
    cluster.status(0).await.unwrap().cluster_id
}

/// A Raft client that reaches a node's peer port over this network.
async fn raft(cluster: &Cluster, net: &Net) -> Result<RaftServiceClient<Channel>, tonic::transport::Error> {
    let address = &cluster.members()[0].peer;
    Ok(RaftServiceClient::new(net.connected(&net.endpoint(address)?, address).await?))
}

/// A request to node 1 in the name of a node.
fn in_the_name_of<T>(node: u64, cluster: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("conclave-cluster", cluster.parse().unwrap());
    metadata.insert("conclave-from", MetadataValue::from(node));
    metadata.insert("conclave-from-dir", "ab".repeat(16).parse().unwrap());
    metadata.insert("conclave-to", MetadataValue::from(1u64));
    request
}

/// Whether a call failed with its connection. What a server answers has no source.
fn ended_with_the_connection(refused: &Status) -> bool {
    std::error::Error::source(refused).is_some()
}

async fn ask_for_a_vote(
    client: &mut RaftServiceClient<Channel>,
    node: u64,
    cluster: &str,
) -> Result<(), Status> {
    let request = in_the_name_of(node, cluster, RequestVoteRequest { shard: 0, ..Default::default() });
    within("an answer", client.request_vote(request)).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_id_of_a_cluster_with_tls_is_its_authority_and_survives_restarts() {
    let authority = Authority::new();
    let mut cluster = authority.start().await;
    let expected = authority.ca.id().to_string();
    assert_eq!(cluster_id(&cluster).await, expected);
    let client = cluster.client("ana").await;
    client.send("general", "encrypted between the nodes").await.unwrap();
    for index in 0..3 {
        cluster.stop(index).await;
        cluster.start_node(index).await;
        cluster.settled().await;
    }
    assert_eq!(cluster_id(&cluster).await, expected);

    // The plan of such a cluster is still bound to the data dir.
    cluster.stop(2).await;
    let tls = NodeTls { dir: authority.node_dir("node3"), plain: Plain::Refuse, public: None };
    let shared = tls.clone();
    cluster.tune(move |config| {
        config.tls = Some(shared.clone());
        config.cluster_name = "other".to_owned();
    });
    let error = cluster.refuses_to_start(2).await;
    assert!(error.to_string().contains("began with another name"), "{error}");
    cluster.tune(|_| {});
    let error = cluster.refuses_to_start(2).await;
    assert!(matches!(error, RunError::TlsMissing { .. }), "{error}");
    let other = authority.node_dir("node2");
    cluster.tune(move |config| {
        config.tls = Some(NodeTls { dir: other.clone(), plain: Plain::Refuse, public: None })
    });
    let error = cluster.refuses_to_start(2).await;
    assert!(error.to_string().contains("that of node 2, and this is node 3"), "{error}");
    authority.equip(&mut cluster, Plain::Refuse);
    cluster.start_node(2).await;
    cluster.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_do_not_reach_raft_and_members_speak_for_themselves_only() {
    let (authority, other) = (Authority::new(), Authority::new());
    let cluster = authority.start().await;
    let id = cluster_id(&cluster).await;

    let plain = Net::System;
    let anonymous = TlsClient::new(Trust::Cluster(authority.ca.id(), Expect::AnyNode), None).unwrap();
    let foreign_dir = other.node_dir("foreign");
    other.issue(Identity::Node(2), &foreign_dir);
    let foreign = Credentials::read(&foreign_dir).unwrap();
    let foreign = TlsClient::new(Trust::Cluster(authority.ca.id(), Expect::AnyNode), Some(&foreign)).unwrap();
    for net in [plain, Net::System.secured(anonymous), Net::System.secured(foreign)] {
        // A client learns of the refusal when it connects or when it calls.
        if let Ok(mut client) = raft(&cluster, &net).await {
            let refused = ask_for_a_vote(&mut client, 2, &id).await.unwrap_err();
            assert!(ended_with_the_connection(&refused), "{refused}");
        }
    }

    for (identity, name) in [(Identity::Node(2), 3), (Identity::Tool, 2), (Identity::NameServer(2), 2)] {
        let mut client = raft(&cluster, &authority.net(identity)).await.unwrap();
        let refused = ask_for_a_vote(&mut client, name, &id).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
    // In its own name node 2 is let in as far as its data dir, which is another one here.
    let mut client = raft(&cluster, &authority.net(Identity::Node(2))).await.unwrap();
    let request = in_the_name_of(2, &id, ReadIndexRequest { shard: 0 });
    let refused = within("an answer", client.read_index(request)).await.unwrap_err();
    assert!(refused.message().contains("is known to this node with data dir"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_changed_over_to_tls_without_a_pause() {
    let authority = Authority::new();
    let mut cluster = Cluster::start().await;
    let before = cluster_id(&cluster).await;
    cluster.clients_use(authority.client_net(Plain::Accept));
    let load = Load::start(&cluster, "deploys", 3, 3).await;
    for plain in [Plain::Accept, Plain::Refuse] {
        authority.equip(&mut cluster, plain);
        for index in 0..3 {
            load.progress(50).await;
            cluster.stop(index).await;
            cluster.start_node(index).await;
            cluster.settled().await;
        }
    }
    load.judge(&cluster).await;
    assert_eq!(cluster_id(&cluster).await, before, "an existing cluster keeps its id");
    let refused = match raft(&cluster, &Net::System).await {
        Ok(mut client) => ask_for_a_vote(&mut client, 2, &before).await.unwrap_err(),
        Err(_) => return,
    };
    assert!(ended_with_the_connection(&refused), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_port_serves_tls_and_plain_text_only_while_it_is_accepted() {
    let (authority, other) = (Authority::new(), Authority::new());
    let mut cluster = authority.start().await;
    let client = cluster.client("ana").await;
    client.send("general", "encrypted to the node").await.unwrap();
    let address = cluster.members()[0].client.clone();
    let net = authority.client_net(Plain::Refuse);
    let Wire::Tls(_, identity) = net.connect(&address).await.unwrap() else { panic!("no TLS") };
    assert!(matches!(identity, Identity::Node(_)), "{identity}");

    let plain = async || {
        let observer = Client::builder().servers([&address]).patience(Duration::from_secs(5)).observe().await;
        within("an answer", observer.unwrap().status_of(&address)).await
    };
    plain().await.expect_err("a server with --tls require answered in plain text");
    let foreign = other.client_net(Plain::Refuse).connect(&address).await.map(drop).unwrap_err();
    assert!(foreign.to_string().contains("is not of this cluster"), "{foreign}");

    cluster.stop(0).await;
    authority.equip(&mut cluster, Plain::Accept);
    cluster.start_node(0).await;
    cluster.settled().await;
    plain().await.expect("a server with --tls accept answers in plain text");
    net.connect(&address).await.expect("and in TLS");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_began_with_other_plans_refuse_each_other() {
    let authority = Authority::new();
    let mut cluster = authority.start().await;
    cluster.stop(2).await;
    std::fs::remove_dir_all(cluster.node_dir(2)).unwrap();
    let dir = authority.node_dir("node3");
    cluster.tune(move |config| {
        config.tls = Some(NodeTls { dir: dir.clone(), plain: Plain::Refuse, public: None });
        config.cluster_name = "other".to_owned();
    });
    cluster.start_node(2).await;
    // Two of three go on, and the third one has no part in it.
    let client = cluster.client("ana").await;
    client.send("general", "still two of three").await.unwrap();
    let alone = cluster.http(2, "/readyz").await.is_none_or(|page| !page.contains("200 OK"));
    assert!(alone, "a node with another plan is ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_for_members_of_a_cluster_that_demands_tls() {
    let authority = Authority::new();
    let cluster = authority.start().await;
    let ask = async |net: &Net| {
        let address = &cluster.members()[0].client;
        let channel = net.channel(&net.endpoint(address).unwrap(), address);
        let request = RecordsRequest { nonce: vec![1; NONCE_BYTES] };
        within("an answer", AdminServiceClient::new(channel).records(request)).await.map(drop)
    };
    for member in [Identity::NameServer(1), Identity::Node(2)] {
        ask(&authority.net(member)).await.unwrap();
    }
    for stranger in [authority.client_net(Plain::Refuse), authority.net(Identity::Tool)] {
        let refused = ask(&stranger).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert!(refused.message().contains("give the name server --tls-dir"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_beyond_this_machine_have_tls() {
    let authority = Authority::new();
    let mut cluster = authority.start().await;
    let ready =
        async |cluster: &Cluster| cluster.http(0, "/livez").await.is_some_and(|page| page.contains("200 OK"));
    assert!(ready(&cluster).await, "pages for this machine alone need no TLS");
    let dir = authority.dir.path().to_owned();
    for (plain, served) in [(Plain::Refuse, false), (Plain::Accept, true)] {
        cluster.stop(0).await;
        let dir = dir.clone();
        cluster.tune(move |config| {
            config.tls = Some(NodeTls { dir: dir.join(&config.name), plain, public: None });
            config.http_listen.set_ip(std::net::Ipv4Addr::UNSPECIFIED.into());
        });
        cluster.start_node(0).await;
        let address = cluster.members()[0].http.clone();
        let wire = authority.client_net(Plain::Refuse).connect(&address).await.unwrap();
        assert_eq!(wire.identity(), Identity::Node(1));
        assert_eq!(ready(&cluster).await, served, "{plain:?}");
    }
}
