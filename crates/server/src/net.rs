//! Where connections come from: TCP, or in a simulation whatever it has instead.

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream::{BoxStream, Stream, StreamExt as _};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tonic::codegen::http::Uri;
use tonic::transport::server::{Connected, TcpIncoming};
use tonic::transport::{Channel, Endpoint};

/// A network that is not TCP, for simulations.
pub trait Network: Debug + Send + Sync + 'static {
    /// Listens there. What the stream ends with is an end of the listening.
    fn listen(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Incoming>>;

    /// Connects to `host:port`.
    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Connection>>>;
}

/// Connections that were made to a listener of a [`Network`].
pub type Incoming = BoxStream<'static, io::Result<Box<dyn Connection>>>;

/// A connection of a [`Network`].
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Connection for T {}

/// The network that a node is on.
#[derive(Clone, Debug, Default)]
pub(crate) enum Net {
    #[default]
    Tcp,
    Other(Arc<dyn Network>),
}

impl Net {
    pub(crate) async fn listen(&self, address: SocketAddr) -> io::Result<Socket> {
        Ok(match self {
            Self::Tcp => Socket::Tcp(TcpListener::bind(address).await?),
            Self::Other(network) => Socket::Other(network.listen(address).await?),
        })
    }

    /// Connects to `host:port`, without delays for small packets.
    pub(crate) async fn connect(&self, address: &str) -> io::Result<Wire> {
        Ok(match self {
            Self::Tcp => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Wire::Tcp(stream)
            }
            Self::Other(network) => Wire::Other(network.connect(address.to_owned()).await?),
        })
    }

    /// A channel that connects at first use, and then again whenever the connection is lost.
    pub(crate) fn channel(&self, endpoint: &Endpoint, address: &str) -> Channel {
        let Self::Other(network) = self else { return endpoint.connect_lazy() };
        let (network, address) = (Arc::clone(network), address.to_owned());
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let connecting = network.connect(address.clone());
            async move { connecting.await.map(TokioIo::new) }
        }))
    }
}

/// A socket that is listened on.
pub(crate) enum Socket {
    Tcp(TcpListener),
    Other(Incoming),
}

impl Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(listener) => listener.fmt(f),
            Self::Other(_) => f.write_str("Other"),
        }
    }
}

impl Socket {
    /// The connections that are made to it.
    pub(crate) fn incoming(self) -> impl Stream<Item = io::Result<Wire>> {
        match self {
            Self::Tcp(listener) => TcpIncoming::from(listener)
                .with_nodelay(Some(true))
                .map(|made| made.map(Wire::Tcp))
                .left_stream(),
            Self::Other(incoming) => incoming.map(|made| made.map(Wire::Other)).right_stream(),
        }
    }
}

/// A connection.
pub(crate) enum Wire {
    Tcp(TcpStream),
    Other(Box<dyn Connection>),
}

impl Connected for Wire {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Other(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Other(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Other(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Other(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Other(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Other(stream) => stream.is_write_vectored(),
        }
    }
}
