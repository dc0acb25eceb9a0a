//! Connections that lose, delay and slow down bytes, as the network below TCP would.
//!
//! TCP hides loss: a lost segment is sent again later, and the segments behind it wait. So a partition holds bytes
//! back until it is healed (or until one end closes the connection), and a lost segment arrives a retransmission
//! timeout later.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use conclave_net::Net;
use conclave_proto::fault::PeerFault;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::limits::{FAULTY_CHUNK_BYTES, FAULTY_QUEUE_BYTES_MAX};

/// The delay of a lost segment: the least retransmission timeout of common systems (RFC 6298 asks for a second, Linux
/// uses 200 ms).
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// The faults between this node and its peers, by the peer's name.
#[derive(Debug, Default)]
pub(crate) struct NetworkFaults {
    rules: Mutex<BTreeMap<String, watch::Sender<PeerFault>>>,
    /// Number of repeated calls that were answered.
    repeated: Arc<AtomicU64>,
}

impl NetworkFaults {
    /// Replaces all rules; a peer that is not listed has no faults. Returns whether anything changed.
    pub(crate) fn set(&self, faults: &[PeerFault]) -> bool {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = false;
        for (peer, rule) in rules.iter_mut() {
            let fault = faults.iter().find(|fault| fault.peer == *peer).cloned().unwrap_or_default();
            changed |= rule.send_if_modified(|known| {
                let other = *known != fault;
                *known = fault;
                other
            });
        }
        changed
    }

    /// The counter of repeated calls that were answered.
    pub(crate) fn repeated(&self) -> &Arc<AtomicU64> {
        &self.repeated
    }

    /// The current rule of a peer, and its changes.
    pub(crate) fn rule(&self, peer: &str) -> watch::Receiver<PeerFault> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        rules.entry(peer.to_owned()).or_default().subscribe()
    }
}

/// Whether the peer is cut off: a connection needs both directions.
pub(crate) fn is_cut(rule: &PeerFault) -> bool {
    rule.lose_to || rule.lose_from
}

/// Connects as the rule allows. While the peer is cut off this waits, as a connection does whose first segment is
/// lost; the caller has a timeout.
pub(crate) async fn connect(
    net: &Net,
    address: &str,
    mut rule: watch::Receiver<PeerFault>,
) -> io::Result<Faulty> {
    // The sender lives as long as the node.
    let _ = rule.wait_for(|rule| !is_cut(rule)).await;
    let stream = net.connect(address).await?;
    let (near, far) = tokio::io::duplex(FAULTY_CHUNK_BYTES);
    let (from_us, to_us) = tokio::io::split(far);
    let (from_peer, to_peer) = tokio::io::split(stream);
    let mut pumps = JoinSet::new();
    pumps.spawn(send(from_us, to_peer, rule.clone()));
    pumps.spawn(receive(from_peer, to_us, rule));
    Ok(Faulty { near, _pumps: pumps })
}

/// Sends chunks in order, each when it is due.
async fn send(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut rule: watch::Receiver<PeerFault>,
) {
    let mut buffer = vec![0; FAULTY_CHUNK_BYTES];
    let mut queue: VecDeque<(Instant, Bytes)> = VecDeque::new();
    let mut queued = 0;
    let mut last = Instant::now();
    // When the simulated line is free again: the next chunk is carried after that.
    let (mut free, mut was_narrow) = (last, false);
    let mut open = true;
    while open || !queue.is_empty() {
        let (goes, narrow, late) = {
            let rule = rule.borrow_and_update();
            let late = u64::from(rule.delay_ms) + u64::from(rule.jitter_ms);
            (!rule.lose_to, rule.bytes_per_second > 0, Duration::from_millis(late))
        };
        if was_narrow && !narrow {
            // The bandwidth limit was lifted, also for chunks that wait already.
            let soon = Instant::now() + late;
            queue.iter_mut().for_each(|(at, _)| *at = soon.min(*at));
            (free, last) = (Instant::now(), soon.min(last));
        }
        was_narrow = narrow;
        let due = queue.front().map(|(at, _)| *at);
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(due.unwrap_or(last)), if due.is_some() && goes => {
                if let Some((_, bytes)) = queue.pop_front() {
                    queued -= bytes.len();
                    if to.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            }
            read = from.read(&mut buffer), if open && queued < FAULTY_QUEUE_BYTES_MAX => match read {
                Ok(read) if read > 0 => {
                    // Never before the chunk ahead, however short this delay is: TCP delivers in order.
                    let (carries, late) = takes(&rule.borrow(), read);
                    free = free.max(Instant::now()) + carries;
                    last = last.max(free + late);
                    queue.push_back((last, Bytes::copy_from_slice(&buffer[..read])));
                    queued += read;
                }
                Ok(_) | Err(_) => open = false,
            },
            changed = rule.changed() => if changed.is_err() {
                return;
            },
        }
    }
    // If this fails, the other end notices by itself.
    let _ = to.shutdown().await;
}

/// How long the line is busy with a chunk, and how much later the chunk arrives.
fn takes(rule: &PeerFault, bytes: usize) -> (Duration, Duration) {
    let jitter = if rule.jitter_ms == 0 { 0 } else { rand::random_range(0..=rule.jitter_ms) };
    let lost = rule.loss_percent > 0 && rand::random_range(0..100) < rule.loss_percent;
    let again = if lost { RETRANSMISSION } else { Duration::ZERO };
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    let narrow = bytes.saturating_mul(1_000_000).checked_div(rule.bytes_per_second).unwrap_or(0);
    let late = Duration::from_millis(u64::from(rule.delay_ms) + u64::from(jitter)) + again;
    (Duration::from_micros(narrow), late)
}

/// Receives bytes, unless they are lost on the way.
async fn receive(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut rule: watch::Receiver<PeerFault>,
) {
    let mut buffer = vec![0; FAULTY_CHUNK_BYTES];
    loop {
        let read = from.read(&mut buffer).await;
        // The end of the connection has to arrive as well.
        if rule.wait_for(|rule| !rule.lose_from).await.is_err() {
            return;
        }
        match read {
            Ok(read) if read > 0 => {
                if to.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
            }
            Ok(_) | Err(_) => break,
        }
    }
    let _ = to.shutdown().await;
}

/// One end of a connection with faults in between. The pumps end with it.
#[derive(Debug)]
pub(crate) struct Faulty {
    near: DuplexStream,
    _pumps: JoinSet<()>,
}

impl AsyncRead for Faulty {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_read(cx, buf)
    }
}

impl AsyncWrite for Faulty {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.near).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// A connection under the rules of one peer, and its other end.
    async fn pair(network: &NetworkFaults) -> (Faulty, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (near, far) = tokio::join!(connect(&Net::System, &address, network.rule("b")), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    fn fault(change: impl FnOnce(&mut PeerFault)) -> [PeerFault; 1] {
        let mut fault = PeerFault { peer: "b".to_owned(), ..PeerFault::default() };
        change(&mut fault);
        [fault]
    }

    async fn read(stream: &mut (impl AsyncRead + Unpin), count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        tokio::time::timeout(Duration::from_secs(60), stream.read_exact(&mut bytes)).await.unwrap().unwrap();
        bytes
    }

    #[tokio::test]
    async fn a_cut_holds_bytes_back_and_a_heal_releases_them_in_order() {
        let network = NetworkFaults::default();
        let (mut near, mut far) = pair(&network).await;
        near.write_all(b"one").await.unwrap();
        assert_eq!(read(&mut far, 3).await, b"one");
        assert!(network.set(&fault(|fault| fault.lose_to = true)));
        near.write_all(b"two").await.unwrap();
        near.write_all(b"three").await.unwrap();
        // The other direction is open: by the time this arrives, "two" would have arrived too.
        far.write_all(b"back").await.unwrap();
        assert_eq!(read(&mut near, 4).await, b"back");
        let mut byte = [0];
        let early = tokio::time::timeout(Duration::from_millis(50), far.peek(&mut byte)).await;
        assert!(early.is_err(), "nothing passes a cut");
        assert!(network.set(&[]));
        assert_eq!(read(&mut far, 8).await, b"twothree");
        assert!(!network.set(&[]), "nothing changes twice");
    }

    #[tokio::test]
    async fn bytes_from_a_cut_peer_wait_until_the_fault_is_healed_and_no_connection_opens() {
        let network = NetworkFaults::default();
        let (mut near, mut far) = pair(&network).await;
        network.set(&fault(|fault| fault.lose_from = true));
        far.write_all(b"x").await.unwrap();
        let mut byte = [0];
        assert!(tokio::time::timeout(Duration::from_millis(50), near.read(&mut byte)).await.is_err());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let connecting = connect(&Net::System, &address, network.rule("b"));
        assert!(tokio::time::timeout(Duration::from_millis(50), connecting).await.is_err());
        network.set(&[]);
        assert_eq!(read(&mut near, 1).await, b"x");
    }

    #[tokio::test]
    async fn the_end_of_a_connection_arrives_too() {
        let network = NetworkFaults::default();
        let (mut near, far) = pair(&network).await;
        drop(far);
        assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
        let (near, mut far) = pair(&network).await;
        drop(near);
        assert_eq!(far.read(&mut [0]).await.unwrap_or(0), 0);
    }

    #[tokio::test]
    async fn many_bytes_are_delayed_once() {
        let network = NetworkFaults::default();
        let (mut near, mut far) = pair(&network).await;
        network.set(&fault(|fault| fault.delay_ms = 60));
        let began = Instant::now();
        for _ in 0..10 {
            near.write_all(&[1; 1_000]).await.unwrap();
        }
        read(&mut far, 10_000).await;
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(60), "{took:?}");
    }

    #[tokio::test]
    async fn a_bandwidth_limit_holds_over_many_chunks_and_ends_when_healed() {
        let network = NetworkFaults::default();
        let (mut near, mut far) = pair(&network).await;
        network.set(&fault(|fault| fault.bytes_per_second = 100_000));
        let began = Instant::now();
        for _ in 0..10 {
            near.write_all(&[1; 2_000]).await.unwrap();
        }
        read(&mut far, 20_000).await;
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(150), "{took:?}");
        near.write_all(&vec![1; 1_000_000]).await.unwrap();
        network.set(&[]);
        // Ten seconds' worth at the limited bandwidth.
        read(&mut far, 1_000_000).await;
    }

    #[test]
    fn the_bandwidth_limits_how_long_bytes_take() {
        let narrow = PeerFault { bytes_per_second: 1_000, ..PeerFault::default() };
        assert_eq!(takes(&narrow, 500), (Duration::from_millis(500), Duration::ZERO));
        assert_eq!(takes(&PeerFault::default(), 500), (Duration::ZERO, Duration::ZERO));
        let lossy = PeerFault { loss_percent: 100, ..PeerFault::default() };
        assert_eq!(takes(&lossy, 1), (Duration::ZERO, RETRANSMISSION));
    }
}
