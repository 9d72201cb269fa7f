//! Accepted HTTP/2 connections: one driver, one task for each stream, one orderly end.

use std::{future::poll_fn, pin::pin, rc::Rc, task::Poll};

use bytes::Bytes;
use h2::{
    RecvStream,
    server::{Connection, SendResponse},
};
use http::Request;
use tokio::{
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    exchange::{Http2Exchange, send_refusal},
    head::{RequestHead, is_grpc},
    keepalive,
    limits::Limits,
    refusal::Shape,
    resets::Resets,
};
use crate::{
    exchange::{Engine, Handler},
    io::Io,
    reason::Refusal,
};

/// What a connection is served with.
#[derive(Debug, Clone)]
pub struct Context {
    /// Bounds.
    pub limits: Rc<Limits>,
    /// Cancelled when the connection shall end: GOAWAY is sent, streams in flight finish.
    pub drain: CancellationToken,
}

type Accepted = (Request<RecvStream>, SendResponse<Bytes>);

/// Serves one connection to its end; each request is given to `handler` in a task of its own.
///
/// Returns when the client has left or, after `context.drain`, when the streams in flight have
/// ended. To cut a drain short, drop the future: streams are cut with the connection.
///
/// Must run inside a `LocalSet` or `LocalRuntime`. Cancel safe: no, see above.
pub async fn serve<H: Handler + 'static>(io: Io, context: &Context, handler: &Rc<H>) {
    let limits = &context.limits;
    let handshake = limits.server().handshake::<_, Bytes>(io);
    let connection = match timeout(limits.preface_timeout, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%error, "HTTP/2 connection not begun");
            return;
        }
        Err(_) => {
            tracing::debug!("no HTTP/2 preface in time");
            return;
        }
    };
    let mut served = Served {
        connection,
        streams: JoinSet::new(),
        resets: Rc::new(Resets::new(Instant::now())),
        context,
        handler,
    };
    served.run().await;
    // The connection is gone; exchanges learn it at their next step and report their ends.
    while let Some(joined) = served.streams.join_next().await {
        report(joined);
    }
}

struct Served<'a, H> {
    connection: Connection<Io, Bytes>,
    streams: JoinSet<()>,
    resets: Rc<Resets>,
    context: &'a Context,
    handler: &'a Rc<H>,
}

impl<H: Handler + 'static> Served<'_, H> {
    /// Drives the connection until it is closed.
    async fn run(&mut self) {
        let limits = Rc::clone(&self.context.limits);
        let pings = self.connection.ping_pong();
        let mut lost = pin!(async {
            match pings {
                Some(pings) => keepalive::lost(pings, limits.ping_down).await,
                None => std::future::pending().await,
            }
        });
        let mut idle = pin!(sleep_until(Instant::now() + limits.connection_idle));
        let mut draining = false;
        loop {
            let active = self.streams.len();
            tokio::select! {
                biased;
                joined = self.streams.join_next(), if active > 0 => {
                    joined.into_iter().for_each(report);
                    if self.resets.is_abuse() {
                        self.connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
                    }
                    idle.as_mut().reset(Instant::now() + limits.connection_idle);
                }
                accepted = accept(&mut self.connection, active, limits.streams_max) => {
                    match accepted {
                        Some(Ok((request, respond))) => self.begin(request, respond),
                        Some(Err(error)) => {
                            tracing::debug!(%error, "HTTP/2 connection broke");
                            return;
                        }
                        None => return,
                    }
                }
                () = self.context.drain.cancelled(), if !draining => {
                    draining = true;
                    self.connection.graceful_shutdown();
                }
                () = &mut idle, if !draining && active == 0 => {
                    draining = true;
                    self.connection.graceful_shutdown();
                }
                () = &mut lost => return,
            }
        }
    }

    /// Gives a request to the handler, or answers what breaks HTTP.
    fn begin(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        self.resets.note_opened(Instant::now());
        let (parts, body) = request.into_parts();
        let shape = if is_grpc(&parts.headers) {
            Shape::Grpc
        } else if parts.method == http::Method::HEAD {
            Shape::TextHead
        } else {
            Shape::Text
        };
        let head = match RequestHead::parse(parts, self.context.limits.fields_max) {
            Ok(head) => head,
            Err(reason) => {
                let refusal = Refusal::new(reason);
                self.handler.rejected(Engine::H2, &refusal);
                if let Err(error) = send_refusal(&mut respond, &refusal, shape) {
                    tracing::debug!(%error, "refusal not sent");
                }
                return;
            }
        };
        let mut exchange = Http2Exchange::new(
            head,
            body,
            respond,
            Rc::clone(&self.context.limits),
            Rc::clone(&self.resets),
        );
        let handler = Rc::clone(self.handler);
        self.streams
            .spawn_local(async move { handler.handle(&mut exchange).await });
    }
}

/// The next stream. With all places taken the connection is driven without accepting: a client
/// that resets streams to open more soon has too many that nobody looked at, and h2 ends the
/// connection (DEF-07).
async fn accept(
    connection: &mut Connection<Io, Bytes>,
    active: usize,
    max: u32,
) -> Option<Result<Accepted, h2::Error>> {
    let full = usize::try_from(max).is_ok_and(|max| active >= max);
    poll_fn(|cx| {
        if full {
            return match connection.poll_closed(cx) {
                Poll::Ready(Ok(())) => Poll::Ready(None),
                Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
                Poll::Pending => Poll::Pending,
            };
        }
        connection.poll_accept(cx)
    })
    .await
}

/// A panic in one stream's task ends that stream only (SECURITY-NOTES rule 12).
fn report(joined: Result<(), JoinError>) {
    if let Err(error) = joined
        && error.is_panic()
    {
        tracing::error!(%error, "a request's task panicked");
    }
}
