//! The files of the web client, which are part of the program.
//!
//! They are served under a path with the digest of all of them, so that a browser keeps them for ever and never mixes two
//! versions. The one page names this path, and is asked for anew each time.

use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use sha2::{Digest as _, Sha256};

use crate::api::http::Api;
use crate::api::http::problem::no_such_path;

/// A file by its name.
macro_rules! files {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/web/", $name)))),*]
    };
}

const INDEX: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/web/index.html"));
const FILES: [(&str, &str); 13] = files![
    "app.css",
    "main.js",
    "messages.js",
    "panels.js",
    "cluster.js",
    "dom.js",
    "icon.svg",
    "live.js",
    "login.js",
    "outbox.js",
    "status.js",
    "store.js",
    "timeline.js",
];
/// What the page has where the path of the files belongs.
const PLACE: &str = "@APP@";

/// The files, and the path under which they are.
#[derive(Debug)]
pub(super) struct Page {
    version: String,
    index: String,
}

impl Page {
    pub(super) fn new() -> Self {
        let mut digest = Sha256::new();
        for (name, text) in FILES {
            digest.update(name);
            digest.update([0]);
            digest.update(text);
        }
        let version = data_encoding::HEXLOWER.encode(&digest.finalize()[..8]);
        let index = INDEX.replace(PLACE, &format!("/app/{version}"));
        Self { version, index }
    }
}

/// What the page may load and where it may connect: to the nodes of this cluster.
fn policy(origins: &[String]) -> String {
    let mut connect = "connect-src 'self'".to_owned();
    for origin in origins {
        let Some(rest) = origin.strip_prefix("http") else { continue };
        connect.push_str(&format!(" {origin} ws{rest}"));
    }
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; {connect}; img-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    )
}

/// `GET /`
pub(super) async fn index(State(api): State<Api>) -> Response {
    let policy = HeaderValue::try_from(policy(&api.origins()))
        .unwrap_or(HeaderValue::from_static("default-src 'none'"));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    (headers, api.page.index.clone()).into_response()
}

/// `GET /app/{version}/{file}`
pub(super) async fn file(State(api): State<Api>, Path((version, name)): Path<(String, String)>) -> Response {
    let found = FILES.iter().find(|(known, _)| *known == name);
    let Some((_, text)) = found.filter(|_| version == api.page.version) else {
        return no_such_path().await.into_response();
    };
    let kind = match name.rsplit_once('.') {
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "svg")) => "image/svg+xml",
        _ => "text/javascript; charset=utf-8",
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    (StatusCode::OK, headers, *text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_connects_to_the_nodes_and_to_nothing_else() {
        let policy = policy(&["http://127.0.0.1:7406".to_owned(), "https://chat.example".to_owned()]);
        let connect = "connect-src 'self' http://127.0.0.1:7406 ws://127.0.0.1:7406 https://chat.example wss://chat.example;";
        assert!(policy.contains(connect) && policy.starts_with("default-src 'none';"), "{policy}");
    }

    #[test]
    fn the_page_names_the_files_by_their_digest_and_has_no_code_of_its_own() {
        let page = Page::new();
        assert!(
            page.index.contains(&format!("/app/{}/main.js", page.version)) && !page.index.contains(PLACE)
        );
        for part in ["<style", "onclick", "javascript:", "http://", "https://"] {
            assert!(!page.index.contains(part), "{part}");
        }
        for (name, text) in FILES {
            for part in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
                assert!(!text.contains(part), "{name}: {part}");
            }
        }
    }
}
