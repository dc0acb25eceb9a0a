//! Connects the DNS library to the client's network.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use conclave_net::{DatagramSocket, Net, Wire};
use hickory_resolver::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_resolver::net::runtime::{DnsUdpSocket, RuntimeProvider, TokioHandle, TokioTime};

use crate::limits::DNS_TIMEOUT;

type Opening<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

/// Opens sockets to one name server. The DNS library knows only the IP address and the port, and not the interface of a
/// link-local address.
#[derive(Clone)]
pub(crate) struct DnsNet {
    net: Net,
    server: SocketAddr,
    tasks: TokioHandle,
}

impl DnsNet {
    pub(crate) fn new(net: Net, server: SocketAddr) -> Self {
        Self { net, server, tasks: TokioHandle::default() }
    }
}

impl RuntimeProvider for DnsNet {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = DnsSocket;
    type Tcp = AsyncIoTokioAsStd<Wire>;

    fn create_handle(&self) -> Self::Handle {
        self.tasks.clone()
    }

    // The configuration sets no local address.
    fn connect_tcp(
        &self,
        _server: SocketAddr,
        _from: Option<SocketAddr>,
        within: Option<Duration>,
    ) -> Opening<Self::Tcp> {
        let (net, server) = (self.net.clone(), self.server.to_string());
        Box::pin(async move {
            let connecting = net.connect(&server);
            let connected = tokio::time::timeout(within.unwrap_or(DNS_TIMEOUT), connecting).await;
            connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map(AsyncIoTokioAsStd)
        })
    }

    fn bind_udp(&self, local: SocketAddr, _server: SocketAddr) -> Opening<Self::Udp> {
        let (net, server) = (self.net.clone(), self.server);
        Box::pin(async move { net.datagrams(local).await.map(|socket| DnsSocket { socket, server }) })
    }
}

/// A UDP socket for one query and its answer.
pub(crate) struct DnsSocket {
    socket: DatagramSocket,
    server: SocketAddr,
}

impl DnsUdpSocket for DnsSocket {
    type Time = TokioTime;

    fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        self.socket.poll_recv_from(cx, buffer)
    }

    fn poll_send_to(
        &self,
        cx: &mut Context<'_>,
        datagram: &[u8],
        _to: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_send_to(cx, datagram, self.server)
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    /// The DNS library knows the name server without its interface.
    #[tokio::test]
    async fn questions_go_to_the_name_server_with_its_interface() {
        let name_server = UdpSocket::bind("127.0.0.1:0").unwrap();
        name_server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let server = name_server.local_addr().unwrap();
        let net = DnsNet::new(Net::System, server);
        let as_the_library_says = "127.0.0.1:9".parse().unwrap();
        let socket = net.bind_udp("127.0.0.1:0".parse().unwrap(), as_the_library_says).await.unwrap();
        std::future::poll_fn(|cx| socket.poll_send_to(cx, b"question", as_the_library_says)).await.unwrap();
        assert_eq!(name_server.recv(&mut [0; 16]).unwrap(), 8);
        let listener = std::net::TcpListener::bind(server).unwrap();
        net.connect_tcp(as_the_library_says, None, None).await.unwrap();
        listener.accept().unwrap();
    }
}
