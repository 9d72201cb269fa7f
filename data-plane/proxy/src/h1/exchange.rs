//! One HTTP/1 request and its answer, as the request path sees them.
//!
//! The exchange owns the client's connection while it lasts and at most one upstream connection.
//! All progress lies in the struct, none in the futures, so a try can be dropped at any point:
//! its upstream connection is closed and the client's bytes stay where they are.
//!
//! The request body is pumped by whichever future is polled, the try or the delivery, so an
//! answer may begin while the request is still on its way. It then goes on being sent, but neither
//! connection is used again (SECURITY-NOTES rule 4).

use super::attempt::Try;
use super::downstream::Downstream;
use super::framing::Asked;
use super::inflow::Inflow;
use super::up::Up;
use super::{BodyDecoder, RequestHead, ResponseHead, refusal};
use crate::exchange::{
    AttemptFailure, Deadline, Delivery, DeliveryEnd, Engine, Exchange, RequestEdit, ResponseEdit,
    ResponseHead as Seen,
};
use crate::hold::Hold;
use crate::reason::{Reason, Refusal};
use crate::upstream::Endpoint;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// DEF-13: no byte in either direction.
pub(super) const STREAM_IDLE: Duration = Duration::from_secs(300);
/// The same once an application has closed its sending side. TCP does not tell who closed half and
/// waits for the answer from who gave up without a reset: both get a minute in which nothing
/// moves, and the route's deadline before. A client that is gone is noticed earlier by its reset,
/// which the first byte of an answer causes too. Sidecars never close half: their end is one.
pub(super) const HALF_CLOSED_IDLE: Duration = Duration::from_secs(60);

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
pub struct H1Exchange<'a> {
    pub(super) down: Downstream,
    pub(super) head: RequestHead,
    pub(super) body: Inflow,
    pub(super) up: Option<Up>,
    pub(super) response: Option<ResponseHead>,
    /// `100 Continue` has been passed on.
    pub(super) continued: bool,
    /// Body bytes passed to the client so far.
    pub(super) passed: u64,
    /// Bytes from the client after an upgrade.
    pub(super) tunnelled: u64,
    drain: &'a CancellationToken,
    pub(super) hold: Option<Rc<Hold>>,
    /// The exchange ended; `Abort` until then.
    pub(super) afterwards: Afterwards,
}

impl<'a> H1Exchange<'a> {
    pub(super) fn new(down: Downstream, head: RequestHead, drain: &'a CancellationToken) -> Self {
        let body = Inflow::new(head.framing());
        H1Exchange {
            down,
            head,
            body,
            up: None,
            response: None,
            continued: false,
            passed: 0,
            tunnelled: 0,
            drain,
            hold: None,
            afterwards: Afterwards::Abort,
        }
    }

    /// Ready when it is to end because it holds the most memory (DEF-21).
    pub(super) fn poll_hold(&self, cx: &Context<'_>) -> Poll<()> {
        let Some(hold) = &self.hold else {
            return Poll::Pending;
        };
        hold.poll(cx, || {
            let up = self.up.as_ref().map_or(0, |up| up.wire.held());
            self.down.wire.held() + self.body.held() + up
        })
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
}

impl Exchange for H1Exchange<'_> {
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
        let refused = Seen::may_be_refusal(endpoint, status, None)
            .then(|| head.get("x-outrigger-reason"))
            .flatten()
            .and_then(Reason::of_header);
        attempt.response = Some(head);
        Ok(Seen {
            status,
            grpc_status: None,
            refused,
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
            up.connection.leave_after(response.idle_timeout());
            up.give_back();
        }
    }

    async fn deliver(&mut self, edit: &ResponseEdit, deadline: Deadline) -> Delivery {
        self.run_delivery(edit, deadline).await
    }

    fn abandon(&mut self) -> Delivery {
        self.up = None;
        self.response = None;
        self.afterwards = Afterwards::Abort;
        self.delivery(DeliveryEnd::DownstreamClosed)
    }

    fn watch(&mut self, hold: &Rc<Hold>) {
        self.hold = Some(Rc::clone(hold));
    }

    fn progress(&self) -> (u64, u64) {
        (self.body.bytes() + self.tunnelled, self.passed)
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
            | DeliveryEnd::DeadlinePassed
            | DeliveryEnd::HeldMost => Afterwards::Abort,
        };
        self.passed = bytes;
        self.delivery(end)
    }
}
