//! Signing requests: a node that joins makes its own key, and never shows it to anybody.

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject as _;

use crate::limits::REQUEST_BYTES_MAX;
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
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let pem = CertificateParams::default().serialize_request(&key)?.pem()?;
        Ok(Self { key, pem })
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
            .map_err(|error| damaged(&error.to_string()))?;
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
