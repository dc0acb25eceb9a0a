//! The server's end: handshakes of accepted connections.

use std::collections::VecDeque;
use std::fmt::{self, Debug};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::version::{TLS12, TLS13};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::ahead::ReadAhead;
use super::public::{ByName, PublicCertificate};
use super::verify::{ClusterClient, identity_of_chain, of_handshake};
use super::{Credentials, PROTOCOLS, TlsError, provider};
use crate::limits::{FAILURES_LOGGED_EVERY, HANDSHAKE_DEADLINE, HANDSHAKES_MAX};
use crate::{CaId, Identity, Listener, Wire};

/// Whom a server lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callers {
    /// Only holders of a certificate of the cluster, with TLS 1.3.
    Members,
    /// Everybody, with TLS 1.2 or later. A caller's certificate of the cluster is verified if there is one.
    Anybody,
    /// Browsers, probes and scrapers, which speak HTTP/1.1 and are asked for no certificate.
    Readers,
    /// People's browsers: as [`Callers::Readers`], but shown the certificate for a public name if they ask for this name.
    Browsers,
}

/// What a server does with a caller that does not begin a TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Plain {
    /// The connection is closed.
    #[default]
    Refuse,
    /// The connection is served without TLS: for the time in which a cluster is changed over to TLS. Then a caller's
    /// identity is [`Identity::None`].
    Accept,
}

/// The configuration of a server's TLS. Clones share it; [`TlsServer::reload`] replaces it for all of them.
#[derive(Clone)]
pub struct TlsServer {
    current: Arc<ArcSwap<Current>>,
    callers: Callers,
    plain: Plain,
}

struct Current {
    config: Arc<ServerConfig>,
    ca: CaId,
}

impl Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServer").field("callers", &self.callers).field("plain", &self.plain).finish()
    }
}

impl TlsServer {
    /// A server that proves itself with these credentials.
    ///
    /// # Errors
    /// If the key does not belong to the certificate.
    pub fn new(credentials: &Credentials, callers: Callers, plain: Plain) -> Result<Self, TlsError> {
        Self::with_public(credentials, None, callers, plain)
    }

    /// As [`TlsServer::new`], with a certificate for a public name, which [`Callers::Anybody`] who asks for this name is shown.
    pub(super) fn with_public(
        credentials: &Credentials,
        public: Option<&PublicCertificate>,
        callers: Callers,
        plain: Plain,
    ) -> Result<Self, TlsError> {
        let current = Arc::new(ArcSwap::from_pointee(configure(credentials, public, callers)?));
        Ok(Self { current, callers, plain })
    }

    /// Whether a clone of this configuration exists.
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.current) > 1
    }

    /// Serves connections from now on with other credentials. Existing connections stay as they are.
    ///
    /// # Errors
    /// If the key does not belong to the certificate; then nothing changes.
    pub fn reload(&self, credentials: &Credentials) -> Result<(), TlsError> {
        self.reload_with_public(credentials, None)
    }

    pub(super) fn reload_with_public(
        &self,
        credentials: &Credentials,
        public: Option<&PublicCertificate>,
    ) -> Result<(), TlsError> {
        self.current.store(Arc::new(configure(credentials, public, self.callers)?));
        Ok(())
    }

    /// The handshake on an accepted connection.
    async fn accept(self, wire: Wire) -> io::Result<Wire> {
        match timeout(HANDSHAKE_DEADLINE, self.shake(wire)).await {
            Ok(done) => done,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long")),
        }
    }

    async fn shake(self, wire: Wire) -> io::Result<Wire> {
        if self.plain == Plain::Accept && !wire.begins_with_handshake().await? {
            return Ok(wire);
        }
        let current = self.current.load_full();
        let stream = TlsAcceptor::from(Arc::clone(&current.config))
            .accept(ReadAhead::new(wire))
            .await
            .map_err(of_handshake)?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let identity = identity_of_chain(chain, Some(current.ca)).map_or(Identity::None, |(found, _)| found);
        Ok(Wire::Tls(Box::new(TlsStream::Server(stream)), identity))
    }
}

fn configure(
    credentials: &Credentials,
    public: Option<&PublicCertificate>,
    callers: Callers,
) -> Result<Current, TlsError> {
    let (versions, mandatory) = match callers {
        Callers::Members => (&[&TLS13][..], true),
        Callers::Anybody | Callers::Readers | Callers::Browsers => (&[&TLS13, &TLS12][..], false),
    };
    let verifier = ClusterClient { ca: credentials.ca, mandatory };
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
    let (builder, protocols) = match callers {
        Callers::Members | Callers::Anybody => {
            (builder.with_client_cert_verifier(Arc::new(verifier)), &PROTOCOLS[..])
        }
        // Without a protocol of the server's, readers speak HTTP/1.1, whatever they offer.
        Callers::Readers | Callers::Browsers => (builder.with_no_client_auth(), &[][..]),
    };
    let mut config = match public {
        Some(public) if matches!(callers, Callers::Anybody | Callers::Browsers) => {
            builder.with_cert_resolver(Arc::new(ByName::new(credentials, public)?))
        }
        _ => builder.with_single_cert(credentials.chain.clone(), credentials.key.clone_key())?,
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config.ticketer = ring::Ticketer::new()?;
    // One ticket is enough: a client reconnects once at a time.
    config.send_tls13_tickets = 1;
    Ok(Current { config: Arc::new(config), ca: credentials.ca })
}

/// The accepted connections of a listener whose handshakes are done.
///
/// Handshakes run side by side, at most [`HANDSHAKES_MAX`] of them. A handshake that fails is only counted, and never
/// delays the next connection.
pub struct Handshakes {
    beneath: Listener,
    address: SocketAddr,
    tls: TlsServer,
    running: JoinSet<io::Result<(Wire, SocketAddr)>>,
    /// The running handshakes, the oldest first; some of them may be done.
    oldest: VecDeque<AbortHandle>,
    failures: Failures,
    ended: bool,
}

impl Debug for Handshakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshakes")
            .field("address", &self.address)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

impl Handshakes {
    pub(crate) fn new(beneath: Listener, address: SocketAddr, tls: TlsServer) -> Self {
        let failures = Failures { address, count: 0, quiet_until: None };
        Self {
            beneath,
            address,
            tls,
            running: JoinSet::new(),
            oldest: VecDeque::with_capacity(HANDSHAKES_MAX),
            failures,
            ended: false,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The listener whose connections have made no handshake.
    pub(crate) fn beneath(&mut self) -> &mut Listener {
        &mut self.beneath
    }

    fn begin(&mut self, wire: Wire, from: SocketAddr) {
        self.oldest.retain(|handle| !handle.is_finished());
        if self.oldest.len() >= HANDSHAKES_MAX
            && let Some(oldest) = self.oldest.pop_front()
        {
            oldest.abort();
        }
        let shaking = self.tls.clone().accept(wire);
        self.oldest.push_back(self.running.spawn(async move { Ok((shaking.await?, from)) }));
    }

    /// The next connection whose handshake is done, with the address of the peer. What is done is handed over before
    /// the next connection is accepted, so finished handshakes do not pile up here.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<(Wire, SocketAddr)>>> {
        loop {
            match self.running.poll_join_next(cx) {
                Poll::Ready(Some(Ok(Ok(done)))) => return Poll::Ready(Some(Ok(done))),
                Poll::Ready(Some(Ok(Err(error)))) => {
                    self.failures.note_failed(&error);
                    continue;
                }
                Poll::Ready(Some(Err(given_up))) => {
                    self.failures.note(&given_up);
                    continue;
                }
                Poll::Ready(None) if self.ended => return Poll::Ready(None),
                Poll::Ready(None) | Poll::Pending => {}
            }
            if self.ended {
                return Poll::Pending;
            }
            match ready!(self.beneath.poll_next(cx)) {
                Some(Ok((wire, from))) => self.begin(wire, from),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.ended = true,
            }
        }
    }
}

/// Counts failed handshakes, and logs them once in a while.
struct Failures {
    address: SocketAddr,
    count: u64,
    quiet_until: Option<Instant>,
}

impl Failures {
    fn note_failed(&mut self, error: &io::Error) {
        // A caller that went away meanwhile only asked whether somebody listens, or had its answer from another server. One
        // that refuses the certificate says so.
        let gone = matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        );
        if !gone {
            self.note(error);
        }
    }

    fn note(&mut self, error: &dyn std::error::Error) {
        self.count += 1;
        let now = Instant::now();
        if self.quiet_until.is_some_and(|until| now < until) {
            return;
        }
        tracing::warn!(
            address = %self.address,
            failures = self.count,
            last = %error,
            "TLS handshakes failed; a caller does not use TLS or belongs to another cluster"
        );
        self.count = 0;
        self.quiet_until = Some(now + FAILURES_LOGGED_EVERY);
    }
}
