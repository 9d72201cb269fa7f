//! The socket of an accepted HTTP/2 connection, with a [`Meter`] on what passes.
//!
//! Once the client is over its budget nothing more is read: whoever drives the connection finds it
//! waiting, looks at [`Flooded`], and ends it.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::meter::{Flood, Heads, Meter};
use crate::io::Io;

/// Whether a connection's client was found flooding.
pub(super) type Flooded = Rc<Cell<Option<Flood>>>;

/// An accepted connection's bytes.
pub(super) struct Metered<'a> {
    io: &'a mut Io,
    meter: Meter,
    incoming: Heads,
    outgoing: Heads,
    flooded: Flooded,
}

impl<'a> Metered<'a> {
    /// A connection of which nothing has been read yet.
    pub(super) fn new(io: &'a mut Io) -> (Self, Flooded) {
        let flooded = Flooded::default();
        let metered = Self {
            io,
            meter: Meter::new(Instant::now()),
            incoming: Heads::of_client(),
            outgoing: Heads::of_server(),
            flooded: Rc::clone(&flooded),
        };
        (metered, flooded)
    }

    fn sent(&mut self, bytes: &[u8]) {
        let meter = &mut self.meter;
        self.outgoing.pass(bytes, |frame| meter.sent(frame));
    }
}

impl AsyncRead for Metered<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.flooded.get().is_some() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut *this.io).poll_read(cx, buf))?;
        let read = buf.filled().get(before..).unwrap_or_default();
        let (meter, flooded) = (&mut this.meter, &this.flooded);
        this.incoming.pass(read, |frame| {
            if let Err(flood) = meter.received(frame, Instant::now) {
                flooded.set(Some(flood));
            }
        });
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut *this.io).poll_write(cx, buf))?;
        this.sent(buf.get(..written).unwrap_or_default());
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut *this.io).poll_write_vectored(cx, bufs))?;
        let mut left = written;
        for piece in bufs {
            let of_piece = left.min(piece.len());
            this.sent(piece.get(..of_piece).unwrap_or_default());
            left -= of_piece;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().io).poll_shutdown(cx)
    }
}
