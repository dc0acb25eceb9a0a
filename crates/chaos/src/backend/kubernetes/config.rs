//! How to reach the API server: in a pod by its service account, elsewhere by a kubeconfig.
//!
//! Supported credentials of a kubeconfig are a token, a token file, and a client certificate. Programs that fetch credentials
//! (`exec`, `auth-provider`) are not run; use `kubectl proxy` for these.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use serde::Deserialize;

/// Where Kubernetes puts a pod's service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The largest file that is read, bytes.
const FILE_MAX: u64 = 4 << 20;

/// How to reach the API server, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `https://host:port`, without a path's end; `http://` is for `kubectl proxy`.
    pub server: String,
    /// The name in the server's certificate, if it is not the one in `server`.
    pub server_name: Option<String>,
    /// The certificate authority of the server's certificate, PEM. Required for https.
    pub authority: Option<Vec<u8>>,
    /// The credentials.
    pub identity: Identity,
    /// The default namespace.
    pub namespace: String,
}

/// The credentials for the API server.
#[derive(Clone, PartialEq, Eq)]
pub enum Identity {
    /// None: anonymous, or those of `kubectl proxy`.
    Nobody,
    /// A bearer token.
    Token(String),
    /// A file with a bearer token, which is replaced before it expires.
    TokenFile(PathBuf),
    /// A client certificate and its key, PEM.
    Certificate {
        /// The certificate and the intermediate certificates.
        chain: Vec<u8>,
        /// The private key.
        key: Vec<u8>,
    },
}

/// Without the secrets.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nobody => f.write_str("Nobody"),
            Self::Token(_) => f.write_str("Token"),
            Self::TokenFile(path) => f.debug_tuple("TokenFile").field(path).finish(),
            Self::Certificate { .. } => f.write_str("Certificate"),
        }
    }
}

/// Why the configuration of the API server cannot be found or used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// There is no configuration.
    #[error(
        "no configuration for the Kubernetes API was found: run this in a pod with a service account, or use --kubeconfig FILE"
    )]
    Nowhere,
    /// A file cannot be read.
    #[error("{}: {why}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// A kubeconfig cannot be parsed.
    #[error("the kubeconfig cannot be read: {0}")]
    Unreadable(String),
    /// A kubeconfig refers to an entry that it does not contain.
    #[error("the kubeconfig names the {kind} {name:?}, which it does not have")]
    Missing {
        /// The kind of entry: context, cluster or user.
        kind: &'static str,
        /// The entry's name.
        name: String,
    },
    /// A kubeconfig uses a feature that is not supported.
    #[error(
        "the kubeconfig's {what} is not supported: run `kubectl proxy`, and use a kubeconfig with server: http://127.0.0.1:8001"
    )]
    Unsupported {
        /// The feature.
        what: &'static str,
    },
    /// A field such as `certificate-authority-data` is not base64.
    #[error("the kubeconfig's {0} is not base64")]
    Base64(&'static str),
}

impl Config {
    /// Finds the configuration: the given kubeconfig, that of `$KUBECONFIG`, the pod's service account, or `~/.kube/config`, in
    /// this order.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn find(given: Option<&Path>) -> Result<Self, ConfigError> {
        if let Some(path) = given {
            return Self::from_file(path);
        }
        if let Some(path) = env::var_os("KUBECONFIG").filter(|path| !path.is_empty()) {
            if path.to_string_lossy().contains(':') {
                return Err(ConfigError::Unsupported { what: "list of files in KUBECONFIG" });
            }
            return Self::from_file(Path::new(&path));
        }
        if let (Ok(host), Ok(port)) =
            (env::var("KUBERNETES_SERVICE_HOST"), env::var("KUBERNETES_SERVICE_PORT"))
            && Path::new(ACCOUNT).join("token").exists()
        {
            return Self::of_pod(&host, &port, Path::new(ACCOUNT));
        }
        let home = env::var_os("HOME").map(|home| PathBuf::from(home).join(".kube/config"));
        match home.filter(|path| path.exists()) {
            Some(path) => Self::from_file(&path),
            None => Err(ConfigError::Nowhere),
        }
    }

    /// The configuration of a pod's service account, whose files are in `account`.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn of_pod(host: &str, port: &str, account: &Path) -> Result<Self, ConfigError> {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let namespace = String::from_utf8_lossy(&read(&account.join("namespace"))?).trim().to_owned();
        Ok(Self {
            server: format!("https://{host}:{port}"),
            server_name: None,
            authority: Some(read(&account.join("ca.crt"))?),
            identity: Identity::TokenFile(account.join("token")),
            namespace,
        })
    }

    /// Reads the current context of a kubeconfig.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text =
            String::from_utf8(read(path)?).map_err(|error| ConfigError::Unreadable(error.to_string()))?;
        Self::parse(&text, path.parent().unwrap_or(Path::new("")))
    }

    /// Parses the current context of a kubeconfig. Its paths are relative to `dir`.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn parse(text: &str, dir: &Path) -> Result<Self, ConfigError> {
        let file: File =
            serde_saphyr::from_str(text).map_err(|error| ConfigError::Unreadable(error.to_string()))?;
        let missing = |kind, name: &str| ConfigError::Missing { kind, name: name.to_owned() };
        let context = file.contexts.into_iter().find(|known| known.name == file.current_context);
        let context = context.ok_or_else(|| missing("context", &file.current_context))?.context;
        let cluster = file.clusters.into_iter().find(|known| known.name == context.cluster);
        let cluster = cluster.ok_or_else(|| missing("cluster", &context.cluster))?.cluster;
        let user = file.users.into_iter().find(|known| known.name == context.user).map(|known| known.user);
        let user = match user {
            None if context.user.is_empty() => User::default(),
            None => return Err(missing("user", &context.user)),
            Some(user) => user,
        };
        if cluster.insecure_skip_tls_verify {
            return Err(ConfigError::Unsupported { what: "insecure-skip-tls-verify" });
        }
        if cluster.proxy_url.is_some() {
            return Err(ConfigError::Unsupported { what: "proxy-url" });
        }
        let authority = either(
            "certificate-authority-data",
            cluster.certificate_authority_data.as_deref(),
            cluster.certificate_authority.as_deref(),
            dir,
        )?;
        if authority.is_none() && cluster.server.starts_with("https:") {
            return Err(ConfigError::Unsupported { what: "cluster without a certificate-authority" });
        }
        Ok(Self {
            server: cluster.server.trim_end_matches('/').to_owned(),
            server_name: cluster.tls_server_name,
            authority,
            identity: user.identity(dir)?,
            namespace: context.namespace.unwrap_or_else(|| "default".to_owned()),
        })
    }
}

/// The bytes of a field: from its base64 data, or from the file that it names.
fn either(
    what: &'static str,
    data: Option<&str>,
    path: Option<&Path>,
    dir: &Path,
) -> Result<Option<Vec<u8>>, ConfigError> {
    match (data, path) {
        (Some(data), _) => {
            let data: String = data.split_whitespace().collect();
            BASE64.decode(data.as_bytes()).map(Some).map_err(|_| ConfigError::Base64(what))
        }
        (None, Some(path)) => read(&dir.join(path)).map(Some),
        (None, None) => Ok(None),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let failed = |why: String| ConfigError::File { path: path.to_owned(), why };
    let size = fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if size > FILE_MAX {
        return Err(failed(format!("the file has {size} bytes, which must be at most {FILE_MAX}")));
    }
    fs::read(path).map_err(|error| failed(error.to_string()))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    current_context: String,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
}

#[derive(Debug, Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Debug, Deserialize)]
struct Context {
    cluster: String,
    #[serde(default)]
    user: String,
    namespace: Option<String>,
}

#[derive(Debug, Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    tls_server_name: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
    proxy_url: Option<String>,
}

#[derive(Debug, Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: User,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    token: Option<String>,
    #[serde(alias = "tokenFile")]
    token_file: Option<PathBuf>,
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    username: Option<String>,
    exec: Option<Program>,
    auth_provider: Option<Program>,
}

/// Any content: only the presence of the field matters.
#[derive(Debug, Deserialize)]
struct Program {}

impl User {
    fn identity(self, dir: &Path) -> Result<Identity, ConfigError> {
        let unsupported = [
            ("exec", self.exec.is_some()),
            ("auth-provider", self.auth_provider.is_some()),
            ("username", self.username.is_some()),
        ];
        if let Some((what, _)) = unsupported.into_iter().find(|(_, there)| *there) {
            return Err(ConfigError::Unsupported { what });
        }
        if let Some(token) = self.token {
            return Ok(Identity::Token(token));
        }
        if let Some(path) = self.token_file {
            return Ok(Identity::TokenFile(dir.join(path)));
        }
        let chain = either(
            "client-certificate-data",
            self.client_certificate_data.as_deref(),
            self.client_certificate.as_deref(),
            dir,
        )?;
        let key =
            either("client-key-data", self.client_key_data.as_deref(), self.client_key.as_deref(), dir)?;
        match (chain, key) {
            (Some(chain), Some(key)) => Ok(Identity::Certificate { chain, key }),
            (None, None) => Ok(Identity::Nobody),
            (Some(_), None) => {
                Err(ConfigError::Missing { kind: "key of", name: "client-certificate".to_owned() })
            }
            (None, Some(_)) => {
                Err(ConfigError::Missing { kind: "certificate of", name: "client-key".to_owned() })
            }
        }
    }
}

#[cfg(test)]
mod tests;
