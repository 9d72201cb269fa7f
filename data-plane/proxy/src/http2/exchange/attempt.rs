//! One attempt: a stream to an endpoint, the request on its way, the wait for the response head.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
};

use h2::{RecvStream, client::ResponseFuture};
use http::{Response, header, response};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Http2Exchange, Source};
use crate::{
    exchange::{AttemptFailure, AttemptFailureKind as Kind, Deadline, RequestEdit, ResponseHead},
    http2::{
        client::{Lease, failure_of},
        edit,
        head::too_many_fields,
        inlet::Body,
        outlet::{Broken, Outlet, grpc_status},
    },
    reason::Reason,
    upstream::Endpoint,
};

/// A stream that brought a response head.
pub(super) struct Upstream {
    pub(super) head: response::Parts,
    pub(super) body: Body,
    pub(super) request: Outlet,
    /// The request was sent whole, or the upstream wants no more of it.
    pub(super) request_done: bool,
    /// Keeps the stream's place in its connection until the end.
    pub(super) lease: Lease,
}

impl Upstream {
    pub(super) fn head(&self, endpoint: &Endpoint) -> ResponseHead {
        let status = self.head.status.as_u16();
        let grpc_status = grpc_status(&self.head.headers);
        let refused = ResponseHead::may_be_refusal(endpoint, status, grpc_status)
            .then(|| self.head.headers.get("x-outrigger-reason"))
            .flatten()
            .and_then(|value| Reason::of_header(value.as_bytes()));
        ResponseHead {
            status,
            grpc_status,
            refused,
        }
    }
}

/// An attempt that failed, and whether its connection was found closed.
struct Failed {
    failure: AttemptFailure,
    closed: Closed,
}

/// Whether a failure only says that the connection was at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closed {
    No,
    /// By GOAWAY, before our stream: certainly not processed.
    Planned,
    /// Without a word: most likely while it was idle.
    Broken,
}

impl From<AttemptFailure> for Failed {
    fn from(failure: AttemptFailure) -> Self {
        let closed = Closed::No;
        Self { failure, closed }
    }
}

impl From<&h2::Error> for Failed {
    fn from(error: &h2::Error) -> Self {
        let closed = if error.is_go_away() && error.is_remote() {
            Closed::Planned
        } else if error.is_io() {
            Closed::Broken
        } else {
            Closed::No
        };
        let failure = failure_of(error);
        Self { failure, closed }
    }
}

/// The request under way.
struct Sending {
    response: ResponseFuture,
    request: Outlet,
    request_done: bool,
    interim: u32,
}

/// Runs an attempt; one on a connection that turns out closed is made again, once.
pub(super) async fn run(
    exchange: &mut Http2Exchange,
    endpoint: &Rc<Endpoint>,
    edit: &RequestEdit,
    deadline: Deadline,
) -> Result<Upstream, AttemptFailure> {
    let mut replaced = false;
    loop {
        let lease = lease(exchange, endpoint, deadline).await?;
        let stale = lease.is_reused();
        exchange.body.rewind();
        let failed = match send(exchange, lease, edit, deadline).await {
            Ok(upstream) => return Ok(upstream),
            Err(failed) => failed,
        };
        let again = match failed.closed {
            Closed::No => false,
            Closed::Planned => true,
            Closed::Broken => stale && exchange.request.is_idempotent(),
        };
        if replaced || !again || !exchange.body.can_rewind() {
            return Err(failed.failure);
        }
        replaced = true;
    }
}

async fn lease(
    exchange: &mut Http2Exchange,
    endpoint: &Rc<Endpoint>,
    deadline: Deadline,
) -> Result<Lease, AttemptFailure> {
    tokio::select! {
        biased;
        lease = endpoint.http2.lease(endpoint, deadline) => lease,
        () = poll_fn(|cx| exchange.poll_gone(cx)) => Err(client_gone()),
    }
}

async fn send(
    exchange: &mut Http2Exchange,
    lease: Lease,
    edit: &RequestEdit,
    deadline: Deadline,
) -> Result<Upstream, Failed> {
    let mut sending = send_head(exchange, &lease, edit).await?;
    let answered = answer(exchange, &mut sending);
    let answered = match deadline.0 {
        Some(until) => timeout_at(until, answered).await,
        None => Ok(answered.await),
    };
    let response = answered.map_err(|_| {
        sending.request.reset(h2::Reason::CANCEL);
        AttemptFailure::new(Kind::Timeout, "no response head in time")
    })??;
    let (head, stream) = response.into_parts();
    if too_many_fields(&head.headers, exchange.limits.fields_max) {
        sending.request.reset(h2::Reason::CANCEL);
        return Err(AttemptFailure::new(Kind::Protocol, "too many response fields").into());
    }
    let declared = head.headers.get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|value| value.to_str().ok()?.parse().ok());
    Ok(Upstream {
        head,
        body: Body::response(stream, declared),
        request: sending.request,
        request_done: sending.request_done,
        lease,
    })
}

async fn send_head(
    exchange: &Http2Exchange,
    lease: &Lease,
    edit: &RequestEdit,
) -> Result<Sending, Failed> {
    let headers = edit::request_headers(exchange.request.headers(), edit);
    let request = exchange
        .request
        .to_request(headers, edit)
        .map_err(|error| AttemptFailure::new(Kind::Protocol, error.to_string()))?;
    // Whatever goes wrong here, nothing was sent.
    let unsent = |error: h2::Error| Failed {
        failure: AttemptFailure::new(Kind::RefusedStream, format!("connection closed: {error}")),
        closed: Closed::Planned,
    };
    let ended = exchange.body.is_ended();
    let (response, stream) = lease.send_request(request, ended).await.map_err(unsent)?;
    Ok(Sending {
        response,
        request: Outlet::new(stream, ended, exchange.trailer_rules(false)),
        request_done: ended,
        interim: 0,
    })
}

/// Waits for the response head while the request moves on, or until nothing moved for DEF-13.
async fn answer(
    exchange: &mut Http2Exchange,
    sending: &mut Sending,
) -> Result<Response<RecvStream>, Failed> {
    let idle = exchange.limits.stream_idle;
    let mut due = pin!(sleep_until(Instant::now() + idle));
    poll_fn(|cx| {
        let Http2Exchange { hold, body, .. } = &mut *exchange;
        let held = || body.held() + sending.request.held();
        if hold
            .as_ref()
            .is_some_and(|hold| hold.poll(cx, held).is_ready())
        {
            sending.request.reset(h2::Reason::CANCEL);
            let kind = Kind::Downstream(Reason::HeldMost);
            let failure = AttemptFailure::new(kind, "the request held the most memory");
            return Poll::Ready(Err(failure.into()));
        }
        if let Poll::Ready(answer) = sending.poll(cx, exchange) {
            return Poll::Ready(answer);
        }
        while due.as_mut().poll(cx).is_ready() {
            let until = sending.request.touched() + idle;
            if until <= Instant::now() {
                sending.request.reset(h2::Reason::CANCEL);
                let failure = AttemptFailure::new(Kind::Timeout, "nothing moved for too long");
                return Poll::Ready(Err(failure.into()));
            }
            due.as_mut().reset(until);
        }
        Poll::Pending
    })
    .await
}

impl Sending {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &mut Http2Exchange,
    ) -> Poll<Result<Response<RecvStream>, Failed>> {
        if !self.request_done {
            match self.request.poll_relay(cx, &mut exchange.body) {
                // A sink that takes no more has answered, or its error is the response's.
                Poll::Ready(Ok(()) | Err(Broken::Sink)) => self.request_done = true,
                Poll::Ready(Err(Broken::Source(error))) => {
                    if error.is_remote() {
                        exchange.note_gone();
                    }
                    self.request.reset(h2::Reason::CANCEL);
                    // Ours: h2 found the body other than its declared length.
                    let failure = if error.is_library() {
                        let kind = Kind::Downstream(Reason::BadRequest("truncated"));
                        AttemptFailure::new(kind, "the body is not of its declared length")
                    } else {
                        client_gone()
                    };
                    return Poll::Ready(Err(failure.into()));
                }
                Poll::Ready(Err(Broken::Trailers)) => {
                    self.request.reset(h2::Reason::CANCEL);
                    let kind = Kind::Downstream(Reason::HeadTooLarge);
                    return Poll::Ready(Err(AttemptFailure::new(kind, "request trailers").into()));
                }
                Poll::Pending => {}
            }
        }
        if let Err(failure) = self.pass_interim(cx, exchange) {
            return Poll::Ready(Err(failure));
        }
        if let Poll::Ready(response) = Pin::new(&mut self.response).poll(cx) {
            return Poll::Ready(response.map_err(|error| Failed::from(&error)));
        }
        exchange.poll_gone(cx).map(|()| Err(client_gone().into()))
    }

    /// Passes 1xx responses on, up to DEF-22.
    fn pass_interim(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &mut Http2Exchange,
    ) -> Result<(), Failed> {
        while let Poll::Ready(Some(Ok(mut interim))) = self.response.poll_informational(cx) {
            self.interim = self.interim.saturating_add(1);
            let switching = interim.status() == http::StatusCode::SWITCHING_PROTOCOLS;
            if switching || self.interim > exchange.limits.interim_max {
                self.request.reset(h2::Reason::CANCEL);
                let text = "too many interim responses, or 101";
                return Err(AttemptFailure::new(Kind::Protocol, text).into());
            }
            edit::trailers(interim.headers_mut(), false);
            if let Err(error) = exchange.respond.send_informational(interim) {
                tracing::debug!(%error, "interim response not passed on");
            }
        }
        Ok(())
    }
}

/// The client reset its stream or closed its connection.
fn client_gone() -> AttemptFailure {
    AttemptFailure::new(Kind::ClientGone, "the client went away")
}
