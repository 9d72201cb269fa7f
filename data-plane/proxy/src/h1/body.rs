//! Taking a body of any framing apart: where data lies in the read buffer, and when it ends.

use super::chunk::ChunkDecoder;
use super::{Framing, Reject, Trailers};

/// One step through a body. The caller drops the first `skip` bytes of its buffer, passes on
/// the next `data` bytes, and calls again with what follows. Bytes neither skipped nor data (an
/// unfinished trailer section) stay and must be there again, with more behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Bytes of framing in front.
    pub skip: usize,
    /// Bytes of the body behind those.
    pub data: usize,
    /// The body ends after them.
    pub done: bool,
}

/// Incremental decoder of one body.
#[derive(Debug)]
pub enum BodyDecoder {
    /// This many bytes are missing.
    Length(u64),
    /// A chunked body.
    Chunked(ChunkDecoder),
    /// Until the peer closes.
    UntilClose,
}

impl BodyDecoder {
    /// The decoder for a body of this framing.
    pub fn new(framing: Framing) -> BodyDecoder {
        match framing {
            Framing::None => BodyDecoder::Length(0),
            Framing::Length(length) => BodyDecoder::Length(length),
            Framing::Chunked => BodyDecoder::Chunked(ChunkDecoder::default()),
            Framing::UntilClose => BodyDecoder::UntilClose,
        }
    }

    /// Looks at `input`, which begins where the previous step ended.
    ///
    /// # Errors
    /// Those of [`ChunkDecoder::step`].
    pub fn step(&mut self, input: &[u8]) -> Result<Step, Reject> {
        match self {
            BodyDecoder::Length(left) => {
                let data = usize::try_from(*left).map_or(input.len(), |n| n.min(input.len()));
                *left -= u64::try_from(data).unwrap_or(*left);
                Ok(Step {
                    skip: 0,
                    data,
                    done: *left == 0,
                })
            }
            BodyDecoder::Chunked(decoder) => decoder.step(input),
            BodyDecoder::UntilClose => Ok(Step {
                skip: 0,
                data: input.len(),
                done: false,
            }),
        }
    }

    /// The peer closed: was the body complete?
    ///
    /// # Errors
    /// `Truncated` unless the close is what ends this body.
    pub fn finish(&self) -> Result<(), Reject> {
        match self {
            BodyDecoder::Length(0) | BodyDecoder::UntilClose => Ok(()),
            BodyDecoder::Length(_) | BodyDecoder::Chunked(_) => Err(Reject::Truncated),
        }
    }

    /// The trailers of a complete chunked body.
    pub fn take_trailers(&mut self) -> Trailers {
        match self {
            BodyDecoder::Chunked(decoder) => decoder.take_trailers(),
            BodyDecoder::Length(_) | BodyDecoder::UntilClose => Trailers::default(),
        }
    }
}
