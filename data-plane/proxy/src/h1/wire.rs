//! The two buffers of a connection, and moving bytes between them and the socket.
//!
//! A connection that waits with nothing read and nothing to write holds no buffer: both go back to
//! the worker's free list while the read is pending, so ten thousand idle connections cost no more
//! than the busiest moment needed. Bounds: [`BUFFER_BYTES_MAX`] read ahead, and one more step of
//! output beyond it.

use super::BUFFER_BYTES_MAX;
use crate::io::Io;
use bytes::{BufMut, BytesMut};
use std::cell::RefCell;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncReadExt, AsyncWrite};

/// What a first read asks for: holds nearly every head and most small bodies.
const READ_BYTES_MIN: usize = 8_192;

/// Buffers kept for reuse, per worker and kind: 64 × 8 KiB is half a mebibyte.
const FREE_MAX: usize = 64;

/// Larger buffers are not kept: a bulk transfer should not hold memory after its end.
const FREE_BYTES_MAX: usize = 2 * READ_BYTES_MIN;

thread_local! {
    static FREE: RefCell<(Vec<BytesMut>, Vec<Vec<u8>>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// What is read and not yet used, and what is written and not yet sent.
#[derive(Debug, Default)]
pub(super) struct Wire {
    /// Bytes from the peer.
    pub(super) read: BytesMut,
    /// Bytes for the peer.
    pub(super) out: Vec<u8>,
    /// How many of them have been handed to the socket.
    written: usize,
    /// Bytes ever handed to the socket.
    bytes_sent: u64,
    /// Whether TLS may hold sealed bytes back.
    unflushed: bool,
    /// Bytes that ever came.
    bytes_received: u64,
    /// Their sum when somebody last asked whether bytes moved.
    bytes_seen: u64,
    /// What the next read asks for; grows while reads fill it.
    read_bytes: usize,
}

impl Wire {
    /// Whether everything written has reached the socket.
    pub(super) fn is_drained(&self) -> bool {
        self.out.is_empty() && !self.unflushed
    }

    /// Whether any byte was handed to the socket, ever.
    pub(super) fn has_sent(&self) -> bool {
        self.bytes_sent > 0
    }

    /// Whether any byte came from the peer, ever.
    pub(super) fn has_received(&self) -> bool {
        self.bytes_received > 0
    }

    /// Whether bytes moved either way since the last call.
    pub(super) fn take_moved(&mut self) -> bool {
        let moved = self.bytes_sent.wrapping_add(self.bytes_received);
        std::mem::replace(&mut self.bytes_seen, moved) != moved
    }

    /// Whether there is room to write more before draining.
    pub(super) fn has_room(&self) -> bool {
        self.out.len() < BUFFER_BYTES_MAX
    }

    /// Takes a buffer for output, if there is none yet.
    pub(super) fn prepare_out(&mut self) {
        if self.out.capacity() == 0 {
            let kept = FREE.with_borrow_mut(|free| free.1.pop());
            self.out = kept.unwrap_or_else(|| Vec::with_capacity(READ_BYTES_MIN));
        }
    }

    /// Reads once. `Ready(Ok(0))` is the end of the stream.
    pub(super) fn poll_fill(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let room = BUFFER_BYTES_MAX.saturating_sub(self.read.len());
        if room == 0 {
            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
        }
        if self.read.capacity() == 0
            && let Some(kept) = FREE.with_borrow_mut(|free| free.0.pop())
        {
            self.read = kept;
        }
        let wanted = self
            .read_bytes
            .clamp(READ_BYTES_MIN, BUFFER_BYTES_MAX)
            .min(room);
        self.read.reserve(wanted);
        let polled = {
            let mut limited = (&mut self.read).limit(room);
            pin!(io.read_buf(&mut limited)).poll(cx)
        };
        match polled {
            Poll::Ready(Ok(got)) => {
                self.bytes_received += u64::try_from(got).unwrap_or(0);
                if got >= wanted {
                    self.read_bytes = wanted.saturating_mul(4).min(BUFFER_BYTES_MAX);
                }
                Poll::Ready(Ok(got))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                self.release();
                Poll::Pending
            }
        }
    }

    /// Writes out everything and flushes it.
    pub(super) fn poll_drain(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
            let sent = ready!(Pin::new(&mut *io).poll_write(cx, rest))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += sent;
            self.bytes_sent += u64::try_from(sent).unwrap_or(0);
            self.unflushed = true;
        }
        self.out.clear();
        self.written = 0;
        if self.unflushed {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Bytes that its buffers take.
    pub(super) fn held(&self) -> usize {
        self.read.capacity() + self.out.capacity()
    }

    /// Gives empty buffers back to the worker.
    pub(super) fn release(&mut self) {
        if self.read.is_empty() && self.read.capacity() > 0 {
            let mut buffer = std::mem::take(&mut self.read);
            // Reclaims what earlier heads took from its front; fails while one is still alive.
            if buffer.try_reclaim(READ_BYTES_MIN) && buffer.capacity() <= FREE_BYTES_MAX {
                FREE.with_borrow_mut(|free| keep(&mut free.0, buffer));
            }
            self.read_bytes = 0;
        }
        if self.out.is_empty() && self.out.capacity() > 0 {
            let buffer = std::mem::take(&mut self.out);
            if buffer.capacity() <= FREE_BYTES_MAX {
                FREE.with_borrow_mut(|free| keep(&mut free.1, buffer));
            }
        }
    }
}

fn keep<T>(free: &mut Vec<T>, buffer: T) {
    if free.len() < FREE_MAX {
        free.push(buffer);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.read.clear();
        self.out.clear();
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::AsyncWriteExt;

    async fn fill(wire: &mut Wire, io: &mut Io) -> usize {
        poll_fn(|cx| wire.poll_fill(io, cx)).await.unwrap()
    }

    #[tokio::test]
    async fn a_wire_that_waits_holds_no_buffer_and_gets_the_same_one_back() {
        let (mut peer, io) = tokio::io::duplex(1024);
        let mut io = Io::Memory(io);
        let mut wire = Wire::default();
        peer.write_all(b"head").await.unwrap();
        assert_eq!(fill(&mut wire, &mut io).await, 4);
        let address = wire.read.as_ptr();
        let head = wire.read.split_to(4).freeze();
        drop(head);
        poll_fn(|cx| {
            assert!(wire.poll_fill(&mut io, cx).is_pending());
            Poll::Ready(())
        })
        .await;
        assert_eq!((wire.read.capacity(), wire.out.capacity()), (0, 0));
        peer.write_all(b"next").await.unwrap();
        assert_eq!(fill(&mut wire, &mut io).await, 4);
        assert_eq!(
            wire.read.as_ptr(),
            address,
            "the worker's buffer, from its first byte"
        );
    }

    #[tokio::test]
    async fn reads_are_bounded_and_grow_only_under_load() {
        let (mut peer, io) = tokio::io::duplex(1 << 20);
        let mut io = Io::Memory(io);
        peer.write_all(&vec![0; 300_000]).await.unwrap();
        let mut wire = Wire::default();
        let mut largest = 0;
        while wire.read.len() < BUFFER_BYTES_MAX {
            largest = largest.max(fill(&mut wire, &mut io).await);
        }
        assert_eq!(wire.read.len(), BUFFER_BYTES_MAX);
        assert!(largest <= BUFFER_BYTES_MAX);
        poll_fn(|cx| {
            let refused = wire.poll_fill(&mut io, cx);
            assert!(
                matches!(refused, Poll::Ready(Err(_))),
                "never beyond the bound"
            );
            Poll::Ready(())
        })
        .await;
    }
}
