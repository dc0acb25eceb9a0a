//! Connects to a node wherever it is now.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use conclave_core::NodeId;
use conclave_net::Net;
use conclave_proto::fault::PeerFault;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

use crate::faults::network as network_faults;
use crate::topology::Topology;

/// Deadline of one attempt to connect to another node.
pub(super) const CONNECT_DEADLINE: Duration = Duration::from_millis(500);

/// Where a node is reached: one of its addresses ([`Topology::peer_addresses`]), until that one fails.
#[derive(Debug)]
pub(super) struct Dial {
    pub(super) id: NodeId,
    pub(super) topology: Arc<Topology>,
    pub(super) net: Net,
    /// The injected faults on the connections to this node.
    pub(super) rule: Option<watch::Receiver<PeerFault>>,
    /// Counts the addresses that failed, one after the other: it chooses among the node's addresses.
    turn: AtomicUsize,
    connected: Mutex<Connected>,
}

#[derive(Debug, Default)]
struct Connected {
    /// The address of the last connection.
    address: Option<String>,
    /// Cancelled to cut the connections of this turn.
    cut: CancellationToken,
}

impl Dial {
    pub(super) fn new(
        id: NodeId,
        topology: Arc<Topology>,
        net: Net,
        rule: Option<watch::Receiver<PeerFault>>,
    ) -> Self {
        Self { id, topology, net, rule, turn: AtomicUsize::new(0), connected: Mutex::default() }
    }

    /// The current turn, for [`Dial::give_up`].
    pub(super) fn turn(&self) -> usize {
        self.turn.load(Ordering::Relaxed)
    }

    /// The address of the last connection; before the first one, where it will go.
    pub(super) fn last_address(&self) -> String {
        let address = self.connected().address.clone();
        address.unwrap_or_else(|| self.address_at(self.turn()))
    }

    fn address_at(&self, turn: usize) -> String {
        let mut addresses = self.topology.peer_addresses(self.id, Instant::now());
        let turn = turn.checked_rem(addresses.len()).unwrap_or(0);
        if turn < addresses.len() { addresses.swap_remove(turn) } else { String::new() }
    }

    /// Moves on to the node's next address, and cuts the connections to the current one: nobody answers there, or
    /// somebody else. Once for each turn, however many connections fail at the same address in the same moment.
    pub(super) fn give_up(&self, turn: usize) {
        let next = turn.wrapping_add(1);
        if self.turn.compare_exchange(turn, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let mut connected = self.connected();
            std::mem::take(&mut connected.cut).cancel();
        }
    }

    async fn attempt<T>(
        &self,
        connect: impl AsyncFnOnce(String) -> io::Result<T>,
    ) -> io::Result<TokioIo<Severable<T>>> {
        let turn = self.turn();
        let cut = self.connected().cut.clone();
        let address = self.address_at(turn);
        let result = tokio::time::timeout(CONNECT_DEADLINE, connect(address.clone())).await;
        match result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(io) => {
                self.connected().address = Some(address);
                Ok(TokioIo::new(Severable { io, cut: Box::pin(cut.cancelled_owned()) }))
            }
            Err(error) => {
                self.topology.forget_heard(self.id, &address);
                self.give_up(turn);
                Err(error)
            }
        }
    }

    fn connected(&self) -> MutexGuard<'_, Connected> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A channel that connects at first use and reconnects whenever the connection is lost, each time to where the node is
/// then. The endpoint's own address only names it.
pub(super) fn channel(endpoint: &Endpoint, dial: &Arc<Dial>) -> Channel {
    let dial = Arc::clone(dial);
    match dial.rule.clone() {
        None => endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let dial = Arc::clone(&dial);
            async move { dial.attempt(async |address| dial.net.connect(&address).await).await }
        })),
        Some(rule) => endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let (dial, rule) = (Arc::clone(&dial), rule.clone());
            async move {
                dial.attempt(async |address| network_faults::connect(&dial.net, &address, rule).await).await
            }
        })),
    }
}

/// A connection that can be cut from outside.
struct Severable<T> {
    io: T,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Severable<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Data first: the usual case costs no look at the token.
        match Pin::new(&mut self.io).poll_read(cx, buffer) {
            Poll::Pending => self.cut.as_mut().poll(cx).map(|()| Err(io::ErrorKind::ConnectionReset.into())),
            ready @ Poll::Ready(_) => ready,
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Severable<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use conclave_core::ring::Layout;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::Member;

    async fn dial() -> (TcpListener, Dial) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let member = Member { peer: listener.local_addr().unwrap().to_string(), ..Member::default() };
        let (sender, table) = watch::channel(Arc::default());
        drop(sender);
        let members = BTreeMap::from([(NodeId(2), member)]);
        let topology = Topology::new(NodeId(1), members, Layout::default(), table);
        (listener, Dial::new(NodeId(2), Arc::new(topology), Net::System, None))
    }

    #[tokio::test]
    async fn giving_an_address_up_cuts_its_connections_and_moves_on_once() {
        let (listener, dial) = dial().await;
        let connect = async |address: String| dial.net.connect(&address).await;
        let mut connection = dial.attempt(connect).await.unwrap().into_inner();
        let _accepted = listener.accept().await.unwrap();
        let turn = dial.turn();
        let mut byte = [0];
        let reading = tokio::join!(connection.read(&mut byte), async {
            dial.give_up(turn);
            dial.give_up(turn);
        });
        assert_eq!(reading.0.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(dial.turn(), turn + 1);
        // The next connection is not cut by what happened to the one before.
        let connect = async |address: String| dial.net.connect(&address).await;
        let mut next = dial.attempt(connect).await.unwrap().into_inner();
        let (mut accepted, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut accepted, b"x").await.unwrap();
        assert_eq!(next.read(&mut byte).await.unwrap(), 1);
    }
}
