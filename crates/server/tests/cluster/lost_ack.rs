//! Acks are lost, and the requests are repeated.

use conclave_client::api::chat_service_client::ChatServiceClient;
use conclave_client::api::{self, send_message_request::Content};
use tonic::Request;
use tonic::transport::Channel;

use crate::harness::Cluster;

/// A client of one node without retries or reconnects.
pub(crate) struct Raw {
    pub(crate) client: ChatServiceClient<Channel>,
    pub(crate) token: String,
    pub(crate) session: u64,
}

impl Raw {
    pub(crate) async fn connect(cluster: &Cluster, index: usize, user: &str) -> Self {
        let mut client = connect(cluster, index).await;
        let open =
            api::OpenSessionRequest { user: user.to_owned(), client: "raw".to_owned(), reads_only: false };
        let session = client.open_session(open).await.unwrap().into_inner();
        Self { client, token: session.token, session: session.session_id }
    }

    /// A session that was opened elsewhere.
    pub(crate) async fn with(cluster: &Cluster, index: usize, session: &api::OpenSessionResponse) -> Self {
        let client = connect(cluster, index).await;
        Self { client, token: session.token.clone(), session: session.session_id }
    }

    /// The same session on another node.
    pub(crate) async fn moved(&self, cluster: &Cluster, index: usize) -> Self {
        Self { client: connect(cluster, index).await, token: self.token.clone(), session: self.session }
    }

    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        request
    }

    pub(crate) async fn send(
        &mut self,
        room: &str,
        no: u64,
        text: &str,
    ) -> Result<api::SendMessageResponse, tonic::Status> {
        let request = self.request(message(room, no, text));
        self.client.send_message(request).await.map(tonic::Response::into_inner)
    }
}

pub(crate) async fn connect(cluster: &Cluster, index: usize) -> ChatServiceClient<Channel> {
    let address = format!("http://{}", cluster.members()[index].client);
    ChatServiceClient::connect(address).await.unwrap()
}

pub(crate) fn message(room: &str, no: u64, text: &str) -> api::SendMessageRequest {
    api::SendMessageRequest {
        room: Some(api::RoomRef { name: room.to_owned(), id: 0 }),
        request_no: no,
        settled_no: 0,
        join_first: true,
        content: Some(Content::Text(text.to_owned())),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_gets_the_first_answer_on_any_node() {
    let mut cluster = Cluster::start().await;
    let mut one = Raw::connect(&cluster, 0, "ana").await;
    let first = one.send("general", 1, "hello").await.unwrap();
    assert!(!first.duplicate);
    for index in [1, 2, 0] {
        let mut other = one.moved(&cluster, index).await;
        let again = other.send("general", 1, "hello").await.unwrap();
        assert!(again.duplicate);
        assert_eq!((again.seq, again.time_ms, again.room_id), (first.seq, first.time_ms, first.room_id));
    }
    // The answer survives even the death of all nodes.
    (0..3).for_each(|index| cluster.kill(index));
    for index in 0..3 {
        cluster.start_node(index).await;
    }
    cluster.settled().await;
    let mut other = one.moved(&cluster, 1).await;
    let again = other.send("general", 1, "hello").await.unwrap();
    assert_eq!((again.seq, again.duplicate), (first.seq, true));
    let next = other.send("general", 2, "next").await.unwrap();
    assert_eq!(next.seq, first.seq + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_after_a_dropped_call_takes_effect_once() {
    let cluster = Cluster::start().await;
    let mut raw = Raw::connect(&cluster, 0, "ana").await;
    let mut settled = 0;
    for no in 1..=50 {
        // The call is dropped at an arbitrary point: the outcome is unknown to this client.
        let request = raw.request(message("general", no, &format!("m{no}")));
        let call = raw.client.send_message(request);
        let _ = tokio::time::timeout(std::time::Duration::from_micros(no * 60), call).await;
        // Repeated at the next node until acked, the request took effect exactly once.
        let mut other = raw.moved(&cluster, usize::try_from(no % 3).unwrap()).await;
        let ack = other.send("general", no, &format!("m{no}")).await.unwrap();
        assert!(ack.seq > settled, "request {no}");
        settled = ack.seq;
    }
    let request = raw.request(api::HistoryRequest {
        room: Some(api::RoomRef { name: "general".into(), id: 0 }),
        limit: 1_000,
        consistency: api::Consistency::Linearizable.into(),
        ..Default::default()
    });
    let history = raw.client.history(request).await.unwrap().into_inner();
    let mine: Vec<u64> = history
        .events
        .iter()
        .filter(|event| event.session_id == raw.session && event.request_no != 0)
        .map(|event| event.request_no)
        .collect();
    assert_eq!(mine, (1..=50).collect::<Vec<_>>());
}
