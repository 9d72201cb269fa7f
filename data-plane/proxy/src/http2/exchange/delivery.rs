//! Delivering: the held response goes to the client, and both bodies to their ends.

use std::{
    future::poll_fn,
    pin::pin,
    task::{Context, Poll},
};

use h2::Reason;
use http::Response;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Http2Exchange, Source, Upstream};
use crate::{
    exchange::{Deadline, DeliveryEnd, ResponseEdit},
    http2::{
        edit,
        inlet::{Body, Inlet},
        outlet::{Broken, Outlet, grpc_status},
        refusal,
    },
};

/// What reached the client.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) bytes: u64,
    pub(super) grpc_status: Option<u8>,
    pub(super) end: DeliveryEnd,
}

impl Sent {
    pub(super) fn nothing(end: DeliveryEnd) -> Self {
        Self {
            bytes: 0,
            grpc_status: None,
            end,
        }
    }
}

/// Sends head, body and trailers of `upstream`.
pub(super) async fn run(
    exchange: &mut Http2Exchange,
    upstream: Upstream,
    edit: &ResponseEdit,
    deadline: Deadline,
) -> Sent {
    let Upstream {
        mut head,
        body,
        request,
        request_done,
        lease,
    } = upstream;
    let head_status = grpc_status(&head.headers);
    edit::response_headers(&mut head.headers, edit);
    let ended = body.is_ended();
    let response = Response::from_parts(head, ());
    let Ok(stream) = exchange.respond.send_response(response, ended) else {
        exchange.note_gone();
        return Sent::nothing(DeliveryEnd::DownstreamClosed);
    };
    let rules = exchange.trailer_rules(edit.keep_reserved);
    let mut both = Both {
        request,
        request_done,
        body,
        response: Outlet::new(stream, ended, rules),
    };
    let running = both.run(exchange);
    let end = match deadline.0 {
        None => running.await,
        Some(at) => timeout_at(at, running)
            .await
            .unwrap_or(DeliveryEnd::DeadlinePassed),
    };
    if end == DeliveryEnd::DeadlinePassed {
        both.end_late(exchange.request.is_grpc());
    }
    drop(lease);
    Sent {
        bytes: both.response.sent(),
        grpc_status: both.response.grpc_status().or(head_status),
        end,
    }
}

/// Both directions of a stream.
struct Both {
    request: Outlet,
    request_done: bool,
    body: Body,
    response: Outlet,
}

impl Both {
    async fn run(&mut self, exchange: &mut Http2Exchange) -> DeliveryEnd {
        let idle = exchange.limits.stream_idle;
        let mut due = pin!(sleep_until(Instant::now() + idle));
        let end = poll_fn(|cx| {
            let hold = exchange.hold.as_ref();
            let held = || self.held() + exchange.body.held();
            if hold.is_some_and(|hold| hold.poll(cx, held).is_ready()) {
                self.cut(Reason::CANCEL, Reason::ENHANCE_YOUR_CALM);
                return Poll::Ready(DeliveryEnd::HeldMost);
            }
            let polled = self.poll(cx, &mut exchange.body);
            exchange.passed = self.response.sent();
            if polled.is_ready() {
                return polled;
            }
            while due.as_mut().poll(cx).is_ready() {
                let touched = self.request.touched().max(self.response.touched());
                if touched + idle <= Instant::now() {
                    self.cut(Reason::CANCEL, Reason::CANCEL);
                    return Poll::Ready(DeliveryEnd::Idle);
                }
                due.as_mut().reset(touched + idle);
            }
            Poll::Pending
        })
        .await;
        if end == DeliveryEnd::DownstreamClosed {
            exchange.note_gone();
        }
        end
    }

    fn poll(&mut self, cx: &mut Context<'_>, inlet: &mut Inlet) -> Poll<DeliveryEnd> {
        let response = self.response.poll_relay(cx, &mut self.body);
        match &response {
            Poll::Ready(Ok(())) | Poll::Pending => {}
            Poll::Ready(Err(Broken::Source(error))) => {
                self.cut(Reason::CANCEL, client_code(error));
                return Poll::Ready(DeliveryEnd::UpstreamReset);
            }
            Poll::Ready(Err(Broken::Trailers)) => {
                self.cut(Reason::CANCEL, Reason::INTERNAL_ERROR);
                return Poll::Ready(DeliveryEnd::UpstreamReset);
            }
            Poll::Ready(Err(Broken::Sink)) => {
                self.cut(Reason::CANCEL, Reason::CANCEL);
                return Poll::Ready(DeliveryEnd::DownstreamClosed);
            }
        }
        if !self.request_done {
            match self.request.poll_relay(cx, inlet) {
                Poll::Ready(Ok(()) | Err(Broken::Sink)) => self.request_done = true,
                // After the whole response this ends nothing that anybody waits for.
                Poll::Ready(Err(Broken::Source(_) | Broken::Trailers)) if response.is_ready() => {
                    self.request.reset(Reason::CANCEL);
                    self.request_done = true;
                }
                Poll::Ready(Err(Broken::Source(_) | Broken::Trailers)) => {
                    self.cut(Reason::CANCEL, Reason::PROTOCOL_ERROR);
                    return Poll::Ready(DeliveryEnd::DownstreamClosed);
                }
                Poll::Pending => {}
            }
        }
        if response.is_ready() && self.request_done {
            Poll::Ready(DeliveryEnd::Complete)
        } else {
            Poll::Pending
        }
    }

    fn held(&mut self) -> usize {
        self.request.held() + self.response.held() + self.body.held()
    }

    /// The deadline passed. A gRPC client learns it from the trailers, as its own library would
    /// have told it; what else is cut off must not look whole.
    fn end_late(&mut self, grpc: bool) {
        self.request.reset(Reason::CANCEL);
        if !(grpc && self.response.end_with(refusal::late_trailers())) {
            self.response.reset(Reason::CANCEL);
        }
    }

    /// Resets what is still open on either side.
    fn cut(&mut self, upstream: Reason, client: Reason) {
        self.request.reset(upstream);
        self.response.reset(client);
    }
}

/// The code that tells a client about an upstream's error inside a response. REFUSED_STREAM would
/// say that nothing was processed, NO_ERROR that all is well: neither is true any more.
fn client_code(error: &h2::Error) -> Reason {
    match error.reason() {
        Some(code @ (Reason::CANCEL | Reason::ENHANCE_YOUR_CALM | Reason::INADEQUATE_SECURITY))
            if error.is_remote() =>
        {
            code
        }
        Some(_) | None => Reason::INTERNAL_ERROR,
    }
}
