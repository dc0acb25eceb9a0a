//! The client's end.

use std::fmt::{self, Debug};
use std::io;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore};
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, TlsStream};

use super::ahead::ReadAhead;
use super::verify::{ClusterServer, Expect, identity_of_chain, of_handshake};
use super::{CLUSTER_PROOF, Credentials, PROTOCOLS, TlsError, provider};
use crate::limits::{HANDSHAKE_DEADLINE, SESSIONS_KEPT};
use crate::{CaId, Identity, Wire};

/// Whom a client believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Servers of the cluster whose authority has this id.
    Cluster(CaId, Expect),
    /// The servers of the first cluster that answers. [`TlsClient::ca`] tells which that is; from then on only servers of
    /// this cluster are believed.
    FirstUse(Expect),
    /// Servers that show a certificate for the host name they are connected by, issued by one of the system's
    /// authorities. [`TlsClient::ca`] tells the cluster for which the first one vouches, if it does.
    System,
}

/// The configuration of a client's TLS. Clones share it; [`TlsClient::reload`] replaces it for all of them.
#[derive(Clone)]
pub struct TlsClient {
    config: Arc<ArcSwap<ClientConfig>>,
    verifier: Arc<dyn ServerCertVerifier>,
    trust: Trust,
    /// The cluster, as soon as it is known.
    pin: Arc<OnceLock<CaId>>,
}

impl Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient")
            .field("trust", &self.trust)
            .field("pin", &self.pin)
            .finish_non_exhaustive()
    }
}

impl TlsClient {
    /// A client with this trust. `own` is what it proves about itself, if it is a member of the cluster. [`Trust::System`]
    /// reads the system's authorities, which blocks.
    ///
    /// # Errors
    /// If the key does not belong to the certificate, or the system has no authorities.
    pub fn new(trust: Trust, own: Option<&Credentials>) -> Result<Self, TlsError> {
        let pin = Arc::new(match trust {
            Trust::Cluster(ca, _) => OnceLock::from(ca),
            Trust::FirstUse(_) | Trust::System => OnceLock::new(),
        });
        let verifier: Arc<dyn ServerCertVerifier> = match trust {
            Trust::Cluster(_, expect) | Trust::FirstUse(expect) => {
                Arc::new(ClusterServer { expect, pin: Arc::clone(&pin) })
            }
            Trust::System => system()?,
        };
        let config = configure(trust, &verifier, own)?;
        Ok(Self { config: Arc::new(ArcSwap::from_pointee(config)), verifier, trust, pin })
    }

    /// Whether a clone of this configuration exists.
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.config) > 1
    }

    /// Connects from now on with other credentials. Existing connections stay as they are.
    ///
    /// # Errors
    /// If the key does not belong to the certificate; then nothing changes.
    pub fn reload(&self, own: &Credentials) -> Result<(), TlsError> {
        self.config.store(Arc::new(configure(self.trust, &self.verifier, Some(own))?));
        Ok(())
    }

    /// The authority of the cluster: known from the start, or since the first handshake. With [`Trust::System`] it is the
    /// one that the owner of the public name names; whether the server belongs to its cluster is another question, for a
    /// client with [`Trust::Cluster`].
    #[must_use]
    pub fn ca(&self) -> Option<CaId> {
        self.pin.get().copied()
    }

    /// The handshake on a connection to `host:port`.
    pub(crate) async fn connect(&self, wire: Wire, address: &str) -> io::Result<Wire> {
        let connecting = TlsConnector::from(self.config.load_full())
            .connect(self.server_name(address)?, ReadAhead::new(wire));
        let Ok(stream) = timeout(HANDSHAKE_DEADLINE, connecting).await else {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long"));
        };
        let stream = stream.map_err(of_handshake)?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let found = match self.trust {
            Trust::System => {
                if let Some(ca) = vouched_for(chain, stream.get_ref().1.protocol_version()) {
                    self.pin.get_or_init(|| ca);
                }
                None
            }
            Trust::Cluster(..) | Trust::FirstUse(_) => identity_of_chain(chain, self.ca()),
        };
        if let Some((_, ca)) = found
            && *self.pin.get_or_init(|| ca) != ca
        {
            // Two first handshakes at the same time, with servers of two clusters.
            return Err(io::Error::other("two servers of different clusters answered"));
        }
        let identity = found.map_or(Identity::None, |(identity, _)| identity);
        Ok(Wire::Tls(Box::new(TlsStream::Client(stream)), identity))
    }

    /// The name in the client's hello. It is also the key of the sessions that are kept.
    fn server_name(&self, address: &str) -> io::Result<ServerName<'static>> {
        let node = match self.trust {
            Trust::Cluster(ca, Expect::Node(id)) => Identity::Node(id).name(ca),
            Trust::Cluster(..) | Trust::FirstUse(_) | Trust::System => None,
        };
        let host = node.as_deref().unwrap_or_else(|| host(address));
        ServerName::try_from(host.to_owned())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{host:?} is not a host name")))
    }
}

/// The authority of a cluster behind a public certificate: the last one of the chain, if it is one. The owner of the first
/// certificate has signed the whole chain in the handshake, which is so from TLS 1.3 on (RFC 8446, section 4.4.3).
fn vouched_for(chain: &[CertificateDer<'_>], version: Option<ProtocolVersion>) -> Option<CaId> {
    let [_, .., last] = chain else { return None };
    let ca = CaId::of_certificate(last).filter(|_| version == Some(ProtocolVersion::TLSv1_3))?;
    // The authorities behind usual certificates have other names.
    let name = ca.authority_name();
    last.windows(name.len()).any(|part| part == name.as_bytes()).then_some(ca)
}

/// The host of `host:port`.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn system() -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map_or_else(|| "none found".to_owned(), ToString::to_string);
        return Err(TlsError::NoRoots(why));
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| TlsError::NoRoots(error.to_string()))
}

fn configure(
    trust: Trust,
    verifier: &Arc<dyn ServerCertVerifier>,
    own: Option<&Credentials>,
) -> Result<ClientConfig, TlsError> {
    let versions = match trust {
        Trust::Cluster(..) | Trust::FirstUse(_) => &[&TLS13][..],
        // A proxy may stand before the cluster.
        Trust::System => &[&TLS13, &TLS12][..],
    };
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(verifier));
    let mut config = match own {
        Some(own) => config.with_client_auth_cert(own.chain.clone(), own.key.clone_key())?,
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = match trust {
        Trust::Cluster(..) | Trust::FirstUse(_) => vec![PROTOCOLS[0].to_vec(), CLUSTER_PROOF.to_vec()],
        Trust::System => vec![PROTOCOLS[0].to_vec()],
    };
    config.resumption = Resumption::in_memory_sessions(SESSIONS_KEPT);
    Ok(config)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn only_the_authority_of_a_cluster_is_vouched_for() {
        let key = KeyPair::generate().unwrap();
        let named = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.self_signed(&key).unwrap().der().clone()
        };
        let usual = named("An Intermediate Authority");
        let ca = CaId::of_certificate(&usual).unwrap();
        let chain = [usual.clone(), named(&ca.authority_name())];
        assert_eq!(vouched_for(&chain, Some(ProtocolVersion::TLSv1_3)), Some(ca));
        assert_eq!(vouched_for(&chain, Some(ProtocolVersion::TLSv1_2)), None, "the chain is not signed");
        assert_eq!(vouched_for(&chain[..1], Some(ProtocolVersion::TLSv1_3)), None);
        let other = CaId(ca.0 ^ 1).authority_name();
        for last in [usual.clone(), named(&other)] {
            assert_eq!(vouched_for(&[usual.clone(), last], Some(ProtocolVersion::TLSv1_3)), None);
        }
    }

    #[test]
    fn the_host_of_an_address_is_what_stands_before_the_port() {
        for (address, expected) in [
            ("n1.example.org:7400", "n1.example.org"),
            ("127.0.0.1:7400", "127.0.0.1"),
            ("[::1]:7400", "::1"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(host(address), expected);
        }
    }
}
