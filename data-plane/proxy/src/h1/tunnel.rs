//! After `101 Switching Protocols`: bytes both ways, each direction closed on its own.
//!
//! Bytes go from one side's read buffer to the other's socket without a copy. While nothing
//! moves, neither side holds a buffer.

use super::downstream::Downstream;
use super::up::Up;
use super::wire::Wire;
use crate::exchange::DeliveryEnd;
use crate::hold::Hold;
use crate::io::Io;
use bytes::Buf;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::AsyncWrite;

/// DEF-14: an upgraded connection is a connection, not a stream; nothing for this long ends it.
const TUNNEL_IDLE: Duration = Duration::from_secs(3_600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Bytes may come.
    Open,
    /// The source has ended; the sink is being told.
    Closing,
    /// This direction is over.
    Closed,
}

/// One direction.
#[derive(Debug)]
struct Half {
    state: State,
    unflushed: bool,
    bytes: u64,
}

/// Which side failed.
enum Broken {
    Source,
    Sink,
}

impl Half {
    const fn new() -> Half {
        Half {
            state: State::Open,
            unflushed: false,
            bytes: 0,
        }
    }

    /// Moves what can be moved. Ready when the direction is over; `moved` tells of progress.
    fn poll(
        &mut self,
        (from, source): (&mut Wire, &mut Io),
        sink: &mut Io,
        moved: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        loop {
            while !from.read.is_empty() {
                let sent = match ready!(Pin::new(&mut *sink).poll_write(cx, &from.read)) {
                    Ok(0) | Err(_) => return Poll::Ready(Err(Broken::Sink)),
                    Ok(sent) => sent,
                };
                from.read.advance(sent);
                self.bytes += u64::try_from(sent).unwrap_or(0);
                self.unflushed = true;
                *moved = true;
            }
            if self.unflushed {
                let flushed: io::Result<()> = ready!(Pin::new(&mut *sink).poll_flush(cx));
                if flushed.is_err() {
                    return Poll::Ready(Err(Broken::Sink));
                }
                self.unflushed = false;
            }
            match self.state {
                State::Open => match ready!(from.poll_fill(source, cx)) {
                    Ok(0) => self.state = State::Closing,
                    Ok(_) => {}
                    Err(_) => return Poll::Ready(Err(Broken::Source)),
                },
                State::Closing => {
                    // A sink that is gone already has no more to be told.
                    drop(ready!(Pin::new(&mut *sink).poll_shutdown(cx)));
                    self.state = State::Closed;
                }
                State::Closed => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// Relays until both directions are over; `moved` counts the bytes upward and downward as they
/// go. The 101 is still in the client's output buffer.
pub(super) async fn relay(
    down: &mut Downstream,
    up: &mut Up,
    moved: (&mut u64, &mut u64),
    hold: Option<&Hold>,
) -> DeliveryEnd {
    if down.send().await.is_err() {
        return DeliveryEnd::DownstreamClosed;
    }
    let (mut upward, mut downward) = (Half::new(), Half::new());
    down.watch.set(TUNNEL_IDLE);
    poll_fn(|cx| {
        let held = || down.wire.held() + up.wire.held();
        if hold.is_some_and(|hold| hold.poll(cx, held).is_ready()) {
            return Poll::Ready(DeliveryEnd::HeldMost);
        }
        let polled = poll(down, up, &mut upward, &mut downward, cx);
        *moved.0 = upward.bytes;
        *moved.1 = downward.bytes;
        polled
    })
    .await
}

fn poll(
    down: &mut Downstream,
    up: &mut Up,
    upward: &mut Half,
    downward: &mut Half,
    cx: &mut Context<'_>,
) -> Poll<DeliveryEnd> {
    let mut moved = false;
    let sink = &mut up.connection.io;
    let first = upward.poll((&mut down.wire, &mut down.io), sink, &mut moved, cx);
    let source = (&mut up.wire, &mut up.connection.io);
    let second = downward.poll(source, &mut down.io, &mut moved, cx);
    if moved {
        down.watch.set(TUNNEL_IDLE);
    }
    match (first, second) {
        (Poll::Ready(Err(Broken::Source)), _) | (_, Poll::Ready(Err(Broken::Sink))) => {
            Poll::Ready(DeliveryEnd::DownstreamClosed)
        }
        (Poll::Ready(Err(Broken::Sink)), _) | (_, Poll::Ready(Err(Broken::Source))) => {
            Poll::Ready(DeliveryEnd::UpstreamReset)
        }
        (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(DeliveryEnd::Complete),
        (Poll::Pending, _) | (_, Poll::Pending) => down.watch.poll(cx).map(|()| DeliveryEnd::Idle),
    }
}
