//! The client's connection between and during requests: heads come in here, answers leave here.

use super::sentinel::Sentinel;
use super::watch::Watch;
use super::wire::Wire;
use super::{Leading, Reject, RequestHead, Scanner};
use crate::io::Io;
use crate::reason::Reason;
use bytes::Buf;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio_util::sync::CancellationToken;

/// DEF-14: a connection without a request, downstream.
const IDLE: Duration = Duration::from_secs(3_600);
/// DEF-12: from the first byte of a head to its last.
const HEAD: Duration = Duration::from_secs(10);
/// A connection idle when a drain begins: a request that is on its way now is still answered,
/// with `connection: close`; without this grace it would meet a closed socket.
const DRAIN_GRACE: Duration = Duration::from_millis(500);
/// How long a closing connection reads on, so that the client's unread bytes do not turn the
/// answer into a reset (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(5);
/// How long an answer of the mesh may take to leave.
const ANSWER: Duration = Duration::from_secs(10);

/// What is read ahead of a request in flight before it has its answer: beyond it, bytes wait in
/// the kernel. One read more may come on top, so that DEF-03 is the bound.
const AHEAD_BYTES: usize = 16 * 1024;

/// The client's side.
#[derive(Debug)]
pub(super) struct Downstream {
    pub(super) io: Io,
    pub(super) wire: Wire,
    pub(super) watch: Watch,
    /// The client closed its sending side.
    pub(super) ended: bool,
    /// For the end of a client that sent further ahead than is read.
    sentinel: Option<Sentinel>,
}

/// What came instead of, or as, the next request.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "moved once a request; a box would be an allocation"
)]
pub(super) enum Next {
    /// A request head.
    Head(RequestHead),
    /// A head that cannot be accepted: answer and close.
    Refused(Reason),
    /// Nothing more comes, or nothing came in time.
    Closed,
}

impl Downstream {
    pub(super) fn new(io: Io) -> Downstream {
        Downstream {
            io,
            wire: Wire::default(),
            watch: Watch::default(),
            ended: false,
            sentinel: None,
        }
    }

    /// Waits for the next request head.
    pub(super) async fn next(&mut self, drain: &CancellationToken) -> Next {
        self.sentinel = None;
        let mut scanner = Scanner::new(Leading::OneBlankLine);
        match self.scan(&mut scanner) {
            Ok(Some(head)) => return Next::Head(head),
            Err(reject) => return Next::Refused(super::refusal::reason(reject)),
            Ok(None) => {}
        }
        if self.wire.read.is_empty() {
            match self.wait_idle(drain).await {
                Ok(0) | Err(_) => return Next::Closed,
                Ok(_) => {}
            }
        }
        self.watch.set(HEAD);
        loop {
            match self.scan(&mut scanner) {
                Ok(Some(head)) => return Next::Head(head),
                Err(reject) => return Next::Refused(super::refusal::reason(reject)),
                Ok(None) => {}
            }
            match poll_fn(|cx| self.poll_read(cx)).await {
                // A lone CRLF after the last request is no head in the making.
                Err(error)
                    if error.kind() == io::ErrorKind::TimedOut
                        && self.wire.read[..] != *b"\r\n" =>
                {
                    return Next::Refused(Reason::RequestHeadTimeout);
                }
                Ok(0) | Err(_) => return Next::Closed,
                Ok(_) => {}
            }
        }
    }

    fn scan(&mut self, scanner: &mut Scanner) -> Result<Option<RequestHead>, Reject> {
        let Some(section) = scanner.scan(&self.wire.read)? else {
            return Ok(None);
        };
        self.wire.read.advance(section.skip);
        let raw = self.wire.read.split_to(section.len).freeze();
        RequestHead::parse(raw).map(Some)
    }

    /// Waits without a buffer for the first byte of a request, or for a reason to stop waiting.
    async fn wait_idle(&mut self, drain: &CancellationToken) -> io::Result<usize> {
        self.watch.set(IDLE);
        if !drain.is_cancelled() {
            let reading = poll_fn(|cx| self.poll_read(cx));
            tokio::select! {
                biased;
                read = reading => return read,
                () = drain.cancelled() => {}
            }
        }
        self.watch.set(DRAIN_GRACE);
        poll_fn(|cx| self.poll_read(cx)).await
    }

    /// Notes whether the client closed its sending side, while nothing is expected from it. What it
    /// sends ahead is kept up to a bound; behind that its end is looked for without reading.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(super) fn look_for_end(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while !self.ended && self.wire.read.len() < AHEAD_BYTES {
            // Asks for readiness first: a buffer is taken only where there is something to read.
            if let Some(socket) = self.io.socket()
                && self.wire.read.is_empty()
                && socket.poll_read_ready(cx).is_pending()
            {
                return Ok(());
            }
            match self.wire.poll_fill(&mut self.io, cx) {
                Poll::Ready(read) => self.ended = read? == 0,
                Poll::Pending => return Ok(()),
            }
        }
        if !self.ended
            && let Some(socket) = self.io.socket()
        {
            let sentinel = match self.sentinel.take() {
                Some(sentinel) => sentinel,
                None => match Sentinel::new(socket) {
                    Ok(sentinel) => sentinel,
                    // No descriptor left: then it is noticed when the answer is written.
                    Err(error) => {
                        tracing::debug!(%error, "the end of a client is not looked for");
                        return Ok(());
                    }
                },
            };
            let end = self.sentinel.insert(sentinel).poll_end(cx);
            if let Poll::Ready(end) = end {
                end?;
                self.ended = true;
            }
        }
        Ok(())
    }

    /// Reads once, until the watch's deadline.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(read) = self.wire.poll_fill(&mut self.io, cx) {
            return Poll::Ready(read);
        }
        ready!(self.watch.poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Sends everything that is written, or fails after ten seconds.
    pub(super) async fn send(&mut self) -> io::Result<()> {
        self.watch.set(ANSWER);
        poll_fn(|cx| {
            if let Poll::Ready(sent) = self.wire.poll_drain(&mut self.io, cx) {
                return Poll::Ready(sent);
            }
            ready!(self.watch.poll(cx));
            Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
        })
        .await
    }

    /// Closes in order: what is written has been sent; says so, and reads on for a while where
    /// the client may still be sending.
    pub(super) async fn close(mut self, unread: bool) {
        self.watch.set(LINGER);
        let unread = unread || !self.wire.read.is_empty();
        let shut = poll_fn(|cx| {
            if let Poll::Ready(shut) = Pin::new(&mut self.io).poll_shutdown(cx) {
                return Poll::Ready(shut.is_ok());
            }
            ready!(self.watch.poll(cx));
            Poll::Ready(false)
        });
        if !shut.await || !unread {
            return;
        }
        loop {
            self.wire.read.clear();
            match poll_fn(|cx| self.poll_read(cx)).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }
}
