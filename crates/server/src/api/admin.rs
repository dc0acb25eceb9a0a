//! `AdminService`: the calls of operators and name servers.

use std::pin::Pin;

use conclave_proto::admin::admin_service_server::AdminService;
use conclave_proto::admin::{
    DrainRequest, DrainResponse, LayoutRequest, LayoutResponse, RebalanceRequest, RebalanceResponse,
    RecordsRequest, RecordsResponse, ShardPlacement, StatusRequest, UndrainRequest, UndrainResponse,
};
use conclave_proto::chat::GetServerStatusResponse;
use conclave_telemetry::operators::Operators;
use futures::Stream;
use tonic::{Request, Response, Status};

use crate::api::gateway::Gateway;
use crate::api::status::{Patience, cluster_status};
use crate::cluster::drain::Drain;
use crate::cluster::placement::Placement;
use crate::discovery::records::Records;

/// The admin API of one node.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) gateway: Gateway,
    pub(crate) placement: Placement,
    pub(crate) drain: Drain,
    pub(crate) records: Records,
    pub(crate) operators: Operators,
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<GetServerStatusResponse>, Status> {
        let patience = Patience::of(request.metadata());
        Ok(Response::new(cluster_status(&self.gateway, request.into_inner().local_only, patience).await))
    }

    async fn layout(&self, request: Request<LayoutRequest>) -> Result<Response<LayoutResponse>, Status> {
        self.operators.check(request.metadata(), request.extensions())?;
        let shards = &self.gateway.router.shards;
        let layout = shards.topology.layout();
        let placements = layout.shards.into_iter().zip(shards.iter()).map(|(replicas, shard)| {
            let view = shard.leader();
            ShardPlacement {
                shard: shard.id.0,
                replicas: replicas.into_iter().map(|node| node.0).collect(),
                leader_id: view.leader.map_or(0, |leader| leader.0),
                term: view.term,
            }
        });
        Ok(Response::new(LayoutResponse { version: layout.version, shards: placements.collect() }))
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        self.operators.check(request.metadata(), request.extensions())?;
        Ok(Response::new(self.drain.run_at(request.into_inner()).await?))
    }

    async fn undrain(&self, request: Request<UndrainRequest>) -> Result<Response<UndrainResponse>, Status> {
        self.operators.check(request.metadata(), request.extensions())?;
        Ok(Response::new(self.drain.undo_at(request.into_inner()).await?))
    }

    async fn rebalance(
        &self,
        request: Request<RebalanceRequest>,
    ) -> Result<Response<RebalanceResponse>, Status> {
        self.operators.check(request.metadata(), request.extensions())?;
        Ok(Response::new(self.placement.rebalance().await?))
    }

    type RecordsStream = Pin<Box<dyn Stream<Item = Result<RecordsResponse, Status>> + Send>>;

    async fn records(
        &self,
        request: Request<RecordsRequest>,
    ) -> Result<Response<Self::RecordsStream>, Status> {
        let caller = request.extensions().get().cloned();
        Ok(Response::new(Box::pin(self.records.stream(caller.as_ref(), request.into_inner().nonce)?)))
    }
}
