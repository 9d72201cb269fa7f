//! Relay of opaque bytes both ways, with half-close.
//!
//! Sketch: one 64 KiB buffer a thread serves every relay; a connection holds bytes of its own only
//! while the other side does not take them (then at most one buffer full), so an idle connection
//! holds none. Each direction ends on its own: an end of stream is passed on as a shutdown, and the
//! relay ends when both have. A side that breaks off ends both at once: what the other has is not
//! whole, and whoever owns the connections tells it so ([`Io::cut`](crate::io::Io::cut)).

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use crate::hold::Hold;

/// Room for four TLS records: fewer system calls for bulk, still within a core's L2.
const BUFFER_BYTES: usize = 64 * 1024;

/// Reads in one poll before other connections of the worker get their turn.
const ROUNDS_MAX: usize = 16;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_BYTES].into_boxed_slice());
}

/// How a relay ended.
#[derive(Debug)]
pub struct Relayed {
    /// Bytes from the client to the upstream.
    pub sent: u64,
    /// Bytes from the upstream to the client.
    pub received: u64,
    /// How it ended.
    pub end: RelayEnd,
}

/// Ends of a relay.
#[derive(Debug)]
pub enum RelayEnd {
    /// Both sides closed in order.
    Complete,
    /// No byte for the idle time.
    Idle,
    /// Memory is nearly full and it held the most (DEF-21).
    HeldMost,
    /// The client broke off, or takes no more.
    Client(io::Error),
    /// The upstream broke off, or takes no more.
    Upstream(io::Error),
}

/// Bytes that a relay has moved so far, for who asks before its end.
#[derive(Debug, Default)]
pub struct Moved {
    /// From the client to the upstream.
    pub sent: Cell<u64>,
    /// From the upstream to the client.
    pub received: Cell<u64>,
}

/// Relays until both directions ended, one broke, nothing moved for `idle`, or `hold` tells it to
/// end. Bytes are added to `moved` as they go.
///
/// Cancel safe: no; bytes in flight are lost with both connections.
pub async fn relay<A, B>(
    client: &mut A,
    upstream: &mut B,
    idle: Duration,
    moved: &Moved,
    hold: &Hold,
) -> Relayed
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut out = Direction::default();
    let mut back = Direction::default();
    let before = (moved.sent.get(), moved.received.get());
    let timer = sleep(idle);
    tokio::pin!(timer);
    let end = poll_fn(|cx| {
        let held = || out.held.capacity() + back.held.capacity();
        if hold.poll(cx, held).is_ready() {
            return Poll::Ready(RelayEnd::HeldMost);
        }
        let past = out.moved + back.moved;
        let first = out.poll(cx, client, upstream);
        let second = back.poll(cx, upstream, client);
        moved.sent.set(before.0 + out.moved);
        moved.received.set(before.1 + back.moved);
        match (first, second) {
            (Poll::Ready(Err(Broken::Source(error))), _)
            | (_, Poll::Ready(Err(Broken::Sink(error)))) => {
                return Poll::Ready(RelayEnd::Client(error));
            }
            (Poll::Ready(Err(Broken::Sink(error))), _)
            | (_, Poll::Ready(Err(Broken::Source(error)))) => {
                return Poll::Ready(RelayEnd::Upstream(error));
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(RelayEnd::Complete),
            (Poll::Pending, _) | (_, Poll::Pending) => {}
        }
        poll_idle(cx, timer.as_mut(), idle, out.moved + back.moved > past)
    })
    .await;
    Relayed {
        sent: moved.sent.get(),
        received: moved.received.get(),
        end,
    }
}

fn poll_idle(
    cx: &mut Context<'_>,
    mut timer: Pin<&mut Sleep>,
    idle: Duration,
    progress: bool,
) -> Poll<RelayEnd> {
    if progress && let Some(until) = Instant::now().checked_add(idle) {
        timer.as_mut().reset(until);
    }
    timer.poll(cx).map(|()| RelayEnd::Idle)
}

/// Which side of a direction failed.
enum Broken {
    Source(io::Error),
    Sink(io::Error),
}

/// One direction's state.
#[derive(Debug, Default)]
struct Direction {
    /// Read but not yet written.
    held: Vec<u8>,
    /// How much of `held` is written.
    written: usize,
    /// Whether something was written since the last flush.
    dirty: bool,
    stage: Stage,
    moved: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// The source ended; the shutdown is not through yet.
    Closing,
    Closed,
}

impl Direction {
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
    ) -> Poll<Result<(), Broken>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..ROUNDS_MAX {
            ready!(self.poll_write_held(cx, to)).map_err(Broken::Sink)?;
            match self.stage {
                Stage::Closed => return Poll::Ready(Ok(())),
                Stage::Closing => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Broken::Sink)?;
                    self.stage = Stage::Closed;
                    return Poll::Ready(Ok(()));
                }
                Stage::Open => match self.poll_move(cx, from, to) {
                    Poll::Ready(result) => result?,
                    Poll::Pending => {
                        // Nothing more to read: what TLS still buffers must leave now.
                        ready!(self.poll_flush(cx, to)).map_err(Broken::Sink)?;
                        return Poll::Pending;
                    }
                },
            }
        }
        // Others' turn; come back at once.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One read, and as much of a write as the other side takes.
    fn poll_move<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
    ) -> Poll<Result<(), Broken>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            ready!(Pin::new(from).poll_read(cx, &mut read)).map_err(Broken::Source)?;
            let mut rest = read.filled();
            if rest.is_empty() {
                self.stage = Stage::Closing;
            }
            self.moved += u64::try_from(rest.len()).unwrap_or(u64::MAX);
            while !rest.is_empty() {
                match Pin::new(&mut *to)
                    .poll_write(cx, rest)
                    .map_err(Broken::Sink)?
                {
                    Poll::Ready(0) => {
                        let full = io::ErrorKind::WriteZero.into();
                        return Poll::Ready(Err(Broken::Sink(full)));
                    }
                    Poll::Ready(written) => {
                        self.dirty = true;
                        rest = rest.get(written..).unwrap_or_default();
                    }
                    Poll::Pending => {
                        self.held.extend_from_slice(rest);
                        break;
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
    }

    fn poll_write_held<W>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>>
    where
        W: AsyncWrite + Unpin,
    {
        while let Some(rest) = self
            .held
            .get(self.written..)
            .filter(|rest| !rest.is_empty())
        {
            match ready!(Pin::new(&mut *to).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
            self.dirty = true;
        }
        if !self.held.is_empty() {
            self.held = Vec::new();
            self.written = 0;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush<W>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>>
    where
        W: AsyncWrite + Unpin,
    {
        if self.dirty {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.dirty = false;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn half_close_passes_and_slow_readers_lose_nothing() {
        let (mut app, mut client) = duplex(1024);
        let (mut upstream, mut server) = duplex(512);
        let moved = Moved::default();
        let hold = Hold::default();
        let minute = Duration::from_secs(60);
        let relaying = relay(&mut client, &mut upstream, minute, &moved, &hold);
        let body: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let sent = body.clone();
        let talk = async {
            let (mut app_read, mut app_write) = tokio::io::split(&mut app);
            let write = async {
                app_write.write_all(&sent).await.unwrap();
                app_write.shutdown().await.unwrap();
            };
            let serve = async {
                let mut got = Vec::new();
                server.read_to_end(&mut got).await.unwrap();
                // The client's half is closed; ours still works.
                server.write_all(b"answer after end").await.unwrap();
                server.shutdown().await.unwrap();
                got
            };
            let answer = async {
                let mut answer = Vec::new();
                app_read.read_to_end(&mut answer).await.unwrap();
                answer
            };
            tokio::join!(write, serve, answer)
        };
        let (relayed, ((), got, answer)) = tokio::join!(relaying, talk);
        assert_eq!(got, body);
        assert_eq!(answer, b"answer after end");
        assert!(matches!(relayed.end, RelayEnd::Complete));
        assert_eq!((relayed.sent, relayed.received), (200_000, 16));
        assert_eq!((moved.sent.get(), moved.received.get()), (200_000, 16));
    }

    #[tokio::test]
    async fn one_that_holds_the_most_tells_and_ends() {
        let (_app, mut client) = duplex(512);
        let (mut upstream, mut server) = duplex(100_000);
        server.write_all(&[b'x'; 100_000]).await.unwrap();
        let (moved, hold) = (Moved::default(), Hold::default());
        hold.ask();
        let relaying = relay(
            &mut client,
            &mut upstream,
            Duration::from_secs(60),
            &moved,
            &hold,
        );
        let told = async {
            while hold.told().is_none_or(|bytes| bytes == 0) {
                hold.ask();
                tokio::task::yield_now().await;
            }
            hold.reset();
            hold.told()
        };
        let (relayed, told) = tokio::join!(relaying, told);
        assert!(matches!(relayed.end, RelayEnd::HeldMost));
        assert!(told >= Some(BUFFER_BYTES - 512), "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_relay_ends() {
        let (_app, mut client) = duplex(64);
        let (mut upstream, _server) = duplex(64);
        let relayed = relay(
            &mut client,
            &mut upstream,
            Duration::from_secs(3600),
            &Moved::default(),
            &Hold::default(),
        )
        .await;
        assert!(matches!(relayed.end, RelayEnd::Idle));
    }
}
