//! Connections to endpoints: how many there are, what they carry, why they end.
//!
//! A worker opens an [`OpenConnection`] for each and tells it what happens; the numbers lie in its
//! own shard, one writer each. Bytes are added at each read and write of the socket: two loads and
//! a store beside a system call.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use super::{
    series::{Series, Shard, add, shift},
    table::Item,
};

/// Why a connection to an endpoint ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Closed {
    /// The endpoint closed it in order.
    Peer,
    /// It broke.
    Reset,
    /// Without a request for too long: by configuration, for want of memory, or shortly before the
    /// endpoint would close it by its own word.
    Idle,
    /// It has carried its share of requests, or is old enough.
    Spent,
    /// A certificate it was made with is at its end.
    Certificate,
    /// Its place was needed: requests waited for another connection.
    Room,
    /// The endpoint left the backend.
    Removed,
    /// The sidecar had no further use for it: the exchange left it unusable, its bytes were at their
    /// end, or the client left.
    Unusable,
}

impl Closed {
    /// All.
    pub const ALL: [Self; 8] = [
        Self::Peer,
        Self::Reset,
        Self::Idle,
        Self::Spent,
        Self::Certificate,
        Self::Room,
        Self::Removed,
        Self::Unusable,
    ];

    /// Label value.
    #[must_use]
    pub fn slug(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Reset => "reset",
            Self::Idle => "idle",
            Self::Spent => "spent",
            Self::Certificate => "certificate",
            Self::Room => "room",
            Self::Removed => "removed",
            Self::Unusable => "unusable",
        }
    }

    pub(super) fn index(self) -> usize {
        match self {
            Self::Peer => 0,
            Self::Reset => 1,
            Self::Idle => 2,
            Self::Spent => 3,
            Self::Certificate => 4,
            Self::Room => 5,
            Self::Removed => 6,
            Self::Unusable => 7,
        }
    }
}

/// One worker's numbers of the connections to one backend.
#[derive(Debug, Default)]
pub(super) struct Connections {
    pub(super) opened: AtomicU64,
    pub(super) active: AtomicI64,
    pub(super) idle: AtomicI64,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) closed: [AtomicU64; Closed::ALL.len()],
}

/// Sums over workers; `None` of the present ones until there was a connection.
#[derive(Debug, Clone, Default)]
pub(super) struct ConnectionTotals {
    pub(super) opened: u64,
    pub(super) active: i64,
    pub(super) idle: i64,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) closed: [u64; Closed::ALL.len()],
}

impl ConnectionTotals {
    /// Adds what only grows.
    pub(super) fn add(&mut self, connections: &Connections) {
        self.opened += connections.opened.load(Ordering::Relaxed);
        self.sent += connections.sent.load(Ordering::Relaxed);
        self.received += connections.received.load(Ordering::Relaxed);
        for (sum, number) in self.closed.iter_mut().zip(&connections.closed) {
            *sum += number.load(Ordering::Relaxed);
        }
    }

    /// Adds what is true only while somebody holds the shard.
    pub(super) fn add_present(&mut self, connections: &Connections) {
        self.active += connections.active.load(Ordering::Relaxed);
        self.idle += connections.idle.load(Ordering::Relaxed);
    }
}

/// A connection to an endpoint, from its opening to its close. Carries something until it is said
/// to be idle.
#[derive(Debug)]
pub struct OpenConnection {
    series: Rc<Series>,
    shard: Arc<Shard>,
    state: Cell<State>,
    cause: Cell<Option<Closed>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Active,
    Idle,
    Closed,
}

impl OpenConnection {
    /// A connection was made.
    #[must_use]
    pub fn new(series: &Rc<Series>) -> Rc<Self> {
        let shard = series.shard_for(Item::Connections);
        add(&shard.connections.opened, 1);
        shift(&shard.connections.active, 1);
        Rc::new(Self {
            series: Rc::clone(series),
            shard,
            state: Cell::new(State::Active),
            cause: Cell::new(None),
        })
    }

    fn turn(&self, state: State) {
        let before = self.state.get();
        if before == state || before == State::Closed {
            return;
        }
        let connections = &self.shard.connections;
        for (of, by) in [(before, -1), (state, 1)] {
            match of {
                State::Active => shift(&connections.active, by),
                State::Idle => shift(&connections.idle, by),
                State::Closed => {}
            }
        }
        self.state.set(state);
    }

    /// It carries a request, or bytes.
    pub fn active(&self) {
        self.turn(State::Active);
    }

    /// It carries nothing.
    pub fn idle(&self) {
        self.turn(State::Idle);
    }

    /// What will have ended it; the first word stands.
    pub fn ends(&self, cause: Closed) {
        if self.cause.get().is_none() {
            self.cause.set(Some(cause));
        }
    }

    /// Bytes went to the endpoint.
    pub fn sent(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        add(&self.shard.connections.sent, bytes);
    }

    /// Bytes came from the endpoint.
    pub fn received(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        add(&self.shard.connections.received, bytes);
    }

    /// Its socket is closed.
    pub fn closed(&self) {
        if self.state.get() == State::Closed {
            return;
        }
        self.turn(State::Closed);
        let cause = self.cause.get().unwrap_or(Closed::Unusable);
        let shard = self.series.shard_for(Item::Closed(cause));
        if let Some(count) = shard.connections.closed.get(cause.index()) {
            add(count, 1);
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.closed();
    }
}
