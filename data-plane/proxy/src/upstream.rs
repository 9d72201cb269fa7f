//! One endpoint as a worker sees it: how to connect to it, and its idle connections.
//!
//! A worker holds one [`Pool`] for each target (backend) and one [`Endpoint`] for each of its
//! addresses. An HTTP/1 engine takes a connection with [`Endpoint::checkout`] and puts it back with
//! [`Endpoint::give_back`]; HTTP/2 and TCP open theirs with [`Endpoint::open`].
//!
//! Bounds (DestinationRule `connectionPool`): connections of a target are counted across workers
//! by [`Permits`], and so is who finds none and waits: at most `pending_max`, for at most
//! `pending_timeout`, first come first served within a worker. A connection that becomes free goes
//! to the first waiter: as it is if it leads to the endpoint wanted, else closed to make room for
//! one that does.

mod connect;
mod permits;
mod pool;
#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, RefCell},
    fmt,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use outrigger_model::{Lifetime, Peer, RequestsPerConnection, SpiffeId};
use tokio::time::Instant;

pub use permits::{Bell, Permit, Permits, Waiting};
pub use pool::Pool;

use crate::{
    exchange::{AttemptFailure, Deadline},
    http2,
    io::Io,
    telemetry::{Closed, OpenConnection},
    tls::{Alpn, TlsContext},
};

/// So long before its server would close it, an idle connection is left: a request sent at that
/// moment meets a closed connection, and what is not idempotent may not be sent again. Covers the
/// way there and back, and a clock that reads whole seconds.
const IDLE_MARGIN: Duration = Duration::from_secs(1);

/// The certificate in force, swapped by the control thread; `None` until the first arrives.
pub type TlsReader = Arc<ArcSwapOption<TlsContext>>;

/// One address of a target, in one worker.
pub struct Endpoint {
    /// Where to connect.
    pub address: SocketAddr,
    /// Who answers there.
    pub peer: Peer,
    pool: Rc<Pool>,
    tls: TlsReader,
    /// Idle HTTP/1 connections, the freshest last.
    idle: RefCell<Vec<Parked>>,
    /// HTTP/2 connections.
    pub(crate) http2: http2::Slot,
    /// Set when the endpoint left the target: nothing is parked any more.
    retired: Cell<bool>,
}

/// An open connection to an endpoint.
pub struct Connection {
    /// Its bytes.
    pub io: Io,
    /// Identity that the peer proved; `None` on plain text.
    pub peer: Option<SpiffeId>,
    /// Requests sent on it so far, the present one included.
    pub served: u32,
    /// When it was connected.
    pub opened: Instant,
    /// From when it carries no new requests: a certificate it was made with is at its end.
    pub expires: Option<Instant>,
    /// How long it may be idle by its peer's word, less [`IDLE_MARGIN`].
    idle_max: Option<Duration>,
    /// Who is told what it does.
    counted: Option<Rc<OpenConnection>>,
    permit: Permit,
}

/// A connection and where it comes from.
#[derive(Debug)]
pub struct Checkout {
    /// The connection.
    pub connection: Connection,
    /// Whether it was idle: it may have been closed by the peer meanwhile.
    pub reused: bool,
}

#[derive(Debug)]
struct Parked {
    connection: Connection,
    since: Instant,
    /// When its server may close it any moment, by its own word.
    until: Option<Instant>,
}

impl Endpoint {
    /// An endpoint of this pool's target. The pool must learn of it by [`Pool::adopt`].
    #[must_use]
    pub fn new(address: SocketAddr, peer: Peer, pool: &Rc<Pool>, tls: TlsReader) -> Rc<Self> {
        let endpoint = Rc::new(Self {
            address,
            peer,
            pool: Rc::clone(pool),
            tls,
            idle: RefCell::new(Vec::new()),
            http2: http2::Slot::new(),
            retired: Cell::new(false),
        });
        pool.adopt(&endpoint);
        endpoint
    }

    /// The pool whose bounds apply.
    #[must_use]
    pub fn pool(&self) -> &Rc<Pool> {
        &self.pool
    }

    /// An idle connection, or a new one for HTTP/1.
    ///
    /// # Errors
    /// `PendingFull`, `PendingTimeout`, `Connect`, `Handshake`, `NoCertificate`, `Timeout`.
    /// Cancel safe: yes.
    pub async fn checkout(&self, deadline: Deadline) -> Result<Checkout, AttemptFailure> {
        if let Some(mut connection) = self.take_idle() {
            connection.served = connection.served.saturating_add(1);
            return Ok(Checkout {
                connection,
                reused: true,
            });
        }
        match self.pool.admit(self, deadline).await? {
            pool::Grant::Connection(mut connection) => {
                connection.served = connection.served.saturating_add(1);
                Ok(Checkout {
                    connection: *connection,
                    reused: true,
                })
            }
            pool::Grant::Permit(permit) => {
                // Boxed: every request's future would otherwise carry room for a handshake.
                let connecting = self.connect(Alpn::H1, permit, deadline);
                let connection = Box::pin(connecting).await?;
                Ok(Checkout {
                    connection,
                    reused: false,
                })
            }
        }
    }

    /// A new connection, in place of one that turned out closed, or for HTTP/2 and TCP.
    ///
    /// # Errors
    /// As [`Self::checkout`]. Cancel safe: yes.
    pub async fn open(&self, alpn: Alpn, deadline: Deadline) -> Result<Connection, AttemptFailure> {
        let grant = match alpn {
            Alpn::H2 => {
                let is_first = !self.http2.has_connections();
                self.pool.admit_shared(self, is_first, deadline).await?
            }
            Alpn::H1 | Alpn::Tcp => self.pool.admit(self, deadline).await?,
        };
        match grant {
            // A waiter may be handed an idle HTTP/1 connection: it gives way, its permit serves.
            pool::Grant::Connection(connection) => {
                connection.ends(Closed::Room);
                Box::pin(self.connect(alpn, connection.permit, deadline)).await
            }
            pool::Grant::Permit(permit) => Box::pin(self.connect(alpn, permit, deadline)).await,
        }
    }

    /// Puts a connection back after a complete exchange that leaves it reusable. It is closed
    /// instead when it is too old, has carried its share, or the endpoint is gone.
    pub fn give_back(&self, connection: Connection) {
        let limits = self.pool.limits();
        let spent = match limits.requests_per_connection {
            RequestsPerConnection::Unlimited => false,
            RequestsPerConnection::AtMost(most) => connection.served >= most.get(),
        };
        let now = Instant::now();
        let aged = match limits.connection_age {
            Lifetime::Unlimited => false,
            Lifetime::AtMost(age) => now.duration_since(connection.opened) >= age,
        };
        let useless = if spent || aged {
            Some(Closed::Spent)
        } else if connection.idle_max == Some(Duration::ZERO) {
            Some(Closed::Idle)
        } else if connection.has_expired(now) {
            Some(Closed::Certificate)
        } else {
            self.retired.get().then_some(Closed::Removed)
        };
        if let Some(cause) = useless {
            connection.ends(cause);
            return;
        }
        if let Some(connection) = self.pool.hand_over(self.address, connection) {
            // Requests in other workers wait for its permit.
            if self.pool.is_short() {
                connection.ends(Closed::Room);
                return;
            }
            if let Some(counted) = &connection.counted {
                counted.idle();
            }
            self.idle.borrow_mut().push(Parked {
                until: connection.idle_max.and_then(|most| now.checked_add(most)),
                connection,
                since: now,
            });
        }
    }

    /// Whether a request that will be this connection's last should say `connection: close`.
    #[must_use]
    pub fn is_last_request(&self, connection: &Connection) -> bool {
        match self.pool.limits().requests_per_connection {
            RequestsPerConnection::Unlimited => false,
            RequestsPerConnection::AtMost(most) => connection.served >= most.get(),
        }
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let now = Instant::now();
        while let Some(parked) = idle.pop() {
            let connection = parked.connection;
            if parked.until.is_some_and(|until| until <= now) {
                connection.ends(Closed::Idle);
            } else if connection.has_expired(now) {
                connection.ends(Closed::Certificate);
            } else {
                if let Some(counted) = &connection.counted {
                    counted.active();
                }
                return Some(connection);
            }
        }
        None
    }

    /// Whether it holds no connection.
    pub(crate) fn is_unused(&self) -> bool {
        self.idle.borrow().is_empty() && self.http2.is_empty()
    }

    /// Closes idle connections: all when the endpoint is gone.
    pub fn retire(&self) {
        self.retired.set(true);
        for parked in self.idle.borrow_mut().drain(..) {
            parked.connection.ends(Closed::Removed);
        }
        self.http2.retire();
    }

    /// Closes connections that were idle for too long. Called by the worker's sweep.
    fn sweep(&self, now: Instant, idle: Lifetime) {
        self.http2.sweep(now, idle);
        self.idle.borrow_mut().retain(|parked| {
            let in_time = match idle {
                Lifetime::AtMost(idle) => now.duration_since(parked.since) < idle,
                Lifetime::Unlimited => true,
            };
            let keep = in_time && parked.until.is_none_or(|until| until > now);
            if !keep {
                parked.connection.ends(Closed::Idle);
            }
            keep
        });
    }

    /// Gives up the oldest idle connection for its permit.
    fn evict(&self) -> Option<Permit> {
        let mut idle = self.idle.borrow_mut();
        if idle.is_empty() {
            self.http2.evict()
        } else {
            let connection = idle.remove(0).connection;
            connection.ends(Closed::Room);
            Some(connection.permit)
        }
    }
}

impl Connection {
    /// The bytes, the right to have them open, until when they carry new requests, and who is told
    /// of them.
    pub(crate) fn into_parts(self) -> (Io, Permit, Option<Instant>, Option<Rc<OpenConnection>>) {
        (self.io, self.permit, self.expires, self.counted)
    }

    /// What it will have been closed for.
    fn ends(&self, cause: Closed) {
        if let Some(counted) = &self.counted {
            counted.ends(cause);
        }
    }

    /// Takes over what the peer said of how long it keeps the connection without a request.
    pub(crate) fn leave_after(&mut self, announced: Option<Duration>) {
        self.idle_max = announced.map(|time| time.saturating_sub(IDLE_MARGIN));
    }

    fn has_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.address)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
