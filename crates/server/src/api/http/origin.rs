//! Which web pages may call: those that a node of this cluster serves.
//!
//! A browser says from which page a request comes. Pages of others are refused, although they have no token: without that they
//! could open sessions. Programs that are no browsers say nothing, and are not concerned.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::api::http::Api;
use crate::api::http::problem::Problem;

/// How long a browser remembers what a page may ask, seconds.
const PREFLIGHT_SECONDS: HeaderValue = HeaderValue::from_static("600");

impl Api {
    /// The origins of this cluster's web pages.
    pub(super) fn origins(&self) -> Vec<String> {
        let mut origins = self.gateway.router.shards.topology.web_addresses();
        if !self.gateway.node.web_address.is_empty() {
            origins.push(self.gateway.node.web_address.clone());
        }
        // The same machine under its other name.
        let aliases: Vec<String> = origins.iter().filter_map(|origin| localhost(origin)).collect();
        origins.extend(aliases);
        origins.sort();
        origins.dedup();
        origins
    }

    /// Whether a page of this origin may call.
    fn allows(&self, origin: &str, headers: &HeaderMap) -> bool {
        self.origins().iter().any(|known| known == origin) || is_same_origin(origin, headers)
    }
}

/// The origin with `localhost` in place of a loopback address.
fn localhost(origin: &str) -> Option<String> {
    ["127.0.0.1", "[::1]"].iter().find_map(|address| {
        let rest = origin.strip_prefix("http://")?.strip_prefix(address)?;
        Some(format!("http://localhost{rest}"))
    })
}

/// Whether the page comes from the address at which it calls. A name that anybody may point here does not count.
fn is_same_origin(origin: &str, headers: &HeaderMap) -> bool {
    let Some(asked) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return false };
    let Some((_, authority)) = origin.split_once("://") else { return false };
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let is_address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
    authority == asked && (is_address || host == "localhost")
}

/// Refuses the pages of others, tells browsers which pages may read the answer, and answers their questions.
pub(super) async fn guard(State(api): State<Api>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    if let Some(origin) = &origin
        && !origin.to_str().is_ok_and(|origin| api.allows(origin, request.headers()))
    {
        let why = "only web pages of this cluster's servers may call; a server's page is at its web address (--web-origin)";
        return Problem::invalid("origin_refused", why).with_status(StatusCode::FORBIDDEN).into_response();
    }
    let mut response =
        if request.method() == Method::OPTIONS { preflight() } else { next.run(request).await };
    let headers = response.headers_mut();
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after"));
    }
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// What a page may ask at another node.
fn preflight() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, DELETE")),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization, content-type")),
        (header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_from_the_address_at_which_it_calls_may_call_and_one_by_a_name_may_not() {
        let asked =
            |host: &'static str| HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]);
        for (origin, host) in [
            ("http://10.0.0.1:7490", "10.0.0.1:7490"),
            ("http://localhost:7490", "localhost:7490"),
            ("https://[::1]:7490", "[::1]:7490"),
            ("http://10.0.0.1", "10.0.0.1"),
        ] {
            assert!(is_same_origin(origin, &asked(host)), "{origin}");
        }
        for (origin, host) in [
            ("http://evil.example:7490", "evil.example:7490"),
            ("http://10.0.0.1:7490", "10.0.0.1:7491"),
            ("http://10.0.0.2:7490", "10.0.0.1:7490"),
            ("null", "10.0.0.1:7490"),
        ] {
            assert!(!is_same_origin(origin, &asked(host)), "{origin}");
        }
        assert_eq!(localhost("http://127.0.0.1:7490").as_deref(), Some("http://localhost:7490"));
        assert_eq!(localhost("https://127.0.0.1:7490"), None, "the certificate is for the address");
    }
}
