//! One stream of a client, while the mesh works on it: [`Exchange`] for HTTP/2.
//!
//! The exchange is polled by its stream's own task. While it waits for an upstream's head it also
//! moves the request body on; while it delivers, both bodies move side by side. Nothing runs
//! elsewhere, so a dropped future stops everything it did.

mod attempt;
mod delivery;

use std::{
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::Response;

use self::{attempt::Upstream, delivery::Sent};
use super::{
    head::RequestHead,
    inlet::{Inlet, Source},
    limits::Limits,
    outlet::TrailerRules,
    refusal::{self, Shape},
    resets::Resets,
};
use crate::{
    exchange::{
        AttemptFailure, AttemptFailureKind, Deadline, Delivery, DeliveryEnd, Engine, Exchange,
        RequestEdit, ResponseEdit, ResponseHead,
    },
    hold::Hold,
    reason::{Reason, Refusal},
    upstream::Endpoint,
};

/// A request that came over HTTP/2, and its answer.
pub struct Http2Exchange {
    request: RequestHead,
    body: Inlet,
    respond: SendResponse<Bytes>,
    /// The response held since the last successful attempt.
    upstream: Option<Upstream>,
    limits: Rc<Limits>,
    resets: Rc<Resets>,
    hold: Option<Rc<Hold>>,
    state: State,
    /// Body bytes passed to the client so far.
    passed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Neither delivered nor refused.
    Open,
    /// The client went away before.
    Gone,
    /// Delivered or refused.
    Ended,
}

impl Http2Exchange {
    pub(super) fn new(
        request: RequestHead,
        body: RecvStream,
        respond: SendResponse<Bytes>,
        limits: Rc<Limits>,
        resets: Rc<Resets>,
    ) -> Self {
        let declared = request.declared_length();
        Self {
            body: Inlet::new(body, declared, limits.replay_bytes_max),
            request,
            respond,
            upstream: None,
            limits,
            resets,
            hold: None,
            state: State::Open,
            passed: 0,
        }
    }

    /// Ready once the client reset the stream or its connection ended.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.respond.poll_reset(cx).map(|reset| {
            if reset.is_ok() {
                self.note_gone();
            }
        })
    }

    /// The client reset the stream: counted once (DEF-07).
    fn note_gone(&mut self) {
        if self.state == State::Open {
            self.state = State::Gone;
            self.resets.note_reset();
        }
    }

    fn trailer_rules(&self, keep_reserved: bool) -> TrailerRules {
        TrailerRules {
            keep_reserved,
            fields_max: self.limits.fields_max,
        }
    }

    fn send_refusal(&mut self, refusal: &Refusal) -> Result<u64, h2::Error> {
        let shape = if self.request.is_grpc() {
            Shape::Grpc
        } else if self.request.is_head() {
            Shape::TextHead
        } else {
            Shape::Text
        };
        send_refusal(&mut self.respond, refusal, shape)
    }

    fn delivery(&self, sent: Sent) -> Delivery {
        Delivery {
            request_bytes: self.body.received(),
            response_bytes: sent.bytes,
            grpc_status: sent.grpc_status,
            end: sent.end,
        }
    }
}

impl Exchange for Http2Exchange {
    type Request = RequestHead;

    fn request(&self) -> &RequestHead {
        &self.request
    }

    fn engine(&self) -> Engine {
        Engine::H2
    }

    fn authority(&self) -> &str {
        self.request.authority()
    }

    fn is_grpc(&self) -> bool {
        self.request.is_grpc()
    }

    fn can_replay(&self) -> bool {
        self.state == State::Open && self.body.can_rewind()
    }

    async fn attempt(
        &mut self,
        endpoint: &Rc<Endpoint>,
        edit: &RequestEdit,
        deadline: Deadline,
    ) -> Result<ResponseHead, AttemptFailure> {
        self.upstream = None;
        if !self.body.can_rewind() {
            let text = "the request body was too large to be kept";
            return Err(AttemptFailure::new(AttemptFailureKind::Reset, text));
        }
        let upstream = attempt::run(self, endpoint, edit, deadline).await?;
        let head = upstream.head(endpoint);
        self.upstream = Some(upstream);
        Ok(head)
    }

    async fn discard(&mut self) {
        self.upstream = None;
    }

    async fn deliver(&mut self, edit: &ResponseEdit, deadline: Deadline) -> Delivery {
        let Some(upstream) = self.upstream.take() else {
            return self.refuse(&Refusal::new(Reason::Internal)).await;
        };
        self.body.commit();
        let sent = delivery::run(self, upstream, edit, deadline).await;
        self.state = State::Ended;
        self.delivery(sent)
    }

    async fn refuse(&mut self, refusal: &Refusal) -> Delivery {
        self.upstream = None;
        let sent = match self.send_refusal(refusal) {
            Ok(bytes) => Sent {
                bytes,
                grpc_status: self.is_grpc().then(|| refusal.reason.grpc_status()),
                end: DeliveryEnd::Complete,
            },
            Err(_) => {
                self.note_gone();
                Sent::nothing(DeliveryEnd::DownstreamClosed)
            }
        };
        self.state = State::Ended;
        self.delivery(sent)
    }

    fn abandon(&mut self) -> Delivery {
        self.upstream = None;
        if self.state == State::Open {
            self.respond.send_reset(h2::Reason::CANCEL);
        }
        self.state = State::Ended;
        self.delivery(Sent::nothing(DeliveryEnd::DownstreamClosed))
    }

    fn watch(&mut self, hold: &Rc<Hold>) {
        self.hold = Some(Rc::clone(hold));
    }

    fn progress(&self) -> (u64, u64) {
        (self.body.received(), self.passed)
    }
}

/// An exchange that nobody ended (a panic, a defect): the client learns it at once.
impl Drop for Http2Exchange {
    fn drop(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        if self.state == State::Open && self.poll_gone(&mut cx).is_pending() {
            self.respond.send_reset(h2::Reason::INTERNAL_ERROR);
        }
    }
}

impl std::fmt::Debug for Http2Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http2Exchange")
            .field("stream", &self.respond.stream_id())
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// Answers a stream; returns the body's bytes. What h2 still receives of the request is ended by
/// NO_ERROR once the handles are dropped (RFC 9113 §8.1).
pub(super) fn send_refusal(
    respond: &mut SendResponse<Bytes>,
    refusal: &Refusal,
    shape: Shape,
) -> Result<u64, h2::Error> {
    let (response, body): (Response<()>, Bytes) = refusal::answer(refusal, shape);
    let count = u64::try_from(body.len()).unwrap_or(u64::MAX);
    let mut stream = respond.send_response(response, body.is_empty())?;
    if !body.is_empty() {
        stream.send_data(body, true)?;
    }
    Ok(count)
}
