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
    meter::Flood,
    metered::{Flooded, Metered},
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

/// How long a client that was sent away may take to read that.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a connection brings.
#[expect(
    clippy::large_enum_variant,
    reason = "moved once a stream; a box would be an allocation"
)]
enum Next {
    Stream((Request<RecvStream>, SendResponse<Bytes>)),
    /// The client floods it, and has not been sent away yet.
    Flood(Flood),
    Broken(h2::Error),
    Closed,
}

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
    let (metered, flooded) = Metered::new(io);
    let handshake = limits.server().handshake::<_, Bytes>(metered);
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
        flooded,
        streams: JoinSet::new(),
        sent_away: false,
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
    connection: Connection<Metered<'a>, Bytes>,
    flooded: Flooded,
    streams: JoinSet<()>,
    /// The client was told to go at once, and is not waited for.
    sent_away: bool,
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
            let is_full = usize::try_from(limits.streams_max).is_ok_and(|max| active >= max);
            let flooded = (!self.sent_away).then_some(&self.flooded);
            tokio::select! {
                biased;
                joined = self.streams.join_next(), if active > 0 => {
                    joined.into_iter().for_each(report);
                    if self.resets.is_abuse() {
                        self.send_away("streams opened to be reset");
                    }
                    idle.as_mut().reset(self.idle_until());
                }
                next = next(&mut self.connection, is_full, flooded) => match next {
                    Next::Stream((request, respond)) => self.begin(request, respond),
                    Next::Flood(flood) => {
                        self.send_away(&flood.to_string());
                        idle.as_mut().reset(self.idle_until());
                    }
                    Next::Broken(error) => {
                        self.note_broken(&error);
                        return End::Closed;
                    }
                    Next::Closed => return End::Closed,
                },
                () = self.context.drain.begun(), if !draining => {
                    draining = true;
                    self.connection.graceful_shutdown();
                }
                () = &mut idle, if self.sent_away || (!draining && active == 0) => {
                    if self.sent_away {
                        return End::Lost;
                    }
                    draining = true;
                    self.connection.graceful_shutdown();
                }
                () = &mut lost => return End::Lost,
            }
        }
    }

    /// Ends the connection of a client that makes work without requests; its streams end with it.
    fn send_away(&mut self, what: &str) {
        if !self.sent_away {
            self.sent_away = true;
            self.note_flood(what);
            self.connection
                .abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
        }
    }

    fn note_flood(&self, what: &str) {
        let refusal = Refusal::new(Reason::Http2Flood).detail(what.to_owned());
        self.handler.rejected(Engine::H2, &refusal);
    }

    /// h2 itself sends away who floods it in the ways that it counts.
    fn note_broken(&self, error: &h2::Error) {
        tracing::debug!(%error, "HTTP/2 connection broke");
        let by_h2 = error.is_library() && error.is_go_away();
        if by_h2 && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) {
            self.note_flood("more than the HTTP/2 library takes of resets or frames");
        }
    }

    /// Until when the client may do nothing.
    fn idle_until(&self) -> Instant {
        let wait = if self.sent_away {
            FAREWELL
        } else {
            self.context.limits.connection_idle
        };
        Instant::now() + wait
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

/// What comes next; `flooded` is looked at while it is given. With all places taken the connection
/// is driven without accepting: a client that resets streams to open more soon has too many that
/// nobody looked at, and h2 ends the connection (DEF-07).
async fn next(
    connection: &mut Connection<Metered<'_>, Bytes>,
    is_full: bool,
    flooded: Option<&Flooded>,
) -> Next {
    poll_fn(|cx| {
        let polled = if is_full {
            connection
                .poll_closed(cx)
                .map(|closed| closed.err().map(Err))
        } else {
            connection.poll_accept(cx)
        };
        match polled {
            Poll::Pending => match flooded.and_then(|flooded| flooded.get()) {
                Some(flood) => Poll::Ready(Next::Flood(flood)),
                None => Poll::Pending,
            },
            Poll::Ready(None) => Poll::Ready(Next::Closed),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Next::Broken(error)),
            Poll::Ready(Some(Ok(stream))) => Poll::Ready(Next::Stream(stream)),
        }
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
