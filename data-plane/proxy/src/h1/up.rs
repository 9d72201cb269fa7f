//! One try's upstream connection: the request goes out here, the response comes in.

use super::framing::Asked;
use super::wire::Wire;
use super::{BodyDecoder, Leading, Reject, ResponseHead, Scanner, Trailers};
use crate::exchange::{AttemptFailure, AttemptFailureKind as Kind, Deadline};
use crate::upstream::{Checkout, Connection, Endpoint};
use bytes::Buf;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};

/// DEF-22: most interim responses before the final one.
pub(super) const INTERIM_MAX: u8 = 16;

/// The upstream side of a try.
#[derive(Debug)]
pub(super) struct Up {
    pub(super) endpoint: Rc<Endpoint>,
    pub(super) connection: Connection,
    pub(super) wire: Wire,
    scanner: Scanner,
    interims: u8,
    /// Whether the connection was idle before: its peer may have closed it meanwhile.
    pub(super) reused: bool,
    /// The server takes no more of the request; its answer may still come.
    pub(super) broken: bool,
    /// The response began before the request was sent whole (rule 4: no reuse).
    pub(super) early: bool,
}

impl Up {
    pub(super) fn new(endpoint: &Rc<Endpoint>, checkout: Checkout) -> Up {
        Up {
            endpoint: Rc::clone(endpoint),
            connection: checkout.connection,
            wire: Wire::default(),
            scanner: Scanner::new(Leading::Nothing),
            interims: 0,
            reused: checkout.reused,
            broken: false,
            early: false,
        }
    }

    /// Sends what is written. A server that takes no more may still have answered: that is no
    /// error here, reading decides.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.broken && ready!(self.wire.poll_drain(&mut self.connection.io, cx)).is_err() {
            self.broken = true;
            self.wire.out.clear();
        }
        Poll::Ready(())
    }

    /// The next head, interim or final.
    pub(super) fn poll_head(
        &mut self,
        asked: Asked,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, AttemptFailure>> {
        loop {
            match self.scan(asked) {
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Ok(None) => {}
                Err(reject) => {
                    let failure = AttemptFailure::new(Kind::Protocol, reject.slug());
                    return Poll::Ready(Err(failure));
                }
            }
            match ready!(self.wire.poll_fill(&mut self.connection.io, cx)) {
                Ok(1..) => {}
                Ok(0) => {
                    let failure = AttemptFailure::new(Kind::Reset, "closed before a response");
                    return Poll::Ready(Err(failure));
                }
                Err(error) => {
                    let failure = AttemptFailure::new(Kind::Reset, error.kind().to_string());
                    return Poll::Ready(Err(failure));
                }
            }
        }
    }

    fn scan(&mut self, asked: Asked) -> Result<Option<ResponseHead>, Reject> {
        let Some(section) = self.scanner.scan(&self.wire.read)? else {
            return Ok(None);
        };
        self.scanner = Scanner::new(Leading::Nothing);
        let raw = self.wire.read.split_to(section.len).freeze();
        ResponseHead::parse(raw, asked).map(Some)
    }

    /// Counts an interim response.
    pub(super) fn count_interim(&mut self) -> Result<(), AttemptFailure> {
        self.interims += 1;
        if self.interims > INTERIM_MAX {
            return Err(AttemptFailure::new(
                Kind::Protocol,
                "too many interim responses",
            ));
        }
        Ok(())
    }

    /// Puts the connection back into the pool. The caller has made sure that the exchange on it
    /// is complete; bytes beyond the response make it unusable.
    pub(super) fn give_back(mut self) {
        if self.wire.read.is_empty() && self.wire.is_drained() && !self.broken && !self.early {
            self.wire.release();
            self.endpoint.give_back(self.connection);
        }
    }
}

/// A connection to `endpoint` that its peer has not closed as far as can be seen, idle or new.
pub(super) async fn checkout(
    endpoint: &Endpoint,
    deadline: Deadline,
) -> Result<Checkout, AttemptFailure> {
    loop {
        let mut checkout = endpoint.checkout(deadline).await?;
        if !checkout.reused || is_quiet(&mut checkout.connection).await {
            return Ok(checkout);
        }
    }
}

/// Whether an idle connection is still open and has nothing to say. Anything it does say, a
/// farewell or a response to nothing, makes it useless. Costs no system call where nothing came.
async fn is_quiet(connection: &mut Connection) -> bool {
    poll_fn(|cx| {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        let polled = Pin::new(&mut connection.io).poll_read(cx, &mut buffer);
        Poll::Ready(polled.is_pending())
    })
    .await
}

/// A response on its way to the client: decoded, framed anew.
#[derive(Debug)]
pub(super) struct Outflow {
    decoder: BodyDecoder,
    chunked: bool,
    bytes: u64,
    complete: bool,
}

impl Outflow {
    pub(super) fn new(from: super::Framing, to: super::Framing) -> Outflow {
        Outflow {
            decoder: BodyDecoder::new(from),
            chunked: to == super::Framing::Chunked,
            bytes: 0,
            complete: from.is_empty(),
        }
    }

    /// Body bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether all of the response, its end included, is in the client's buffer.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Moves what lies in `from` to `to`, as far as there is room.
    pub(super) fn pass(&mut self, from: &mut Wire, to: &mut Wire) -> Result<(), Reject> {
        while !self.complete && to.has_room() {
            let step = self.decoder.step(&from.read)?;
            from.read.advance(step.skip);
            if let Some(data) = from.read.get(..step.data).filter(|data| !data.is_empty()) {
                self.bytes += u64::try_from(data.len()).unwrap_or(0);
                if self.chunked {
                    super::chunk::put_size(data.len(), &mut to.out);
                }
                to.out.extend_from_slice(data);
                if self.chunked {
                    to.out.extend_from_slice(super::chunk::CHUNK_END);
                }
                from.read.advance(step.data);
            }
            if step.done {
                let trailers = self.decoder.take_trailers();
                self.end(&trailers, to);
            } else if step.data == 0 {
                break;
            }
        }
        Ok(())
    }

    /// The server closed its side.
    pub(super) fn finish(&mut self, to: &mut Wire) -> Result<(), Reject> {
        self.decoder.finish()?;
        self.end(&Trailers::default(), to);
        Ok(())
    }

    fn end(&mut self, trailers: &Trailers, to: &mut Wire) {
        if self.chunked && !self.complete {
            super::chunk::put_end(trailers, &mut to.out);
        }
        self.complete = true;
    }
}
