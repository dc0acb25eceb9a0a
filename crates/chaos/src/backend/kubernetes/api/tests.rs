use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::*;

/// An API server that gives every request the same answer, and the last request that it got.
struct Server {
    api: Api,
    asked: tokio::sync::watch::Receiver<String>,
    _serving: AbortOnDropHandle<()>,
}

async fn server(status: &'static str, body: &'static str) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = Config {
        server: format!("http://{}", listener.local_addr().unwrap()),
        server_name: None,
        authority: None,
        identity: Identity::Token("secret".to_owned()),
        namespace: "talk".to_owned(),
    };
    let (sender, asked) = tokio::sync::watch::channel(String::new());
    let serving = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut question = vec![0; 4096];
            let mut read = 0;
            // Reads the head, and a body of the announced length.
            while let Ok(more @ 1..) = stream.read(&mut question[read..]).await {
                read += more;
                let text = String::from_utf8_lossy(&question[..read]).into_owned();
                let length = text.to_lowercase().split("content-length: ").nth(1).map_or(0, |rest| {
                    rest.split("\r\n").next().and_then(|length| length.parse().ok()).unwrap_or(0)
                });
                if text.split_once("\r\n\r\n").is_some_and(|(_, body)| body.len() >= length) {
                    sender.send_replace(text);
                    break;
                }
            }
            let length = body.len();
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    Server { api: Api::new(config, None).unwrap(), asked, _serving: AbortOnDropHandle::new(serving) }
}

const POD: &str = r#"{"metadata": {"name": "conclave-0", "namespace": "talk", "uid": "u-7"}, "spec": {}}"#;

#[tokio::test]
async fn pods_are_listed_by_their_labels_and_with_the_token() {
    let server = server("200 OK", r#"{"metadata": {}, "items": []}"#).await;
    assert!(server.api.pods("app.kubernetes.io/name=conclave").await.unwrap().is_empty());
    let asked = server.asked.borrow().clone();
    assert!(
        asked.starts_with(
            "GET /api/v1/namespaces/talk/pods?limit=500&labelSelector=app.kubernetes.io%2Fname%3Dconclave "
        ),
        "{asked}"
    );
    assert!(asked.to_lowercase().contains("authorization: bearer secret"), "{asked}");
}

#[tokio::test]
async fn a_pod_is_deleted_by_its_uid() {
    let server = server("200 OK", POD).await;
    let pod = server.api.pod("conclave-0").await.unwrap().unwrap();
    server.api.delete(&pod, Grace::None).await.unwrap();
    let asked = server.asked.borrow().clone();
    assert!(asked.starts_with("DELETE /api/v1/namespaces/talk/pods/conclave-0 "), "{asked}");
    let body: serde_json::Value = serde_json::from_str(asked.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body["preconditions"]["uid"], "u-7");
    assert_eq!(body["gracePeriodSeconds"], 0);
    server.api.delete(&pod, Grace::Its).await.unwrap();
    assert!(!server.asked.borrow().contains("gracePeriodSeconds"));
}

#[tokio::test]
async fn a_missing_pod_is_no_error_and_a_refusal_names_the_missing_right() {
    assert!(server("404 Not Found", "{}").await.api.pod("conclave-0").await.unwrap().is_none());
    let pod = serde_json::from_str(POD).unwrap();
    server("409 Conflict", "{}").await.api.delete(&pod, Grace::None).await.unwrap();
    let refusing = server("403 Forbidden", r#"{"kind": "Status", "message": "no such right"}"#).await;
    let error = refusing.api.delete(&pod, Grace::None).await.unwrap_err();
    assert!(matches!(error, BackendError::NotAllowed { .. }), "{error}");
    assert!(error.to_string().contains("no such right") && error.to_string().contains("k8s/overlays/chaos"));
    let broken = server("500 Internal Server Error", "<html>").await.api.pod("conclave-0").await.unwrap_err();
    assert!(broken.to_string().contains("get pods conclave-0 in namespace talk"), "{broken}");
    let odd = server("200 OK", "[]").await.api.pod("conclave-0").await.unwrap_err();
    assert!(odd.to_string().contains("cannot be read"), "{odd}");
}

#[tokio::test]
async fn an_incomplete_list_of_pods_is_an_error() {
    let many = server("200 OK", r#"{"metadata": {"continue": "x"}, "items": []}"#).await;
    assert!(many.api.pods("a=b").await.unwrap_err().to_string().contains("more than 500"));
}

#[test]
fn an_authority_without_a_certificate_is_refused() {
    let config = Config {
        server: "https://127.0.0.1:1".to_owned(),
        server_name: None,
        authority: Some(b"nothing".to_vec()),
        identity: Identity::Nobody,
        namespace: "talk".to_owned(),
    };
    assert!(Api::new(config, None).unwrap_err().to_string().contains("no certificate"));
}
