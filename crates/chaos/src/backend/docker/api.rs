//! A client for the Docker engine's HTTP API, over its Unix socket.
//!
//! Each call uses a new connection: there are a few calls a second at most.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

use crate::backend::BackendError;
use crate::backend::docker::model::{self, Complaint, Version};

/// Where the engine listens unless `DOCKER_HOST` says otherwise.
const SOCKET: &str = "/var/run/docker.sock";
/// Timeout of a call, long enough for a busy machine. Calls that wait for a container add that wait.
const DEADLINE: Duration = Duration::from_secs(30);
/// The longest answer, bytes. An answer has a few KiB for each container.
const ANSWER_MAX: usize = 16 << 20;

/// A connection to the engine.
#[derive(Debug)]
pub(super) struct Api {
    socket: PathBuf,
    /// The negotiated version as a path, such as `/v1.41`; empty before.
    prefix: String,
}

/// The engine's answer to a request.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    body: Bytes,
    /// The request, for error texts.
    asked: String,
}

impl Answer {
    /// Whether the request succeeded, or there was nothing to do.
    pub(super) fn is_ok(&self) -> bool {
        self.status.is_success() || self.status == StatusCode::NOT_MODIFIED
    }

    pub(super) fn is_absent(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    /// The answer as an error.
    pub(super) fn refusal(&self) -> BackendError {
        let message = serde_json::from_slice::<Complaint>(&self.body).map(|complaint| complaint.message);
        let why = message.unwrap_or_else(|_| String::from_utf8_lossy(&self.body).trim().to_owned());
        failed(&self.asked, format!("the engine says: {why} ({})", self.status.as_u16()))
    }

    fn read<T: DeserializeOwned>(&self) -> Result<T, BackendError> {
        if !self.is_ok() {
            return Err(self.refusal());
        }
        let unreadable = |error| failed(&self.asked, format!("the engine's answer cannot be read: {error}"));
        serde_json::from_slice(&self.body).map_err(unreadable)
    }
}

fn failed(what: &str, why: String) -> BackendError {
    BackendError::Failed { what: what.to_owned(), why }
}

/// The path of the socket that `DOCKER_HOST` names.
///
/// # Errors
/// If `DOCKER_HOST` is not a Unix socket.
pub(super) fn socket(docker_host: Option<&str>) -> Result<PathBuf, BackendError> {
    let Some(host) = docker_host.filter(|host| !host.is_empty()) else { return Ok(PathBuf::from(SOCKET)) };
    match host.strip_prefix("unix://").map(Path::new) {
        Some(path) if path.is_absolute() => Ok(path.to_owned()),
        _ => Err(failed(
            "find the Docker engine",
            format!(
                "DOCKER_HOST is {host:?} and must be unix:///PATH: run the controller on the machine of the engine"
            ),
        )),
    }
}

impl Api {
    /// Negotiates a version with the engine.
    ///
    /// # Errors
    /// If the engine does not answer, or shares no version with this client.
    pub(super) async fn connect(socket: PathBuf) -> Result<Self, BackendError> {
        let mut api = Self { socket, prefix: String::new() };
        let version: Version = api.get("/version").await?;
        let version = model::agree(&version).map_err(|why| failed("speak to the Docker engine", why))?;
        api.prefix = format!("/v{version}");
        Ok(api)
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, BackendError> {
        self.call(Method::GET, path, Bytes::new(), DEADLINE).await?.read()
    }

    /// Gets an object; `None` if it does not exist.
    pub(super) async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, BackendError> {
        let answer = self.call(Method::GET, path, Bytes::new(), DEADLINE).await?;
        if answer.is_absent() { Ok(None) } else { answer.read().map(Some) }
    }

    pub(super) async fn post(&self, path: &str) -> Result<Answer, BackendError> {
        self.call(Method::POST, path, Bytes::new(), DEADLINE).await
    }

    /// Posts a request that the engine answers only after a container has acted, within `longest`.
    pub(super) async fn post_and_wait(&self, path: &str, longest: Duration) -> Result<Answer, BackendError> {
        self.call(Method::POST, path, Bytes::new(), longest + DEADLINE).await
    }

    pub(super) async fn send(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<Answer, BackendError> {
        let body = serde_json::to_vec(body).map_err(|error| failed(path, error.to_string()))?;
        self.call(Method::POST, path, body.into(), DEADLINE).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Answer, BackendError> {
        let asked = format!("ask the Docker engine at {} for {method} {path}", self.socket.display());
        let answer = tokio::time::timeout(deadline, self.exchange(method, path, body)).await;
        match answer {
            Ok(Ok((status, body))) => Ok(Answer { status, body, asked }),
            Ok(Err(why)) => Err(failed(&asked, why)),
            Err(_) => Err(failed(&asked, format!("no answer within {} s", deadline.as_secs()))),
        }
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), String> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                format!("{error}: the socket is its group's (in compose.yaml: CONCLAVE_DOCKER_GROUP)")
            }
            std::io::ErrorKind::NotFound => {
                format!("{error}: is the engine running, and its socket mounted here? (DOCKER_HOST)")
            }
            _ => error.to_string(),
        })?;
        let text = |error: hyper::Error| error.to_string();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.prefix))
            .header(HOST, "docker")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await.map_err(text)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
        Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_host_must_be_a_unix_socket() {
        assert_eq!(socket(None).unwrap(), Path::new(SOCKET));
        assert_eq!(socket(Some("")).unwrap(), Path::new(SOCKET));
        assert_eq!(
            socket(Some("unix:///run/user/1000/docker.sock")).unwrap(),
            Path::new("/run/user/1000/docker.sock")
        );
        for host in ["tcp://10.0.0.1:2375", "ssh://somewhere", "/var/run/docker.sock", "unix://relative"] {
            let error = socket(Some(host)).unwrap_err().to_string();
            assert!(error.contains(host) && error.contains("unix://"), "{error}");
        }
    }
}
