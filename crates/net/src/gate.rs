//! A gate: how many connections a port takes, from whom, and how long a connection may do nothing.
//!
//! A connection is *silent* until it has made its first request. When all places are taken, a new connection takes the
//! place of the longest silent one, so that connections which say nothing cannot shut out those that do. A connection
//! that stays silent for [`GateLimits::first_request`], or has no open call for [`GateLimits::idle`], is closed. A call
//! is open until its answer has ended, so a connection with a subscription is never idle.
//!
//! * [`table`]: who is let in, as a function of counts.
//! * [`entrance`]: the accept loop, also when no file descriptor is left.
//! * [`connection`]: a connection that was let in.
//! * [`farewell`]: what is said to one that was not.

mod connection;
mod entrance;
mod farewell;
mod table;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::time::Instant;

use crate::Identity;
use table::{Bounds, Table};

pub use connection::Gated;
pub use entrance::Entrance;
pub use farewell::Farewells;
pub use table::Full;

/// What a gate lets in, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateLimits {
    /// Connections in all.
    pub connections: usize,
    /// Connections of one address; of one /64 for IPv6.
    pub per_address: usize,
    /// Connections from this machine.
    pub loopback: usize,
    /// How long a connection may take to make its first request.
    pub first_request: Duration,
    /// How long a connection may have no open call.
    pub idle: Duration,
}

/// Why a connection was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The port holds as many connections as it takes.
    Full,
    /// The address has as many connections as one address may have.
    Address,
    /// The process has no file descriptor left.
    Descriptors,
}

/// Why a connection was closed that had been let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Another connection took its place, because it had made no request yet.
    Displaced,
    /// It made no request in time.
    Silent,
    /// It had no open call for too long.
    Idle,
}

/// Is told what a gate does, to count it.
pub trait GateObserver: Debug + Send + Sync + 'static {
    /// The number of connections has changed.
    fn open(&self, connections: usize);

    /// A connection was not let in.
    fn refused(&self, why: Refused);

    /// A connection was closed.
    fn closed(&self, why: Closed);

    /// A peer sent this many bytes, without those of TLS itself.
    fn received(&self, bytes: usize);

    /// This many bytes went to a peer, without those of TLS itself.
    fn sent(&self, bytes: usize);
}

/// An observer for those who need none.
impl GateObserver for () {
    fn open(&self, _connections: usize) {}

    fn refused(&self, _why: Refused) {}

    fn closed(&self, _why: Closed) {}

    fn received(&self, _bytes: usize) {}

    fn sent(&self, _bytes: usize) {}
}

/// The gate of a port, or of several ports that share one bound.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: GateLimits,
    observer: Arc<dyn GateObserver>,
    inside: Mutex<Inside>,
}

#[derive(Debug)]
struct Inside {
    table: Table,
    /// The silent connections, which may be displaced.
    silent: BTreeMap<u64, Arc<State>>,
}

impl Gate {
    /// A gate without connections.
    #[must_use]
    pub fn new(limits: GateLimits, observer: Arc<dyn GateObserver>) -> Self {
        let GateLimits { connections, per_address, loopback, .. } = limits;
        let table = Table::new(Bounds { connections, per_address, loopback });
        Self(Arc::new(Inner {
            limits,
            observer,
            inside: Mutex::new(Inside { table, silent: BTreeMap::new() }),
        }))
    }

    /// Lets a connection in, or says why not. The longest silent one may lose its place for it.
    ///
    /// # Errors
    /// If no place is free, and no silent connection has one.
    pub fn admit(&self, from: IpAddr) -> Result<Ticket, Full> {
        let state = Arc::new(State::new());
        let mut inside = self.0.lock();
        let admitted = inside.table.admit(from);
        let (id, displaced) = match admitted {
            Ok(admitted) => {
                inside.silent.insert(admitted.id, Arc::clone(&state));
                (admitted.id, admitted.displaced.and_then(|displaced| inside.silent.remove(&displaced)))
            }
            Err(why) => {
                drop(inside);
                self.0.observer.refused(match why {
                    Full::Full => Refused::Full,
                    Full::Address => Refused::Address,
                });
                return Err(why);
            }
        };
        self.0.observer.open(inside.table.len());
        drop(inside);
        if let Some(displaced) = displaced {
            displaced.displaced.store(true, Ordering::Release);
            displaced.waker.wake();
            self.0.observer.closed(Closed::Displaced);
        }
        Ok(Ticket(Usage { gate: Arc::clone(&self.0), id, state }))
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the gate knows of one connection.
#[derive(Debug)]
struct State {
    since: Instant,
    displaced: AtomicBool,
    /// Woken when the connection is displaced.
    waker: AtomicWaker,
    spoke: AtomicBool,
    calls: AtomicUsize,
    /// When the last call ended, in milliseconds from `since`.
    free_since_ms: AtomicU64,
}

impl State {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            displaced: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            spoke: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            free_since_ms: AtomicU64::new(0),
        }
    }

    fn free_since(&self) -> Instant {
        self.since + Duration::from_millis(self.free_since_ms.load(Ordering::Acquire))
    }
}

/// The place of one connection, given back when it is dropped.
#[derive(Debug)]
pub struct Ticket(Usage);

impl Ticket {
    /// Waits until another connection takes the place, which may happen until the first call of [`Usage::begin`].
    pub async fn displaced(&self) {
        std::future::poll_fn(|cx| if self.0.is_displaced(cx) { Poll::Ready(()) } else { Poll::Pending })
            .await;
    }

    /// Says when the connection is in use.
    #[must_use]
    pub fn usage(&self) -> &Usage {
        &self.0
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inside = self.0.gate.lock();
        inside.silent.remove(&self.0.id);
        inside.table.release(self.0.id);
        self.0.gate.observer.open(inside.table.len());
    }
}

/// Says when a connection is in use. The layers of a server get it with each request, in [`Peer`].
#[derive(Clone, Debug)]
pub struct Usage {
    gate: Arc<Inner>,
    id: u64,
    state: Arc<State>,
}

impl Usage {
    /// A call begins, and ends when the guard is dropped. The connection has made a request now, and keeps its place.
    #[must_use]
    pub fn begin(&self) -> InUse {
        self.state.calls.fetch_add(1, Ordering::AcqRel);
        if !self.state.spoke.load(Ordering::Relaxed) && !self.state.spoke.swap(true, Ordering::AcqRel) {
            let mut inside = self.gate.lock();
            inside.silent.remove(&self.id);
            inside.table.spoke(self.id);
        }
        InUse(Arc::clone(&self.state))
    }

    fn is_displaced(&self, cx: &Context<'_>) -> bool {
        if self.state.spoke.load(Ordering::Relaxed) && !self.state.displaced.load(Ordering::Acquire) {
            return false;
        }
        self.state.waker.register(cx.waker());
        self.state.displaced.load(Ordering::Acquire)
    }
}

/// An open call.
#[derive(Debug)]
pub struct InUse(Arc<State>);

impl Drop for InUse {
    fn drop(&mut self) {
        let now = u64::try_from(self.0.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.free_since_ms.store(now, Ordering::Release);
        self.0.calls.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Who is at the other end of a gated connection: in the extensions of each request.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address.
    pub address: SocketAddr,
    /// Whether the connection is encrypted.
    pub encrypted: bool,
    /// The verified owner of the peer's certificate.
    pub identity: Identity,
    /// Says when the connection is in use.
    pub usage: Usage,
}
