//! Connections to upstreams: each [`Endpoint`] keeps a [`Slot`] of HTTP/2 connections, and gives
//! out streams on them as [`Lease`]s.
//!
//! A connection carries as many streams as its peer allows, up to DEF-04; when all are taken
//! another is opened, within the target's connection limit. One dial at a time for each endpoint:
//! who finds no stream waits for the dial, and takes any stream that becomes free before. A dial
//! that fails fails everybody who waited for it, because the next would say the same.
//!
//! A connection leaves the slot when its peer said GOAWAY or closed it, when it has carried its
//! share or grown old, when it idled for too long, or when the endpoint is gone. Its streams
//! finish; h2 closes it after the last.

mod dial;
mod link;

use std::{cell::RefCell, fmt, rc::Rc};

use h2::{Reason, SendStream, client::ResponseFuture};
use http::Request;
use outrigger_model::{Lifetime, RequestsPerConnection};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use self::{
    dial::{Dial, HANDSHAKE_TIMEOUT},
    link::Link,
};
use super::limits::Limits;
use crate::{
    exchange::{AttemptFailure, AttemptFailureKind as Kind, Deadline},
    telemetry::Closed,
    upstream::{Endpoint, Permit},
};

/// The HTTP/2 connections of one endpoint.
pub(crate) struct Slot {
    /// Open and taking streams. Bounded by the target's permits.
    links: RefCell<Vec<Rc<Link>>>,
    dial: RefCell<Option<Rc<Dial>>>,
    /// One task for each connection, from its dial to its end; they end with the slot.
    tasks: RefCell<JoinSet<()>>,
    /// A stream may have become free, or a dial ended.
    changed: Notify,
    limits: Limits,
}

/// The right to one stream on a connection; freed on drop.
pub(super) struct Lease {
    link: Rc<Link>,
    /// Keeps the connection's task alive, also when the target has forgotten the endpoint.
    endpoint: Rc<Endpoint>,
    reused: bool,
}

impl Slot {
    /// A slot without connections.
    pub(crate) fn new() -> Self {
        Self {
            links: RefCell::default(),
            dial: RefCell::default(),
            tasks: RefCell::default(),
            changed: Notify::new(),
            limits: Limits::DEFAULT,
        }
    }

    /// A stream on an open connection, or on a new one. `endpoint` is the slot's own.
    ///
    /// # Errors
    /// `PendingFull`, `PendingTimeout`, `Connect`, `Handshake`, `NoCertificate`, `Timeout`.
    /// Cancel safe: yes; a dial goes on for those who still wait.
    pub(super) async fn lease(
        &self,
        endpoint: &Rc<Endpoint>,
        deadline: Deadline,
    ) -> Result<Lease, AttemptFailure> {
        if let Some(lease) = self.take(endpoint, true) {
            return Ok(lease);
        }
        let limits = endpoint.pool().limits();
        let Some(_place) = endpoint.pool().begin_wait() else {
            let text = "no stream is free, and pending_max requests wait for one";
            return Err(AttemptFailure::new(Kind::PendingFull, text));
        };
        // The dial has bounds of its own; this one is for a line that never gets shorter.
        let bound = limits
            .pending_timeout
            .saturating_add(limits.connect_timeout)
            .saturating_add(HANDSHAKE_TIMEOUT);
        let until = deadline.or_after(Instant::now(), Some(bound));
        let waited = match until.0 {
            Some(until) => timeout_at(until, self.wait(endpoint)).await,
            None => Ok(self.wait(endpoint).await),
        };
        waited.unwrap_or_else(|_| {
            let kind = if until == deadline {
                Kind::Timeout
            } else {
                Kind::PendingTimeout
            };
            Err(AttemptFailure::new(kind, "no stream became free"))
        })
    }

    async fn wait(&self, endpoint: &Rc<Endpoint>) -> Result<Lease, AttemptFailure> {
        let mut dial = self.dialing(endpoint);
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(lease) = self.take(endpoint, false) {
                return Ok(lease);
            }
            match dial.outcome() {
                None => changed.await,
                Some(Err(failure)) => return Err(failure),
                // Others were faster.
                Some(Ok(())) => dial = self.dialing(endpoint),
            }
        }
    }

    /// A stream on the first connection that has room.
    fn take(&self, endpoint: &Rc<Endpoint>, reused: bool) -> Option<Lease> {
        let limits = endpoint.pool().limits();
        let now = Instant::now();
        let mut links = self.links.borrow_mut();
        links.retain(|link| {
            let aged = match limits.connection_age {
                Lifetime::Unlimited => false,
                Lifetime::AtMost(age) => now.duration_since(link.opened) >= age,
            };
            if aged {
                link.leave(Closed::Spent);
            } else if link.expires.is_some_and(|at| at <= now) {
                link.leave(Closed::Certificate);
            }
            !link.is_closed()
        });
        let link = links
            .iter()
            .find(|link| link.has_room(self.limits.streams_max))?;
        let link = Rc::clone(link);
        let reused = reused || link.served() > 0;
        link.lease();
        if let RequestsPerConnection::AtMost(most) = limits.requests_per_connection
            && link.served() >= most.get()
        {
            links.retain(|other| !Rc::ptr_eq(other, &link));
            link.carries_last(Closed::Spent);
        }
        Some(Lease {
            link,
            endpoint: Rc::clone(endpoint),
            reused,
        })
    }

    /// The dial in flight, or a new one.
    fn dialing(&self, endpoint: &Rc<Endpoint>) -> Rc<Dial> {
        if let Some(dial) = &*self.dial.borrow() {
            return Rc::clone(dial);
        }
        let dial = Rc::new(Dial::default());
        *self.dial.borrow_mut() = Some(Rc::clone(&dial));
        let mut tasks = self.tasks.borrow_mut();
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(%error, "an HTTP/2 connection's task panicked");
            }
        }
        tasks.spawn_local(dial::run(
            Rc::clone(endpoint),
            Rc::clone(&dial),
            self.limits.clone(),
        ));
        dial
    }

    /// The dial ended, with a connection or without.
    fn dialed(&self, dial: &Dial, outcome: Result<Rc<Link>, AttemptFailure>) {
        dial.finish(outcome.map(|link| self.links.borrow_mut().push(link)));
        *self.dial.borrow_mut() = None;
        self.changed.notify_waiters();
    }

    /// A connection ended.
    fn ended(&self, link: &Rc<Link>) {
        self.links
            .borrow_mut()
            .retain(|other| !Rc::ptr_eq(other, link));
        self.changed.notify_waiters();
    }

    /// Closes connections without streams that idled for too long.
    pub(crate) fn is_empty(&self) -> bool {
        self.links.borrow().is_empty() && self.dial.borrow().is_none()
    }

    pub(crate) fn sweep(&self, now: Instant, idle: Lifetime) {
        let Lifetime::AtMost(idle) = idle else { return };
        self.links.borrow_mut().retain(|link| {
            let keep = link.idle_for(now).is_none_or(|time| time < idle);
            if !keep {
                link.leave(Closed::Idle);
            }
            keep
        });
    }

    /// The endpoint is gone: streams in flight finish, then the connections close.
    pub(crate) fn retire(&self) {
        for link in self.links.borrow_mut().drain(..) {
            link.leave(Closed::Removed);
        }
    }

    /// Whether any connection is open.
    pub(crate) fn has_connections(&self) -> bool {
        !self.links.borrow().is_empty()
    }

    /// Gives up a connection without streams for its permit.
    pub(crate) fn evict(&self) -> Option<Permit> {
        let mut links = self.links.borrow_mut();
        let idle = links
            .iter()
            .position(|link| link.idle_for(Instant::now()).is_some())?;
        let link = links.remove(idle);
        link.leave(Closed::Room);
        link.take_permit()
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("connections", &self.links.borrow().len())
            .finish_non_exhaustive()
    }
}

impl Lease {
    /// Whether the connection carried requests before: it may have been closed meanwhile.
    pub(super) fn is_reused(&self) -> bool {
        self.reused
    }

    /// Opens the stream.
    ///
    /// # Errors
    /// The connection is closing. Nothing was sent.
    pub(super) async fn send_request(
        &self,
        request: Request<()>,
        ended: bool,
    ) -> Result<(ResponseFuture, SendStream<bytes::Bytes>), h2::Error> {
        let sent = self.link.send_request(request, ended).await;
        if sent.is_err() {
            self.link.close();
        }
        sent
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.link.free();
        self.endpoint.http2.changed.notify_waiters();
    }
}

/// What an error before the response head means.
pub(super) fn failure_of(error: &h2::Error) -> AttemptFailure {
    let kind = if error.is_remote() {
        match error.reason() {
            Some(_) if error.is_go_away() => Kind::RefusedStream,
            Some(Reason::REFUSED_STREAM) => Kind::RefusedStream,
            Some(_) | None => Kind::Reset,
        }
    } else if error.is_library() {
        Kind::Protocol
    } else {
        Kind::Reset
    };
    AttemptFailure::new(kind, error.to_string())
}
