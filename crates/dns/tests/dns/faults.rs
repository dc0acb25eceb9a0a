//! A name server with fault injection enabled: delayed and stale answers.

use std::time::Duration;

use conclave_dns::Faults;
use conclave_proto::fault::fault_service_client::FaultServiceClient;
use conclave_proto::fault::{CutPowerRequest, ResolverFault, SetFaultsRequest};
use hickory_proto::rr::RecordType;
use tokio::time::Instant;
use tonic::Code;
use tonic::transport::Channel;

use crate::nodes::{ask, config, start, within};

async fn faults_of(server: &conclave_dns::DnsServer) -> FaultServiceClient<Channel> {
    let address = format!("http://{}", server.addresses().grpc);
    within("a connection", FaultServiceClient::connect(address)).await.unwrap()
}

#[tokio::test]
async fn answers_are_delayed_until_the_fault_is_healed() {
    const LATE: Duration = Duration::from_millis(300);
    let server = start(conclave_dns::Config { faults: Some(Faults::default()), ..config() }).await;
    let mut faults = faults_of(&server).await;
    let late = ResolverFault { answer_delay_ms: 300, ..ResolverFault::default() };
    let request = SetFaultsRequest { resolver: Some(late), ..SetFaultsRequest::default() };
    faults.set_faults(request).await.unwrap();
    let begun = Instant::now();
    ask(&server, "conclave.internal.", RecordType::SOA).await;
    assert!(begun.elapsed() >= LATE);
    faults.set_faults(SetFaultsRequest::default()).await.unwrap();
    // On a slow machine an answer may be late by itself, but one of several is quick.
    let quick = async {
        loop {
            let begun = Instant::now();
            ask(&server, "conclave.internal.", RecordType::SOA).await;
            if begun.elapsed() < LATE {
                return;
            }
        }
    };
    within("a quick answer", quick).await;

    let clock = SetFaultsRequest { clock_offset_ms: 5, ..SetFaultsRequest::default() };
    assert_eq!(faults.set_faults(clock).await.unwrap_err().code(), Code::InvalidArgument);
    let cut = faults.cut_power(CutPowerRequest::default()).await;
    assert_eq!(cut.unwrap_err().code(), Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test]
async fn without_permission_faults_cannot_be_injected() {
    let server = start(config()).await;
    let mut faults = faults_of(&server).await;
    let refused = faults.set_faults(SetFaultsRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    server.stop().await;
}
