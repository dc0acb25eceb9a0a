//! `ChaosService`: the desk over gRPC.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use conclave_proto::chaos::chaos_service_server::{ChaosService, ChaosServiceServer};
use conclave_proto::chaos::{self as api};
use futures::{Stream, StreamExt as _, stream};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::backend::{Kind as TargetKind, Target};
use crate::journal::Applied;
use crate::serve::desk::Desk;
use crate::serve::guard::Guard;
use crate::serve::refusal::{Refusal, RefusalKind};
use crate::serve::runs::{Cause, Record, RunState};
use crate::serve::shared::{EventRecord, Watch};

/// The largest request, bytes.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// The service.
#[derive(Clone, Debug)]
pub struct Api {
    desk: Desk,
    guard: Arc<Guard>,
    stop: CancellationToken,
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, desk: Desk, guard: Arc<Guard>, stop: CancellationToken) {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ChaosServiceServer<Api>>().await;
    let api = Api { desk, guard, stop: stop.clone() };
    let server = conclave_telemetry::grpc::server()
        .add_service(health_service)
        .add_service(conclave_telemetry::grpc::reflection())
        .add_service(ChaosServiceServer::new(api).max_decoding_message_size(MESSAGE_BYTES_MAX));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    if let Err(error) = server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await {
        tracing::error!(%error, "gRPC server failed");
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let Refusal { kind, why } = refusal;
        match kind {
            RefusalKind::Invalid => Self::invalid_argument(why),
            RefusalKind::NotFound => Self::not_found(why),
            RefusalKind::Busy => Self::failed_precondition(why),
            RefusalKind::TooMany => Self::resource_exhausted(why),
            RefusalKind::Unauthenticated => Self::unauthenticated(why),
            RefusalKind::Forbidden => Self::permission_denied(why),
            RefusalKind::ShuttingDown => Self::unavailable(why),
            RefusalKind::Failed => Self::aborted(why),
        }
    }
}

impl Api {
    /// The request, if its caller is authorised to change something.
    fn admit<T>(&self, request: Request<T>) -> Result<T, Status> {
        let header = |name: &str| request.metadata().get(name).and_then(|value| value.to_str().ok());
        self.guard.authorise(header("authorization"), header("origin"))?;
        Ok(request.into_inner())
    }
}

#[tonic::async_trait]
impl ChaosService for Api {
    type WatchEventsStream = Pin<Box<dyn Stream<Item = Result<api::WatchEventsResponse, Status>> + Send>>;

    async fn list_experiments(
        &self,
        _request: Request<api::ListExperimentsRequest>,
    ) -> Result<Response<api::ListExperimentsResponse>, Status> {
        let experiments = self.desk.experiments().map(|experiment| api::Experiment {
            name: experiment.name.clone(),
            proves: experiment.proves.clone(),
            lasts_ms: millis(experiment.workload.duration),
        });
        Ok(Response::new(api::ListExperimentsResponse { experiments: experiments.collect() }))
    }

    async fn list_targets(
        &self,
        _request: Request<api::ListTargetsRequest>,
    ) -> Result<Response<api::ListTargetsResponse>, Status> {
        let targets = self.desk.targets().await?.into_iter().map(target).collect();
        Ok(Response::new(api::ListTargetsResponse { backend: self.desk.backend().to_owned(), targets }))
    }

    async fn list_faults(
        &self,
        _request: Request<api::ListFaultsRequest>,
    ) -> Result<Response<api::ListFaultsResponse>, Status> {
        let faults = self.desk.faults().into_iter().map(fault).collect();
        Ok(Response::new(api::ListFaultsResponse { faults }))
    }

    async fn list_runs(
        &self,
        _request: Request<api::ListRunsRequest>,
    ) -> Result<Response<api::ListRunsResponse>, Status> {
        let (runs, halted) = self.desk.runs();
        Ok(Response::new(api::ListRunsResponse {
            runs: runs.into_iter().map(run).collect(),
            schedule_halted: halted.unwrap_or_default(),
        }))
    }

    async fn get_run(
        &self,
        request: Request<api::GetRunRequest>,
    ) -> Result<Response<api::GetRunResponse>, Status> {
        let found = self.desk.run(&request.into_inner().id)?;
        Ok(Response::new(api::GetRunResponse { run: Some(run(found)) }))
    }

    async fn start_run(
        &self,
        request: Request<api::StartRunRequest>,
    ) -> Result<Response<api::StartRunResponse>, Status> {
        let api::StartRunRequest { experiment, seed } = self.admit(request)?;
        let begun = self.desk.start(&experiment, seed).await?;
        Ok(Response::new(api::StartRunResponse { run: Some(run(begun)) }))
    }

    async fn stop_run(
        &self,
        request: Request<api::StopRunRequest>,
    ) -> Result<Response<api::StopRunResponse>, Status> {
        self.admit(request)?;
        let stopped = self.desk.stop_run().await?;
        Ok(Response::new(api::StopRunResponse { run: Some(run(stopped)) }))
    }

    async fn apply_fault(
        &self,
        request: Request<api::ApplyFaultRequest>,
    ) -> Result<Response<api::ApplyFaultResponse>, Status> {
        let api::ApplyFaultRequest { fault: name, nodes, for_ms, with } = self.admit(request)?;
        let nodes = if nodes.is_empty() { "one" } else { &nodes };
        let applied = self.desk.apply(&name, nodes, Duration::from_millis(for_ms), with).await?;
        Ok(Response::new(api::ApplyFaultResponse { fault: Some(fault(applied)) }))
    }

    async fn heal(&self, request: Request<api::HealRequest>) -> Result<Response<api::HealResponse>, Status> {
        self.admit(request)?;
        let healed = u32::try_from(self.desk.heal().await?).unwrap_or(u32::MAX);
        Ok(Response::new(api::HealResponse { healed }))
    }

    async fn watch_events(
        &self,
        _request: Request<api::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let watch = self.desk.watch()?;
        let events = stream::unfold(watch, async |mut watch: Watch| {
            let (told, left_out) = watch.next().await?;
            Some((Ok(event(told, left_out)), watch))
        });
        Ok(Response::new(Box::pin(events.take_until(self.stop.clone().cancelled_owned()))))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn target(target: Target) -> api::Target {
    let kind = match target.kind {
        TargetKind::Server => api::target::Kind::Server,
        TargetKind::Resolver => api::target::Kind::Resolver,
    };
    api::Target { name: target.name, kind: kind.into(), client: target.client }
}

fn fault(applied: Applied) -> api::Fault {
    api::Fault {
        id: applied.id,
        name: applied.fault.name().to_owned(),
        description: applied.fault.to_string(),
        nodes: applied.nodes,
    }
}

fn run(record: Record) -> api::Run {
    let cause = match record.cause {
        Cause::Call => api::run::Cause::Call,
        Cause::Schedule => api::run::Cause::Schedule,
    };
    let state = match record.state {
        RunState::Running => api::run::State::Running,
        RunState::Passed => api::run::State::Passed,
        RunState::Violated => api::run::State::Violated,
        RunState::TooLittle => api::run::State::TooLittle,
        RunState::Failed => api::run::State::Failed,
        RunState::Stopped => api::run::State::Stopped,
    };
    api::Run {
        id: record.id,
        experiment: record.experiment,
        seed: record.seed,
        cause: cause.into(),
        state: state.into(),
        began_ms: record.began_ms,
        ended_ms: record.ended_ms.unwrap_or(0),
        phase: record.phase,
        why: record.why,
        longest_gap_ms: record.longest_gap_ms,
        violations: record.violations.into_iter().collect(),
    }
}

fn event(told: EventRecord, left_out: u64) -> api::WatchEventsResponse {
    let EventRecord { at_ms, run, kind, text } = told;
    api::WatchEventsResponse { at_ms, run: run.unwrap_or_default(), kind: kind.to_owned(), text, left_out }
}
