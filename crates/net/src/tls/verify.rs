//! Whom to believe: the verification of certificates.

use std::fmt::{self, Display};
use std::io;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::limits::CHAIN_MAX;
use crate::{CaId, Identity};

/// The server that a client expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// This node.
    Node(u64),
    /// Any node of the cluster.
    AnyNode,
    /// Any name server of the cluster.
    NameServer,
    /// Any node or name server of the cluster.
    AnyServer,
    /// A chaos controller of the cluster.
    Chaos,
    /// A receiver of alerts of the cluster.
    Alerts,
}

impl Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(f, "node {id}"),
            Self::AnyNode => f.write_str("a node"),
            Self::NameServer => f.write_str("a name server"),
            Self::AnyServer => f.write_str("a node or a name server"),
            Self::Chaos => f.write_str("a chaos controller"),
            Self::Alerts => f.write_str("a receiver of alerts"),
        }
    }
}

impl Expect {
    fn accepts(self, found: Identity) -> bool {
        match self {
            Self::Node(id) => found == Identity::Node(id),
            Self::AnyNode => matches!(found, Identity::Node(_)),
            Self::NameServer => matches!(found, Identity::NameServer(_)),
            Self::AnyServer => matches!(found, Identity::Node(_) | Identity::NameServer(_)),
            Self::Chaos => found == Identity::Chaos,
            Self::Alerts => found == Identity::Alerts,
        }
    }
}

/// Why the peer's certificate is refused although its cryptography may be right.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the peer's certificate is not of this cluster ({expected}){}", shows(*.shown))]
    OtherCluster { expected: CaId, shown: Option<CaId> },
    #[error("the peer shows no authority of a cluster")]
    NoAuthority,
    #[error("the peer is {found}, expected was {expected}")]
    OtherPeer { found: Identity, expected: Expect },
    #[error("the peer's certificate has no name of the cluster")]
    NoName,
}

/// What a peer of another cluster shows; nothing proves that it belongs there.
fn shows(shown: Option<CaId>) -> String {
    shown.map_or_else(String::new, |shown| format!("; it shows the authority {shown}"))
}

/// The peer's first bytes are no TLS.
#[derive(Debug, thiserror::Error)]
#[error("the peer speaks no TLS")]
struct NoTls;

/// Whether a handshake has failed because the peer speaks no TLS, and not because of what it said in it.
#[must_use]
pub fn speaks_no_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<NoTls>)
}

/// The error of a handshake, in words for operators; a refusal of this module without the layers around it.
pub(super) fn of_handshake(error: io::Error) -> io::Error {
    let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref()) else { return error };
    let what = match inner {
        Error::InvalidCertificate(CertificateError::Other(OtherError(why))) => why.to_string(),
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "the peer's certificate has expired; is the clock of this machine right?".to_owned()
        }
        Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => "the peer's certificate is not valid yet; is the clock of this machine right?".to_owned(),
        Error::InvalidMessage(_) => return io::Error::new(io::ErrorKind::InvalidData, NoTls),
        _ => return error,
    };
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        CertificateError::Other(OtherError(Arc::new(refused))).into()
    }
}

/// The one identity of a certificate.
pub(super) fn identity(certificate: &EndEntityCert<'_>, ca: CaId) -> Identity {
    certificate.valid_dns_names().find_map(|name| Identity::of_name(name, ca)).unwrap_or_default()
}

/// The identity in a chain that was verified before, for an established connection.
pub(super) fn identity_of_chain(chain: &[CertificateDer<'_>], pin: Option<CaId>) -> Option<(Identity, CaId)> {
    let (own, others) = chain.split_first()?;
    let own = EndEntityCert::try_from(own).ok()?;
    authorities(others, pin).find_map(|(ca, _)| match identity(&own, ca) {
        Identity::None => None,
        found => Some((found, ca)),
    })
}

/// The certificates that may be the cluster's authority, each with its id.
fn authorities<'a>(
    others: &'a [CertificateDer<'a>],
    pin: Option<CaId>,
) -> impl Iterator<Item = (CaId, &'a CertificateDer<'a>)> {
    let known = others.iter().take(CHAIN_MAX).filter_map(|other| Some((CaId::of_certificate(other)?, other)));
    known.filter(move |(ca, _)| pin.is_none_or(|pin| pin == *ca))
}

/// Verifies that a certificate was issued by the pinned authority, or, without a pin, by any authority that gave it a
/// name with its own id.
fn verify(
    own: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    pin: Option<CaId>,
    now: UnixTime,
    usage: KeyUsage,
) -> Result<Identity, Error> {
    let own = EndEntityCert::try_from(own).map_err(|_| CertificateError::BadEncoding)?;
    let (ca, authority) = authorities(others, pin).next().ok_or_else(|| match pin {
        Some(expected) => {
            let shown = authorities(others, None).next().map(|(ca, _)| ca);
            Refused::OtherCluster { expected, shown }
        }
        None => Refused::NoAuthority,
    })?;
    let anchor = anchor_from_trusted_cert(authority).map_err(|_| CertificateError::BadEncoding)?;
    own.verify_for_usage(algorithms().all, &[anchor], &[], now, usage, None, None).map_err(of_webpki)?;
    match identity(&own, ca) {
        Identity::None => Err(Refused::NoName.into()),
        found => Ok(found),
    }
}

/// When the first certificate of a chain expires, seconds since 1970. The verifier reads the validity and shows it only in
/// its refusal of an expired certificate, so it is asked whether the certificate is valid at the end of time.
pub(super) fn expiry(chain: &[CertificateDer<'_>]) -> Option<u64> {
    let (own, others) = chain.split_first()?;
    let own = EndEntityCert::try_from(own).ok()?;
    let anchors: Vec<_> = others.iter().filter_map(|other| anchor_from_trusted_cert(other).ok()).collect();
    let end = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    match own.verify_for_usage(algorithms().all, &anchors, &[], end, KeyUsage::client_auth(), None, None) {
        Err(webpki::Error::CertExpired { not_after, .. }) => Some(not_after.as_secs()),
        _ => None,
    }
}

fn of_webpki(error: webpki::Error) -> Error {
    match error {
        webpki::Error::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }.into()
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }.into()
        }
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer.into(),
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature.into(),
        other => CertificateError::Other(OtherError(Arc::new(other))).into(),
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    static ALGORITHMS: LazyLock<WebPkiSupportedAlgorithms> =
        LazyLock::new(|| ring::default_provider().signature_verification_algorithms);
    *ALGORITHMS
}

/// A client's verification of a server by the id of its cluster.
#[derive(Debug)]
pub(super) struct ClusterServer {
    pub(super) expect: Expect,
    /// The cluster; empty until the first handshake of a client that does not know its cluster yet.
    pub(super) pin: Arc<OnceLock<CaId>>,
}

impl ServerCertVerifier for ClusterServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pin = self.pin.get().copied();
        let found = verify(end_entity, intermediates, pin, now, KeyUsage::server_auth())?;
        if !self.expect.accepts(found) {
            return Err(Refused::OtherPeer { found, expected: self.expect }.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// A server's verification of its callers.
#[derive(Debug)]
pub(super) struct ClusterClient {
    pub(super) ca: CaId,
    pub(super) mandatory: bool,
}

impl ClientCertVerifier for ClusterClient {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        verify(end_entity, intermediates, Some(self.ca), now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}
