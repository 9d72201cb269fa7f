//! The answer on its way to the client, while the rest of the request may still go upstream.

use super::exchange::{Afterwards, H1Exchange, STREAM_IDLE};
use super::up::Outflow;
use super::write::{self, FieldEdit, Reserved};
use super::{Framing, ResponseHead, tunnel};
use crate::exchange::{Deadline, Delivery, DeliveryEnd, Exchange, ResponseEdit};
use std::future::poll_fn;
use std::task::{Context, Poll};
use tokio::time::timeout_at;

impl H1Exchange<'_> {
    /// Sends the held response and streams both bodies.
    pub(super) async fn run_delivery(
        &mut self,
        edit: &ResponseEdit,
        deadline: Deadline,
    ) -> Delivery {
        let Some(response) = self.response.take() else {
            return self.delivery(DeliveryEnd::UpstreamReset);
        };
        self.body.forget();
        let framing = write::downstream_framing(response.framing(), self.head.version());
        let close = self.must_close() || framing == Framing::UntilClose;
        self.write_head(&response, edit, framing, close);
        if response.status() == 101 {
            return self.run_tunnel().await;
        }
        let mut outflow = Outflow::new(response.framing(), framing);
        self.down.watch.set(STREAM_IDLE);
        let mut sending = true;
        let delivering = poll_fn(|cx| {
            let polled = self.poll_delivery(&mut outflow, &mut sending, cx);
            self.passed = outflow.bytes();
            polled
        });
        let end = match deadline.0 {
            None => delivering.await,
            Some(at) => {
                let delivered = timeout_at(at, delivering).await;
                delivered.unwrap_or(DeliveryEnd::DeadlinePassed)
            }
        };
        let persistent = response.persistent();
        if let Some(up) = &mut self.up {
            up.connection.leave_after(response.idle_timeout());
        }
        drop(response); // its bytes lie in the upstream's buffer, which goes back to the worker
        self.settle(persistent, end, close);
        self.delivery(end)
    }

    fn write_head(
        &mut self,
        response: &ResponseHead,
        edit: &ResponseEdit,
        framing: Framing,
        close: bool,
    ) {
        let reserved = if edit.keep_reserved {
            Reserved::Keep
        } else {
            Reserved::Strip
        };
        let changes = edit.changes.as_ref();
        let fields = FieldEdit {
            changes: changes.map(|changes| &changes.response),
            set: &edit.set,
            remove: &[],
            reserved,
        };
        self.down.wire.prepare_out();
        let edit = write::ResponseEdit {
            framing,
            close,
            fields,
        };
        write::response(response, &edit, &mut self.down.wire.out);
    }

    fn poll_delivery(
        &mut self,
        outflow: &mut Outflow,
        sending: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<DeliveryEnd> {
        if self.poll_hold(cx).is_ready() {
            return Poll::Ready(DeliveryEnd::HeldMost);
        }
        loop {
            if *sending {
                match self.poll_request(cx) {
                    Poll::Ready(Ok(())) => *sending = false,
                    Poll::Ready(Err(_)) => return Poll::Ready(DeliveryEnd::DownstreamClosed),
                    Poll::Pending => {}
                }
            }
            let Some(up) = &mut self.up else {
                return Poll::Ready(DeliveryEnd::UpstreamReset);
            };
            if outflow.pass(&mut up.wire, &mut self.down.wire).is_err() {
                return Poll::Ready(DeliveryEnd::UpstreamReset);
            }
            match self.down.wire.poll_drain(&mut self.down.io, cx) {
                Poll::Ready(Ok(())) if outflow.is_complete() => {
                    return Poll::Ready(DeliveryEnd::Complete);
                }
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(DeliveryEnd::DownstreamClosed),
                Poll::Pending => break,
            }
            match up.wire.poll_fill(&mut up.connection.io, cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0)) => {
                    if outflow.finish(&mut self.down.wire).is_err() {
                        return Poll::Ready(DeliveryEnd::UpstreamReset);
                    }
                }
                Poll::Ready(Err(_)) => return Poll::Ready(DeliveryEnd::UpstreamReset),
                Poll::Pending => break,
            }
        }
        self.poll_idle(cx)
    }

    /// What becomes of the two connections.
    fn settle(&mut self, persistent: bool, end: DeliveryEnd, close: bool) {
        let up = self.up.take();
        self.afterwards = match end {
            DeliveryEnd::Complete => {
                if let Some(up) = up
                    && persistent
                    && self.body.is_ended()
                    && !self.head.websocket()
                {
                    up.give_back();
                }
                if close || !self.body.is_complete() {
                    Afterwards::Close {
                        unread: !self.body.is_complete(),
                    }
                } else {
                    Afterwards::Reuse
                }
            }
            DeliveryEnd::DownstreamClosed
            | DeliveryEnd::UpstreamReset
            | DeliveryEnd::Idle
            | DeliveryEnd::DeadlinePassed
            | DeliveryEnd::HeldMost => Afterwards::Abort,
        };
    }

    async fn run_tunnel(&mut self) -> Delivery {
        let Some(up) = &mut self.up else {
            return self.delivery(DeliveryEnd::UpstreamReset);
        };
        let moved = (&mut self.tunnelled, &mut self.passed);
        let hold = self.hold.as_deref();
        let end = tunnel::relay(&mut self.down, up, moved, hold).await;
        if end != DeliveryEnd::Complete {
            up.connection.io.cut();
        }
        self.up = None;
        self.afterwards = match end {
            DeliveryEnd::Complete => Afterwards::Close { unread: false },
            DeliveryEnd::DownstreamClosed
            | DeliveryEnd::UpstreamReset
            | DeliveryEnd::Idle
            | DeliveryEnd::DeadlinePassed
            | DeliveryEnd::HeldMost => Afterwards::Abort,
        };
        self.delivery(end)
    }

    /// What has passed, and how it ended.
    pub(super) fn delivery(&self, end: DeliveryEnd) -> Delivery {
        let (request_bytes, response_bytes) = self.progress();
        Delivery {
            request_bytes,
            response_bytes,
            grpc_status: None,
            end,
        }
    }
}
