//! Fault injection for tests, enabled by configuration only: stale answers and late answers.
//!
//! There is no fault that names a node that does not exist: every client of a node checks the cluster's id, so that
//! would only be another kind of staleness.

use std::sync::Arc;
use std::time::Duration;

use conclave_proto::fault::fault_service_server::FaultService;
use conclave_proto::fault::{
    CutPowerRequest, CutPowerResponse, ResolverFault, SetFaultsRequest, SetFaultsResponse,
};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

/// The permission to inject faults, and the current fault.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    now: Arc<watch::Sender<ResolverFault>>,
}

impl Faults {
    /// Sets the current fault. Returns whether it has changed.
    pub fn set(&self, fault: ResolverFault) -> bool {
        self.now.send_if_modified(|known| {
            let other = *known != fault;
            *known = fault;
            other
        })
    }

    /// The current fault and its changes.
    pub(crate) fn watch(&self) -> watch::Receiver<ResolverFault> {
        self.now.subscribe()
    }
}

/// Waits for the injected delay of answers, or until the fault is healed; not at all where fault injection is off.
pub(crate) async fn delay_answer(faults: Option<&watch::Receiver<ResolverFault>>) {
    let Some(mut faults) = faults.cloned() else { return };
    let delay = faults.borrow_and_update().answer_delay_ms;
    if delay > 0 {
        let healed = faults.wait_for(|fault| fault.answer_delay_ms == 0);
        drop(tokio::time::timeout(Duration::from_millis(delay.into()), healed).await);
    }
}

/// `FaultService` of one name server.
#[derive(Clone, Debug)]
pub(crate) struct FaultApi {
    pub(crate) faults: Faults,
    /// The host's name, in answers.
    pub(crate) name: String,
}

#[tonic::async_trait]
impl FaultService for FaultApi {
    async fn set_faults(
        &self,
        request: Request<SetFaultsRequest>,
    ) -> Result<Response<SetFaultsResponse>, Status> {
        let SetFaultsRequest { peers, disk, clock_offset_ms, clock_rate_ppm, resolver } =
            request.into_inner();
        let of_a_node = !peers.is_empty()
            || disk.unwrap_or_default() != Default::default()
            || clock_offset_ms != 0
            || clock_rate_ppm != 0;
        if of_a_node {
            return Err(Status::invalid_argument(
                "a name server has no faults of peers, disk or clock; send these faults to a node",
            ));
        }
        let fault = resolver.unwrap_or_default();
        if self.faults.set(fault) {
            tracing::warn!(?fault, "fault injected into answers");
        }
        Ok(Response::new(SetFaultsResponse { node: self.name.clone(), repeated_calls: 0 }))
    }

    async fn cut_power(&self, _: Request<CutPowerRequest>) -> Result<Response<CutPowerResponse>, Status> {
        Err(Status::invalid_argument("a name server keeps nothing on disk; kill it instead"))
    }
}
