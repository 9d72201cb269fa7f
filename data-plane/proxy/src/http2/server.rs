//! Accepted HTTP/2 connections: one driver, one task for each stream, one orderly end.

use std::{future::poll_fn, pin::pin, rc::Rc, task::Poll, time::Duration};

use bytes::Bytes;
use h2::{
    RecvStream,
    server::{Connection, SendResponse},
};
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until, timeout},
};

use super::{
    exchange::{Http2Exchange, send_refusal},
    head::{RequestHead, head_bytes, is_grpc},
    keepalive,
    limits::Limits,
    refusal::Shape,
    resets::Resets,
};
use crate::{
    drain::Drain,
    exchange::{Engine, Handler},
    io::Io,
    reason::{Reason, Refusal},
};

/// What a connection is served with.
#[derive(Debug, Clone)]
pub struct Context {
    /// Bounds.
    pub limits: Rc<Limits>,
    /// When it begins, GOAWAY is sent and streams in flight finish.
    pub drain: Drain,
}

/// How long what a client still sends is read before its connection is closed.
const LINGER: Duration = Duration::from_secs(1);
/// How much of it: two full connection windows.
const LINGER_BYTES: u64 = 2 * 1024 * 1024;

type Accepted = (Request<RecvStream>, SendResponse<Bytes>);

/// Serves one connection to its end; each request is given to `handler` in a task of its own.
///
/// Returns when the client has left or, once `context.drain` has begun, when the streams in flight
/// have ended. To cut a drain short, drop the future: streams are cut with the connection.
///
/// Must run inside a `LocalSet` or `LocalRuntime`. Cancel safe: no, see above.
pub async fn serve<H: Handler + 'static>(mut io: Io, context: &Context, handler: &Rc<H>) {
    let end = serve_on(&mut io, context, handler).await;
    match end {
        End::Closed => linger(io).await,
        End::Lost => {}
    }
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// By one of the two sides.
    Closed,
    /// The client is not there any more.
    Lost,
}

async fn serve_on<H: Handler + 'static>(io: &mut Io, context: &Context, handler: &Rc<H>) -> End {
    let limits = &context.limits;
    let handshake = limits.server().handshake::<_, Bytes>(io);
    let connection = match timeout(limits.preface_timeout, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%error, "HTTP/2 connection not begun");
            return End::Closed;
        }
        Err(_) => {
            tracing::debug!("no HTTP/2 preface in time");
            return End::Lost;
        }
    };
    let mut served = Served {
        connection,
        streams: JoinSet::new(),
        resets: Rc::new(Resets::new(Instant::now())),
        context,
        handler,
    };
    let end = served.run().await;
    // Without the connection, exchanges learn at their next step that the client is gone.
    let Served {
        connection,
        mut streams,
        ..
    } = served;
    drop(connection);
    while let Some(joined) = streams.join_next().await {
        report(joined);
    }
    end
}

/// Reads on for a moment after the last byte was sent: a socket that is closed with bytes unread
/// is reset, and the reset overtakes the GOAWAY that says why.
async fn linger(mut io: Io) {
    let drained = async {
        io.shutdown().await?;
        tokio::io::copy(&mut io.take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    match timeout(LINGER, drained).await {
        Ok(Ok(_)) | Err(_) => {}
        Ok(Err(error)) => tracing::debug!(%error, "HTTP/2 connection not closed in order"),
    }
}

struct Served<'a, H> {
    connection: Connection<&'a mut Io, Bytes>,
    streams: JoinSet<()>,
    resets: Rc<Resets>,
    context: &'a Context,
    handler: &'a Rc<H>,
}

impl<H: Handler + 'static> Served<'_, H> {
    /// Drives the connection until it is closed.
    async fn run(&mut self) -> End {
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
                            return End::Closed;
                        }
                        None => return End::Closed,
                    }
                }
                () = self.context.drain.begun(), if !draining => {
                    draining = true;
                    self.connection.graceful_shutdown();
                }
                () = &mut idle, if !draining && active == 0 => {
                    draining = true;
                    self.connection.graceful_shutdown();
                }
                () = &mut lost => return End::Lost,
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
        let limits = &self.context.limits;
        let parsed = if head_bytes(&parts) > u64::from(limits.header_list_bytes_max) {
            Err(Reason::HeadTooLarge)
        } else {
            RequestHead::parse(parts, limits.fields_max)
        };
        let head = match parsed {
            Ok(head) => head,
            Err(reason) => {
                let mut refusal = Refusal::new(reason);
                if shape == Shape::Grpc {
                    refusal.status = Some(200);
                }
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
    connection: &mut Connection<&mut Io, Bytes>,
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
