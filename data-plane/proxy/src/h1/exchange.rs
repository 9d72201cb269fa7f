//! One HTTP/1 request and its answer, as the request path sees them.
//!
//! The exchange owns the client's connection while it lasts and at most one upstream connection.
//! All progress lies in the struct, none in the futures, so a try can be dropped at any point:
//! its upstream connection is closed and the client's bytes stay where they are.
//!
//! The request body is pumped by whichever future is polled, the try or the delivery, so an
//! answer may begin while the request is still on its way. It then goes on being sent, but neither
//! connection is used again (SECURITY-NOTES rule 4).

use super::downstream::Downstream;
use super::framing::Asked;
use super::inflow::Inflow;
use super::up::{self, Up};
use super::write::{self, FieldEdit, Reserved};
use super::{BodyDecoder, Framing, RequestHead, ResponseHead, Version, refusal};
use crate::exchange::{
    AttemptFailure, AttemptFailureKind as Kind, Deadline, Delivery, DeliveryEnd, Engine, Exchange,
    RequestEdit, ResponseEdit, ResponseHead as Seen,
};
use crate::reason::{Reason, Refusal};
use crate::tls::Alpn;
use crate::upstream::{Checkout, Endpoint};
use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

/// DEF-13: no byte in either direction.
pub(super) const STREAM_IDLE: Duration = Duration::from_secs(300);

/// What the client's connection is good for after an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Afterwards {
    /// The next request.
    Reuse,
    /// An orderly close: the answer was whole. `unread`: the client may still be sending.
    Close {
        /// Whether bytes of the request have not been read.
        unread: bool,
    },
    /// Cut: the client must not take what it has for a whole answer.
    Abort,
}

/// An exchange on an HTTP/1 connection.
#[derive(Debug)]
pub struct H1Exchange {
    pub(super) down: Downstream,
    pub(super) head: RequestHead,
    pub(super) body: Inflow,
    pub(super) up: Option<Up>,
    pub(super) response: Option<ResponseHead>,
    /// `100 Continue` has been passed on.
    continued: bool,
    drain: CancellationToken,
    /// The exchange ended; `Abort` until then.
    pub(super) afterwards: Afterwards,
}

impl H1Exchange {
    pub(super) fn new(down: Downstream, head: RequestHead, drain: CancellationToken) -> Self {
        let body = Inflow::new(head.framing());
        H1Exchange {
            down,
            head,
            body,
            up: None,
            response: None,
            continued: false,
            drain,
            afterwards: Afterwards::Abort,
        }
    }

    /// The client's connection and what it is good for.
    pub(super) fn finish(self) -> (Downstream, Afterwards) {
        (self.down, self.afterwards)
    }

    pub(super) fn asked(&self) -> Asked {
        if self.head.method() == "HEAD" {
            Asked::Head
        } else {
            Asked::Other
        }
    }

    /// Whether the client's connection has to end with the answer that begins now.
    pub(super) fn must_close(&self) -> bool {
        !self.head.persistent()
            || !self.body.is_complete()
            || self.head.websocket()
            || self.drain.is_cancelled()
    }

    /// Writes the head for this connection, and as much of the body as is there.
    fn begin(&mut self, endpoint: &Rc<Endpoint>, checkout: Checkout, edit: &RequestEdit) {
        let mut up = Up::new(endpoint, checkout);
        up.wire.prepare_out();
        let address;
        let authority = if self.head.authority().is_none() {
            // HTTP/1.0 without Host: HTTP/1.1 requires one, so it names the server itself.
            address = endpoint.address.to_string();
            Some(address.as_str())
        } else {
            None
        };
        let fields = FieldEdit {
            set: &edit.set,
            remove: edit.remove,
            reserved: Reserved::Strip,
        };
        let head_edit = write::RequestEdit {
            path: None,
            authority,
            framing: self.head.framing(),
            expect: true,
            upgrade: true,
            close: endpoint.is_last_request(&up.connection),
            fields,
        };
        write::request(&self.head, &head_edit, &mut up.wire.out);
        self.body.rewind();
        self.up = Some(up);
        self.down.watch.set(STREAM_IDLE);
    }

    /// Moves the request body: from the client, upstream. Ready when all of it is sent, or the
    /// server takes no more; an error is the client's.
    pub(super) fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), AttemptFailure>> {
        let Some(up) = &mut self.up else {
            return Poll::Ready(Ok(()));
        };
        loop {
            if !up.broken
                && let Err(reject) = self.body.take_in(&mut self.down.wire.read)
            {
                self.body.forget();
                return Poll::Ready(Err(downstream(refusal::reason(reject), reject.slug())));
            }
            if !up.broken && self.body.has_more() && up.wire.has_room() {
                self.body.put(&mut up.wire.out);
            }
            if up.poll_send(cx).is_pending() {
                return Poll::Pending;
            }
            if up.broken || self.body.is_ended() {
                return Poll::Ready(Ok(()));
            }
            if self.body.has_more() {
                continue;
            }
            match self.down.wire.poll_fill(&mut self.down.io, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(1..)) => self.down.watch.set(STREAM_IDLE),
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.body.forget();
                    let reason = refusal::reason(super::Reject::Truncated);
                    return Poll::Ready(Err(downstream(reason, "client closed in its body")));
                }
            }
        }
    }

    /// Sends the request and waits for the final response head.
    fn poll_attempt(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, AttemptFailure>> {
        let asked = self.asked();
        let mut sending = true;
        loop {
            if sending {
                match self.poll_request(cx) {
                    Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                    Poll::Ready(Ok(())) => sending = false,
                    Poll::Pending => {}
                }
            }
            let drained = self.down.wire.poll_drain(&mut self.down.io, cx);
            if matches!(drained, Poll::Ready(Err(_))) {
                let reason = refusal::reason(super::Reject::Truncated);
                return Poll::Ready(Err(downstream(reason, "client gone")));
            }
            let Some(up) = &mut self.up else {
                return Poll::Ready(Err(AttemptFailure::new(Kind::Reset, "no connection")));
            };
            match up.poll_head(asked, cx) {
                Poll::Ready(Ok(head)) if head.interim() => {
                    if let Err(failure) = up.count_interim() {
                        return Poll::Ready(Err(failure));
                    }
                    self.pass_interim(&head);
                }
                Poll::Ready(Ok(head)) if head.status() == 101 && !self.head.websocket() => {
                    let failure = AttemptFailure::new(Kind::Protocol, "unasked 101");
                    return Poll::Ready(Err(failure));
                }
                Poll::Ready(Ok(head)) => {
                    up.early = !self.body.is_ended() || !up.wire.is_drained();
                    return Poll::Ready(Ok(head));
                }
                Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                Poll::Pending => break,
            }
        }
        if self.down.watch.poll(cx).is_ready() {
            let failure = AttemptFailure::new(Kind::Timeout, "no byte for five minutes");
            return Poll::Ready(Err(failure));
        }
        Poll::Pending
    }

    /// Passes an interim response on to a client that can have asked for it: 100 to one that
    /// expects it and once, others to HTTP/1.1.
    fn pass_interim(&mut self, head: &ResponseHead) {
        let wanted = match head.status() {
            100 => self.head.expect_continue() && !std::mem::replace(&mut self.continued, true),
            _ => self.head.version() == Version::Http11,
        };
        if wanted {
            let fields = FieldEdit::NONE;
            let edit = write::ResponseEdit {
                framing: Framing::None,
                close: false,
                fields,
            };
            self.down.wire.prepare_out();
            write::response(head, &edit, &mut self.down.wire.out);
        }
    }

    /// Whether a request that met a closed connection may be sent again unasked: nothing came
    /// back, the connection had been idle, and the method says that twice is as good as once
    /// (RFC 9110 §9.2.2), or nothing of it had left.
    fn may_replace(&self, failure: &AttemptFailure) -> bool {
        let idempotent = matches!(
            self.head.method(),
            "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE"
        );
        failure.kind == Kind::Reset
            && self.can_replay()
            && self.up.as_ref().is_some_and(|up| {
                up.reused && !up.wire.has_received() && (idempotent || !up.wire.has_sent())
            })
    }

    async fn run_attempt(
        &mut self,
        endpoint: &Rc<Endpoint>,
        edit: &RequestEdit,
        deadline: Deadline,
    ) -> Result<ResponseHead, AttemptFailure> {
        let checkout = up::checkout(endpoint, deadline).await?;
        self.begin(endpoint, checkout, edit);
        loop {
            let polled = poll_fn(|cx| self.poll_attempt(cx));
            let result = match deadline.0 {
                None => polled.await,
                Some(at) => match timeout_at(at, polled).await {
                    Ok(result) => result,
                    Err(_) => {
                        return Err(AttemptFailure::new(Kind::Timeout, "no response in time"));
                    }
                },
            };
            match result {
                Err(failure) if self.may_replace(&failure) => {
                    self.up = None;
                    let connection = endpoint.open(Alpn::H1, deadline).await?;
                    self.begin(
                        endpoint,
                        Checkout {
                            connection,
                            reused: false,
                        },
                        edit,
                    );
                }
                other => return other,
            }
        }
    }
}

/// Closes the upstream connection unless the try brought a response.
struct Try<'a> {
    exchange: &'a mut H1Exchange,
    answered: bool,
}

impl Deref for Try<'_> {
    type Target = H1Exchange;

    fn deref(&self) -> &H1Exchange {
        self.exchange
    }
}

impl DerefMut for Try<'_> {
    fn deref_mut(&mut self) -> &mut H1Exchange {
        self.exchange
    }
}

impl Drop for Try<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.exchange.up = None;
        }
    }
}

impl Exchange for H1Exchange {
    type Request = RequestHead;

    fn request(&self) -> &RequestHead {
        &self.head
    }

    fn engine(&self) -> Engine {
        Engine::H1
    }

    fn authority(&self) -> &str {
        self.head.authority().unwrap_or_default()
    }

    fn is_grpc(&self) -> bool {
        // gRPC is defined over HTTP/2 alone: its answers need trailers without a body.
        false
    }

    fn can_replay(&self) -> bool {
        self.body.can_replay()
    }

    async fn attempt(
        &mut self,
        endpoint: &Rc<Endpoint>,
        edit: &RequestEdit,
        deadline: Deadline,
    ) -> Result<Seen, AttemptFailure> {
        self.response = None;
        let mut attempt = Try {
            exchange: self,
            answered: false,
        };
        let head = attempt.run_attempt(endpoint, edit, deadline).await?;
        attempt.answered = true;
        let status = head.status();
        attempt.response = Some(head);
        Ok(Seen {
            status,
            grpc_status: None,
        })
    }

    async fn discard(&mut self) {
        let (Some(response), Some(mut up)) = (self.response.take(), self.up.take()) else {
            return;
        };
        // A short answer is often there whole: then its connection is saved.
        let mut decoder = BodyDecoder::new(response.framing());
        let mut whole = response.framing().is_empty();
        while !whole {
            let Ok(step) = decoder.step(&up.wire.read) else {
                return;
            };
            bytes::Buf::advance(&mut up.wire.read, step.skip + step.data);
            whole = step.done;
            if step.data == 0 && !whole {
                return;
            }
        }
        if response.persistent() && !self.head.websocket() {
            up.give_back();
        }
    }

    async fn deliver(&mut self, edit: &ResponseEdit) -> Delivery {
        self.run_delivery(edit).await
    }

    async fn refuse(&mut self, refusal: &Refusal) -> Delivery {
        self.up = None;
        self.response = None;
        // What has arrived of the body is read, so that a short one does not cost the connection.
        self.body.forget();
        let broken = self.body.take_in(&mut self.down.wire.read).is_err();
        let close = broken || self.must_close();
        self.down.wire.prepare_out();
        let head_only = self.asked() == Asked::Head;
        let bytes = refusal::put(refusal, head_only, close, &mut self.down.wire.out);
        let end = match self.down.send().await {
            Ok(()) => DeliveryEnd::Complete,
            Err(_) => DeliveryEnd::DownstreamClosed,
        };
        self.afterwards = match end {
            DeliveryEnd::Complete if close => Afterwards::Close {
                unread: broken || !self.body.is_complete(),
            },
            DeliveryEnd::Complete => Afterwards::Reuse,
            DeliveryEnd::DownstreamClosed
            | DeliveryEnd::UpstreamReset
            | DeliveryEnd::Idle
            | DeliveryEnd::DeadlinePassed => Afterwards::Abort,
        };
        Delivery {
            request_bytes: self.body.bytes(),
            response_bytes: bytes,
            grpc_status: None,
            end,
        }
    }
}

fn downstream(reason: Reason, detail: &'static str) -> AttemptFailure {
    AttemptFailure::new(Kind::Downstream(reason), detail)
}
