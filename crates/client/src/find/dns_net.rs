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

/// Opens sockets to name servers.
#[derive(Clone)]
pub(crate) struct DnsNet {
    net: Net,
    tasks: TokioHandle,
}

impl DnsNet {
    pub(crate) fn new(net: Net) -> Self {
        Self { net, tasks: TokioHandle::default() }
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
        server: SocketAddr,
        _from: Option<SocketAddr>,
        within: Option<Duration>,
    ) -> Opening<Self::Tcp> {
        let net = self.net.clone();
        Box::pin(async move {
            let server = server.to_string();
            let connecting = net.connect(&server);
            let connected = tokio::time::timeout(within.unwrap_or(DNS_TIMEOUT), connecting).await;
            connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map(AsyncIoTokioAsStd)
        })
    }

    fn bind_udp(&self, local: SocketAddr, _server: SocketAddr) -> Opening<Self::Udp> {
        let net = self.net.clone();
        Box::pin(async move { net.datagrams(local).await.map(DnsSocket) })
    }
}

/// A UDP socket for one query and its answer.
pub(crate) struct DnsSocket(DatagramSocket);

impl DnsUdpSocket for DnsSocket {
    type Time = TokioTime;

    fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        self.0.poll_recv_from(cx, buffer)
    }

    fn poll_send_to(&self, cx: &mut Context<'_>, datagram: &[u8], to: SocketAddr) -> Poll<io::Result<usize>> {
        self.0.poll_send_to(cx, datagram, to)
    }
}
