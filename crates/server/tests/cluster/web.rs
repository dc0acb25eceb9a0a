//! The HTTP API: sessions, numbered requests, history, failures, and streams that continue at another node.

use std::net::SocketAddr;

use conclave_server::Config;
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::harness::{Cluster, eventually, free_address, within};

/// A cluster whose nodes serve browsers, and where.
async fn with_web() -> (Cluster, [SocketAddr; 3]) {
    let web = [(); 3].map(|()| free_address());
    let tune = move |config: &mut Config| {
        let index = usize::try_from(config.node_id()).unwrap() - 1;
        config.web_listen = Some(web[index]);
    };
    (Cluster::start_with(tune).await, web)
}

/// An answer: its status, its head, and its body as JSON or text.
struct Answer {
    status: u16,
    head: String,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The status and the code of a failure.
    fn problem(&self) -> (u16, String) {
        assert!(self.head.contains("application/problem+json"), "{}", self.head);
        (self.status, self.json()["code"].as_str().unwrap().to_owned())
    }
}

async fn ask(at: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let mut stream = within("connecting", TcpStream::connect(at)).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    within("the answer", stream.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let head = head.to_ascii_lowercase();
    // Large answers come in chunks.
    let text = if head.contains("transfer-encoding: chunked") { joined(text) } else { text.to_owned() };
    Answer { status, head, text }
}

fn joined(mut chunks: &str) -> String {
    let mut text = String::new();
    while let Some((length, rest)) = chunks.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        text.push_str(&rest[..length]);
        chunks = &rest[(length + 2).min(rest.len())..];
    }
    text
}

const JSON: &str = "content-type: application/json\r\n";

/// Somebody with a session, at a node.
#[derive(Clone)]
struct Person {
    at: SocketAddr,
    token: String,
    session: Value,
}

impl Person {
    async fn new(at: SocketAddr, user: &str) -> Self {
        let answer = ask(at, "POST", "/api/v1/sessions", JSON, &json!({ "user": user }).to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let session = answer.json();
        Self { at, token: session["token"].as_str().unwrap().to_owned(), session }
    }

    fn at(&self, at: SocketAddr) -> Self {
        Self { at, ..self.clone() }
    }

    async fn get(&self, path: &str) -> Answer {
        let headers = format!("authorization: Bearer {}\r\n", self.token);
        ask(self.at, "GET", &format!("/api/v1{path}"), &headers, "").await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        let headers = format!("authorization: Bearer {}\r\n{JSON}", self.token);
        ask(self.at, "POST", &format!("/api/v1{path}"), &headers, &body.to_string()).await
    }

    async fn send(&self, room: &str, number: u64, text: &str) -> Answer {
        let body =
            json!({ "request_no": number, "settled_no": number - 1, "join_first": true, "text": text });
        self.post(&format!("/rooms/{room}/requests"), &body).await
    }

    async fn follow(&self, first: Value) -> Stream {
        let mut first = first;
        first["token"] = json!(self.token);
        let request = format!("ws://{}/api/v1/stream", self.at).into_client_request().unwrap();
        let stream = TcpStream::connect(self.at).await.unwrap();
        let (mut socket, _) = within("the upgrade", client_async(request, stream)).await.unwrap();
        socket.send(Message::text(first.to_string())).await.unwrap();
        Stream { socket }
    }
}

struct Stream {
    socket: WebSocketStream<TcpStream>,
}

impl Stream {
    /// The next frame; `None` when the stream has ended.
    async fn frame(&mut self) -> Option<Value> {
        loop {
            match within("a frame", self.socket.next()).await? {
                Ok(Message::Text(text)) => return Some(serde_json::from_str(&text).unwrap()),
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    async fn until(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.frame().await.unwrap_or_else(|| panic!("the stream ended before {kind}"));
            if frame["type"] == kind {
                return frame;
            }
        }
    }

    /// The seqs of the events until this one, and the resume token behind it.
    async fn events_until(&mut self, last: u64) -> (Vec<u64>, String) {
        let mut seqs = Vec::new();
        loop {
            let frame = self.until("events").await;
            assert_eq!(frame["events"][0]["room"], "general");
            seqs.extend(
                frame["events"].as_array().unwrap().iter().map(|event| event["seq"].as_u64().unwrap()),
            );
            if *seqs.last().unwrap() >= last {
                return (seqs, frame["resume_token"].as_str().unwrap().to_owned());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_repeated_over_http_at_another_node_has_one_effect() {
    let (_cluster, web) = with_web().await;
    let ana = Person::new(web[0], "ana").await;
    assert!(ana.session["session_id"].as_u64().unwrap() > 0);
    let first = ana.send("general", 1, "hello").await;
    assert_eq!(first.status, 200, "{}", first.text);
    let first = first.json();
    assert_eq!((&first["request_no"], &first["duplicate"]), (&json!(1), &json!(false)));
    let again = ana.at(web[1]).send("general", 1, "hello").await.json();
    assert_eq!((&again["seq"], &again["duplicate"]), (&first["seq"], &json!(true)));
    assert_eq!(ana.send("general", 1, "another text").await.problem(), (409, "request_reused".to_owned()));
    let ahead = ana.send("general", 5, "too early").await;
    assert_eq!(ahead.problem(), (409, "request_out_of_order".to_owned()));
    assert_eq!(
        (&ahead.json()["expected_request_no"], &ahead.json()["retry"]),
        (&json!(2), &json!("from_expected"))
    );

    let edit = json!({ "request_no": 2, "settled_no": 1, "edit": { "target_seq": first["seq"], "text": "hello all" } });
    assert_eq!(ana.post("/rooms/general/requests", &edit).await.status, 200);
    let react = json!({ "request_no": 3, "react": { "target_seq": first["seq"], "emoji": "👍" } });
    assert_eq!(ana.at(web[2]).post("/rooms/general/requests", &react).await.status, 200);
    let page = ana.at(web[1]).get("/rooms/general/events?limit=10&consistency=linearizable").await.json();
    let message =
        page["events"].as_array().unwrap().iter().find(|event| event["seq"] == first["seq"]).unwrap();
    assert_eq!(
        (&message["kind"], &message["from"], &message["body"]),
        (&json!("message"), &json!("ana"), &json!("hello"))
    );
    assert_eq!(message["session_id"], ana.session["session_id"]);
    let fold = &page["folds"][0];
    assert_eq!((&fold["body"], &fold["reactions"][0]["emoji"]), (&json!("hello all"), &json!("👍")));
    let last = page["last_seq"].as_u64().unwrap();
    let newer =
        ana.get(&format!("/rooms/general/events?after={}&consistency=linearizable", last - 1)).await.json();
    assert_eq!(newer["events"].as_array().unwrap().len(), 1);
    let id = page["room_id"].as_u64().unwrap();
    let by_id = ana.get(&format!("/rooms/id:{id}/events?before=3&consistency=linearizable")).await.json();
    assert_eq!(by_id["events"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_members_and_sessions_have_a_form_in_json() {
    let (_cluster, web) = with_web().await;
    let (ana, bob) = (Person::new(web[0], "ana").await, Person::new(web[1], "bob").await);
    let made = ana.post("/rooms", &json!({ "name": "plans", "kind": "private" })).await.json();
    assert_eq!(made["created"], true);
    let add = json!({ "request_no": 1, "add_member": { "user": "bob", "role": "moderator" } });
    let refused = bob.get("/rooms/plans/events?consistency=linearizable").await.problem();
    assert_eq!(refused, (403, "not_a_member".to_owned()));
    assert_eq!(ana.post("/rooms/plans/requests", &add).await.status, 200);
    let members = bob.get("/rooms/plans/members?consistency=linearizable").await.json();
    let members: Vec<_> =
        members["members"].as_array().unwrap().iter().map(|m| (&m["name"], &m["role"])).collect();
    assert_eq!(members, [(&json!("ana"), &json!("owner")), (&json!("bob"), &json!("moderator"))]);
    let direct = bob.post("/directs", &json!({ "users": ["ana"] })).await.json();
    assert_eq!(direct["people"].as_array().unwrap().len(), 2);
    let rooms = ana.get("/rooms?consistency=linearizable").await.json();
    let kinds: Vec<_> =
        rooms["rooms"].as_array().unwrap().iter().map(|room| &room["policy"]["kind"]).collect();
    assert!(kinds.contains(&&json!("private")) && kinds.contains(&&json!("direct")), "{rooms}");

    let me = ana.get("/me").await.json();
    assert_eq!((&me["user"], &me["session_id"]), (&json!("ana"), &ana.session["session_id"]));
    let headers = format!("authorization: Bearer {}\r\n", ana.token);
    assert_eq!(ask(web[0], "DELETE", "/api/v1/sessions/current", &headers, "").await.status, 204);
    eventually("the session has ended", async || ana.get("/me").await.status == 401).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_problems_with_the_status_that_they_deserve() {
    let (_cluster, web) = with_web().await;
    let ana = Person::new(web[0], "ana").await;
    let stranger = Person { token: "cnv1_0".to_owned(), ..ana.clone() };
    assert_eq!(stranger.get("/rooms").await.problem(), (401, "session_unknown".to_owned()));
    for path in ["/me", "/rooms", "/rooms/general/events", "/rooms/general/members"] {
        let answer = ask(web[0], "GET", &format!("/api/v1{path}"), "", "").await;
        assert_eq!(answer.problem(), (401, "session_unknown".to_owned()), "{path}");
        assert!(answer.head.contains("www-authenticate: bearer"), "{}", answer.head);
    }
    assert_eq!(ana.get("/rooms/nowhere/events").await.problem(), (404, "room_unknown".to_owned()));
    assert_eq!(ana.get("/nothing").await.problem(), (404, "path_unknown".to_owned()));
    assert_eq!(ana.post("/me", &json!({})).await.problem(), (405, "method_unknown".to_owned()));
    assert_eq!(
        ana.get("/rooms/general/events?after=x").await.problem(),
        (400, "parameter_invalid".to_owned())
    );
    let no_action = ana.post("/rooms/general/requests", &json!({ "request_no": 1 })).await;
    assert_eq!(no_action.problem(), (400, "body_invalid".to_owned()));
    let large = json!({ "request_no": 1, "text": "x".repeat(70_000) });
    assert_eq!(
        ana.post("/rooms/general/requests", &large).await.problem(),
        (413, "body_too_large".to_owned())
    );
    let moderated = json!({ "request_no": 1, "join_first": true, "set_policy": { "archived": true } });
    assert_eq!(
        ana.post("/rooms/general/requests", &moderated).await.problem(),
        (403, "not_allowed".to_owned())
    );
    // A page of another site cannot make a request that looks like a form's.
    let plain =
        ask(web[0], "POST", "/api/v1/sessions", "content-type: text/plain\r\n", r#"{"user":"x"}"#).await;
    assert_eq!(plain.problem(), (415, "content_type".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_pages_of_the_cluster_may_call() {
    let (_cluster, web) = with_web().await;
    let own = format!("origin: http://{}\r\n", web[1]);
    eventually("the node knows the other's origin", async || {
        ask(web[0], "OPTIONS", "/api/v1/rooms", &own, "").await.status == 204
    })
    .await;
    let allowed = ask(web[0], "GET", "/api/v1/cluster", &own, "").await;
    assert!(
        allowed.head.contains(&format!("access-control-allow-origin: http://{}", web[1])),
        "{}",
        allowed.head
    );
    let nodes = allowed.json()["nodes"].as_array().unwrap().clone();
    assert_eq!(nodes[1]["web_address"], format!("http://{}", web[1]));
    for other in ["http://evil.example", "null", "https://evil.example:7490"] {
        let refused = ask(web[0], "GET", "/api/v1/cluster", &format!("origin: {other}\r\n"), "").await;
        assert_eq!(refused.problem(), (403, "origin_refused".to_owned()), "{other}");
        assert!(!refused.head.contains("access-control-allow-origin"));
    }
    let page = ask(web[0], "GET", "/", "", "").await;
    let policy = page.head.lines().find(|line| line.starts_with("content-security-policy:")).unwrap();
    for at in web {
        assert!(policy.contains(&format!(" http://{at} ws://{at}")), "{policy}");
    }
    let main =
        page.text.split('"').find(|part| part.starts_with("/app/") && part.ends_with("/main.js")).unwrap();
    let main = ask(web[1], "GET", main, "", "").await;
    assert_eq!(main.status, 200, "every node has the files of every other one");
    assert!(main.head.contains("immutable") && main.head.contains("text/javascript"), "{}", main.head);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_continues_at_another_node_after_its_node_died() {
    let (mut cluster, web) = with_web().await;
    let ana = Person::new(web[0], "ana").await;
    for number in 1..=3 {
        assert_eq!(ana.send("general", number, "before").await.status, 200);
    }
    let last =
        ana.get("/rooms/general/events?consistency=linearizable").await.json()["last_seq"].as_u64().unwrap();
    let mut stream = ana.follow(json!({ "rooms": [{ "room": "general", "after": 0 }] })).await;
    assert_eq!(stream.until("opened").await["node"], "node1");
    let (before, token) = stream.events_until(last).await;
    assert_eq!(before, (1..=last).collect::<Vec<_>>());
    assert_eq!(stream.until("caught_up").await["rooms"][0]["seq"], last);
    let view = stream.until("cluster_view").await;
    assert_eq!(view["nodes"].as_array().unwrap().len(), 3);

    cluster.kill(0);
    assert!(stream.frame().await.is_none_or(|frame| frame["type"] == "keepalive"));
    let ana = ana.at(web[1]);
    let mut number = 4;
    eventually("the request is acked at another node", async || {
        ana.send("general", number, "after").await.status == 200
    })
    .await;
    number += 1;
    let mut stream = ana.follow(json!({ "resume_token": token })).await;
    assert_eq!(stream.until("opened").await["node"], "node2");
    eventually("the next one, too", async || ana.send("general", number, "later").await.status == 200).await;
    let (after, _) = stream.events_until(last + 2).await;
    assert_eq!(after, [last + 1, last + 2], "nothing missing and nothing twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_a_session_or_from_another_site_is_refused() {
    let (_cluster, web) = with_web().await;
    let ana = Person::new(web[0], "ana").await;
    let stranger = Person { token: "cnv1_0".to_owned(), ..ana.clone() };
    let failed = stranger.follow(json!({ "rooms": [{ "room": "general" }] })).await.until("failed").await;
    assert_eq!(
        (&failed["problem"]["status"], &failed["problem"]["code"]),
        (&json!(401), &json!("session_unknown"))
    );
    let failed = ana.follow(json!({ "rooms": [{ "room": "nowhere" }] })).await.until("failed").await;
    assert_eq!(failed["problem"]["code"], "room_unknown");

    let mut request = format!("ws://{}/api/v1/stream", web[0]).into_client_request().unwrap();
    request.headers_mut().insert("origin", "http://evil.example".parse().unwrap());
    let stream = TcpStream::connect(web[0]).await.unwrap();
    let refused = within("the refusal", client_async(request, stream)).await.unwrap_err().to_string();
    assert!(refused.contains("403"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_session_and_when_its_client_says_more_than_its_wish() {
    let (_cluster, web) = with_web().await;
    let ana = Person::new(web[0], "ana").await;
    let wish = json!({ "rooms": [{ "room": "general", "last": 5 }] });
    let mut stream = ana.follow(wish.clone()).await;
    stream.until("caught_up").await;
    stream.socket.send(Message::text("something else")).await.unwrap();
    eventually("the stream ends", async || stream.frame().await.is_none()).await;

    let mut stream = ana.follow(wish).await;
    stream.until("caught_up").await;
    let headers = format!("authorization: Bearer {}\r\n", ana.token);
    assert_eq!(ask(web[1], "DELETE", "/api/v1/sessions/current", &headers, "").await.status, 204);
    assert_eq!(stream.until("failed").await["problem"]["code"], "session_ended");
}
