//! The network of a process: the system's, or another one that is injected, such as a simulated one.
//!
//! Servers, name servers and clients listen and connect through [`Net`] only. [`Net`] is an enum, so that the system's
//! network costs one branch for each read of a socket, and no allocation. TLS lies on top of either, see [`tls`].
//!
//! Whoever listens does so behind a [`Gate`], which bounds connections, and closes those that say nothing.

mod everywhere;
mod gate;
mod identity;
mod limits;
mod loopback;
mod scope;
mod stream;
pub mod tls;

use std::fmt::{self, Debug, Display};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

pub use gate::{
    Closed, Entrance, Farewells, Full, Gate, GateLimits, GateObserver, Gated, InUse, Peer, Refused, Ticket,
    Usage,
};
pub use identity::{CaId, Identity, NoCaId};
pub use loopback::{beyond_loopback, is_loopback, refuse_without_tls};
pub use scope::socket_address;
pub use stream::{Listener, Wire};
pub use tls::{
    CA_FILE, CERTIFICATE_FILE, Callers, Credentials, Expect, Exposed, GivenSecret, KEY_FILE, Plain,
    PublicFiles, SecretError, TlsClient, TlsDir, TlsError, TlsServer, Trust, pem_problem, read_authority,
    read_given_secret, read_secret, speaks_no_tls,
};

/// A network that replaces the system's, such as a simulation or a tunnel. Methods that it does not implement fail with
/// [`io::ErrorKind::Unsupported`].
pub trait Network: Debug + Send + Sync + 'static {
    /// Connects to `host:port`. A channel calls this again whenever its connection is lost.
    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Connection>>>;

    /// Listens on an address. When the stream ends, so does listening.
    fn listen(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Incoming>> {
        Box::pin(std::future::ready(Err(missing("listening", address))))
    }

    /// Binds an address for datagrams. Port 0 chooses a free port.
    fn datagrams(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Datagrams>>> {
        Box::pin(std::future::ready(Err(missing("datagrams", address))))
    }
}

fn missing(what: &str, address: SocketAddr) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("this network does not support {what} (at {address})"))
}

/// The accepted connections of a [`Network`]'s listener, each with the address of the peer.
pub type Incoming = BoxStream<'static, io::Result<(Box<dyn Connection>, SocketAddr)>>;

/// A connection of a [`Network`].
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static> Connection for T {}

/// A datagram socket of a [`Network`]. Only one task may read from it.
pub trait Datagrams: Send + Sync + 'static {
    /// Receives the next datagram: its length, and the address of the sender.
    fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>>;

    /// Sends a datagram, which may get lost.
    ///
    /// # Errors
    /// If the datagram cannot be sent at all.
    fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<usize>;
}

/// The network of a process.
#[derive(Clone, Debug, Default)]
pub enum Net {
    /// The system's: TCP and UDP.
    #[default]
    System,
    /// An injected network.
    Other(Arc<dyn Network>),
    /// One of the two, with TLS on outgoing connections. Listeners and datagrams are those of the network below.
    Secured(Arc<Secured>),
}

/// A network with TLS on outgoing connections.
#[derive(Debug)]
pub struct Secured {
    /// Never another secured one.
    below: Net,
    tls: TlsClient,
    plain: Plain,
}

impl Net {
    /// The same network with this TLS on outgoing connections, in place of other TLS.
    #[must_use]
    pub fn secured(&self, tls: TlsClient) -> Self {
        self.secured_with(tls, Plain::Refuse)
    }

    /// As [`Net::secured`]. With [`Plain::Accept`] a server that fails the handshake gets a connection without TLS: for
    /// the time in which a cluster is changed over to TLS.
    #[must_use]
    pub fn secured_with(&self, tls: TlsClient, plain: Plain) -> Self {
        Self::Secured(Arc::new(Secured { below: self.plain().clone(), tls, plain }))
    }

    /// The same network with TLS on outgoing connections to nodes of this cluster, for those who have no certificate of it.
    ///
    /// # Errors
    /// If the cryptography cannot be used.
    pub fn to_cluster(&self, ca: CaId) -> Result<Self, TlsError> {
        Ok(self.secured(TlsClient::new(Trust::Cluster(ca, Expect::AnyNode), None)?))
    }

    /// As [`Net::to_cluster`], to name servers of the cluster.
    ///
    /// # Errors
    /// If the cryptography cannot be used.
    pub fn to_name_servers(&self, ca: CaId) -> Result<Self, TlsError> {
        Ok(self.secured(TlsClient::new(Trust::Cluster(ca, Expect::NameServer), None)?))
    }

    /// The same network without TLS.
    #[must_use]
    pub fn plain(&self) -> &Self {
        match self {
            Self::System | Self::Other(_) => self,
            Self::Secured(secured) => &secured.below,
        }
    }

    /// Listens on an address. Port 0 chooses a free port; `[::]` is 0.0.0.0 on a system without IPv6.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        Ok(match self.plain() {
            Self::Other(network) => Listener::Other(network.listen(address).await?, address),
            Self::System | Self::Secured(_) => {
                Listener::Tcp(everywhere::bind(address, TcpListener::bind::<SocketAddr>).await?)
            }
        })
    }

    /// Connects to `host:port`, with TCP_NODELAY.
    ///
    /// # Errors
    /// If the address cannot be resolved or reached, refuses the connection, or its TLS handshake fails.
    pub async fn connect(&self, address: &str) -> io::Result<Wire> {
        let wire = self.connect_plain(address).await?;
        let Self::Secured(secured) = self else { return Ok(wire) };
        match secured.tls.connect(wire, address).await {
            Err(_) if secured.plain == Plain::Accept => self.connect_plain(address).await,
            connected => connected,
        }
    }

    async fn connect_plain(&self, address: &str) -> io::Result<Wire> {
        Ok(match self.plain() {
            // The network resolves the name, so the address of the peer is not known here.
            Self::Other(network) => Wire::Other(network.connect(address.to_owned()).await?, None),
            Self::System | Self::Secured(_) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Wire::Tcp(stream)
            }
        })
    }

    /// Binds an address for datagrams. A socket at all addresses of the host, 0.0.0.0 or `[::]`, answers each datagram from
    /// the address to which it came; `[::]` is 0.0.0.0 on a system without IPv6.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn datagrams(&self, address: SocketAddr) -> io::Result<DatagramSocket> {
        Ok(match self.plain() {
            Self::Other(network) => DatagramSocket::Other(network.datagrams(address).await?),
            Self::System | Self::Secured(_) if address.ip().is_unspecified() => {
                let socket = everywhere::bind(address, UdpSocket::bind::<SocketAddr>).await?;
                everywhere::report_destinations(&socket)?;
                DatagramSocket::Everywhere(socket)
            }
            Self::System | Self::Secured(_) => DatagramSocket::Udp(UdpSocket::bind(address).await?),
        })
    }

    /// The gRPC endpoint at `host:port`, for [`Net::channel`] and [`Net::connected`]. Every endpoint of the cluster is
    /// made here, so the scheme is written once.
    ///
    /// # Errors
    /// If the address cannot be part of a URI.
    pub fn endpoint(&self, address: impl Display) -> Result<Endpoint, tonic::transport::Error> {
        let scheme = match self {
            Self::System | Self::Other(_) => "http",
            Self::Secured(_) => "https",
        };
        Endpoint::from_shared(format!("{scheme}://{address}"))
    }

    /// A channel that connects at first use, and reconnects whenever the connection is lost.
    #[must_use]
    pub fn channel(&self, endpoint: &Endpoint, address: &str) -> Channel {
        match self {
            Self::System => endpoint.connect_lazy(),
            Self::Other(_) | Self::Secured(_) => {
                endpoint.connect_with_connector_lazy(tower::service_fn(dial(self, address)))
            }
        }
    }

    /// A channel that is connected already, and reconnects whenever the connection is lost.
    ///
    /// # Errors
    /// If the address cannot be resolved or reached, or refuses the connection.
    pub async fn connected(
        &self,
        endpoint: &Endpoint,
        address: &str,
    ) -> Result<Channel, tonic::transport::Error> {
        match self {
            Self::System => endpoint.connect().await,
            Self::Other(_) | Self::Secured(_) => {
                endpoint.connect_with_connector(tower::service_fn(dial(self, address))).await
            }
        }
    }
}

/// The connector of a channel: connects to `address`, whatever the URI says.
fn dial(net: &Net, address: &str) -> impl Fn(Uri) -> BoxFuture<'static, io::Result<TokioIo<Wire>>> + use<> {
    let (net, address) = (net.clone(), address.to_owned());
    move |_| {
        let (net, address) = (net.clone(), address.clone());
        Box::pin(async move { net.connect(&address).await.map(TokioIo::new) })
    }
}

/// A received datagram.
#[derive(Clone, Copy, Debug)]
pub struct Datagram {
    /// The length in bytes.
    pub length: usize,
    /// The address of the sender.
    pub from: SocketAddr,
    /// The address to which the datagram came, where the socket has more than one.
    to: Option<IpAddr>,
}

/// A bound datagram socket.
pub enum DatagramSocket {
    /// A socket of the system.
    Udp(UdpSocket),
    /// A socket of the system at all addresses of the host.
    Everywhere(UdpSocket),
    /// A socket of an injected network.
    Other(Box<dyn Datagrams>),
}

impl Debug for DatagramSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(socket) | Self::Everywhere(socket) => socket.fmt(f),
            Self::Other(_) => f.write_str("Other"),
        }
    }
}

impl DatagramSocket {
    /// Receives the next datagram. Several tasks may wait at a system socket, but only one at a socket of an injected
    /// network.
    ///
    /// # Errors
    /// If receiving fails; a later call may succeed.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<Datagram> {
        let (length, from, to) = match self {
            Self::Udp(socket) => socket.recv_from(buffer).await.map(|(length, from)| (length, from, None))?,
            Self::Everywhere(socket) => everywhere::receive(socket, buffer).await?,
            Self::Other(socket) => {
                let received = std::future::poll_fn(|cx| socket.poll_recv_from(cx, buffer)).await;
                received.map(|(length, from)| (length, from, None))?
            }
        };
        Ok(Datagram { length, from, to })
    }

    /// Sends an answer to a datagram that this socket received, from the address to which the datagram came.
    ///
    /// # Errors
    /// If the answer cannot be sent.
    pub async fn answer(&self, datagram: &Datagram, answer: &[u8]) -> io::Result<usize> {
        match (self, datagram.to) {
            (Self::Everywhere(socket), Some(asked)) => {
                everywhere::send_from(socket, answer, asked, datagram.from).await
            }
            _ => self.send_to(answer, datagram.from).await,
        }
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// If the datagram cannot be sent.
    pub async fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<usize> {
        match self {
            Self::Udp(socket) | Self::Everywhere(socket) => socket.send_to(datagram, to).await,
            Self::Other(socket) => socket.send_to(datagram, to),
        }
    }

    /// Receives the next datagram, for one task: its length, and the address of the sender.
    pub fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        match self {
            Self::Udp(socket) | Self::Everywhere(socket) => {
                let mut buffer = ReadBuf::new(buffer);
                let from = ready!(socket.poll_recv_from(cx, &mut buffer))?;
                Poll::Ready(Ok((buffer.filled().len(), from)))
            }
            Self::Other(socket) => socket.poll_recv_from(cx, buffer),
        }
    }

    /// As [`DatagramSocket::send_to`], for one task.
    pub fn poll_send_to(
        &self,
        cx: &mut Context<'_>,
        datagram: &[u8],
        to: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Udp(socket) | Self::Everywhere(socket) => socket.poll_send_to(cx, datagram, to),
            Self::Other(socket) => Poll::Ready(socket.send_to(datagram, to)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[derive(Debug)]
    struct Tunnel;

    impl Network for Tunnel {
        fn connect(&self, _: String) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
            Box::pin(async {
                let (near, mut far) = tokio::io::duplex(8);
                far.write_all(b"hello").await?;
                Ok(Box::new(near) as Box<dyn Connection>)
            })
        }
    }

    #[tokio::test]
    async fn an_injected_network_connects_and_unimplemented_methods_are_unsupported() {
        let net = Net::Other(Arc::new(Tunnel));
        let mut said = String::new();
        net.connect("anybody:1").await.unwrap().read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "hello");
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        assert_eq!(net.listen(address).await.unwrap_err().kind(), io::ErrorKind::Unsupported);
        assert_eq!(net.datagrams(address).await.unwrap_err().kind(), io::ErrorKind::Unsupported);
    }

    #[test]
    fn an_endpoint_is_made_from_host_and_port_only() {
        for net in [Net::System, Net::Other(Arc::new(Tunnel))] {
            assert_eq!(net.endpoint("n1.example.org:7400").unwrap().uri(), "http://n1.example.org:7400/");
            let address: SocketAddr = "[::1]:7400".parse().unwrap();
            assert_eq!(net.endpoint(address).unwrap().uri(), "http://[::1]:7400/");
            assert!(net.endpoint("two words:7400").is_err());
        }
    }

    #[tokio::test]
    async fn accepted_connections_and_datagrams_carry_the_address_of_the_peer() {
        let (net, any) = (Net::System, "127.0.0.1:0".parse().unwrap());
        let mut socket = net.listen(any).await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let (near, accepted) = tokio::join!(net.connect(&address), socket.next());
        let Wire::Tcp(near) = near.unwrap() else { panic!("not the system's") };
        assert_eq!(near.local_addr().unwrap(), accepted.unwrap().unwrap().1);

        let (here, there) = (net.datagrams(any).await.unwrap(), net.datagrams(any).await.unwrap());
        let DatagramSocket::Udp(udp) = &there else { panic!("not the system's") };
        let mut buffer = [0; 16];
        here.send_to(b"hello", udp.local_addr().unwrap()).await.unwrap();
        let received = there.receive(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..received.length], b"hello");
        there.answer(&received, b"and back").await.unwrap();
        assert_eq!(here.receive(&mut buffer).await.unwrap().length, 8);
    }

    /// A connected socket gets nothing from other addresses than the one that it is connected to.
    #[tokio::test]
    async fn a_socket_at_all_addresses_answers_from_the_address_that_was_asked() {
        for all in ["0.0.0.0:0", "[::]:0"] {
            let server = Net::System.datagrams(all.parse().unwrap()).await.unwrap();
            let DatagramSocket::Everywhere(socket) = &server else { panic!("not at all addresses") };
            let port = socket.local_addr().unwrap().port();
            let has_ipv6 = socket.local_addr().unwrap().is_ipv6() && UdpSocket::bind("[::1]:0").await.is_ok();
            let asked =
                ["127.0.0.1", "127.0.0.2", "127.9.8.7", "::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
            for asked in asked.into_iter().filter(|ip| ip.is_ipv4() || has_ipv6) {
                let any = if asked.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let client = UdpSocket::bind(any).await.unwrap();
                client.connect((asked, port)).await.unwrap();
                client.send(b"question").await.unwrap();
                let mut buffer = [0; 16];
                let received = server.receive(&mut buffer).await.unwrap();
                assert_eq!(&buffer[..received.length], b"question");
                assert_eq!(received.from.port(), client.local_addr().unwrap().port());
                server.answer(&received, b"answer").await.unwrap();
                let answered = tokio::time::timeout(Duration::from_secs(10), client.recv(&mut buffer)).await;
                let length = answered.unwrap_or_else(|_| panic!("no answer from {asked} at {all}")).unwrap();
                assert_eq!(&buffer[..length], b"answer");
            }
        }
    }
}
