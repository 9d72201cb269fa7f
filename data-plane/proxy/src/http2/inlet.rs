//! Where body bytes come from: a stream received, and for requests the buffer that lets a retry
//! send them again.

use std::{
    mem,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;

/// Largest piece sent from the replay buffer: one DATA frame of the default size.
const REPLAY_PIECE: usize = 16 * 1024;

/// What comes next of a body.
#[derive(Debug)]
pub(super) enum Piece {
    /// Bytes.
    Data(Bytes),
    /// Trailers; nothing follows.
    Trailers(HeaderMap),
    /// The end, without trailers.
    End,
}

/// A body, piece by piece.
pub(super) trait Source {
    /// The next piece. After `Trailers` or `End` it is not called again.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, h2::Error>>;

    /// Whether it is known already that nothing follows, so that the end can travel with the
    /// last bytes.
    fn is_ended(&self) -> bool;
}

/// A body as received.
pub(super) struct Body {
    stream: RecvStream,
    data_ended: bool,
    /// Bytes received.
    received: u64,
    reset: OnNoError,
}

/// What a reset with NO_ERROR means. It overtakes the end of the stream inside h2, so that a
/// finished response looks like a broken one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnNoError {
    /// Of a request: it was broken off.
    Broken,
    /// Of a response: it is complete, and the server wants no more of the request
    /// (RFC 9113 §8.1). A declared length still has to be reached.
    Complete { declared: Option<u64> },
}

impl Body {
    fn request(stream: RecvStream) -> Self {
        Self {
            stream,
            data_ended: false,
            received: 0,
            reset: OnNoError::Broken,
        }
    }

    /// The body of a response for which this length was `declared`.
    pub(super) fn response(stream: RecvStream, declared: Option<u64>) -> Self {
        Self {
            reset: OnNoError::Complete { declared },
            ..Self::request(stream)
        }
    }

    /// Bytes that the peer sent and nobody took yet.
    pub(super) fn held(&mut self) -> usize {
        self.stream.flow_control().used_capacity()
    }

    fn is_complete_despite(&self, error: &h2::Error) -> bool {
        match self.reset {
            OnNoError::Broken => false,
            OnNoError::Complete { declared } => {
                error.is_reset()
                    && error.is_remote()
                    && error.reason() == Some(h2::Reason::NO_ERROR)
                    && declared.is_none_or(|bytes| bytes == self.received)
            }
        }
    }
}

impl Source for Body {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, h2::Error>> {
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(bytes)) => {
                    let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                    self.received = self.received.saturating_add(count);
                    // The piece left h2; the next is asked for only when this one was sent on.
                    self.stream.flow_control().release_capacity(bytes.len())?;
                    return Poll::Ready(Ok(Piece::Data(bytes)));
                }
                Some(Err(error)) if self.is_complete_despite(&error) => {
                    return Poll::Ready(Ok(Piece::End));
                }
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => self.data_ended = true,
            }
        }
        Poll::Ready(match ready!(self.stream.poll_trailers(cx)) {
            Ok(Some(trailers)) => Ok(Piece::Trailers(trailers)),
            Ok(None) => Ok(Piece::End),
            Err(error) if self.is_complete_despite(&error) => Ok(Piece::End),
            Err(error) => Err(error),
        })
    }

    fn is_ended(&self) -> bool {
        self.stream.is_end_stream()
    }
}

/// A request body that can be read again from its start, as long as it is small.
///
/// Bytes are copied into one buffer rather than kept as received: a piece of one byte would hold
/// a whole read buffer alive.
pub(super) struct Inlet {
    body: Body,
    keep: Keep,
    kept: Vec<u8>,
    /// How much of `kept` the present reading has seen.
    position: usize,
    end: End,
    keep_max: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// Everything read so far is in `kept`.
    All,
    /// Nothing more is kept. What was is sent, then freed.
    NoMore,
    /// Bytes were read that are not kept.
    Lost,
}

#[derive(Debug)]
enum End {
    NotSeen,
    Plain,
    Trailers(HeaderMap),
}

impl Inlet {
    /// Reads `stream`, keeping up to `keep_max` bytes; none if more are `declared`.
    pub(super) fn new(stream: RecvStream, declared: Option<u64>, keep_max: usize) -> Self {
        let small =
            declared.is_none_or(|bytes| usize::try_from(bytes).is_ok_and(|n| n <= keep_max));
        Self {
            body: Body::request(stream),
            keep: if small { Keep::All } else { Keep::NoMore },
            kept: Vec::new(),
            position: 0,
            end: End::NotSeen,
            keep_max,
        }
    }

    /// Bytes that what is kept takes, and what nobody took yet.
    pub(super) fn held(&mut self) -> usize {
        self.kept.capacity() + self.body.held()
    }

    /// Starts again from the first byte.
    pub(super) fn rewind(&mut self) {
        self.position = 0;
    }

    /// Whether [`Self::rewind`] loses nothing.
    pub(super) fn can_rewind(&self) -> bool {
        match self.keep {
            Keep::All => true,
            Keep::NoMore => self.received() == 0,
            Keep::Lost => false,
        }
    }

    /// There will be no rewinding: keeps no more, and frees the buffer once it was sent.
    pub(super) fn commit(&mut self) {
        if self.keep == Keep::All {
            self.keep = Keep::NoMore;
            self.forget_sent();
        }
    }

    /// Body bytes received from the client.
    pub(super) fn received(&self) -> u64 {
        self.body.received
    }

    fn forget_sent(&mut self) {
        if self.keep == Keep::NoMore && self.position == self.kept.len() && self.received() > 0 {
            self.kept = Vec::new();
            self.position = 0;
            self.keep = Keep::Lost;
        }
    }

    fn note(&mut self, bytes: &Bytes) {
        if self.keep == Keep::All && self.kept.len() + bytes.len() <= self.keep_max {
            self.kept.extend_from_slice(bytes);
            self.position = self.kept.len();
        } else {
            // All that was kept has been sent in this reading, or we would not read on.
            self.kept = Vec::new();
            self.position = 0;
            self.keep = Keep::Lost;
        }
    }
}

impl Source for Inlet {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, h2::Error>> {
        if let Some(rest) = self.kept.get(self.position..)
            && !rest.is_empty()
        {
            let piece = Bytes::copy_from_slice(rest.get(..REPLAY_PIECE).unwrap_or(rest));
            self.position += piece.len();
            self.forget_sent();
            return Poll::Ready(Ok(Piece::Data(piece)));
        }
        match &mut self.end {
            End::Plain => return Poll::Ready(Ok(Piece::End)),
            End::Trailers(trailers) => {
                let trailers = match self.keep {
                    Keep::All => trailers.clone(),
                    Keep::NoMore | Keep::Lost => mem::take(trailers),
                };
                return Poll::Ready(Ok(Piece::Trailers(trailers)));
            }
            End::NotSeen => {}
        }
        let piece = ready!(self.body.poll_piece(cx))?;
        match &piece {
            Piece::Data(bytes) => self.note(bytes),
            Piece::Trailers(trailers) if self.keep == Keep::All => {
                self.end = End::Trailers(trailers.clone());
            }
            Piece::Trailers(_) | Piece::End => self.end = End::Plain,
        }
        Poll::Ready(Ok(piece))
    }

    fn is_ended(&self) -> bool {
        self.position == self.kept.len()
            && match self.end {
                End::Plain => true,
                End::Trailers(_) => false,
                End::NotSeen => self.body.is_ended(),
            }
    }
}
