//! The accept loop of a gated port.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{self, FuturesUnordered, Stream, StreamExt as _};
use tokio::time::{Instant, sleep_until};

use super::farewell::{self, Farewells};
use super::{Full, Gate, Gated, Refused};
use crate::limits::{
    ACCEPT_CLOSED_AT_ONCE_MAX, ACCEPT_HEALTHY_AFTER, ACCEPT_PAUSE_MAX, ACCEPT_PAUSE_MIN, FAREWELL_DEADLINE,
    FAREWELLS_MAX,
};
use crate::{Listener, Wire};

/// A listener behind a gate.
#[derive(Debug)]
pub struct Entrance {
    socket: Listener,
    gate: Gate,
    /// Given up while no file descriptor is left, so that connections can be accepted and closed. Otherwise they would
    /// wait in the listener's queue, and the listener would wake the process again and again.
    spare: Option<File>,
    trouble: Option<Trouble>,
    /// The answers to refused connections, where there are any.
    farewells: Option<Farewells>,
    leaving: FuturesUnordered<BoxFuture<'static, ()>>,
}

/// Accepting fails.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    pause: Duration,
    until: Instant,
    failed: Instant,
}

impl Entrance {
    pub(crate) fn new(mut socket: Listener, gate: Gate) -> Self {
        let spare = match socket.beneath() {
            Listener::Tcp(_) => spare(),
            Listener::Other(..) | Listener::Tls(_) => None,
        };
        let leaving = FuturesUnordered::new();
        Self { socket, gate, spare, trouble: None, farewells: None, leaving }
    }

    /// Answers the first request of each connection that the gate refuses, instead of closing it without a word.
    #[must_use]
    pub fn answering(self, farewells: Farewells) -> Self {
        Self { farewells: Some(farewells), ..self }
    }

    /// The bound address, with the chosen port.
    ///
    /// # Errors
    /// If the system cannot tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The next connection that the gate lets in; `None` when listening has ended. Failures are logged, once for each
    /// change, and waited out. Cancelling this future loses no connection.
    pub async fn accept(&mut self) -> Option<Gated> {
        loop {
            if let Some(trouble) = &self.trouble {
                sleep_until(trouble.until).await;
            }
            let next = tokio::select! {
                next = self.socket.next() => next?,
                Some(()) = self.leaving.next(), if !self.leaving.is_empty() => continue,
            };
            match next {
                Ok((wire, from)) => {
                    self.accepted();
                    match self.gate.admit(from.ip()) {
                        Ok(ticket) => return Some(Gated::new(wire, from, ticket)),
                        Err(why) => self.refuse(wire, why),
                    }
                }
                // The client gave up before its turn came.
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => self.failed(&error),
            }
        }
    }

    /// The connections that the gate lets in, for gRPC servers.
    pub fn incoming(self) -> impl Stream<Item = io::Result<Gated>> + Send {
        stream::unfold(self, |mut entrance| async move {
            let gated = entrance.accept().await?;
            Some((Ok(gated), entrance))
        })
    }

    fn refuse(&mut self, wire: Wire, why: Full) {
        if let Some(farewells) = self.farewells.as_ref().filter(|_| self.leaving.len() < FAREWELLS_MAX) {
            self.leaving.push(farewell::say(wire, farewells.to(why), FAREWELL_DEADLINE).boxed());
        }
    }

    fn accepted(&mut self) {
        if self.trouble.is_some_and(|trouble| trouble.failed.elapsed() >= ACCEPT_HEALTHY_AFTER) {
            self.trouble = None;
            tracing::info!(address = ?self.local_addr().ok(), "accepting connections again");
        }
    }

    fn failed(&mut self, error: &io::Error) {
        let exhausted = is_exhaustion(error);
        if self.trouble.is_none() {
            let address = self.local_addr().ok();
            if exhausted {
                tracing::warn!(
                    ?address, %error,
                    "no file descriptor left, closing new connections: raise the limit on open files (ulimit -n, LimitNOFILE)"
                );
            } else {
                tracing::warn!(?address, %error, "failed to accept connections, retrying");
            }
        }
        if exhausted {
            self.close_waiting();
        }
        let now = Instant::now();
        let pause = self.trouble.map_or(ACCEPT_PAUSE_MIN, |trouble| ACCEPT_PAUSE_MAX.min(trouble.pause * 2));
        self.trouble = Some(Trouble { pause, until: now + pause, failed: now });
    }

    /// Accepts the waiting connections with the spare descriptor, and closes them.
    fn close_waiting(&mut self) {
        if self.spare.take().is_none() {
            self.spare = spare();
            return;
        }
        for _ in 0..ACCEPT_CLOSED_AT_ONCE_MAX {
            match self.socket.beneath().next().now_or_never() {
                Some(Some(Ok(_))) => self.gate.0.observer.refused(Refused::Descriptors),
                // None waits, or another thread was quicker to take the descriptor.
                _ => break,
            }
        }
        self.spare = spare();
    }
}

/// A file descriptor in reserve: it is closed to make room for accepting, and closing, a connection when none is left.
fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Whether the error is about one connection, and says nothing about the next.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// Whether the process, or the system, has no file descriptor left.
#[cfg(unix)]
fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let codes = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

#[cfg(not(unix))]
fn is_exhaustion(_error: &io::Error) -> bool {
    false
}
