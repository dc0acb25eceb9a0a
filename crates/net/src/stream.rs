//! Listeners and connections.

use std::fmt::{self, Debug};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::stream::StreamExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use crate::{Connection, Entrance, Gate, Incoming};

/// A listening socket.
pub enum Listener {
    /// A TCP listener of the system.
    Tcp(TcpListener),
    /// A listener of an injected network, and its address.
    Other(Incoming, SocketAddr),
}

impl Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => listener.fmt(f),
            Self::Other(_, address) => address.fmt(f),
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
        }
    }

    /// Puts a gate before the listener.
    #[must_use]
    pub fn gated(self, gate: Gate) -> Entrance {
        Entrance::new(self, gate)
    }

    /// Accepts the next connection, with the address of the peer; `None` when listening has ended. Cancelling this
    /// future loses no connection.
    pub(crate) async fn next(&mut self) -> Option<io::Result<(Wire, SocketAddr)>> {
        match self {
            Self::Tcp(listener) => Some(listener.accept().await.map(|(stream, from)| {
                // Without TCP_NODELAY small answers wait for each other's acknowledgement. If this fails, the
                // connection is broken, and the first read reports it.
                drop(stream.set_nodelay(true));
                (Wire::Tcp(stream), from)
            })),
            Self::Other(incoming, _) => {
                let made = incoming.next().await?;
                Some(made.map(|(stream, from)| (Wire::Other(stream, Some(from)), from)))
            }
        }
    }
}

/// A connection.
pub enum Wire {
    /// A TCP connection of the system.
    Tcp(TcpStream),
    /// A connection of an injected network, and the address of the peer if the peer connected.
    Other(Box<dyn Connection>, Option<SocketAddr>),
}

impl Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(stream) => stream.fmt(f),
            Self::Other(_, from) => f.debug_tuple("Other").field(from).finish(),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Other(stream, _) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Other(stream, _) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Other(stream, _) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Other(stream, _) => Pin::new(stream).poll_shutdown(cx),
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
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Other(stream, _) => stream.is_write_vectored(),
        }
    }
}
