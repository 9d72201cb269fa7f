//! The request body on its way upstream: decoded, kept for a replay, framed anew.

use super::chunk::{CHUNK_END, put_end, put_size};
use super::{BodyDecoder, Framing, Reject, Trailers};
use bytes::{Buf, BytesMut};

/// Most body bytes kept so that a further try can send them again (DEF-20).
pub const REPLAY_BYTES_MAX: usize = 65_536;

/// A request body: what has been decoded, and how much of it this try has sent.
///
/// `staged` holds the body from its first byte while `kept`; beyond [`REPLAY_BYTES_MAX`] it
/// holds only what is not sent yet, and the request cannot be replayed.
#[derive(Debug)]
pub(super) struct Inflow {
    decoder: BodyDecoder,
    framing: Framing,
    staged: Vec<u8>,
    sent: usize,
    kept: bool,
    bytes: u64,
    complete: bool,
    ended: bool,
    trailers: Trailers,
}

impl Inflow {
    pub(super) fn new(framing: Framing) -> Inflow {
        Inflow {
            decoder: BodyDecoder::new(framing),
            framing,
            staged: Vec::new(),
            sent: 0,
            kept: true,
            bytes: 0,
            complete: framing.is_empty(),
            ended: framing.is_empty(),
            trailers: Trailers::default(),
        }
    }

    /// Whether the client has sent all of it.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether this try has put all of it, end included, into the upstream's buffer.
    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether a further try can send it from its first byte.
    pub(super) fn can_replay(&self) -> bool {
        self.kept
    }

    /// Body bytes from the client so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that what is kept or not sent yet takes.
    pub(super) fn held(&self) -> usize {
        self.staged.capacity()
    }

    /// Begins anew for another try.
    pub(super) fn rewind(&mut self) {
        self.sent = 0;
        self.ended = self.framing.is_empty();
    }

    /// There will be no other try: nothing more is kept.
    pub(super) fn forget(&mut self) {
        self.kept = false;
        self.trim();
    }

    /// Decodes what lies in `read`, as far as there is room.
    pub(super) fn take_in(&mut self, read: &mut BytesMut) -> Result<(), Reject> {
        while !self.complete && self.staged.len() - self.sent < REPLAY_BYTES_MAX {
            let step = self.decoder.step(read)?;
            read.advance(step.skip);
            if let Some(data) = read.get(..step.data).filter(|data| !data.is_empty()) {
                if self.staged.len() + data.len() > REPLAY_BYTES_MAX {
                    self.kept = false;
                    self.trim();
                }
                self.staged.extend_from_slice(data);
                self.bytes += u64::try_from(data.len()).unwrap_or(0);
                read.advance(step.data);
            }
            if step.done {
                self.complete = true;
                self.trailers = self.decoder.take_trailers();
            } else if step.data == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Whether there is something to put into the upstream's buffer.
    pub(super) fn has_more(&self) -> bool {
        self.sent < self.staged.len() || (self.complete && !self.ended)
    }

    /// Puts what is decoded into the upstream's buffer, and the end of the body behind it.
    pub(super) fn put(&mut self, out: &mut Vec<u8>) {
        let chunked = self.framing == Framing::Chunked;
        if let Some(data) = self.staged.get(self.sent..).filter(|data| !data.is_empty()) {
            if chunked {
                put_size(data.len(), out);
                out.extend_from_slice(data);
                out.extend_from_slice(CHUNK_END);
            } else {
                out.extend_from_slice(data);
            }
            self.sent = self.staged.len();
        }
        if self.complete && !self.ended {
            if chunked {
                put_end(&self.trailers, out);
            }
            self.ended = true;
        }
        self.trim();
    }

    /// Lets go of what is sent and will not be sent again.
    fn trim(&mut self) {
        if !self.kept && self.sent > 0 {
            self.staged.drain(..self.sent);
            self.sent = 0;
        }
    }
}
