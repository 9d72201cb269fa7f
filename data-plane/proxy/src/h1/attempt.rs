//! A try: the request goes out on one upstream connection, a response head comes back.

use super::exchange::{H1Exchange, HALF_CLOSED_IDLE, STREAM_IDLE};
use super::up::{self, Up};
use super::write::{self, FieldEdit, Reserved};
use super::{Framing, ResponseHead, Version, refusal};
use crate::exchange::{
    AttemptFailure, AttemptFailureKind as Kind, Deadline, DeliveryEnd, Exchange, RequestEdit,
};
use crate::reason::Reason;
use crate::tls::Alpn;
use crate::upstream::{Checkout, Endpoint};
use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::time::timeout_at;

impl H1Exchange<'_> {
    /// Writes the head for this connection, and as much of the body as is there.
    fn begin(&mut self, endpoint: &Rc<Endpoint>, checkout: Checkout, edit: &RequestEdit) {
        let mut up = Up::new(endpoint, checkout);
        up.wire.prepare_out();
        let address;
        let changes = edit.changes.as_ref();
        let rewritten = changes.and_then(|changes| changes.authority());
        let authority = if rewritten.is_some() {
            rewritten
        } else if self.head.authority().is_none() {
            // HTTP/1.0 without Host: HTTP/1.1 requires one, so it names the server itself.
            address = endpoint.address.to_string();
            Some(address.as_str())
        } else {
            None
        };
        let fields = FieldEdit {
            changes: changes.map(|changes| &changes.request),
            set: &edit.set,
            remove: edit.remove,
            reserved: Reserved::Strip,
        };
        let head_edit = write::RequestEdit {
            path: edit.target.as_deref(),
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
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.body.forget();
                    return Poll::Ready(Err(gone("client closed in its body")));
                }
            }
        }
    }

    /// Ready when no byte has moved on either side for [`STREAM_IDLE`], or the client is gone.
    /// Polled when nothing else can go on, so the clock is read once a wait, not once a byte.
    pub(super) fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<DeliveryEnd> {
        let before = self.down.ended;
        if self.body.is_complete() && self.down.look_for_end(cx).is_err() {
            return Poll::Ready(DeliveryEnd::DownstreamClosed);
        }
        if self.down.ended && self.down.io.is_from_sidecar() {
            return Poll::Ready(DeliveryEnd::DownstreamClosed);
        }
        let (bound, end) = if self.down.ended {
            (HALF_CLOSED_IDLE, DeliveryEnd::DownstreamClosed)
        } else {
            (STREAM_IDLE, DeliveryEnd::Idle)
        };
        let upstream = self.up.as_mut().is_some_and(|up| up.wire.take_moved());
        if self.down.wire.take_moved() || upstream || self.down.ended != before {
            self.down.watch.set(bound);
        }
        self.down.watch.poll(cx).map(|()| end)
    }

    /// Sends the request and waits for the final response head.
    fn poll_attempt(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, AttemptFailure>> {
        if self.poll_hold(cx).is_ready() {
            let failure = downstream(Reason::HeldMost, "the request held the most memory");
            return Poll::Ready(Err(failure));
        }
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
                return Poll::Ready(Err(gone("client takes no more")));
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
        self.poll_idle(cx).map(|end| {
            Err(if end == DeliveryEnd::DownstreamClosed {
                gone("client closed, or closed half and waited a minute")
            } else {
                AttemptFailure::new(Kind::Timeout, "no byte for five minutes")
            })
        })
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

    pub(super) async fn run_attempt(
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
pub(super) struct Try<'a, 'b> {
    pub(super) exchange: &'a mut H1Exchange<'b>,
    pub(super) answered: bool,
}

impl<'b> Deref for Try<'_, 'b> {
    type Target = H1Exchange<'b>;

    fn deref(&self) -> &H1Exchange<'b> {
        self.exchange
    }
}

impl<'b> DerefMut for Try<'_, 'b> {
    fn deref_mut(&mut self) -> &mut H1Exchange<'b> {
        self.exchange
    }
}

impl Drop for Try<'_, '_> {
    fn drop(&mut self) {
        if !self.answered {
            self.exchange.up = None;
        }
    }
}

fn gone(detail: &'static str) -> AttemptFailure {
    AttemptFailure::new(Kind::ClientGone, detail)
}

fn downstream(reason: Reason, detail: &'static str) -> AttemptFailure {
    AttemptFailure::new(Kind::Downstream(reason), detail)
}
