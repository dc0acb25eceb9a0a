//! Listeners and connections.

use std::fmt::{self, Debug};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::stream::Stream as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsStream;

use crate::tls::{Handshakes, ReadAhead, TlsServer};
use crate::{Connection, Entrance, Gate, Identity, Incoming, is_loopback};

/// The first byte of a TLS connection: a handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// A listening socket.
pub enum Listener {
    /// A TCP listener of the system.
    Tcp(TcpListener),
    /// A listener of an injected network, and its address.
    Other(Incoming, SocketAddr),
    /// A listener whose connections are encrypted.
    Tls(Box<Handshakes>),
}

impl Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => listener.fmt(f),
            Self::Other(_, address) => address.fmt(f),
            Self::Tls(handshakes) => handshakes.fmt(f),
        }
    }
}

impl Listener {
    /// The bound address, with the chosen port.
    ///
    /// # Errors
    /// If the system cannot tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Other(_, address) => Ok(*address),
            Self::Tls(handshakes) => Ok(handshakes.address()),
        }
    }

    /// Puts a gate before the listener.
    #[must_use]
    pub fn gated(self, gate: Gate) -> Entrance {
        Entrance::new(self, gate)
    }

    /// The same listener with TLS on each connection.
    ///
    /// # Errors
    /// If the system cannot tell the bound address.
    pub fn secured(self, tls: TlsServer) -> io::Result<Self> {
        let address = self.local_addr()?;
        Ok(Self::Tls(Box::new(Handshakes::new(self, address, tls))))
    }

    /// As [`Listener::secured`], unless the address is one of this machine alone: then the same listener.
    ///
    /// # Errors
    /// If the system cannot tell the bound address.
    pub fn secured_beyond_loopback(self, tls: TlsServer) -> io::Result<Self> {
        if is_loopback(self.local_addr()?.ip()) { Ok(self) } else { self.secured(tls) }
    }

    /// The listener without its TLS, whose connections have made no handshake.
    pub(crate) fn beneath(&mut self) -> &mut Self {
        match self {
            Self::Tcp(_) | Self::Other(..) => self,
            Self::Tls(handshakes) => handshakes.beneath(),
        }
    }

    /// Accepts the next connection, with the address of the peer; `None` when listening has ended. Cancelling this
    /// future loses no connection.
    pub(crate) async fn next(&mut self) -> Option<io::Result<(Wire, SocketAddr)>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Listener::next`]. Only the latest task that called this is woken.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<(Wire, SocketAddr)>>> {
        match self {
            Self::Tcp(listener) => listener
                .poll_accept(cx)
                .map_ok(|(stream, from)| {
                    // Without TCP_NODELAY small answers wait for each other's acknowledgement. If this fails, the
                    // connection is broken, and the first read reports it.
                    drop(stream.set_nodelay(true));
                    (Wire::Tcp(stream), from)
                })
                .map(Some),
            Self::Other(incoming, _) => Pin::new(incoming)
                .poll_next(cx)
                .map_ok(|(stream, from)| (Wire::Other(stream, Some(from)), from)),
            Self::Tls(handshakes) => handshakes.poll_next(cx),
        }
    }
}

/// A connection.
pub enum Wire {
    /// A TCP connection of the system.
    Tcp(TcpStream),
    /// A connection of an injected network, and the address of the peer if the peer connected.
    Other(Box<dyn Connection>, Option<SocketAddr>),
    /// An encrypted connection, and the verified owner of the peer's certificate.
    Tls(Box<TlsStream<ReadAhead>>, Identity),
}

impl Wire {
    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Self::Tls(..))
    }

    /// The verified owner of the peer's certificate.
    #[must_use]
    pub fn identity(&self) -> Identity {
        match self {
            Self::Tls(_, identity) => *identity,
            Self::Tcp(_) | Self::Other(..) => Identity::None,
        }
    }

    /// Whether the first byte that the peer sends begins a TLS handshake. The byte is not consumed. Only a connection of
    /// the system can tell; others do not encrypt.
    pub(crate) async fn begins_with_handshake(&self) -> io::Result<bool> {
        match self {
            Self::Tcp(stream) => {
                let mut first = [0];
                Ok(stream.peek(&mut first).await? == 1 && first == [TLS_HANDSHAKE])
            }
            Self::Other(..) | Self::Tls(..) => Ok(false),
        }
    }
}

impl Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(stream) => stream.fmt(f),
            Self::Other(_, from) => f.debug_tuple("Other").field(from).finish(),
            Self::Tls(stream, identity) => {
                f.debug_tuple("Tls").field(stream.get_ref().0).field(identity).finish()
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Other(stream, _) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream, _) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Other(stream, _) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream, _) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Other(stream, _) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream, _) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Other(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream, _) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Other(stream, _) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream, _) => Pin::new(stream.as_mut()).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Other(stream, _) => stream.is_write_vectored(),
            Self::Tls(stream, _) => stream.is_write_vectored(),
        }
    }
}
