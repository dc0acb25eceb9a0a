//! Signing requests: a node that joins makes its own key, and never shows it to anybody.

use std::path::Path;

use conclave_net::{KEY_FILE, SecretError, pem_problem, read_secret};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateSigningRequestDer, PrivateKeyDer};

use crate::files::{failed, make_dir, write_new_secret};
use crate::limits::{FILE_BYTES_MAX, REQUEST_BYTES_MAX};
use crate::{PkiError, der};

/// A new key, and the request to certify it. The request carries no names: whoever signs it decides who its sender is.
#[derive(Debug)]
pub struct Request {
    key: KeyPair,
    pem: String,
}

impl Request {
    /// Makes a key and the request for it.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn new() -> Result<Self, PkiError> {
        Self::of(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
    }

    fn of(key: KeyPair) -> Result<Self, PkiError> {
        let pem = CertificateParams::default().serialize_request(&key)?.pem()?;
        Ok(Self { key, pem })
    }

    /// The request for the key in a directory's `node.key`, which is made if it is not there; the directory has mode 0700
    /// and the key mode 0600. So a certificate is renewed with the same key. Blocks.
    ///
    /// # Errors
    /// If the key is damaged or readable by others, or the directory cannot be written to.
    pub fn in_dir(dir: &Path) -> Result<Self, PkiError> {
        let path = dir.join(KEY_FILE);
        make_dir(dir)?;
        if !path.try_exists().map_err(failed(&path))? {
            let made = Self::new()?;
            match write_new_secret(&path, made.key_pem().as_bytes()) {
                Ok(()) => return Ok(made),
                Err(PkiError::Exists(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let content = read_secret(&path, FILE_BYTES_MAX).map_err(|error| match error {
            SecretError::Exposed(exposed) => PkiError::Exposed(exposed),
            SecretError::File(source) => failed(&path)(source),
        })?;
        let damaged = |why: String| PkiError::Damaged { what: path.display().to_string(), why };
        let key = PrivateKeyDer::from_pem_slice(&content).map_err(|error| damaged(pem_problem(&error)))?;
        let key = KeyPair::from_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256);
        Self::of(key.map_err(|error| damaged(error.to_string()))?)
    }

    /// The request, in PEM: what travels.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The private key, in PEM: what stays.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}

/// The public key of a request whose signature was verified.
#[derive(Debug)]
pub(crate) struct RequestedKey(Vec<u8>);

impl RequestedKey {
    pub(crate) fn of(request_pem: &str) -> Result<Self, PkiError> {
        let damaged =
            |why: &str| PkiError::Damaged { what: "the signing request".to_owned(), why: why.to_owned() };
        if request_pem.len() > REQUEST_BYTES_MAX {
            return Err(damaged(&format!("it has more than {REQUEST_BYTES_MAX} bytes")));
        }
        let request = CertificateSigningRequestDer::from_pem_slice(request_pem.as_bytes())
            .map_err(|error| damaged(&pem_problem(&error)))?;
        let key = der::requested_key(&request);
        key.map(Self).ok_or_else(|| damaged("it is not signed by the P-256 key that it names"))
    }
}

impl PublicKeyData for RequestedKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}
