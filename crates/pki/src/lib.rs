//! The certificate authority of a cluster, and the certificates that it issues.
//!
//! A cluster has one authority, [`Ca`]. The digest of its public key is the cluster's [`CaId`]; for a cluster that began
//! with TLS the id of the cluster is the same number. Nodes, name servers and internal tools have certificates of 90 days
//! with one name of the cluster each ([`Identity`]), and with the host names and addresses of their listeners.
//!
//! All functions that touch files block. Time is an argument everywhere.

mod authority;
mod der;
mod files;
pub mod limits;
mod request;

use std::time::SystemTime;

pub use authority::{Ca, Certificate, Issued, Subject};
pub use conclave_net::{CaId, Identity};
pub use files::write_secret;
pub use request::Request;

/// An error of the authority.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file or directory cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file or directory.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// A private key that other users can read.
    #[error(transparent)]
    Exposed(#[from] conclave_net::Exposed),
    /// The directory has an authority already.
    #[error(
        "{0} exists already; an authority is never replaced, because its key is the identity of the cluster"
    )]
    Exists(String),
    /// A file or a message that is not what it should be.
    #[error("{what} is damaged: {why}")]
    Damaged {
        /// The file or message.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A host name that no certificate can carry.
    #[error(
        "{0:?} cannot be a host name in a certificate: give a DNS name outside of .conclave, or an IP address"
    )]
    Host(String),
    /// Too many host names for one certificate.
    #[error("a certificate carries at most {} host names and addresses", limits::HOSTS_MAX)]
    Hosts,
    /// Making a key or a signature failed.
    #[error("make a certificate: {0}")]
    Making(#[from] rcgen::Error),
}

/// The time during which a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Valid from this time on.
    pub not_before: SystemTime,
    /// The last second of the validity.
    pub not_after: SystemTime,
}

impl Validity {
    /// The validity of the first certificate of a PEM text.
    ///
    /// # Errors
    /// [`PkiError::Damaged`], if there is no certificate in it.
    pub fn of_pem(pem: &[u8]) -> Result<Self, PkiError> {
        use rustls_pki_types::pem::PemObject as _;
        let damaged = |why: String| PkiError::Damaged { what: "the certificate".to_owned(), why };
        let certificate = rustls_pki_types::CertificateDer::from_pem_slice(pem)
            .map_err(|error| damaged(conclave_net::pem_problem(&error)))?;
        der::validity(&certificate).ok_or_else(|| damaged("its validity cannot be read".to_owned()))
    }

    /// Whether a certificate is due for renewal: two thirds of its validity are over, or it is not valid yet, as after it was
    /// issued while the clock was ahead.
    #[must_use]
    pub fn is_due(&self, now: SystemTime) -> bool {
        let lifetime = self.not_after.duration_since(self.not_before).unwrap_or_default();
        // An overflow or a validity that ends before it begins is due.
        now < self.not_before || self.not_before.checked_add(lifetime * 2 / 3).is_none_or(|due| now >= due)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_certificate_is_due_from_two_thirds_of_its_validity_on() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let validity = Validity { not_before: at(1_000), not_after: at(1_900) };
        assert!(validity.is_due(at(999)), "nobody believes it yet");
        assert!(!validity.is_due(at(1_000)));
        assert!(!validity.is_due(at(1_599)));
        assert!(validity.is_due(at(1_600)));
        assert!(validity.is_due(at(5_000)));
        let reversed = Validity { not_before: at(10), not_after: at(5) };
        assert!(reversed.is_due(at(10)));
    }

    proptest! {
        #[test]
        fn once_due_a_certificate_stays_due(from in 0u64..1 << 40, lifetime in 0u64..1 << 36, now in 0u64..1 << 41) {
            let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
            let validity = Validity { not_before: at(from), not_after: at(from + lifetime) };
            prop_assert!(now < from || !validity.is_due(at(now)) || validity.is_due(at(now + 1)));
            prop_assert!(validity.is_due(validity.not_after));
        }
    }
}
