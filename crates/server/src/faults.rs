//! Fault injection, inside a node that was started with it enabled.
//!
//! * `network`: faults on the connections to other nodes. Repeated calls are in `peer/echo.rs`.
//! * Disk faults are in [`conclave_store::FaultyDisk`], clock faults in [`crate::Clock`].
//!
//! With fault injection disabled, a node uses plain connections and files.

pub(crate) mod network;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use conclave_proto::fault::fault_service_server::FaultService;
use conclave_proto::fault::{
    CutPowerRequest, CutPowerResponse, PeerFault, SetFaultsRequest, SetFaultsResponse,
};
use conclave_store::{DiskFaults, FaultyDisk, Options, Work};
use tonic::{Request, Response, Status};

use crate::clock::Clock;
use crate::faults::network::NetworkFaults;

/// The faults of a node: having this value enables fault injection.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub(crate) network: Arc<NetworkFaults>,
    disk: Arc<DiskFaults>,
}

impl Faults {
    /// Sets the faults between this node and its peers, as the `FaultService` does; for backends in the same process.
    /// A peer that is not listed has no faults.
    pub fn set_network(&self, peers: &[PeerFault]) {
        self.network.set(peers);
    }

    /// The same options, with the faulty disk in place.
    pub(crate) fn onto(&self, mut options: Options) -> Options {
        // A simulated disk injects its own faults.
        if options.work == Work::Threads {
            options.disk = Arc::new(FaultyDisk::new(Arc::clone(&self.disk)));
        }
        options
    }
}

/// `FaultService` of one node.
#[derive(Clone, Debug)]
pub(crate) struct FaultApi {
    pub(crate) faults: Faults,
    pub(crate) clock: Clock,
    /// The node's name.
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
        if peers.iter().any(|peer| peer.loss_percent > 100 || peer.repeat_percent > 100) {
            return Err(Status::invalid_argument("loss_percent and repeat_percent are at most 100"));
        }
        if resolver.is_some() {
            return Err(Status::invalid_argument("this is a node; send name server faults to a name server"));
        }
        let disk = disk.unwrap_or_default();
        let changed = self.faults.network.set(&peers);
        if changed {
            tracing::warn!(?peers, "network faults changed");
        }
        let delay = Duration::from_millis(disk.sync_delay_ms.into());
        self.faults.disk.set(delay, disk.fail_sync, disk.full);
        self.faults.disk.set_free_bytes(disk.free_bytes);
        self.clock.set_offset_ms(clock_offset_ms);
        self.clock.set_rate_ppm(clock_rate_ppm);
        let repeated_calls = self.faults.network.repeated().load(Ordering::Relaxed);
        Ok(Response::new(SetFaultsResponse { node: self.name.clone(), repeated_calls }))
    }

    async fn cut_power(
        &self,
        request: Request<CutPowerRequest>,
    ) -> Result<Response<CutPowerResponse>, Status> {
        let CutPowerRequest { torn, seed } = request.into_inner();
        tracing::warn!(torn, "power cut injected");
        let disk = Arc::clone(&self.faults.disk);
        // Waits for a sync in progress, so it runs on a thread that may block.
        let cut = tokio::task::spawn_blocking(move || disk.cut_power(torn, seed));
        match cut.await {
            Ok(never) => never,
            Err(error) => Err(Status::internal(error.to_string())),
        }
    }
}
