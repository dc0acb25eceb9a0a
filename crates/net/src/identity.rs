//! Whose certificate it is: the names that a cluster's authority gives.

use std::fmt::{self, Debug, Display};
use std::str::FromStr;

use data_encoding::HEXLOWER;
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use webpki::EndEntityCert;

/// The domain of names of the cluster's own certificates.
const DOMAIN: &str = "conclave";

/// The identity of a certificate authority: the first 16 bytes of the SHA-256 of its public key (the
/// SubjectPublicKeyInfo, in DER). A cluster that began with TLS has the same number as its id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CaId(pub u128);

impl CaId {
    /// The id of an authority with this public key (the SubjectPublicKeyInfo, in DER).
    #[must_use]
    pub fn of(public_key: &[u8]) -> Self {
        let digest: [u8; 32] = Sha256::digest(public_key).into();
        Self(digest.into_iter().take(16).fold(0, |sum, byte| sum << 8 | u128::from(byte)))
    }

    /// The name in the certificate of the authority.
    #[must_use]
    pub fn authority_name(self) -> String {
        format!("conclave authority {self}")
    }

    /// The name that the certificates of all who serve pages in a cluster carry, for those who verify names but do
    /// not know the nodes, such as Prometheus. It stands for nobody.
    #[must_use]
    pub fn pages_name(self) -> String {
        format!("pages.{self}.{DOMAIN}")
    }

    /// The id of the authority with this certificate; `None` if it cannot be read.
    #[must_use]
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = EndEntityCert::try_from(certificate).ok()?;
        Some(Self::of(&certificate.subject_public_key_info()))
    }
}

impl Display for CaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Debug for CaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl FromStr for CaId {
    type Err = NoCaId;

    fn from_str(text: &str) -> Result<Self, NoCaId> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| NoCaId)?;
        let bytes = <[u8; 16]>::try_from(bytes).map_err(|_| NoCaId)?;
        Ok(Self(u128::from_be_bytes(bytes)))
    }
}

/// The error of a text that is no [`CaId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the id of a cluster has 32 digits, 0 to 9 and a to f")]
pub struct NoCaId;

/// The owner of a certificate of a cluster's authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Identity {
    /// A node: `n<id>.<cluster>.node.conclave`.
    Node(u64),
    /// A name server: `ns<number>.<cluster>.dns.conclave`.
    NameServer(u64),
    /// An internal tool that calls servers: `client.<cluster>.conclave`.
    Tool,
    /// A chaos controller, at the address of its API and pages: `chaos.<cluster>.conclave`.
    Chaos,
    /// A receiver of alerts (`conclave alerts`), at the address of its webhook: `alerts.<cluster>.conclave`.
    Alerts,
    /// A peer without a certificate of the cluster, such as a chat client.
    #[default]
    None,
}

impl Identity {
    /// The name in certificates of this authority; `None` for a peer without a certificate.
    #[must_use]
    pub fn name(self, ca: CaId) -> Option<String> {
        match self {
            Self::Node(id) => Some(format!("n{id}.{ca}.node.{DOMAIN}")),
            Self::NameServer(number) => Some(format!("ns{number}.{ca}.dns.{DOMAIN}")),
            Self::Tool => Some(format!("client.{ca}.{DOMAIN}")),
            Self::Chaos => Some(format!("chaos.{ca}.{DOMAIN}")),
            Self::Alerts => Some(format!("alerts.{ca}.{DOMAIN}")),
            Self::None => None,
        }
    }

    /// The identity that a name in a certificate of this authority stands for; `None` for any other name.
    #[must_use]
    pub fn of_name(name: &str, ca: CaId) -> Option<Self> {
        let (first, rest) = name.split_once('.')?;
        let rest = rest.strip_suffix(DOMAIN)?.strip_suffix('.')?;
        let (cluster, kind) = rest.split_once('.').unwrap_or((rest, ""));
        if cluster.parse() != Ok(ca) {
            return None;
        }
        match kind {
            "node" => first.strip_prefix('n').and_then(number).map(Self::Node),
            "dns" => first.strip_prefix("ns").and_then(number).map(Self::NameServer),
            "" if first == "client" => Some(Self::Tool),
            "" if first == "chaos" => Some(Self::Chaos),
            "" if first == "alerts" => Some(Self::Alerts),
            _ => None,
        }
    }
}

impl Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(f, "node {id}"),
            Self::NameServer(number) => write!(f, "name server {number}"),
            Self::Tool => f.write_str("a tool of the cluster"),
            Self::Chaos => f.write_str("a chaos controller"),
            Self::Alerts => f.write_str("a receiver of alerts"),
            Self::None => f.write_str("a peer without a certificate"),
        }
    }
}

/// A number in its only form: digits, without a sign or leading zeros.
fn number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identities() -> impl Strategy<Value = Identity> {
        prop_oneof![
            any::<u64>().prop_map(Identity::Node),
            any::<u64>().prop_map(Identity::NameServer),
            Just(Identity::Tool),
            Just(Identity::Chaos),
            Just(Identity::Alerts),
        ]
    }

    proptest! {
        #[test]
        fn names_round_trip(identity in identities(), ca in any::<u128>()) {
            let name = identity.name(CaId(ca)).unwrap();
            prop_assert_eq!(Identity::of_name(&name, CaId(ca)), Some(identity));
            prop_assert_eq!(Identity::of_name(&name, CaId(!ca)), None);
            prop_assert_eq!(Identity::of_name(&CaId(ca).pages_name(), CaId(ca)), None);
            prop_assert_eq!(CaId(ca).to_string().parse(), Ok(CaId(ca)));
        }

        #[test]
        fn other_names_are_nobody(name in "[a-z0-9.]{0,60}") {
            prop_assert_eq!(Identity::of_name(&name, CaId(7)), None);
        }
    }

    #[test]
    fn only_the_exact_form_of_a_name_counts() {
        let ca = CaId(0xab);
        for name in [
            "n01.000000000000000000000000000000ab.node.conclave",
            "n+1.000000000000000000000000000000ab.node.conclave",
            "n1.000000000000000000000000000000AB.node.conclave",
            "n1.000000000000000000000000000000ab.dns.conclave",
            "n1.000000000000000000000000000000ab.node.conclave.example.org",
            "x.n1.000000000000000000000000000000ab.node.conclave",
            "n1.ab.node.conclave",
            "client.000000000000000000000000000000ab.node.conclave",
            "client.000000000000000000000000000000abconclave",
        ] {
            assert_eq!(Identity::of_name(name, ca), None, "{name}");
        }
    }
}
