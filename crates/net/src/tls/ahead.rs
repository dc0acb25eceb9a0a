//! Reading ahead beneath TLS.

use std::cell::RefCell;
use std::fmt::{self, Debug};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::Wire;
use crate::limits::READ_AHEAD_BYTES_MAX;

thread_local! {
    /// What a read gets before it is known how much it is.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_AHEAD_BYTES_MAX].into());
}

/// A connection that is read in large pieces, however small the buffers of its reader are. rustls reads 4 KiB at a time, a
/// quarter of a record: without this, a stream of full records costs five system calls for each, and TLS costs more than its
/// cryptography. Memory is held only between a read that got more than was asked for and those that take the rest.
pub struct ReadAhead {
    wire: Wire,
    /// What was read and not taken yet.
    rest: Vec<u8>,
    /// How many bytes of `rest` are taken.
    taken: usize,
}

impl ReadAhead {
    pub(super) fn new(wire: Wire) -> Self {
        Self { wire, rest: Vec::new(), taken: 0 }
    }

    /// Moves from the rest to the buffer.
    fn take(&mut self, buf: &mut ReadBuf<'_>) {
        let rest = &self.rest[self.taken..];
        let taken = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..taken]);
        self.taken += taken;
        if self.taken == self.rest.len() {
            (self.rest, self.taken) = (Vec::new(), 0);
        }
    }
}

impl Debug for ReadAhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.wire.fmt(f)
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.rest.is_empty() {
            this.take(buf);
            return Poll::Ready(Ok(()));
        }
        if buf.remaining() >= READ_AHEAD_BYTES_MAX {
            return Pin::new(&mut this.wire).poll_read(cx, buf);
        }
        SCRATCH.with(|scratch| {
            let Ok(mut scratch) = scratch.try_borrow_mut() else {
                // The connection is a tunnel through another encrypted one, which is being read by this same call.
                return Pin::new(&mut this.wire).poll_read(cx, buf);
            };
            let mut read = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut this.wire).poll_read(cx, &mut read))?;
            let (now, later) = read.filled().split_at(read.filled().len().min(buf.remaining()));
            buf.put_slice(now);
            this.rest.extend_from_slice(later);
            Poll::Ready(Ok(()))
        })
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().wire).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().wire).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().wire).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().wire).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn all_bytes_arrive_in_order_whatever_sizes_are_written_and_read() {
        let sizes =
            [1, 5, 4_096, READ_AHEAD_BYTES_MAX - 1, READ_AHEAD_BYTES_MAX, 2 * READ_AHEAD_BYTES_MAX, 3];
        let sent: Vec<u8> = (0..sizes.iter().sum::<usize>()).map(|at| at.to_le_bytes()[0]).collect();
        for read in [1, 7, 4_096, READ_AHEAD_BYTES_MAX - 1, READ_AHEAD_BYTES_MAX, 2 * READ_AHEAD_BYTES_MAX] {
            let (near, mut far) = tokio::io::duplex(READ_AHEAD_BYTES_MAX + 9);
            let mut ahead = ReadAhead::new(Wire::Other(Box::new(near), None));
            let content = sent.clone();
            let writing = tokio::spawn(async move {
                let mut left = content.as_slice();
                for size in sizes {
                    far.write_all(left.split_off(..size).unwrap()).await.unwrap();
                }
            });
            let (mut got, mut buffer) = (Vec::new(), vec![0; read]);
            loop {
                match ahead.read(&mut buffer).await.unwrap() {
                    0 => break,
                    some => got.extend_from_slice(&buffer[..some]),
                }
                assert!(ahead.rest.len() <= READ_AHEAD_BYTES_MAX);
            }
            writing.await.unwrap();
            assert!(got == sent, "read in pieces of {read}");
            assert_eq!(ahead.rest.capacity(), 0, "nothing is held when all is taken");
        }
    }
}
