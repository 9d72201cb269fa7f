//! Where body bytes go: a stream sent, paced by the receiver's window.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use http::HeaderMap;
use tokio::time::Instant;

use super::{
    edit,
    head::too_many_fields,
    inlet::{Piece, Source},
};

/// The sending half of a stream.
pub(super) struct Outlet {
    stream: SendStream<Bytes>,
    /// Taken from the source, waiting for the receiver's window.
    pending: Bytes,
    /// Nothing follows `pending`.
    pending_is_last: bool,
    ended: bool,
    rules: TrailerRules,
    sent: u64,
    grpc_status: Option<u8>,
    touched: Instant,
}

/// What is done to trailers on their way.
#[derive(Debug, Clone, Copy)]
pub(super) struct TrailerRules {
    /// Whether `x-outrigger-*` stays.
    pub(super) keep_reserved: bool,
    /// DEF-02.
    pub(super) fields_max: usize,
}

/// Why a body did not arrive whole.
#[derive(Debug)]
pub(super) enum Broken {
    /// Whoever sends it broke off.
    Source(h2::Error),
    /// Its trailers pass a limit.
    Trailers,
    /// Whoever receives it takes no more.
    Sink,
}

impl Outlet {
    /// Sends on `stream`, which is at its end already if `ended`.
    pub(super) fn new(stream: SendStream<Bytes>, ended: bool, rules: TrailerRules) -> Self {
        Self {
            stream,
            pending: Bytes::new(),
            pending_is_last: false,
            ended,
            rules,
            sent: 0,
            grpc_status: None,
            touched: Instant::now(),
        }
    }

    /// Bytes taken from the source that the receiver has not taken.
    pub(super) fn held(&self) -> usize {
        self.pending.len()
    }

    /// Bytes sent.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// `grpc-status` of the trailers sent.
    pub(super) fn grpc_status(&self) -> Option<u8> {
        self.grpc_status
    }

    /// When something was last received for it or sent on it.
    pub(super) fn touched(&self) -> Instant {
        self.touched
    }

    /// Ends the stream with a code.
    pub(super) fn reset(&mut self, reason: h2::Reason) {
        self.stream.send_reset(reason);
    }

    /// Ends the stream with these trailers, whatever of the body has not been sent; false where it
    /// takes none any more.
    pub(super) fn end_with(&mut self, trailers: HeaderMap) -> bool {
        let status = grpc_status(&trailers);
        if self.ended || self.stream.send_trailers(trailers).is_err() {
            return false;
        }
        self.grpc_status = status;
        self.ended = true;
        true
    }

    /// Moves what can be moved from the source; ready when all is sent. Progress is kept in
    /// `self` and the source.
    pub(super) fn poll_relay(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Source,
    ) -> Poll<Result<(), Broken>> {
        loop {
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            if !self.pending.is_empty() {
                ready!(self.poll_send(cx))?;
                continue;
            }
            let piece = match source.poll_piece(cx) {
                Poll::Ready(piece) => piece.map_err(Broken::Source)?,
                // Nothing to send; still learn when the receiver gives up.
                Poll::Pending => {
                    return match self.stream.poll_reset(cx) {
                        Poll::Ready(_) => Poll::Ready(Err(Broken::Sink)),
                        Poll::Pending => Poll::Pending,
                    };
                }
            };
            self.touched = Instant::now();
            match piece {
                Piece::Data(bytes) => {
                    self.pending_is_last = source.is_ended();
                    if bytes.is_empty() && self.pending_is_last {
                        self.send(Bytes::new(), true)?;
                    }
                    self.pending = bytes;
                }
                Piece::Trailers(trailers) => self.send_trailers(trailers)?,
                Piece::End => self.send(Bytes::new(), true)?,
            }
        }
    }

    /// Sends what the window and the send buffer (DEF-06) allow of `pending`.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.stream.reserve_capacity(self.pending.len());
        let mut capacity = self.stream.capacity();
        // `poll_capacity` tells of growth only: capacity left from before must be used first.
        while capacity == 0 {
            capacity = match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(capacity)) => capacity,
                Some(Err(_)) | None => return Poll::Ready(Err(Broken::Sink)),
            };
        }
        let part = self.pending.split_to(capacity.min(self.pending.len()));
        let is_last = self.pending_is_last && self.pending.is_empty();
        self.touched = Instant::now();
        Poll::Ready(self.send(part, is_last))
    }

    fn send(&mut self, bytes: Bytes, is_last: bool) -> Result<(), Broken> {
        let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.stream
            .send_data(bytes, is_last)
            .map_err(|_| Broken::Sink)?;
        self.sent = self.sent.saturating_add(count);
        self.ended = is_last;
        Ok(())
    }

    fn send_trailers(&mut self, mut trailers: HeaderMap) -> Result<(), Broken> {
        if too_many_fields(&trailers, self.rules.fields_max) {
            return Err(Broken::Trailers);
        }
        self.grpc_status = grpc_status(&trailers);
        edit::trailers(&mut trailers, self.rules.keep_reserved);
        self.stream
            .send_trailers(trailers)
            .map_err(|_| Broken::Sink)?;
        self.ended = true;
        Ok(())
    }
}

/// `grpc-status`, where it is a number that fits.
pub(super) fn grpc_status(fields: &HeaderMap) -> Option<u8> {
    fields.get("grpc-status")?.to_str().ok()?.parse().ok()
}
