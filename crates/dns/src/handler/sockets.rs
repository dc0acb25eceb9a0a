//! The loops over UDP datagrams and TCP connections.

use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use conclave_net::{DatagramSocket, Entrance, Gated, Listener, Net};
use futures::StreamExt as _;
use hickory_proto::op::SerialMessage;
use hickory_server::net::DnsStreamHandle as _;
use hickory_server::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_server::net::tcp;
use hickory_server::server::TimeoutStream;
use tokio::io::BufReader;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Handler, HandlerOutcome};
use crate::answer::Transport;
use crate::gates;
use crate::limits::{DNS_CONNECTION_IDLE, DNS_REPLIES_WAITING_MAX};

/// Receive buffer for a datagram, bytes. A question has about 300 at most; a longer datagram is cut, and then
/// malformed.
const DATAGRAM_BYTES_MAX: usize = 4 * 1024;
/// Read buffer of a connection, bytes.
const READ_BYTES: usize = 4 * 1024;
/// Tasks that receive from one UDP socket.
const READERS_MAX: usize = 4;
/// Attempts to find a port that is free for both TCP and UDP, if the configured port is 0.
const PORT_ATTEMPTS: usize = 32;
/// Pause after a failed receive.
const RETRY: Duration = Duration::from_millis(50);

/// The bound sockets of a name server.
#[derive(Debug)]
pub struct Sockets {
    net: Net,
    pairs: Vec<(Arc<DatagramSocket>, Listener)>,
    readers: usize,
}

impl Sockets {
    /// Binds each address for UDP and TCP. Port 0 chooses a free port, the same one for both.
    ///
    /// # Errors
    /// The address that cannot be bound, and why.
    pub async fn bind(addresses: &[SocketAddr]) -> Result<Self, (SocketAddr, io::Error)> {
        Self::bind_on(&Net::System, addresses).await
    }

    /// As [`Sockets::bind`], on another network.
    ///
    /// # Errors
    /// As [`Sockets::bind`].
    pub async fn bind_on(net: &Net, addresses: &[SocketAddr]) -> Result<Self, (SocketAddr, io::Error)> {
        let mut pairs = Vec::with_capacity(addresses.len());
        for address in addresses {
            pairs.push(pair(net, *address).await.map_err(|error| (*address, error))?);
        }
        let readers = match net.plain() {
            Net::System | Net::Secured(_) => {
                std::thread::available_parallelism().map_or(1, NonZero::get).min(READERS_MAX)
            }
            // Datagrams of another network have a single reader.
            Net::Other(_) => 1,
        };
        Ok(Self { net: net.clone(), pairs, readers })
    }

    /// The bound addresses, with the chosen ports.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.pairs.iter().filter_map(|(_, listener)| listener.local_addr().ok()).collect()
    }

    /// Serves until `stop`. Returns when all tasks that it started have ended.
    pub async fn serve(self, handler: Arc<Handler>, stop: CancellationToken) {
        let gate = gates::dns(&self.net, &handler.metrics.connections);
        let forwards = TaskTracker::new();
        let mut tasks = JoinSet::new();
        for (socket, listener) in self.pairs {
            for _ in 0..self.readers {
                let datagrams = datagrams(socket.clone(), handler.clone(), forwards.clone(), stop.clone());
                tasks.spawn(stop.clone().run_until_cancelled_owned(datagrams));
            }
            let connections = connections(listener.gated(gate.clone()), handler.clone());
            tasks.spawn(stop.clone().run_until_cancelled_owned(connections));
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended
                && let Ok(panic) = error.try_into_panic()
            {
                std::panic::resume_unwind(panic);
            }
        }
        forwards.close();
        forwards.wait().await;
    }
}

async fn pair(net: &Net, address: SocketAddr) -> io::Result<(Arc<DatagramSocket>, Listener)> {
    let mut attempt = 1;
    loop {
        let listener = net.listen(address).await?;
        match net.datagrams(listener.local_addr()?).await {
            Ok(socket) => return Ok((Arc::new(socket), listener)),
            Err(_) if address.port() == 0 && attempt < PORT_ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Answers datagrams one after the other; forwarded questions run in tasks of their own.
async fn datagrams(
    socket: Arc<DatagramSocket>,
    handler: Arc<Handler>,
    forwards: TaskTracker,
    stop: CancellationToken,
) {
    let mut message = vec![0; DATAGRAM_BYTES_MAX];
    let mut out = Vec::with_capacity(DATAGRAM_BYTES_MAX);
    loop {
        let received = match socket.receive(&mut message).await {
            Ok(received) => received,
            Err(error) => {
                tracing::warn!(%error, "failed to receive a datagram, retrying");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let next = handler.answer(&message[..received.length], received.from.ip(), Transport::Udp, &mut out);
        handler.delay_answer().await;
        match next {
            HandlerOutcome::Nothing => {}
            // An answer that cannot be sent counts as lost. If the send buffer is full, the questions behind it wait:
            // that is the backpressure we want.
            HandlerOutcome::Send => drop(socket.answer(&received, &out).await),
            HandlerOutcome::SendAll(messages) => {
                for message in messages {
                    drop(socket.answer(&received, &message).await);
                }
            }
            // The forwarder bounds the questions in flight; more fail at once.
            HandlerOutcome::Forward(forwarded) => {
                let (socket, handler) = (socket.clone(), handler.clone());
                let ask = async move { socket.answer(&received, &handler.forward(forwarded).await).await };
                forwards.spawn(stop.clone().run_until_cancelled_owned(ask));
            }
        }
    }
}

/// Serves each connection that the gate lets in; the gate bounds their number.
async fn connections(mut entrance: Entrance, handler: Arc<Handler>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = entrance.accept() => match accepted {
                Some(gated) => {
                    open.spawn(connection(gated, handler.clone()));
                }
                None => return,
            },
            Some(_) = open.join_next() => {}
        }
    }
}

/// Answers the questions of one connection in order, until it ends or is idle for [`DNS_CONNECTION_IDLE`].
async fn connection(gated: Gated, handler: Arc<Handler>) {
    let peer = gated.peer();
    let client = peer.address;
    // Pipelined questions are read together.
    let stream = BufReader::with_capacity(READ_BYTES, gated);
    let (stream, mut replies) = tcp::TcpStream::from_stream_with_buffer_size(
        AsyncIoTokioAsStd(stream),
        client,
        DNS_REPLIES_WAITING_MAX,
    );
    let mut messages = TimeoutStream::new(stream, DNS_CONNECTION_IDLE);
    while let Some(Ok(message)) = messages.next().await {
        let _in_use = peer.usage.begin();
        let mut out = Vec::new();
        let next = handler.answer(message.bytes(), client.ip(), Transport::Tcp, &mut out);
        handler.delay_answer().await;
        let sent = match next {
            HandlerOutcome::Nothing => return,
            HandlerOutcome::Send => replies.send(SerialMessage::new(out, client)),
            HandlerOutcome::SendAll(all) => {
                all.into_iter().try_for_each(|out| replies.send(SerialMessage::new(out, client)))
            }
            HandlerOutcome::Forward(forwarded) => {
                replies.send(SerialMessage::new(handler.forward(forwarded).await, client))
            }
        };
        if sent.is_err() {
            return;
        }
    }
}
