//! The calls of operators: who may make them, drains that would end the service, and drains that are taken back.

use conclave_client::api::chat_service_client::ChatServiceClient;
use conclave_client::api::{PingRequest, Role};
use conclave_proto::admin::admin_service_client::AdminServiceClient;
use conclave_proto::admin::{DrainRequest, LayoutRequest, RebalanceRequest, StatusRequest, UndrainRequest};
use conclave_proto::admin_token::{AdminToken, WithAdminToken};
use conclave_proto::fault::SetFaultsRequest;
use conclave_proto::fault::fault_service_client::FaultServiceClient;
use conclave_proto::status;
use conclave_server::Faults;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1alpha;

use crate::harness::{Cluster, eventually, within};

type Operator = InterceptedService<Channel, WithAdminToken>;

fn token(digit: &str) -> AdminToken {
    AdminToken::parse(format!("cnva_{}", digit.repeat(64)).as_bytes()).unwrap()
}

async fn connect(cluster: &Cluster, index: usize, token: Option<AdminToken>) -> Operator {
    let address = format!("http://{}", cluster.members()[index].client);
    let channel = Endpoint::from_shared(address).unwrap().connect().await.unwrap();
    InterceptedService::new(channel, WithAdminToken(token))
}

/// The results of all calls that are for operators.
async fn call_all(channel: Operator) -> Vec<(&'static str, Result<(), Status>)> {
    let mut admin = AdminServiceClient::new(channel.clone());
    let mut faults = FaultServiceClient::new(channel.clone());
    let mut reflection = ServerReflectionClient::new(channel.clone());
    let list = MessageRequest::ListServices(String::new());
    let list = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let list = tokio_stream::iter([list]);
    let mut older = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let older_list = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::ListServices(String::new()),
        ),
    };
    let older_list = tokio_stream::iter([older_list]);
    let node = "node3".to_owned();
    vec![
        ("Layout", admin.layout(LayoutRequest {}).await.map(drop)),
        ("Rebalance", admin.rebalance(RebalanceRequest {}).await.map(drop)),
        ("SetFaults", faults.set_faults(SetFaultsRequest::default()).await.map(drop)),
        ("reflection", reflection.server_reflection_info(list).await.map(drop)),
        ("reflection v1alpha", older.server_reflection_info(older_list).await.map(drop)),
        ("Undrain", admin.undrain(UndrainRequest { node: node.clone() }).await.map(drop)),
        ("Drain", admin.drain(DrainRequest { node, force: false }).await.map(drop)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_node_is_not_found() {
    let cluster = Cluster::start().await;
    let mut admin = AdminServiceClient::new(connect(&cluster, 0, None).await);
    let unknown = || "node9".to_owned();
    let drained = admin.drain(DrainRequest { node: unknown(), force: false }).await.unwrap_err();
    let undrained = admin.undrain(UndrainRequest { node: unknown() }).await.unwrap_err();
    for refused in [drained, undrained] {
        let failure = status::from_status(&refused);
        assert_eq!((refused.code(), failure.code.as_str()), (Code::NotFound, "not_found"), "{refused}");
    }
}

#[tokio::test]
async fn calls_of_operators_need_the_admin_token() {
    let cluster = Cluster::start_with(|config| {
        config.admin_token = Some(token("a"));
        config.faults = Some(Faults::default());
    })
    .await;
    for wrong in [None, Some(token("b"))] {
        for (call, result) in call_all(connect(&cluster, 0, wrong).await).await {
            let refused = result.expect_err(call);
            assert_eq!(refused.code(), Code::Unauthenticated, "{call}: {refused}");
            assert_eq!(status::from_status(&refused).code, "not_operator", "{call}: {refused}");
        }
    }
    // Everybody may know how the cluster is.
    let stranger = connect(&cluster, 0, None).await;
    let status = AdminServiceClient::new(stranger.clone()).status(StatusRequest::default()).await.unwrap();
    assert!(status.into_inner().nodes.iter().all(|node| !node.draining));
    ChatServiceClient::new(stranger).ping(PingRequest::default()).await.unwrap();

    // The node that is asked passes a drain on.
    eventually("the operator's calls succeed", async || {
        let results = call_all(connect(&cluster, 0, Some(token("a"))).await).await;
        let unauthenticated = |result: &Result<(), Status>| {
            result.as_ref().is_err_and(|status| status::from_status(status).code == "not_operator")
        };
        assert!(!results.iter().any(|(_, result)| unauthenticated(result)), "{results:?}");
        results.iter().all(|(_, result)| result.is_ok())
    })
    .await;
    assert!(cluster.statuses(0).await[2].draining);
}

#[tokio::test]
async fn a_node_without_which_no_majority_is_ready_is_drained_only_by_force() {
    let cluster = Cluster::start().await;
    let mut admin = AdminServiceClient::new(connect(&cluster, 0, None).await);
    let mut drain = async |node: &str, force| {
        let request = DrainRequest { node: node.to_owned(), force };
        within("an answer", admin.drain(request)).await
    };
    eventually("node3 is drained", async || drain("node3", false).await.is_ok()).await;
    // Right after it: a drain counts what the others say at this moment.
    let mut refused = async |node: &str| {
        let refused = drain(node, false).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        let failure = status::from_status(&refused);
        assert_eq!(failure.certainty(), conclave_client::api::Certainty::Refused);
        failure
    };
    let failure = refused("node2").await;
    assert_eq!(failure.code, "no_ready_majority");
    assert!(failure.message.contains("node3 is not ready"), "{}", failure.message);
    drain("node2", true).await.unwrap();
    let mut refused = async |node: &str| status::from_status(&drain(node, false).await.unwrap_err());
    assert_eq!(refused("node1").await.code, "last_ready_node");
    assert!(!cluster.statuses(0).await[0].draining);
    // A drain that is repeated changes nothing, and is no error.
    drain("node2", false).await.unwrap();
    drain("node1", true).await.unwrap();
    assert!(cluster.statuses(0).await[0].draining);
}

/// Each node asks the others before it drains: two that ask at the same time must not both find the other ready.
#[tokio::test(flavor = "multi_thread")]
async fn of_drains_that_begin_at_the_same_time_a_majority_stays_ready() {
    let cluster = Cluster::start().await;
    let mut admins = Vec::new();
    for node in 0..3 {
        admins.push(AdminServiceClient::new(connect(&cluster, node, None).await));
    }
    for round in 0..10 {
        eventually("all are ready", async || {
            let mut undrain = admins[0].clone();
            for node in 1..=3 {
                let request = UndrainRequest { node: format!("node{node}") };
                undrain.undrain(request).await.unwrap();
            }
            cluster.statuses(0).await.iter().all(|node| node.reachable && !node.draining)
        })
        .await;
        let drains = admins
            .iter_mut()
            .zip(1..)
            .map(|(admin, node)| admin.drain(DrainRequest { node: format!("node{node}"), force: false }));
        let done = within("answers", futures::future::join_all(drains)).await;
        let drained = done.iter().filter(|answer| answer.is_ok()).count();
        assert!(drained <= 1, "round {round}: {done:?}");
    }
}

#[tokio::test]
async fn a_dead_node_counts_as_one_that_is_not_ready() {
    let mut cluster = Cluster::start().await;
    cluster.kill(2);
    let mut admin = AdminServiceClient::new(connect(&cluster, 0, None).await);
    let request = DrainRequest { node: "node2".to_owned(), force: false };
    let refused = within("an answer", admin.drain(request)).await.unwrap_err();
    assert_eq!(status::from_status(&refused).code, "no_ready_majority", "{refused}");
    assert!(!cluster.statuses(0).await[1].draining);
}

#[tokio::test]
async fn an_undrained_node_is_ready_and_leads_again() {
    let cluster = Cluster::start().await;
    let mut admin = AdminServiceClient::new(connect(&cluster, 0, None).await);
    let undrain = || UndrainRequest { node: "node2".to_owned() };
    let undrained = within("an answer", admin.undrain(undrain())).await.unwrap().into_inner();
    assert!(!undrained.was_draining);
    let preferred = admin.layout(LayoutRequest {}).await.unwrap().into_inner();
    let wanted: Vec<u32> =
        preferred.shards.iter().filter(|shard| shard.replicas[0] == 2).map(|shard| shard.shard).collect();
    assert!(!wanted.is_empty(), "{preferred:?}");
    let leads = async |shards: &[u32]| {
        let status = cluster.statuses(1).await;
        status[1].shards.iter().filter(|own| own.role() == Role::Leader).count() >= shards.len()
            && shards.iter().all(|shard| {
                status[1].shards.iter().any(|own| own.shard == *shard && own.role() == Role::Leader)
            })
    };
    eventually("node2 leads its shards", async || leads(&wanted).await).await;

    let drain = DrainRequest { node: "node2".to_owned(), force: false };
    eventually("node2 is drained", async || {
        let drained = within("an answer", admin.drain(drain.clone())).await;
        drained.is_ok_and(|drained| drained.into_inner().still_leads == 0)
    })
    .await;
    assert!(cluster.http(1, "/readyz").await.unwrap().contains("503"));
    let undrained = within("an answer", admin.undrain(undrain())).await.unwrap().into_inner();
    assert!(undrained.was_draining);
    eventually("node2 is ready", async || {
        cluster.http(1, "/readyz").await.is_some_and(|page| page.contains("200 OK"))
    })
    .await;
    // It takes clients: a send stream that an earlier drain had refused.
    let client = cluster.at(vec![cluster.members()[1].client.clone()]).user("ana").connect().await.unwrap();
    within("an ack", client.send("general", "hello")).await.unwrap();
    eventually("node2 leads its shards again", async || leads(&wanted).await).await;
    let unknown = admin.undrain(UndrainRequest { node: "node9".to_owned() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound, "{unknown}");
}
