//! The loop of a client's connection: a head, an exchange, and the next, in order.

use super::downstream::{Downstream, Next};
use super::exchange::{Afterwards, H1Exchange};
use super::refusal;
use crate::exchange::{Engine, Handler};
use crate::io::Io;
use crate::reason::{Reason, Refusal};
use socket2::SockRef;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What a connection carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Served {
    /// Requests handed to the handler.
    pub requests: u64,
    /// Why the engine itself refused the last head, if it did; the client has been answered.
    pub refused: Option<Reason>,
}

/// Serves `io` until it ends. Requests that a client sends ahead wait in the buffer and are
/// answered in order.
///
/// Once `drain` is cancelled, the answer at hand says `connection: close` and is the last; a
/// connection without a request is closed after a grace of half a second.
///
/// `drain` is asked once a request: a worker gives its connections a child token of its own, so that
/// workers do not meet at its lock.
///
/// Cancel safe: no; a dropped connection is cut.
pub async fn serve<H: Handler>(io: Io, drain: &CancellationToken, handler: &H) -> Served {
    let mut down = Downstream::new(io);
    let mut served = Served::default();
    loop {
        match down.next(drain).await {
            Next::Head(head) => {
                served.requests += 1;
                let mut exchange = H1Exchange::new(down, head, drain);
                handler.handle(&mut exchange).await;
                let (back, afterwards) = exchange.finish();
                match afterwards {
                    Afterwards::Reuse => down = back,
                    Afterwards::Close { unread } => {
                        back.close(unread).await;
                        return served;
                    }
                    Afterwards::Abort => {
                        cut(&back.io);
                        return served;
                    }
                }
            }
            Next::Refused(reason) => {
                served.refused = Some(reason);
                down.wire.prepare_out();
                let refusal = Refusal::new(reason);
                handler.rejected(Engine::H1, &refusal);
                refusal::put(&refusal, false, true, &mut down.wire.out);
                if down.send().await.is_ok() {
                    down.close(true).await;
                }
                return served;
            }
            Next::Closed => {
                down.close(false).await;
                return served;
            }
        }
    }
}

/// Makes the close a reset: a client that reads until the end of the stream must not take a
/// broken answer for a whole one.
fn cut(io: &Io) {
    if let Some(socket) = io.socket()
        && let Err(error) = SockRef::from(socket).set_linger(Some(Duration::ZERO))
    {
        tracing::debug!(%error, "connection closed without a reset");
    }
}
