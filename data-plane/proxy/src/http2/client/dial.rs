//! Making a connection, and driving it to its end: one task for both.

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::{Pin, pin},
    rc::{Rc, Weak},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use h2::client::Connection;
use outrigger_model::Peer;
use tokio::time::{sleep, timeout};

use super::{Limits, Link};
use crate::{
    exchange::{AttemptFailure, AttemptFailureKind as Kind, Deadline},
    http2::keepalive,
    io::Io,
    tls::Alpn,
    upstream::Endpoint,
};

/// DEF-11, for the preface as for TLS: part of how long a request waits for a dial.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection without streams that is being closed is cut after this: its peer does not read.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection being made, and how that ended.
#[derive(Default)]
pub(super) struct Dial(RefCell<Option<Result<(), AttemptFailure>>>);

impl Dial {
    /// `None` while it goes on.
    pub(super) fn outcome(&self) -> Option<Result<(), AttemptFailure>> {
        self.0.borrow().clone()
    }

    pub(super) fn finish(&self, outcome: Result<(), AttemptFailure>) {
        self.0.borrow_mut().get_or_insert(outcome);
    }
}

/// Connects, tells those who wait, and drives the connection. Holds the endpoint only while it
/// connects, so that an endpoint that is forgotten takes its connections along.
pub(super) async fn run(endpoint: Rc<Endpoint>, dial: Rc<Dial>, limits: Limits) {
    let guard = Unfinished {
        endpoint: Rc::downgrade(&endpoint),
        dial: Rc::clone(&dial),
    };
    let made = establish(&endpoint, &limits).await;
    let (mut connection, link) = match made {
        Ok(made) => made,
        Err(failure) => {
            endpoint.http2.dialed(&dial, Err(failure));
            return;
        }
    };
    endpoint.http2.dialed(&dial, Ok(Rc::clone(&link)));
    drop(guard);
    let pings = match endpoint.peer {
        Peer::Meshed(_) => connection.ping_pong(),
        Peer::Plain => None,
    };
    let owner = Rc::downgrade(&endpoint);
    drop(endpoint);
    let lost = async {
        match pings {
            Some(pings) => keepalive::lost(pings, limits.ping_up).await,
            None => std::future::pending().await,
        }
    };
    let drained = async {
        link.drained.notified().await;
        sleep(CLOSE_TIMEOUT).await;
    };
    tokio::select! {
        result = &mut connection => {
            if let Err(error) = result {
                tracing::debug!(%error, "HTTP/2 connection to an upstream ended");
            }
        }
        () = lost => {}
        () = drained => {}
    }
    // Dropped before others learn of it: streams still open end with an error now.
    drop(connection);
    link.close();
    drop(link.take_permit());
    if let Some(endpoint) = owner.upgrade() {
        endpoint.http2.ended(&link);
    }
}

/// Connects and waits for the peer's SETTINGS: they say how many streams it takes, and that it
/// speaks HTTP/2 at all, before a request could be lost on it.
async fn establish(
    endpoint: &Rc<Endpoint>,
    limits: &Limits,
) -> Result<(Connection<Io, Bytes>, Rc<Link>), AttemptFailure> {
    let connection = endpoint.open(Alpn::H2, Deadline::NONE).await?;
    let (io, permit, expires, counted) = connection.into_parts();
    let refuse =
        |what: String| AttemptFailure::new(Kind::Connect, format!("{}: {what}", endpoint.address));
    let begun = async {
        let (sender, mut connection) = limits.client().handshake::<_, Bytes>(io).await?;
        poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Err(h2::Error::from(h2::Reason::CONNECT_ERROR))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending if connection.max_concurrent_send_streams() > 0 => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        })
        .await?;
        Ok::<_, h2::Error>((sender, connection))
    };
    match timeout(limits.settings_timeout, pin!(begun)).await {
        Ok(Ok((sender, connection))) => {
            let link = Rc::new(Link::new(sender, permit, expires, counted));
            Ok((connection, link))
        }
        Ok(Err(error)) => Err(refuse(format!("no HTTP/2 connection: {error}"))),
        Err(_) => Err(refuse("no HTTP/2 SETTINGS in time".to_owned())),
    }
}

/// A dial whose task ended on the way (a defect) must not leave others waiting.
struct Unfinished {
    endpoint: Weak<Endpoint>,
    dial: Rc<Dial>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.dial.outcome().is_none()
            && let Some(endpoint) = self.endpoint.upgrade()
        {
            let failure = AttemptFailure::new(Kind::Connect, "the dial was given up");
            endpoint.http2.dialed(&self.dial, Err(failure));
        }
    }
}
