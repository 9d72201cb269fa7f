//! Bounds of one target in one worker, and the line of those who wait for a connection.

use std::{
    cell::{OnceCell, RefCell},
    collections::VecDeque,
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use outrigger_model::{ConnectionLimits, Lifetime};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::{Connection, Endpoint, Permit, Permits, permits::Waiting};
use crate::{
    exchange::{AttemptFailure, AttemptFailureKind, Deadline},
    telemetry::{Closed, Direction, Handshake, OpenConnection, Series, Telemetry},
};

/// Connections of one target in one worker.
#[derive(Debug)]
pub struct Pool {
    limits: RefCell<Rc<ConnectionLimits>>,
    permits: Arc<Permits>,
    members: RefCell<Vec<Weak<Endpoint>>>,
    /// This worker's part of the line. Bounded by `pending_max`.
    waiting: RefCell<VecDeque<Waiter>>,
    /// Who is told of waits, handshakes and connections.
    report: OnceCell<(Telemetry, Rc<Series>)>,
}

#[derive(Debug)]
struct Waiter {
    wanted: SocketAddr,
    grant: oneshot::Sender<Grant>,
    /// Told when it has come to the head of the line.
    head: Rc<Notify>,
}

/// What a waiter receives.
#[derive(Debug)]
pub(super) enum Grant {
    /// The right to open one.
    Permit(Permit),
    /// An idle connection to the endpoint wanted.
    Connection(Box<Connection>),
}

/// Keeps the line right however the wait ends: the next one learns that it is the first.
struct Pending<'a>(
    &'a Pool,
    #[expect(dead_code, reason = "a place in line")] Option<Waiting>,
);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.report_pending(-1);
        let mut waiting = self.0.waiting.borrow_mut();
        waiting.retain(|waiter| !waiter.grant.is_closed());
        if let Some(first) = waiting.front() {
            first.head.notify_one();
        }
    }
}

impl Pool {
    /// A pool bounded by `limits`; `permits` is shared with the other workers' pools of the
    /// same target.
    #[must_use]
    pub fn new(limits: ConnectionLimits, permits: Arc<Permits>) -> Rc<Self> {
        permits.set_max(limits.connections_max);
        Rc::new(Self {
            limits: RefCell::new(Rc::new(limits)),
            permits,
            members: RefCell::new(Vec::new()),
            waiting: RefCell::new(VecDeque::new()),
            report: OnceCell::new(),
        })
    }

    /// Tells of waiting requests and connections on this series, and of handshakes. Only the first
    /// call counts.
    pub fn report_to(&self, telemetry: &Telemetry, series: &Rc<Series>) {
        self.report
            .get_or_init(|| (telemetry.clone(), Rc::clone(series)));
    }

    fn report_pending(&self, by: i64) {
        if let Some((_, series)) = self.report.get() {
            series.pending(by);
        }
    }

    /// A connection was made: what it does is told to the one returned.
    pub(super) fn report_connection(&self) -> Option<Rc<OpenConnection>> {
        let (_, series) = self.report.get()?;
        Some(OpenConnection::new(series))
    }

    pub(super) fn report_handshake(&self, result: Handshake, took: Duration) {
        if let Some((telemetry, _)) = self.report.get() {
            telemetry.handshake(Direction::Outbound, result, took);
        }
    }

    /// The bounds in force.
    #[must_use]
    pub fn limits(&self) -> Rc<ConnectionLimits> {
        Rc::clone(&self.limits.borrow())
    }

    /// New bounds, after a change of configuration.
    pub fn set_limits(&self, limits: ConnectionLimits) {
        self.permits.set_max(limits.connections_max);
        *self.limits.borrow_mut() = Rc::new(limits);
    }

    /// Connections open in all workers.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.permits.used()
    }

    /// A place in the line of all workers, for who waits elsewhere than in [`Pool::admit`];
    /// `None` when `pending_max` wait.
    pub(crate) fn begin_wait(&self) -> Option<Waiting> {
        self.permits.begin_wait(self.limits().pending_max)
    }

    /// Whether requests wait, here or in other workers, for what idle connections take up.
    pub(super) fn is_short(&self) -> bool {
        self.permits.is_short()
    }

    /// Closes idle connections for those who wait in other workers.
    pub fn make_room(&self) {
        for _ in 0..self.permits.waiting() {
            if !self.permits.is_short() || self.evict().is_none() {
                return;
            }
        }
    }

    pub(super) fn adopt(&self, endpoint: &Rc<Endpoint>) {
        let mut members = self.members.borrow_mut();
        members.retain(|member| member.strong_count() > 0);
        members.push(Rc::downgrade(endpoint));
    }

    /// Closes what was idle for too long, in all endpoints: by configuration, or for longer than
    /// `idle_max`.
    pub fn sweep(&self, now: Instant, idle_max: Lifetime) {
        let idle = match (self.limits().idle_timeout, idle_max) {
            (Lifetime::AtMost(own), Lifetime::AtMost(other)) => Lifetime::AtMost(own.min(other)),
            (Lifetime::Unlimited, other) => other,
            (own, Lifetime::Unlimited) => own,
        };
        for endpoint in self.members.borrow().iter().filter_map(Weak::upgrade) {
            endpoint.sweep(now, idle);
        }
    }

    /// The right to open a connection, or one that became free. Cancel safe: yes.
    pub(super) async fn admit(
        &self,
        endpoint: &Endpoint,
        deadline: Deadline,
    ) -> Result<Grant, AttemptFailure> {
        if let Some(permit) = self.free() {
            return Ok(Grant::Permit(permit));
        }
        let Some(place) = self.begin_wait() else {
            return Err(AttemptFailure::new(
                AttemptFailureKind::PendingFull,
                "connections_max and pending_max reached",
            ));
        };
        self.stand_in_line(endpoint, deadline, Some(place)).await
    }

    /// The right to open a connection that many requests will share, who are counted as waiting
    /// already. An endpoint without any connection gets its first whatever the bound says:
    /// `maxConnections` speaks of HTTP/1 and TCP, and with more endpoints than connections a
    /// request would else wait for room that streams on another endpoint do not need.
    /// Cancel safe: yes.
    pub(super) async fn admit_shared(
        &self,
        endpoint: &Endpoint,
        is_first: bool,
        deadline: Deadline,
    ) -> Result<Grant, AttemptFailure> {
        if let Some(permit) = self.free() {
            return Ok(Grant::Permit(permit));
        }
        if is_first {
            return Ok(Grant::Permit(self.permits.acquire_beyond()));
        }
        self.stand_in_line(endpoint, deadline, None).await
    }

    /// A permit that is to be had at once, where nobody waits for it.
    fn free(&self) -> Option<Permit> {
        let nobody_waits = self.waiting.borrow().is_empty();
        nobody_waits
            .then(|| self.permits.try_acquire().or_else(|| self.evict()))
            .flatten()
    }

    async fn stand_in_line(
        &self,
        endpoint: &Endpoint,
        deadline: Deadline,
        place: Option<Waiting>,
    ) -> Result<Grant, AttemptFailure> {
        self.report_pending(1);
        let _pending = Pending(self, place);
        let limits = self.limits();
        let own = Deadline::NONE.or_after(Instant::now(), Some(limits.pending_timeout));
        let until = own
            .0
            .unwrap_or_else(Instant::now)
            .min(deadline.0.unwrap_or(own_far()));
        let waited = tokio::time::timeout_at(until, self.wait(endpoint.address)).await;
        waited.map_err(|_| {
            let by_request = deadline.0.is_some_and(|deadline| deadline <= until);
            let kind = if by_request {
                AttemptFailureKind::Timeout
            } else {
                AttemptFailureKind::PendingTimeout
            };
            AttemptFailure::new(kind, "no connection became free")
        })
    }

    /// Only the head of the line listens for what other workers free: one permit wakes one
    /// listener, and any other would let it lapse.
    async fn wait(&self, wanted: SocketAddr) -> Grant {
        let (grant, mut granted) = oneshot::channel();
        let head = Rc::new(Notify::new());
        self.waiting.borrow_mut().push_back(Waiter {
            wanted,
            grant,
            head: Rc::clone(&head),
        });
        loop {
            let first = self.is_first(&head);
            let freed = self.permits.freed();
            if first && let Some(permit) = self.permits.try_acquire() {
                return Grant::Permit(permit);
            }
            tokio::select! {
                biased;
                grant = &mut granted => {
                    if let Ok(grant) = grant {
                        return grant;
                    }
                }
                () = freed, if first => {}
                () = head.notified(), if !first => {}
            }
        }
    }

    fn is_first(&self, head: &Rc<Notify>) -> bool {
        let waiting = self.waiting.borrow();
        waiting
            .front()
            .is_some_and(|waiter| Rc::ptr_eq(&waiter.head, head))
    }

    /// Gives a free connection to the first waiter; returns it when nobody waits.
    pub(super) fn hand_over(
        &self,
        address: SocketAddr,
        connection: Connection,
    ) -> Option<Connection> {
        let mut waiting = self.waiting.borrow_mut();
        let mut connection = connection;
        while let Some(waiter) = waiting.pop_front() {
            if waiter.wanted == address {
                match waiter.grant.send(Grant::Connection(Box::new(connection))) {
                    Ok(()) => return None,
                    Err(Grant::Connection(back)) => connection = *back,
                    Err(Grant::Permit(_)) => return None,
                }
            } else if !waiter.grant.is_closed() {
                // Leads elsewhere: closed, its permit opens the one wanted.
                connection.ends(Closed::Room);
                drop(waiter.grant.send(Grant::Permit(connection.permit)));
                return None;
            }
        }
        Some(connection)
    }

    fn evict(&self) -> Option<Permit> {
        self.members
            .borrow()
            .iter()
            .filter_map(Weak::upgrade)
            .find_map(|member| member.evict())
    }
}

/// A point no request waits for.
fn own_far() -> Instant {
    Instant::now() + std::time::Duration::from_secs(3600)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outrigger_model::{Peer, RequestsPerConnection};

    use super::*;

    fn limits() -> ConnectionLimits {
        ConnectionLimits {
            connections_max: 1,
            pending_max: 8,
            pending_timeout: Duration::from_secs(1),
            requests_max: 8,
            requests_per_connection: RequestsPerConnection::Unlimited,
            retries_max: 0,
            connect_timeout: Duration::from_secs(1),
            idle_timeout: Lifetime::Unlimited,
            connection_age: Lifetime::Unlimited,
        }
    }

    /// One bound on the line for all workers, not one for each.
    #[tokio::test(start_paused = true)]
    async fn the_line_is_one_for_all_workers() {
        let permits = Permits::new(1);
        let held = permits.try_acquire();
        let bounds = || ConnectionLimits {
            pending_max: 1,
            ..limits()
        };
        let workers = [(); 2].map(|()| Pool::new(bounds(), Arc::clone(&permits)));
        let endpoints = [0, 1].map(|at| {
            let address = SocketAddr::from(([127, 0, 0, 1], 1));
            Endpoint::new(address, Peer::Plain, &workers[at], Arc::default())
        });
        let waits = workers[0].admit(&endpoints[0], Deadline::NONE);
        let refused = async {
            tokio::task::yield_now().await;
            let grant = workers[1].admit(&endpoints[1], Deadline::NONE).await;
            assert_eq!(grant.unwrap_err().kind, AttemptFailureKind::PendingFull);
            drop(held);
        };
        let (grant, ()) = tokio::join!(waits, refused);
        assert!(matches!(grant, Ok(Grant::Permit(_))), "{grant:?}");
        assert_eq!(permits.waiting(), 0);
    }

    /// A connection that many streams share: an endpoint's first is opened above the bound.
    #[tokio::test(start_paused = true)]
    async fn the_first_shared_connection_of_an_endpoint_needs_no_room() {
        let permits = Permits::new(1);
        let _held = permits.try_acquire();
        let pool = Pool::new(limits(), Arc::clone(&permits));
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let endpoint = Endpoint::new(address, Peer::Plain, &pool, Arc::default());
        let first = pool.admit_shared(&endpoint, true, Deadline::NONE).await;
        assert!(matches!(first, Ok(Grant::Permit(_))), "{first:?}");
        let second = pool.admit_shared(&endpoint, false, Deadline::NONE).await;
        assert_eq!(second.unwrap_err().kind, AttemptFailureKind::PendingTimeout);
    }

    /// The permit is snatched by another worker just as it was offered to the first in line; the
    /// next one that is freed must still reach the first, not lapse at the second.
    #[tokio::test(start_paused = true)]
    async fn a_freed_permit_reaches_the_head_of_the_line() {
        let permits = Permits::new(1);
        let pool = Pool::new(limits(), Arc::clone(&permits));
        let endpoint = |port| {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            Endpoint::new(address, Peer::Plain, &pool, Arc::default())
        };
        let (one, two) = (endpoint(1), endpoint(2));
        let elsewhere = async {
            let held = permits.try_acquire().unwrap();
            tokio::task::yield_now().await;
            drop(held);
            let snatched = permits.try_acquire().unwrap();
            tokio::task::yield_now().await;
            drop(snatched);
        };
        let first = async {
            let grant = pool.admit(&one, Deadline::NONE).await;
            assert!(matches!(grant, Ok(Grant::Permit(_))), "{grant:?}");
        };
        let second = async {
            let grant = pool.admit(&two, Deadline::NONE).await;
            assert!(matches!(grant, Ok(Grant::Permit(_))), "{grant:?}");
        };
        tokio::join!(elsewhere, first, second);
    }
}
