//! A connection's bytes: plain TCP, or TLS in either role. One type, so that engines are compiled
//! once; the branch is one comparison per system call.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{client, server};

use crate::telemetry::{Closed, OpenConnection};

/// DEF-17, of every TCP connection: silent for so long, then so often, so many times. HTTP/2
/// connections of the mesh have a PING besides, that says sooner.
const KEEPALIVE_TIME: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// Options of the sockets that carry traffic. One that refuses an option works without it.
pub(crate) fn prepare(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_TIME)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    let socket = SockRef::from(stream);
    for result in [
        socket.set_tcp_nodelay(true),
        socket.set_tcp_keepalive(&keepalive),
    ] {
        if let Err(error) = result {
            tracing::debug!(%error, "socket option not set");
        }
    }
}

/// A byte stream to an application, another sidecar or a plain endpoint.
#[derive(Debug)]
pub enum Io {
    /// Plain text.
    Plain(TcpStream),
    /// We connected.
    Client(Box<client::TlsStream<TcpStream>>),
    /// We accepted.
    Server(Box<server::TlsStream<TcpStream>>),
    /// Towards an endpoint whose connections are counted.
    Counted(Box<Counted>),
    /// Bytes were read ahead to find the protocol: they are read again first.
    Replayed(Box<Replayed>),
    /// In memory, for tests of engines.
    #[cfg(test)]
    Memory(tokio::io::DuplexStream),
}

/// Runs `$body` with the stream of whichever variant it is.
macro_rules! each {
    ($self:expr, $stream:ident => $body:expr) => {
        match $self.get_mut() {
            Io::Plain($stream) => $body,
            Io::Client($stream) => $body,
            Io::Server($stream) => $body,
            Io::Counted($stream) => $body,
            Io::Replayed($stream) => $body,
            #[cfg(test)]
            Io::Memory($stream) => $body,
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

impl Io {
    /// The socket beneath.
    #[must_use]
    pub fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Client(stream) => Some(stream.get_ref().0),
            Self::Server(stream) => Some(stream.get_ref().0),
            Self::Counted(counted) => counted.inner.socket(),
            Self::Replayed(replayed) => replayed.inner.socket(),
            #[cfg(test)]
            Self::Memory(_) => None,
        }
    }
}

impl Io {
    /// Makes the close that follows a break, so that the peer does not take what it has for the
    /// whole: a reset on plain text. TLS says it by ending without `close_notify`, and what was
    /// sent before still arrives.
    pub(crate) fn cut(&self) {
        match self {
            Self::Plain(socket) => {
                if let Err(error) = SockRef::from(socket).set_linger(Some(Duration::ZERO)) {
                    tracing::debug!(%error, "connection closed without a reset");
                }
            }
            Self::Client(_) | Self::Server(_) => {}
            Self::Counted(counted) => counted.inner.cut(),
            Self::Replayed(replayed) => replayed.inner.cut(),
            #[cfg(test)]
            Self::Memory(_) => {}
        }
    }

    /// Whether the other end is a sidecar that connected to us. Sidecars never close half of a
    /// connection that carries HTTP, so the end of what they send is the end.
    #[must_use]
    pub fn is_from_sidecar(&self) -> bool {
        match self {
            Self::Server(_) => true,
            Self::Plain(_) | Self::Client(_) => false,
            Self::Counted(counted) => counted.inner.is_from_sidecar(),
            Self::Replayed(replayed) => replayed.inner.is_from_sidecar(),
            #[cfg(test)]
            Self::Memory(_) => false,
        }
    }
}

/// A stream whose first bytes were already read.
#[derive(Debug)]
pub struct Replayed {
    ahead: Bytes,
    inner: Io,
}

impl Io {
    /// Puts `ahead` back in front of what is still to be read.
    #[must_use]
    pub fn replay(self, ahead: Bytes) -> Self {
        if ahead.is_empty() {
            self
        } else {
            Self::Replayed(Box::new(Replayed { ahead, inner: self }))
        }
    }
}

impl AsyncRead for Replayed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let length = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replayed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A stream to an endpoint that tells what it carries, and how it ends.
#[derive(Debug)]
pub struct Counted {
    inner: Io,
    connection: Rc<OpenConnection>,
}

impl Io {
    /// Tells `connection` of what passes, and of the end.
    pub(crate) fn counted(self, connection: &Rc<OpenConnection>) -> Self {
        Self::Counted(Box::new(Counted {
            inner: self,
            connection: Rc::clone(connection),
        }))
    }
}

impl Counted {
    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) => self.connection.sent(*bytes),
            Poll::Ready(Err(_)) => self.connection.ends(Closed::Reset),
            Poll::Pending => {}
        }
        written
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.connection.closed();
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        match &read {
            Poll::Ready(Ok(())) => match buf.filled().len() - before {
                0 if room > 0 => self.connection.ends(Closed::Peer),
                bytes => self.connection.received(bytes),
            },
            Poll::Ready(Err(_)) => self.connection.ends(Closed::Reset),
            Poll::Pending => {}
        }
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
