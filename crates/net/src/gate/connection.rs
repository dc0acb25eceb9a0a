//! A connection that came through a gate.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::transport::server::Connected;

use super::{Closed, GateObserver, Peer, Ticket, Usage};
use crate::Wire;

/// A connection that came through a gate. Reading fails when the connection has to be closed.
#[derive(Debug)]
pub struct Gated {
    wire: Wire,
    from: SocketAddr,
    ticket: Ticket,
    /// When to look next whether the connection is silent or idle for too long.
    check: Pin<Box<Sleep>>,
    /// Whether the connection was found silent or idle for too long, which counts once.
    overdue: bool,
}

impl Gated {
    pub(super) fn new(wire: Wire, from: SocketAddr, ticket: Ticket) -> Self {
        let usage = ticket.usage();
        let limits = &usage.gate.limits;
        let check = Box::pin(sleep_until(usage.state.since + limits.first_request.min(limits.idle)));
        Self { wire, from, ticket, check, overdue: false }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> Peer {
        Peer {
            address: self.from,
            encrypted: self.wire.is_encrypted(),
            identity: self.wire.identity(),
            usage: self.ticket.usage().clone(),
        }
    }

    fn observer(&self) -> &dyn GateObserver {
        &*self.ticket.usage().gate.observer
    }

    /// Counts what was written; where nothing could be, looks whether the connection has to be closed.
    fn written(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending => self.poll_overdue(cx).map(Err),
            Poll::Ready(written) => {
                if let Ok(bytes) = &written {
                    self.observer().sent(*bytes);
                }
                Poll::Ready(written)
            }
        }
    }

    /// Why the connection has to be closed, if it has to.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Usage { gate, state, .. } = self.ticket.usage();
        if self.ticket.usage().is_displaced(cx) {
            let why = "the connection made no request, and another one took its place";
            return Poll::Ready(io::Error::new(io::ErrorKind::ConnectionAborted, why));
        }
        loop {
            ready!(self.check.as_mut().poll(cx));
            let now = Instant::now();
            let (due, why, what) = if !state.spoke.load(Ordering::Acquire) {
                let due = state.since + gate.limits.first_request;
                (due, Closed::Silent, "the connection made no request in time")
            } else {
                let in_use = state.calls.load(Ordering::Acquire) > 0;
                let since = if in_use { now } else { state.free_since() };
                (since + gate.limits.idle, Closed::Idle, "the connection was idle for too long")
            };
            if due <= now {
                if !std::mem::replace(&mut self.overdue, true) {
                    gate.observer.closed(why);
                }
                return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            self.check.as_mut().reset(due);
        }
    }
}

impl Connected for Gated {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer()
    }
}

impl AsyncRead for Gated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.wire).poll_read(cx, buf) {
            Poll::Pending => self.poll_overdue(cx).map(Err),
            read @ Poll::Ready(_) => {
                self.observer().received(buf.filled().len() - before);
                read
            }
        }
    }
}

impl AsyncWrite for Gated {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.wire).poll_write(cx, buf);
        self.written(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.wire).poll_write_vectored(cx, bufs);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }
}
