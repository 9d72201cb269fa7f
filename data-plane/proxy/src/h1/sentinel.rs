//! Looks out for the end of a client whose bytes are not read.
//!
//! What a client sends behind its request waits in the buffer up to a bound, and beyond it in the
//! kernel, where the client's end lies behind bytes that nobody reads. The kernel knows of it all
//! the same. It is asked over a second registration of the socket, whose readiness may be thrown
//! away: that of the first is needed by the reads that follow. Made only where a client sends
//! that far ahead, and kept until its next request.

use std::{
    io, net,
    os::fd::AsFd,
    pin::pin,
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream};

/// A second look at a socket. Never read or written.
#[derive(Debug)]
pub(super) struct Sentinel(TcpStream);

impl Sentinel {
    pub(super) fn new(socket: &TcpStream) -> io::Result<Self> {
        let again = socket.as_fd().try_clone_to_owned()?;
        TcpStream::from_std(net::TcpStream::from(again)).map(Self)
    }

    /// Ready when the peer has closed its sending side; bytes before that say nothing.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(super) fn poll_end(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            let known = ready!(pin!(self.0.ready(Interest::READABLE)).poll(cx))?;
            if known.is_read_closed() {
                let broken = SockRef::from(&self.0).take_error()?;
                return Poll::Ready(broken.map_or(Ok(()), Err));
            }
            // Forgets that there are bytes: the next word is of more of them, or of the end.
            let forget = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _forgotten: io::Result<()> = self.0.try_io(Interest::READABLE, forget);
        }
    }
}
