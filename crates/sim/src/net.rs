//! The simulated network, as nodes and clients see it.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use conclave_net::{Connection, Datagrams, Incoming, Network};
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt as _};
use turmoil::net::{TcpListener, TcpStream, UdpSocket};

/// The directed pairs of hosts that are cut, from the first to the second. Shared by all hosts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cuts(Arc<Mutex<BTreeSet<(IpAddr, IpAddr)>>>);

impl Cuts {
    pub(crate) fn set(&self, cuts: BTreeSet<(IpAddr, IpAddr)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = cuts;
    }

    /// Whether exactly these pairs are cut.
    pub(crate) fn are(&self, cuts: &BTreeSet<(IpAddr, IpAddr)>) -> bool {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) == *cuts
    }

    fn between(&self, a: IpAddr, b: IpAddr) -> bool {
        let cuts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cuts.contains(&(a, b)) || cuts.contains(&(b, a))
    }
}

/// The network of one host.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) me: IpAddr,
    pub(crate) cuts: Cuts,
}

impl Host {
    async fn dial(self, address: String) -> io::Result<Box<dyn Connection>> {
        let address: SocketAddr = address.parse().map_err(io::Error::other)?;
        match TcpStream::connect(address).await {
            Ok(stream) => Ok(Box::new(stream)),
            // turmoil refuses connections over a cut link. On a real network they time out.
            Err(_) if self.cuts.between(self.me, address.ip()) => std::future::pending().await,
            Err(error) => Err(error),
        }
    }
}

impl Network for Host {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Incoming>> {
        Box::pin(async move {
            let listener = TcpListener::bind(address).await?;
            let accepted = stream::unfold(listener, |listener| async move {
                let made = listener.accept().await;
                let made = made.map(|(stream, from)| (Box::new(stream) as Box<dyn Connection>, from));
                Some((made, listener))
            });
            Ok(accepted.boxed())
        })
    }

    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        Box::pin(self.clone().dial(address))
    }

    fn datagrams(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Datagrams>>> {
        Box::pin(async move {
            let socket = UdpSocket::bind(address).await?;
            Ok(Box::new(Udp(socket)) as Box<dyn Datagrams>)
        })
    }
}

/// A socket for datagrams.
struct Udp(UdpSocket);

impl Datagrams for Udp {
    fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        loop {
            match self.0.try_recv_from(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return Poll::Ready(received),
            }
            // A new future for each poll: the socket keeps its reader's waker, even after this future is dropped.
            ready!(pin!(self.0.readable()).poll(cx))?;
        }
    }

    fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<usize> {
        self.0.try_send_to(datagram, to)
    }
}
