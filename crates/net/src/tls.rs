//! TLS for the connections of a cluster.
//!
//! All TLS of conclave is here: what a process proves about itself ([`Credentials`]), whom a server lets in
//! ([`TlsServer`], [`Callers`]), and whom a client believes ([`TlsClient`], [`Trust`]). A server's and a client's
//! configuration can be replaced while the process runs; connections that exist keep theirs.
//!
//! The identity of a cluster is the key of its authority, [`CaId`]. Peers send the authority's certificate behind their
//! own, so whoever knows the id can verify a peer without any file.

mod ahead;
mod client;
mod dir;
mod public;
mod secret;
mod server;
mod verify;

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use webpki::EndEntityCert;

pub use ahead::ReadAhead;
pub use client::{TlsClient, Trust};
pub use dir::TlsDir;
pub use public::PublicFiles;
pub use secret::{Exposed, GivenSecret, SecretError, read_given_secret, read_secret};
pub use server::{Callers, Handshakes, Plain, TlsServer};
pub use verify::{Expect, speaks_no_tls};

pub use crate::limits::HANDSHAKES_MAX;

use crate::limits::PEM_BYTES_MAX;
use crate::{CaId, Identity};

/// The certificate of the cluster's authority, in a directory of credentials.
pub const CA_FILE: &str = "ca.pem";
/// The own certificate, in a directory of credentials.
pub const CERTIFICATE_FILE: &str = "node.pem";
/// The own private key, in a directory of credentials.
pub const KEY_FILE: &str = "node.key";

/// The protocols of gRPC.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// A protocol that nobody speaks: a client that offers it wants the certificate of the cluster, also where there is one for
/// the host name that the client asks for.
const CLUSTER_PROOF: &[u8] = b"conclave";

/// An error of the configuration of TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// A private key that other users can read.
    #[error(transparent)]
    Exposed(#[from] Exposed),
    /// A file does not contain what it should.
    #[error("{what}: {why}")]
    Damaged {
        /// The file.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The certificate was not issued by the cluster's authority.
    #[error(
        "{CERTIFICATE_FILE} was not issued by the authority in {CA_FILE} ({0}); take both from one directory"
    )]
    Foreign(CaId),
    /// The certificate belongs to somebody else than before.
    #[error("the certificate is that of {found} now, and was that of {before}; put the right directory back")]
    OtherOwner {
        /// The owner of the new certificate.
        found: Identity,
        /// The owner of the certificate in use.
        before: Identity,
    },
    /// The parts do not fit together.
    #[error("the certificate and the key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    /// The system's authorities cannot be read.
    #[error(
        "the system has no certificate authorities ({0}); install them (ca-certificates) or set SSL_CERT_FILE"
    )]
    NoRoots(String),
}

/// What a process proves about itself: its certificate and private key, and the authority that issued it.
pub struct Credentials {
    /// The own certificate, then the authority's.
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    ca: CaId,
    identity: Identity,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("ca", &self.ca)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// Credentials are equal if their certificates are.
impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain
    }
}

impl Eq for Credentials {}

impl Credentials {
    /// Reads `ca.pem`, `node.pem` and `node.key` of a directory. Blocks.
    ///
    /// # Errors
    /// [`TlsError::Exposed`] if other users can read the key, [`TlsError::Foreign`] if the certificate is not of this
    /// authority.
    pub fn read(dir: &Path) -> Result<Self, TlsError> {
        let read = |name: &str| {
            let path = dir.join(name);
            let failed = |source| TlsError::File { path: path.display().to_string(), source };
            secret::read_bounded(&path, PEM_BYTES_MAX).map_err(failed)
        };
        let path = dir.join(KEY_FILE);
        let key = read_secret(&path, PEM_BYTES_MAX).map_err(|error| match error {
            SecretError::Exposed(exposed) => TlsError::Exposed(exposed),
            SecretError::File(source) => TlsError::File { path: path.display().to_string(), source },
        })?;
        Self::from_pem(&read(CA_FILE)?, &read(CERTIFICATE_FILE)?, &key)
    }

    /// Credentials from PEM texts.
    ///
    /// # Errors
    /// If a text is not PEM, or the three do not belong together.
    pub fn from_pem(ca: &[u8], certificate: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let damaged = |what: &str, why: &dyn std::fmt::Display| TlsError::Damaged {
            what: what.to_owned(),
            why: why.to_string(),
        };
        let authority =
            CertificateDer::from_pem_slice(ca).map_err(|error| damaged(CA_FILE, &pem_problem(&error)))?;
        let own = CertificateDer::from_pem_slice(certificate)
            .map_err(|error| damaged(CERTIFICATE_FILE, &pem_problem(&error)))?;
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|error| damaged(KEY_FILE, &pem_problem(&error)))?;
        let ca =
            CaId::of_certificate(&authority).ok_or_else(|| damaged(CA_FILE, &"it is not a certificate"))?;
        let identity = {
            let end_entity =
                EndEntityCert::try_from(&own).map_err(|error| damaged(CERTIFICATE_FILE, &error))?;
            verify::identity(&end_entity, ca)
        };
        if identity == Identity::None {
            return Err(TlsError::Foreign(ca));
        }
        Ok(Self { chain: vec![own, authority], key, ca, identity })
    }

    /// The authority that issued the certificate.
    #[must_use]
    pub fn ca(&self) -> CaId {
        self.ca
    }

    /// Whether the key belongs to the certificate.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        TlsServer::new(self, Callers::Members, Plain::Refuse).is_ok()
    }

    /// The owner of the certificate.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// When the certificate expires, seconds since 1970; `None` if the certificate does not say.
    #[must_use]
    pub fn expiry(&self) -> Option<u64> {
        verify::expiry(&self.chain)
    }
}

/// The authority of a directory of credentials, for those who need no credentials of their own. Blocks.
///
/// # Errors
/// If `ca.pem` cannot be read, or is not a certificate.
pub fn read_authority(dir: &Path) -> Result<CaId, TlsError> {
    let path = dir.join(CA_FILE);
    let content = secret::read_bounded(&path, PEM_BYTES_MAX)
        .map_err(|source| TlsError::File { path: path.display().to_string(), source })?;
    let damaged = |why: String| TlsError::Damaged { what: path.display().to_string(), why };
    let certificate =
        CertificateDer::from_pem_slice(&content).map_err(|error| damaged(pem_problem(&error)))?;
    CaId::of_certificate(&certificate).ok_or_else(|| damaged("it is not a certificate".to_owned()))
}

/// What is wrong with a PEM text. The error of the reader prints bytes, which may be those of a key.
#[must_use]
pub fn pem_problem(error: &rustls::pki_types::pem::Error) -> String {
    use rustls::pki_types::pem::Error;
    match error {
        Error::MissingSectionEnd { .. } => "it is cut off".to_owned(),
        Error::IllegalSectionStart { .. } | Error::Base64Decode(_) => "it is not PEM".to_owned(),
        Error::NoItemsFound => "what belongs there is not in it".to_owned(),
        other => other.to_string(),
    }
}

/// The cryptography of all connections. AES with 128 bits comes first: it is the fastest, and as safe as the keys.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}
