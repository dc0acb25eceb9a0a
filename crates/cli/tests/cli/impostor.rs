//! A server that claims to belong to clusters which are not its own, and writes down what it is told.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use conclave_net::{Callers, Credentials, GateLimits, Identity, Net, Plain, TlsServer};
use conclave_pki::{Ca, Subject};
use conclave_proto::admin::admin_service_server::{AdminService, AdminServiceServer};
use conclave_proto::admin::{
    DrainRequest, DrainResponse, LayoutRequest, LayoutResponse, RebalanceRequest, RebalanceResponse,
    RecordsRequest, RecordsResponse, StatusRequest, UndrainRequest, UndrainResponse,
};
use conclave_proto::chat::chat_service_server::{ChatService, ChatServiceServer};
use conclave_proto::chat::*;
use conclave_proto::frame::EncodedFrame;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming};

/// What a false server says, and what it has heard.
#[derive(Clone, Debug, Default)]
struct State {
    /// The cluster that it names when it is asked for its status.
    status: String,
    /// The cluster that it names to operators and to those who open a session.
    claim: String,
    heard: Vec<String>,
}

/// A running false server.
pub(crate) struct Impostor {
    pub(crate) address: String,
    state: Arc<Mutex<State>>,
    _runtime: tokio::runtime::Runtime,
}

impl Impostor {
    /// Without TLS.
    pub(crate) fn plain(status: &str, claim: &str) -> Self {
        Self::start(status, claim, None)
    }

    /// With a certificate of this authority that was issued at this time.
    pub(crate) fn tls(ca: &Ca, issued_at: SystemTime) -> Self {
        Self::tls_claiming(ca, issued_at, &ca.id().to_string())
    }

    /// The same, claiming to belong to this cluster.
    pub(crate) fn tls_claiming(ca: &Ca, issued_at: SystemTime, claim: &str) -> Self {
        let subject = Subject { identity: Identity::Node(1), hosts: Vec::new() };
        let issued = ca.issue(&subject, issued_at).unwrap();
        let pems = [&issued.ca_pem, &issued.certificate_pem, &issued.key_pem].map(|pem| pem.as_bytes());
        let credentials = Credentials::from_pem(pems[0], pems[1], pems[2]).unwrap();
        let tls = TlsServer::new(&credentials, Callers::Anybody, Plain::Refuse).unwrap();
        Self::start(claim, claim, Some(tls))
    }

    fn start(status: &str, claim: &str, tls: Option<TlsServer>) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let state = State { status: status.to_owned(), claim: claim.to_owned(), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let limits = GateLimits {
            connections: 1_000,
            per_address: 1_000,
            loopback: 1_000,
            first_request: Duration::from_secs(3_600),
            idle: Duration::from_secs(3_600),
        };
        let entrance = runtime.block_on(async {
            let socket = Net::System.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
            let socket = match tls {
                Some(tls) => socket.secured(tls).unwrap(),
                None => socket,
            };
            socket.gated(conclave_net::Gate::new(limits, Arc::new(())))
        });
        let address = entrance.local_addr().unwrap().to_string();
        let service = Service(Arc::clone(&state));
        let server = tonic::transport::Server::builder()
            .add_service(ChatServiceServer::new(service.clone()))
            .add_service(AdminServiceServer::new(service));
        runtime.spawn(server.serve_with_incoming(entrance.incoming()));
        Self { address, state, _runtime: runtime }
    }

    /// What it has heard so far: the calls that tell it anything, with the token of each.
    pub(crate) fn heard(&self) -> Vec<String> {
        self.state.lock().unwrap().heard.clone()
    }
}

#[derive(Clone)]
struct Service(Arc<Mutex<State>>);

impl Service {
    /// Writes down a call. Returns the cluster that is claimed.
    fn heard<T>(&self, call: &str, request: &Request<T>) -> String {
        let token = request.metadata().get("authorization").map(|value| value.to_str().unwrap());
        let mut state = self.0.lock().unwrap();
        state.heard.push(format!("{call} {}", token.unwrap_or("-")));
        state.claim.clone()
    }

    fn status(&self) -> GetServerStatusResponse {
        let cluster_id = self.0.lock().unwrap().status.clone();
        GetServerStatusResponse {
            cluster_id,
            cluster_name: "false".into(),
            healthy: true,
            ..GetServerStatusResponse::default()
        }
    }

    fn no<A, T>(&self, call: &str, request: &Request<T>) -> Result<A, Status> {
        self.heard(call, request);
        Err(Status::unimplemented("the false server does nothing"))
    }
}

#[tonic::async_trait]
impl ChatService for Service {
    type JoinChatStream = BoxStream<'static, Result<EncodedFrame, Status>>;
    type SendMessagesStream = BoxStream<'static, Result<SendResults, Status>>;

    async fn open_session(
        &self,
        request: Request<OpenSessionRequest>,
    ) -> Result<Response<OpenSessionResponse>, Status> {
        let cluster_id = self.heard("OpenSession", &request);
        // From here on it stands by its claim.
        self.0.lock().unwrap().status.clone_from(&cluster_id);
        Ok(Response::new(OpenSessionResponse {
            token: "false-token".into(),
            session_id: 1,
            user_id: 1,
            user: request.into_inner().user,
            cluster_id,
            feature_level: 1,
            cluster: None,
        }))
    }

    async fn join_chat(
        &self,
        request: Request<JoinChatRequest>,
    ) -> Result<Response<Self::JoinChatStream>, Status> {
        self.no("JoinChat", &request)
    }

    async fn send_message(
        &self,
        request: Request<SendMessageRequest>,
    ) -> Result<Response<SendMessageResponse>, Status> {
        self.no("SendMessage", &request)
    }

    async fn send_messages(
        &self,
        request: Request<Streaming<SendBatch>>,
    ) -> Result<Response<Self::SendMessagesStream>, Status> {
        self.heard("SendMessages", &request);
        let state = Arc::clone(&self.0);
        let answers = request.into_inner().filter_map(move |batch| {
            let said = format!("{batch:?}");
            state.lock().unwrap().heard.push(said);
            std::future::ready(None)
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn history(&self, request: Request<HistoryRequest>) -> Result<Response<HistoryResponse>, Status> {
        self.no("History", &request)
    }

    async fn list_rooms(
        &self,
        request: Request<ListRoomsRequest>,
    ) -> Result<Response<ListRoomsResponse>, Status> {
        self.no("ListRooms", &request)
    }

    async fn create_room(
        &self,
        request: Request<CreateRoomRequest>,
    ) -> Result<Response<CreateRoomResponse>, Status> {
        self.no("CreateRoom", &request)
    }

    async fn open_direct(
        &self,
        request: Request<OpenDirectRequest>,
    ) -> Result<Response<OpenDirectResponse>, Status> {
        self.no("OpenDirect", &request)
    }

    async fn members(&self, request: Request<MembersRequest>) -> Result<Response<MembersResponse>, Status> {
        self.no("Members", &request)
    }

    async fn unread(&self, request: Request<UnreadRequest>) -> Result<Response<UnreadResponse>, Status> {
        self.no("Unread", &request)
    }

    async fn leave_room(
        &self,
        request: Request<LeaveRoomRequest>,
    ) -> Result<Response<SendMessageResponse>, Status> {
        self.no("LeaveRoom", &request)
    }

    async fn get_server_status(
        &self,
        _: Request<GetServerStatusRequest>,
    ) -> Result<Response<GetServerStatusResponse>, Status> {
        Ok(Response::new(self.status()))
    }

    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        self.no("Ping", &request)
    }
}

#[tonic::async_trait]
impl AdminService for Service {
    type RecordsStream = BoxStream<'static, Result<RecordsResponse, Status>>;

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<GetServerStatusResponse>, Status> {
        let cluster_id = self.heard("Status", &request);
        Ok(Response::new(GetServerStatusResponse { cluster_id, ..self.status() }))
    }

    async fn layout(&self, request: Request<LayoutRequest>) -> Result<Response<LayoutResponse>, Status> {
        self.no("Layout", &request)
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        self.no("Drain", &request)
    }

    async fn undrain(&self, request: Request<UndrainRequest>) -> Result<Response<UndrainResponse>, Status> {
        self.no("Undrain", &request)
    }

    async fn rebalance(
        &self,
        request: Request<RebalanceRequest>,
    ) -> Result<Response<RebalanceResponse>, Status> {
        self.heard("Rebalance", &request);
        Ok(Response::new(RebalanceResponse::default()))
    }

    async fn records(
        &self,
        request: Request<RecordsRequest>,
    ) -> Result<Response<Self::RecordsStream>, Status> {
        self.no("Records", &request)
    }
}
