//! The standard metrics of gRPC servers: `grpc_server_started_total`, `grpc_server_handled_total` and
//! `grpc_server_handling_seconds`, with the names, labels and values of go-grpc-prometheus, so that dashboards made for
//! other gRPC servers work here.
//!
//! Label values come from the descriptors of the services, never from a request: calls of anything else share the value
//! `unknown`. A call costs one look-up of its path, and no allocation.
//!
//! The same layer tells the gate of the port that the call's connection is in use, until the answer has ended.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use conclave_net::{InUse, Peer};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::time::Instant;
use tonic::Code;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tower::{Layer, Service};

use crate::metrics::Maker;

/// The trailer, or header, with the status of a call.
const STATUS: &str = "grpc-status";
/// Label value for calls of methods that this server does not know.
const UNKNOWN: &str = "unknown";
/// Buckets for the duration of calls, in seconds.
const BUCKETS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// The labels of a method, in the order of [`MethodMetrics::labels`].
const LABELS: [&str; 3] = ["grpc_type", "grpc_service", "grpc_method"];
/// The number of status codes of gRPC.
const CODES: usize = 17;

/// The metrics of all calls of a process, and the layer that counts them: one for all gRPC servers of the process.
#[derive(Clone, Debug)]
pub struct CallMetrics(Arc<Methods>);

#[derive(Debug)]
struct Methods {
    /// By the path of a request, such as `/conclave.chat.v1.ChatService/Ping`.
    known: HashMap<String, Arc<MethodMetrics>>,
    unknown: Arc<MethodMetrics>,
}

impl CallMetrics {
    /// Registers the metrics for the methods of these services, such as `conclave.chat.v1.ChatService`. gRPC's health
    /// and reflection services are always among them.
    ///
    /// # Panics
    /// If a service is in no descriptor: names are constants of the generated code, so any test finds such a mistake.
    #[must_use]
    pub fn new(make: &Maker, services: &[&str]) -> Self {
        let vectors = Vectors {
            started: make.counters("grpc_server_started_total", "Calls that began.", &LABELS),
            handled: make.counters(
                "grpc_server_handled_total",
                "Calls that ended, by status code; streams that the client left count as Canceled.",
                &[LABELS[0], LABELS[1], LABELS[2], "grpc_code"],
            ),
            handling: make.histograms(
                "grpc_server_handling_seconds",
                "From the beginning of a call to its end; for streams, to the end of the stream.",
                &LABELS,
                BUCKETS,
            ),
        };
        let mut known = HashMap::new();
        let standard = [
            tonic_health::pb::health_server::SERVICE_NAME,
            tonic_reflection::pb::v1::server_reflection_server::SERVICE_NAME,
            tonic_reflection::pb::v1alpha::server_reflection_server::SERVICE_NAME,
        ];
        for service in services.iter().chain(&standard) {
            let before = known.len();
            for (method, kind) in methods(service) {
                let metrics =
                    MethodMetrics::new(&vectors, [kind.to_owned(), (*service).to_owned(), method.clone()]);
                known.insert(format!("/{service}/{method}"), Arc::new(metrics));
            }
            assert!(known.len() > before, "{service} is in no descriptor");
        }
        let unknown = Arc::new(MethodMetrics::new(&vectors, [UNKNOWN; 3].map(str::to_owned)));
        Self(Arc::new(Methods { known, unknown }))
    }

    fn begin<T>(&self, request: &Request<T>) -> Call {
        let method = self.0.known.get(request.uri().path()).unwrap_or(&self.0.unknown);
        method.started.inc();
        let in_use = request.extensions().get::<Peer>().map(|peer| peer.usage.begin());
        Call { method: Arc::clone(method), began: Instant::now(), ended: false, _in_use: in_use }
    }
}

/// The methods of a service and their types, from the descriptors of all services that conclave serves.
fn methods(service: &str) -> Vec<(String, &'static str)> {
    let sets = [
        conclave_proto::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let files =
        sets.into_iter().filter_map(|set| FileDescriptorSet::decode(set).ok()).flat_map(|set| set.file);
    let found = files.flat_map(|file| {
        let package = file.package().to_owned();
        file.service.into_iter().map(move |found| (format!("{package}.{}", found.name()), found.method))
    });
    let found = found.filter(|(name, _)| name == service).flat_map(|(_, methods)| methods);
    let kind = |client, server| match (client, server) {
        (false, false) => "unary",
        (true, false) => "client_stream",
        (false, true) => "server_stream",
        (true, true) => "bidi_stream",
    };
    found
        .map(|method| (method.name().to_owned(), kind(method.client_streaming(), method.server_streaming())))
        .collect()
}

#[derive(Debug)]
struct Vectors {
    started: IntCounterVec,
    handled: IntCounterVec,
    handling: HistogramVec,
}

/// The metrics of one method. The number of started calls and of those that ended well are there from the start; the
/// rest appears with the first call, because most codes and many methods never occur.
#[derive(Debug)]
struct MethodMetrics {
    labels: [String; 3],
    started: IntCounter,
    handled_of: IntCounterVec,
    handled: [OnceLock<IntCounter>; CODES],
    handling_of: HistogramVec,
    handling: OnceLock<Histogram>,
}

impl MethodMetrics {
    fn new(vectors: &Vectors, labels: [String; 3]) -> Self {
        let method = Self {
            started: vectors.started.with_label_values(&labels),
            handled_of: vectors.handled.clone(),
            handled: Default::default(),
            handling_of: vectors.handling.clone(),
            handling: OnceLock::new(),
            labels,
        };
        method.handled(Code::Ok);
        method
    }

    fn handled(&self, code: Code) -> &IntCounter {
        let index = usize::try_from(i32::from(code)).unwrap_or(0).min(CODES - 1);
        self.handled[index].get_or_init(|| {
            let [kind, service, method] = &self.labels;
            self.handled_of.with_label_values(&[kind, service, method, code_name(code)])
        })
    }

    fn handling(&self) -> &Histogram {
        self.handling.get_or_init(|| self.handling_of.with_label_values(&self.labels))
    }
}

/// The name of a code in the label `grpc_code`, as gRPC for Go spells it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// A call that began. Dropped before its end, it counts as cancelled: the client went away or ended the stream.
#[derive(Debug)]
struct Call {
    method: Arc<MethodMetrics>,
    began: Instant,
    ended: bool,
    /// Where the connection came through a gate.
    _in_use: Option<InUse>,
}

impl Call {
    /// Counts the end of the call; further ends are ignored.
    fn end(&mut self, code: Code) {
        if !self.ended {
            self.ended = true;
            self.method.handled(code).inc();
            self.method.handling().observe(self.began.elapsed().as_secs_f64());
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// The status in trailers, or in the headers of an answer without a message.
fn status(headers: &HeaderMap) -> Option<Code> {
    headers.get(STATUS).map(|status| Code::from_bytes(status.as_bytes()))
}

impl<S> Layer<S> for CallMetrics {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Counted { inner, metrics: self.clone() }
    }
}

/// A service whose calls are counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    metrics: CallMetrics,
}

impl<S, Req, Res> Service<Request<Req>> for Counted<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
{
    type Response = Response<CountedBody<Res>>;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Req>) -> Self::Future {
        let call = self.metrics.begin(&request);
        Answering { inner: self.inner.call(request), call: Some(call) }
    }
}

pin_project! {
    /// A call whose answer has not begun.
    #[derive(Debug)]
    pub struct Answering<F> {
        #[pin]
        inner: F,
        call: Option<Call>,
    }
}

impl<F, Res, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<Res>, E>>,
{
    type Output = Result<Response<CountedBody<Res>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(cx));
        let mut call = this.call.take();
        if let Some(call) = &mut call {
            match &answer {
                // Only an answer without a message has its status here.
                Ok(answer) => status(answer.headers()).into_iter().for_each(|code| call.end(code)),
                Err(_) => call.end(Code::Unknown),
            }
        }
        Poll::Ready(answer.map(|answer| answer.map(|inner| CountedBody { inner, call })))
    }
}

pin_project! {
    /// The body of an answer. The call ends with it: its trailers hold the status.
    #[derive(Debug)]
    pub struct CountedBody<B> {
        #[pin]
        inner: B,
        call: Option<Call>,
    }
}

impl<B: Body> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        let code = match &frame {
            Some(Ok(frame)) => frame.trailers_ref().map(|trailers| status(trailers).unwrap_or(Code::Unknown)),
            Some(Err(_)) | None => Some(Code::Unknown),
        };
        if let (Some(code), Some(call)) = (code, this.call) {
            call.end(code);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests;
