//! A client for the three calls to the API server that this backend makes: list, get and delete pods.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use hyper::{Method, Request, StatusCode};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::backend::BackendError;
use crate::backend::kubernetes::config::{Config, Identity};
use crate::backend::kubernetes::pod::{Pod, Pods};
use crate::backend::url::encoded;

/// Timeout of a call.
const DEADLINE: Duration = Duration::from_secs(10);
/// The longest answer, bytes.
const ANSWER_MAX: usize = 8 << 20;
/// The most pods of a cluster.
const PODS_MAX: usize = 500;

/// A client of the API server, for one namespace.
#[derive(Debug)]
pub struct Api {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    config: Config,
    namespace: String,
}

/// The grace period of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grace {
    /// The pod's own grace period.
    Its,
    /// No grace period; the API does not wait for the node to confirm.
    None,
}

/// The body of a failed call.
#[derive(Debug, Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    message: String,
}

impl Api {
    /// Prepares a client; the first call connects.
    ///
    /// # Errors
    /// If a certificate or key cannot be used.
    pub fn new(config: Config, namespace: Option<String>) -> Result<Self, BackendError> {
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls(&config)?).https_or_http();
        let connector = match &config.server_name {
            None => connector.enable_http1().build(),
            Some(name) => {
                let name = ServerName::try_from(name.clone()).map_err(|error| failed(&config, &error))?;
                connector.with_server_name_resolver(FixedServerNameResolver::new(name)).enable_http1().build()
            }
        };
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let namespace = namespace.unwrap_or_else(|| config.namespace.clone());
        Ok(Self { client, config, namespace })
    }

    /// The namespace of all calls.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The pods with these labels.
    ///
    /// # Errors
    /// If the pods cannot be listed, or are too many.
    pub async fn pods(&self, selector: &str) -> Result<Vec<Pod>, BackendError> {
        let query = format!("?limit={PODS_MAX}&labelSelector={}", encoded(selector));
        let found: Option<Pods> = self.call(Method::GET, "list", "", &query, Bytes::new()).await?;
        let found = found.ok_or_else(|| BackendError::Unknown(format!("namespace {}", self.namespace)))?;
        if !found.metadata.more.is_empty() {
            return Err(failed(
                &self.config,
                &format!("more than {PODS_MAX} pods have the labels {selector}"),
            ));
        }
        Ok(found.items)
    }

    /// A pod; `None` if there is none of that name.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn pod(&self, name: &str) -> Result<Option<Pod>, BackendError> {
        self.call(Method::GET, "get", name, "", Bytes::new()).await
    }

    /// Deletes this pod, and not another one of the same name. A pod that no longer exists is no error.
    ///
    /// # Errors
    /// If the API server refuses, or the call fails.
    pub async fn delete(&self, pod: &Pod, grace: Grace) -> Result<(), BackendError> {
        let body = delete_options(&pod.metadata.uid, grace);
        let gone: Option<serde_json::Value> =
            self.call(Method::DELETE, "delete", &pod.metadata.name, "", Bytes::from(body)).await?;
        drop(gone);
        Ok(())
    }

    /// Makes a call. `None` if the object does not exist, or is another one of the same name.
    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        verb: &str,
        name: &str,
        query: &str,
        body: Bytes,
    ) -> Result<Option<T>, BackendError> {
        let what = || {
            let of = if name.is_empty() { String::new() } else { format!(" {name}") };
            format!("{verb} pods{of} in namespace {}", self.namespace)
        };
        let path = if name.is_empty() { String::new() } else { format!("/{}", encoded(name)) };
        let uri = format!(
            "{}/api/v1/namespaces/{}/pods{path}{query}",
            self.config.server,
            encoded(&self.namespace)
        );
        let request = Request::builder().method(method).uri(uri).header(ACCEPT, "application/json");
        let request = request.header(CONTENT_TYPE, "application/json");
        let request = match self.token()? {
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        };
        let request = request.body(Full::new(body)).map_err(|error| failed(&self.config, &error))?;
        let answer = async {
            let answer =
                self.client.request(request).await.map_err(|error| failed(&self.config, &chain(&error)))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
            let body = body.map_err(|error| failed(&self.config, &error))?.to_bytes();
            Ok::<_, BackendError>((status, body))
        };
        let (status, body) = tokio::time::timeout(DEADLINE, answer)
            .await
            .map_err(|_| failed(&self.config, &format!("no answer within {} s", DEADLINE.as_secs())))??;
        let message = || serde_json::from_slice::<Refusal>(&body).unwrap_or_default().message;
        match status {
            status if status.is_success() => serde_json::from_slice(&body)
                .map(Some)
                .map_err(|error| failed(&self.config, &format!("the answer cannot be read: {error}"))),
            // Conflict: another pod has the name by now, so this pod is gone.
            StatusCode::NOT_FOUND | StatusCode::CONFLICT => Ok(None),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(BackendError::NotAllowed {
                target: format!("namespace {}", self.namespace),
                advice: format!(
                    "the API server refused to {} ({}); the role in k8s/overlays/chaos allows it",
                    what(),
                    message()
                ),
            }),
            status => Err(BackendError::Failed { what: what(), why: format!("{status}: {}", message()) }),
        }
    }

    /// The bearer token. A token file is read for every call, because Kubernetes replaces the token before it expires.
    fn token(&self) -> Result<Option<String>, BackendError> {
        match &self.config.identity {
            Identity::Token(token) => Ok(Some(token.clone())),
            Identity::TokenFile(path) => {
                let token = fs::read_to_string(path).map_err(|error| BackendError::Failed {
                    what: format!("read the token {}", path.display()),
                    why: error.to_string(),
                })?;
                Ok(Some(token.trim().to_owned()))
            }
            Identity::Nobody | Identity::Certificate { .. } => Ok(None),
        }
    }
}

/// The body of a deletion, which applies only to the pod with this uid.
fn delete_options(uid: &str, grace: Grace) -> String {
    let mut options = serde_json::json!({
        "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid},
    });
    if grace == Grace::None {
        options["gracePeriodSeconds"] = 0.into();
    }
    options.to_string()
}

fn tls(config: &Config) -> Result<ClientConfig, BackendError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(config.authority.as_deref().unwrap_or_default()) {
        let certificate =
            certificate.map_err(|error| failed(config, &format!("the certificate authority: {error}")))?;
        roots
            .add(certificate)
            .map_err(|error| failed(config, &format!("the certificate authority: {error}")))?;
    }
    if roots.is_empty() && config.server.starts_with("https:") {
        return Err(failed(config, &"the certificate authority has no certificate"));
    }
    let provider = rustls::crypto::ring::default_provider();
    let builder = ClientConfig::builder_with_provider(provider.into());
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| failed(config, &error))?;
    let builder = builder.with_root_certificates(roots);
    let Identity::Certificate { chain, key } = &config.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let chain = chain.map_err(|error| failed(config, &format!("the client certificate: {error}")))?;
    let key = PrivateKeyDer::from_pem_slice(key);
    let key = key.map_err(|error| failed(config, &format!("the client certificate's key: {error}")))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| failed(config, &format!("the client certificate: {error}")))
}

fn failed(config: &Config, why: &dyn std::fmt::Display) -> BackendError {
    BackendError::Failed {
        what: format!("ask the Kubernetes API at {}", config.server),
        why: why.to_string(),
    }
}

/// The error and its causes: the outermost error alone does not tell why.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
