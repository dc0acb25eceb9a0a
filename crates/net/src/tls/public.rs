//! A certificate for a public name, issued by an authority that everybody's system knows, beside the cluster's own.

use std::fmt::{self, Debug};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use webpki::EndEntityCert;

use super::{
    CLUSTER_PROOF, Credentials, SecretError, TlsError, pem_problem, provider, read_secret, secret, verify,
};
use crate::limits::{PEM_BYTES_MAX, PUBLIC_CHAIN_MAX};

/// The files of a certificate for a public name, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicFiles {
    /// The certificate, and behind it those of the authorities between it and one that systems know.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A certificate for a public name.
pub(super) struct PublicCertificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Debug for PublicCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublicCertificate").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

/// Certificates are equal if their chains are.
impl PartialEq for PublicCertificate {
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain
    }
}

impl PublicCertificate {
    /// Reads the files. Blocks.
    pub(super) fn read(files: &PublicFiles) -> Result<Self, TlsError> {
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |source| TlsError::File { path, source }
        };
        let damaged = |path: &Path, why: String| TlsError::Damaged { what: path.display().to_string(), why };
        let content = secret::read_bounded(&files.certificate, PEM_BYTES_MAX);
        let content = content.map_err(failed(&files.certificate))?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
        let chain = chain.map_err(|error| damaged(&files.certificate, pem_problem(&error)))?;
        if chain.is_empty() || chain.len() > PUBLIC_CHAIN_MAX {
            let why = format!("it has {} certificates; 1 to {PUBLIC_CHAIN_MAX} belong there", chain.len());
            return Err(damaged(&files.certificate, why));
        }
        let names = EndEntityCert::try_from(&chain[0]).map(|own| own.valid_dns_names().count());
        if !names.is_ok_and(|names| names > 0) {
            let why = "its first certificate has no host name".to_owned();
            return Err(damaged(&files.certificate, why));
        }
        let key = read_secret(&files.key, PEM_BYTES_MAX).map_err(|error| match error {
            SecretError::Exposed(exposed) => TlsError::Exposed(exposed),
            SecretError::File(source) => failed(&files.key)(source),
        })?;
        let key = PrivateKeyDer::from_pem_slice(&key);
        let key = key.map_err(|error| damaged(&files.key, pem_problem(&error)))?;
        let read = Self { chain, key };
        // A key that does not belong to the certificate is found here, not at the first client.
        certified(read.chain.clone(), &read.key).map_err(|error| damaged(&files.key, error.to_string()))?;
        Ok(read)
    }

    /// When the certificate expires, seconds since 1970; `None` if the certificate does not say.
    pub(super) fn expiry(&self) -> Option<u64> {
        verify::expiry(&self.chain)
    }
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'_>,
) -> Result<Arc<CertifiedKey>, TlsError> {
    Ok(Arc::new(CertifiedKey::from_der(chain, key.clone_key(), &provider())?))
}

/// Chooses the certificate that a client is shown: the one for the public name for those who ask for this name, and do
/// not ask for the cluster's.
#[derive(Debug)]
pub(super) struct ByName {
    cluster: Arc<CertifiedKey>,
    public: Arc<CertifiedKey>,
}

impl ByName {
    /// The authority of the cluster is shown behind the public certificate: so its owner says which cluster the name stands
    /// for, and a client can demand that cluster from then on.
    pub(super) fn new(credentials: &Credentials, public: &PublicCertificate) -> Result<Self, TlsError> {
        let mut chain = public.chain.clone();
        chain.extend(credentials.chain.last().cloned());
        Ok(Self {
            cluster: certified(credentials.chain.clone(), &credentials.key)?,
            public: certified(chain, &public.key)?,
        })
    }

    fn is_asked_for(&self, name: &str) -> bool {
        let Some(own) = self.public.cert.first() else { return false };
        let (Ok(own), Ok(name)) = (EndEntityCert::try_from(own), ServerName::try_from(name)) else {
            return false;
        };
        own.verify_is_valid_for_subject_name(&name).is_ok()
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let wants_cluster =
            hello.alpn().is_some_and(|mut protocols| protocols.any(|protocol| protocol == CLUSTER_PROOF));
        let public = !wants_cluster && hello.server_name().is_some_and(|name| self.is_asked_for(name));
        Some(Arc::clone(if public { &self.public } else { &self.cluster }))
    }
}
