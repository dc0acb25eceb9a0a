//! The port: webhooks, health and the metrics of the process.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use conclave_net::is_loopback;
use conclave_telemetry::metrics::{Exposition, Maker};
use conclave_telemetry::web::{self, Check, Page};
use futures::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::notification::Notification;
use super::poster::{Desk, Posted};
use crate::exit::{Exit, Failed};
use crate::limits::{
    ALERTS_BODY_BYTES_MAX, ALERTS_REQUEST_DEADLINE, ALERTS_REQUESTS_MAX, ALERTS_TOKEN_BYTES_MAX,
    ALERTS_TOKEN_BYTES_MIN,
};
use crate::secret;

/// The routes of the port.
pub(super) fn routes(desk: Desk, guard: Guard, stop: CancellationToken) -> Router {
    let pages = Pages { desk: desk.clone(), stop, metrics: Arc::new(Maker::new().finish()) };
    let state =
        Webhooks { desk, guard: Arc::new(guard), free: Arc::new(Semaphore::new(ALERTS_REQUESTS_MAX)) };
    web::router(pages).merge(Router::new().route("/alerts", post(take)).with_state(state))
}

/// The state behind the webhook.
#[derive(Clone)]
struct Webhooks {
    desk: Desk,
    guard: Arc<Guard>,
    /// The places of webhooks that are read or wait.
    free: Arc<Semaphore>,
}

/// Takes a webhook. Alertmanager repeats one that is answered with 5xx, and gives one up that is answered with 4xx.
async fn take(State(webhooks): State<Webhooks>, headers: HeaderMap, body: Body) -> Response {
    if let Err(refused) = webhooks.guard.authorise(&headers) {
        return refused.into_response();
    }
    let Ok(_place) = webhooks.free.try_acquire() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many webhooks at the same time\n").into_response();
    };
    let late = (StatusCode::SERVICE_UNAVAILABLE, "not queued in time\n".to_owned());
    timeout(ALERTS_REQUEST_DEADLINE, answer(&webhooks.desk, body)).await.unwrap_or(late).into_response()
}

async fn answer(desk: &Desk, body: Body) -> (StatusCode, String) {
    let notification = match read(body).await {
        Ok(bytes) => Notification::read(&bytes).map_err(|why| (StatusCode::BAD_REQUEST, format!("{why}\n"))),
        Err(refused) => Err(refused),
    };
    let notification = match notification {
        Ok(notification) => notification,
        Err((status, why)) => {
            tracing::warn!(status = status.as_u16(), why = why.trim_end(), "webhook refused");
            return (status, why);
        }
    };
    match desk.post(notification).await {
        Some(Ok(Posted::Queued)) => (StatusCode::OK, "queued\n".to_owned()),
        Some(Ok(Posted::Known)) => (StatusCode::OK, "nothing new\n".to_owned()),
        Some(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
        None => (StatusCode::SERVICE_UNAVAILABLE, "it is stopping\n".to_owned()),
    }
}

/// Reads a body up to its bound.
async fn read(body: Body) -> Result<Vec<u8>, (StatusCode, String)> {
    let mut bytes = Vec::new();
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| (StatusCode::BAD_REQUEST, format!("{error}\n")))?;
        if bytes.len() + chunk.len() > ALERTS_BODY_BYTES_MAX {
            let why = format!(
                "a webhook may have {ALERTS_BODY_BYTES_MAX} bytes: set max_alerts of the receiver, or group by more labels\n"
            );
            return Err((StatusCode::PAYLOAD_TOO_LARGE, why));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Authorises webhooks. Without a token, only this machine can send them, and no web page that a user of it visits: a browser
/// says with `Origin` where such a request comes from.
pub(super) struct Guard {
    token: Option<[u8; 32]>,
}

impl Guard {
    /// The guard of a port. The token is the first line of the file.
    ///
    /// # Errors
    /// If the file has no token or others can read it, or there is no file and a token is needed.
    pub(super) fn open(file: Option<&Path>, listen: SocketAddr) -> Result<Self, Failed> {
        let next = "make one with: (umask 077; openssl rand -hex 32 > FILE), and give it with --token-file";
        let Some(path) = file else {
            if is_loopback(listen.ip()) {
                return Ok(Self { token: None });
            }
            let what = format!("without a token, anyone who reaches {listen} could post");
            return Err(Failed::new(Exit::Usage, what, format!("{next}; or listen on 127.0.0.1")));
        };
        let failed = |why: String| Failed::new(Exit::Usage, why, next);
        let content = secret::content(path, "token", &failed)?;
        let text = String::from_utf8_lossy(&content);
        let token = text.lines().next().unwrap_or_default().trim();
        let fits = (ALERTS_TOKEN_BYTES_MIN..=ALERTS_TOKEN_BYTES_MAX).contains(&token.len());
        if !fits || !token.is_ascii() {
            let why = format!(
                "{} has no token: its first line must have {ALERTS_TOKEN_BYTES_MIN} to {ALERTS_TOKEN_BYTES_MAX} ASCII characters",
                path.display()
            );
            return Err(failed(why));
        }
        Ok(Self { token: Some(digest(token)) })
    }

    fn authorise(&self, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
        let Some(token) = self.token else {
            return match headers.get(header::ORIGIN) {
                None => Ok(()),
                Some(_) => {
                    Err((StatusCode::FORBIDDEN, "web pages may not post; start it with --token-file\n"))
                }
            };
        };
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.strip_prefix("Bearer ")).map(|given| digest(given.trim()));
        // The digests are compared, so the time says nothing about the token.
        if given == Some(token) {
            Ok(())
        } else {
            Err((
                StatusCode::UNAUTHORIZED,
                "send `authorization: Bearer TOKEN` with the token of --token-file\n",
            ))
        }
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// The pages about this process.
#[derive(Clone)]
struct Pages {
    desk: Desk,
    stop: CancellationToken,
    metrics: Arc<Exposition>,
}

impl Page for Pages {
    fn alive(&self) -> Vec<Check> {
        vec![Check { name: "working", ok: !self.stop.is_cancelled() }]
    }

    fn started(&self) -> Vec<Check> {
        self.ready()
    }

    fn ready(&self) -> Vec<Check> {
        vec![Check { name: "room", ok: self.desk.is_ready() }]
    }

    fn metrics(&self) -> String {
        self.metrics.render()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn beyond_loopback_a_webhook_needs_the_token() {
        let (here, anywhere) = ("127.0.0.1:1".parse().unwrap(), "0.0.0.0:1".parse().unwrap());
        let refused = Guard::open(None, anywhere).err().unwrap();
        assert!(refused.what.contains("0.0.0.0:1") && refused.next.contains("--token-file"), "{refused}");
        let open = Guard::open(None, here).ok().unwrap();
        assert!(open.authorise(&headers(&[])).is_ok());
        let page = open.authorise(&headers(&[(header::ORIGIN, "http://a")])).unwrap_err();
        assert_eq!(page.0, StatusCode::FORBIDDEN);

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        secret::write(&file, "short").unwrap();
        assert!(Guard::open(Some(&file), here).err().unwrap().what.contains("has no token"));
        secret::write(&file, "0123456789abcdef").unwrap();
        let guarded = Guard::open(Some(&file), anywhere).ok().unwrap();
        let given = |value| guarded.authorise(&headers(&[(header::AUTHORIZATION, value)]));
        assert!(given("Bearer 0123456789abcdef").is_ok());
        for wrong in ["Bearer 0123456789abcdeF", "Bearer ", "0123456789abcdef"] {
            assert_eq!(given(wrong).unwrap_err().0, StatusCode::UNAUTHORIZED, "{wrong}");
        }
        assert!(guarded.authorise(&headers(&[])).is_err());
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Guard::open(Some(&file), here).err().unwrap().what.contains("can be read by other users"));
    }
}
