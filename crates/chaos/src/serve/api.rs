//! The HTTP API: each operation is registered together with its description, so that the OpenAPI document has exactly the routes
//! of the router.
//!
//! * `experiments`, `runs`, `faults`, `events`: the operations, which only translate to the desk.
//! * `model`: the JSON of answers and requests. `extract`: what requests carry. `problem`: errors.

mod events;
mod experiments;
mod extract;
mod faults;
mod model;
mod problem;
mod runs;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{Method, Uri, header};
use axum::response::{IntoResponse, Response};
use tokio_util::sync::CancellationToken;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::limits::BODY_BYTES_MAX;
use crate::serve::api::extract::ApiState;
use crate::serve::api::problem::Problem;
use crate::serve::desk::Desk;
use crate::serve::guard::Guard;
use crate::serve::refusal::{Refusal, RefusalKind};

/// Title, description and version of the document. The version is the API's: it rises when clients have to change.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "conclave-chaos serve",
        version = "1.0.0",
        description = "A long-running chaos controller of a conclave cluster: runs experiments, applies single faults, heals them.\n\n\
            The controller has one run at a time, and starts no run while a fault is in force that was requested on its own. An \
            operation that changes something needs the controller's token, if it was started with one; reading needs none. \
            Every error is a `Problem`: also requests to other paths (404) or with other methods (405).\n\n\
            Beside this API, the same address serves `/metrics` for Prometheus and the probes `/livez`, `/readyz` and `/startupz`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
        contact()
    ),
    components(schemas(Problem)),
    modifiers(&Token)
)]
struct Document;

/// The name of the token in the document.
pub(super) const TOKEN: &str = "token";

struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let text = "The token in the controller's --token-file. Without one, the controller listens on loopback only and needs none.";
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(text)).build();
        document.components.get_or_insert_default().add_security_scheme(TOKEN, SecurityScheme::Http(scheme));
    }
}

fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(get_document))
        .routes(routes!(experiments::get_status))
        .routes(routes!(experiments::list_experiments))
        .routes(routes!(experiments::get_experiment))
        .routes(routes!(experiments::list_targets))
        .routes(routes!(experiments::get_schedule))
        .routes(routes!(runs::list_runs, runs::start_run))
        .routes(routes!(runs::get_run))
        .routes(routes!(runs::stop_run))
        .routes(routes!(runs::get_report_page))
        .routes(routes!(runs::get_report))
        .routes(routes!(runs::get_history))
        .routes(routes!(faults::list_faults, faults::apply_fault, faults::heal_faults))
        .routes(routes!(events::watch_events))
}

/// The API with its state. Streams of events end with `ended`.
pub(super) fn router(desk: Desk, guard: Arc<Guard>, ended: CancellationToken) -> Router {
    let (router, document) = routes().split_for_parts();
    let state = ApiState { desk, guard, ended, document: Bytes::from(json(&document)) };
    router
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(state)
}

fn json(document: &utoipa::openapi::OpenApi) -> String {
    document.to_pretty_json().expect("the keys of all maps in a document are strings") + "\n"
}

/// This document
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "controller",
    responses((status = 200, description = "The OpenAPI document", body = Object))
)]
async fn get_document(State(state): State<ApiState>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], state.document).into_response()
}

async fn no_such_path(uri: Uri) -> Refusal {
    let why = format!("there is nothing at {}", uri.path());
    Refusal::new(RefusalKind::NotFound, why, "choose a path of /openapi.json")
}

async fn no_such_method(method: Method, uri: Uri) -> Refusal {
    let why = format!("{} cannot be used with {method}", uri.path());
    Refusal::new(RefusalKind::MethodNotAllowed, why, "choose a method that the header `allow` names")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Axum has no other list of a router's paths than its debug output.
    #[test]
    fn the_document_has_every_path_of_the_router_and_no_other() {
        let (router, document) = routes().split_for_parts();
        let text = format!("{router:?}");
        let (_, paths) = text.split_once("paths: {").unwrap();
        let (paths, _) = paths.split_once("} }").unwrap();
        let routed: BTreeSet<&str> = paths.split('"').filter(|part| part.starts_with('/')).collect();
        let documented: BTreeSet<&str> = document.paths.paths.keys().map(String::as_str).collect();
        assert_eq!(routed, documented, "{text}");
        assert!(documented.contains("/v1/runs/{id}/stop"), "{documented:?}");
    }

    #[test]
    fn the_document_in_docs_is_the_served_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/chaos-openapi.json");
        let served = json(&routes().into_openapi());
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &served).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == served, "{} differs from the API (BLESS=1 rewrites it)", path.display());
    }
}
