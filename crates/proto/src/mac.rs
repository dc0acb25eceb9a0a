//! Message authentication with the cluster's secret.
//!
//! The receiver of messages chooses a nonce. The sender numbers its messages and adds a MAC to each: HMAC-SHA-256 (RFC
//! 2104, RFC 6234) over purpose, nonce, number and content. See `proto/conclave/dns/v1/dns.proto` for the exact bytes.

use std::fmt;

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// The purpose in the MAC of a node's registration.
pub const REGISTER: &str = "conclave register v1";
/// The purpose in the MAC of a node's list of records.
pub const RECORDS: &str = "conclave records v1";
/// Length of a nonce, bytes.
pub const NONCE_BYTES: usize = 16;
/// Allowed length of a secret in bytes, without the white space around it.
pub const SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=1024;

/// The cluster's secret. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The secret is too short to protect anything, or so large that the file cannot be a secret.
#[derive(Debug, thiserror::Error)]
#[error(
    "the cluster's secret has {0} bytes, which must be {min} to {max}; make one with: head -c 32 /dev/urandom | base64",
    min = SECRET_BYTES.start(),
    max = SECRET_BYTES.end()
)]
pub struct SecretError(usize);

impl Secret {
    /// The secret from the content of a file, without the white space around it.
    ///
    /// # Errors
    /// If the secret has fewer than 16 or more than 1,024 bytes.
    pub fn new(content: &[u8]) -> Result<Self, SecretError> {
        let content = content.trim_ascii();
        if SECRET_BYTES.contains(&content.len()) {
            Ok(Self(content.to_vec()))
        } else {
            Err(SecretError(content.len()))
        }
    }

    /// The raw secret, for libraries that compute MACs themselves. Callers must not print or store it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The MAC of one message.
    #[must_use]
    pub fn sign(&self, purpose: &str, nonce: &[u8], counter: u64, content: &[u8]) -> Vec<u8> {
        self.mac(purpose, nonce, counter, content).finalize().into_bytes().to_vec()
    }

    /// Whether `mac` is the MAC of this message. The comparison takes constant time.
    #[must_use]
    pub fn verify(&self, purpose: &str, nonce: &[u8], counter: u64, content: &[u8], mac: &[u8]) -> bool {
        self.mac(purpose, nonce, counter, content).verify_slice(mac).is_ok()
    }

    fn mac(&self, purpose: &str, nonce: &[u8], counter: u64, content: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of every length");
        for part in [purpose.as_bytes(), &[0], nonce, &counter.to_be_bytes(), content] {
            mac.update(part);
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_valid_for_one_message_only() {
        let secret = Secret::new(b"0123456789abcdef\n").unwrap();
        let nonce = [7; NONCE_BYTES];
        let mac = secret.sign(REGISTER, &nonce, 1, b"content");
        assert!(secret.verify(REGISTER, &nonce, 1, b"content", &mac));
        let other = Secret::new(b"0123456789abcdeg").unwrap();
        assert!(!other.verify(REGISTER, &nonce, 1, b"content", &mac));
        assert!(!secret.verify(RECORDS, &nonce, 1, b"content", &mac));
        assert!(!secret.verify(REGISTER, &[8; NONCE_BYTES], 1, b"content", &mac));
        assert!(!secret.verify(REGISTER, &nonce, 2, b"content", &mac));
        assert!(!secret.verify(REGISTER, &nonce, 1, b"Content", &mac));
        assert!(!secret.verify(REGISTER, &nonce, 1, b"content", &mac[..31]));
    }

    #[test]
    fn a_secret_has_a_minimum_length_and_is_never_printed() {
        assert!(Secret::new(b"  short  \n").unwrap_err().to_string().contains("16 to 1024"));
        assert_eq!(format!("{:?}", Secret::new(&[b'x'; 32]).unwrap()), "Secret");
    }
}
