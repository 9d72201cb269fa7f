//! The counters of one place that traffic goes to, as one worker keeps them.
//!
//! ```text
//! SeriesKey ─► Shard (one per worker) ─► Lane (protocol × security) ─► Outcome (code, reason)
//! ```
//! A [`Series`] is a worker's handle on its own shard. It is not `Sync`, so each number has
//! exactly one writer and is written by a plain load and store; the scrape reads beside it.
//! Sketch: a hit of the handle's short list of outcomes, one search among 20 bounds and six
//! additions: under 180 instructions measured, the record's own making included;
//! `with_label_values` alone costs 246.
//!
//! Making a lane or an outcome asks the table for room ([`super::table`]); what finds none is
//! counted on the `other` series of its direction.
//!
//! Longer than most, because the cells, their one writer and what the scrape reads of them must be
//! seen together.

use std::{
    cell::RefCell,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use outrigger_model::{Backend, DestinationName, Port, SpiffeId};

use super::{
    Carried, Direction, RequestRecord, Security,
    names::BUCKETS_US,
    table::{Item, Table},
    upstream::Connections,
};
use crate::{exchange::AttemptFailureKind, reason::Reason};

/// What a series counts. Made only of configuration and verified identities.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SeriesKey {
    /// To a backend that a route chose.
    Outbound(Backend),
    /// To a service of the mesh, before a backend was chosen.
    Unrouted(DestinationName),
    /// To an authority that names no service of the mesh, or a request without one.
    UnknownService,
    /// Captured, to an address that no service of the mesh has.
    Passthrough,
    /// From the mesh to the application's port, by the identity that the client proved.
    Inbound {
        /// The application's port.
        port: Port,
        /// Who calls; `None` on plain text.
        peer: Option<SpiffeId>,
    },
    /// Everything that finds no room on the page.
    Other(Direction),
}

impl SeriesKey {
    /// Side of the sidecar.
    #[must_use]
    pub fn direction(&self) -> Direction {
        match self {
            Self::Outbound(_) | Self::Unrouted(_) | Self::UnknownService | Self::Passthrough => {
                Direction::Outbound
            }
            Self::Inbound { .. } => Direction::Inbound,
            Self::Other(direction) => *direction,
        }
    }
}

/// Why a request was tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetryCause {
    /// No connection was made.
    Connect,
    /// TLS handshake, identity, or no certificate.
    Handshake,
    /// The pool's waiting line.
    Pending,
    /// Refused stream or GOAWAY.
    RefusedStream,
    /// Closed or reset before a response head.
    Reset,
    /// The response broke HTTP.
    Protocol,
    /// The per-try timeout.
    Timeout,
    /// A response status that the policy names.
    Status,
    /// A gRPC status that the policy names.
    GrpcStatus,
}

impl RetryCause {
    /// All.
    pub const ALL: [Self; 9] = [
        Self::Connect,
        Self::Handshake,
        Self::Pending,
        Self::RefusedStream,
        Self::Reset,
        Self::Protocol,
        Self::Timeout,
        Self::Status,
        Self::GrpcStatus,
    ];

    /// The cause that a failed try stands for; `None` for the client's own doing, which is never
    /// tried again.
    #[must_use]
    pub fn of(kind: AttemptFailureKind) -> Option<Self> {
        match kind {
            AttemptFailureKind::Connect => Some(Self::Connect),
            AttemptFailureKind::Handshake | AttemptFailureKind::NoCertificate => {
                Some(Self::Handshake)
            }
            AttemptFailureKind::PendingFull | AttemptFailureKind::PendingTimeout => {
                Some(Self::Pending)
            }
            AttemptFailureKind::RefusedStream => Some(Self::RefusedStream),
            AttemptFailureKind::Reset => Some(Self::Reset),
            AttemptFailureKind::Protocol => Some(Self::Protocol),
            AttemptFailureKind::Timeout => Some(Self::Timeout),
            AttemptFailureKind::Downstream(_) | AttemptFailureKind::ClientGone => None,
        }
    }

    /// The cause behind an answer that the endpoint's sidecar made; `None` where its status says
    /// all there is.
    #[must_use]
    pub fn of_peer(reason: Reason) -> Option<Self> {
        match reason {
            Reason::ApplicationUnavailable | Reason::ConnectFailed => Some(Self::Connect),
            Reason::RefusedStream => Some(Self::RefusedStream),
            Reason::UpstreamReset => Some(Self::Reset),
            Reason::UpstreamProtocol => Some(Self::Protocol),
            _ => None,
        }
    }

    /// Label value.
    #[must_use]
    pub fn slug(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Handshake => "handshake",
            Self::Pending => "pending",
            Self::RefusedStream => "refused-stream",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::GrpcStatus => "grpc-status",
        }
    }

    pub(super) fn index(self) -> usize {
        match self {
            Self::Connect => 0,
            Self::Handshake => 1,
            Self::Pending => 2,
            Self::RefusedStream => 3,
            Self::Reset => 4,
            Self::Protocol => 5,
            Self::Timeout => 6,
            Self::Status => 7,
            Self::GrpcStatus => 8,
        }
    }
}

/// Protocol and security of a lane, as an index: `carried × 3 + security`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct LaneIndex(u8);

/// Number of lanes of a shard.
pub(super) const LANES: usize = 12;

impl LaneIndex {
    pub(super) fn of(carried: Carried, security: Security) -> Self {
        let carried = match carried {
            Carried::Http1 => 0,
            Carried::Http2 => 3,
            Carried::Grpc => 6,
            Carried::Tcp => 9,
        };
        let security = match security {
            Security::MutualTls => 0,
            Security::None => 1,
            Security::Unknown => 2,
        };
        Self(carried + security)
    }

    pub(super) fn get(self) -> usize {
        usize::from(self.0)
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0u8..).take(LANES).map(Self)
    }

    pub(super) fn is_tcp(self) -> bool {
        self.0 >= 9
    }

    /// Values of `protocol` and `connection_security_policy`.
    pub(super) fn labels(self) -> (&'static str, &'static str) {
        let protocol = ["http1", "http2", "grpc", "tcp"];
        let security = ["mutual_tls", "none", "unknown"];
        let index = self.get();
        (protocol[index / 3 % 4], security[index % 3])
    }
}

/// How requests of a lane ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct OutcomeKey {
    pub(super) code: Code,
    /// `255`: none.
    pub(super) grpc: u8,
    pub(super) reason: Option<Reason>,
}

/// A response code as a label: what a server invents is shown by its class alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Code {
    /// A registered code (RFC 9110 §16.2), or 0 when the client left before an answer.
    Known(u16),
    /// Another code of the class 1–9.
    Class(u8),
}

impl OutcomeKey {
    fn of(record: &RequestRecord<'_>) -> Self {
        let status = record.status;
        let registered = http::StatusCode::from_u16(status)
            .is_ok_and(|status| status.canonical_reason().is_some());
        Self {
            code: if registered || status == 0 {
                Code::Known(status)
            } else {
                Code::Class(u8::try_from(status / 100).unwrap_or(0))
            },
            grpc: match record.grpc_status {
                Some(code) if record.carried == Carried::Grpc => code.min(17),
                _ => 255,
            },
            reason: record.reason,
        }
    }

    /// The same, as the `other` series keeps it.
    fn coarse(self) -> Self {
        let class = match self.code {
            Code::Known(status) => u8::try_from(status / 100).unwrap_or(0),
            Code::Class(class) => class,
        };
        Self {
            code: Code::Class(class.min(5)),
            grpc: 255,
            reason: None,
        }
    }
}

/// Durations by bucket, in microseconds.
#[derive(Debug, Default)]
pub(super) struct Durations {
    pub(super) buckets: [AtomicU64; BUCKETS_US.len() + 1],
    pub(super) sum_us: AtomicU64,
}

impl Durations {
    fn observe(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.partition_point(|bound| *bound < us);
        if let Some(count) = self.buckets.get(bucket) {
            add(count, 1);
        }
        add(&self.sum_us, us);
    }
}

/// One protocol and security of a shard.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) succeeded: Durations,
    pub(super) failed: OnceLock<Box<Durations>>,
    pub(super) request_bytes: AtomicU64,
    pub(super) response_bytes: AtomicU64,
    pub(super) opened: AtomicU64,
    pub(super) outcomes: Mutex<Vec<Arc<Outcome>>>,
}

#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) key: OutcomeKey,
    pub(super) count: AtomicU64,
}

impl Lane {
    fn outcome(&self, key: OutcomeKey) -> Arc<Outcome> {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = outcomes.iter().find(|outcome| outcome.key == key) {
            return Arc::clone(known);
        }
        let outcome = Arc::new(Outcome {
            key,
            count: AtomicU64::new(0),
        });
        outcomes.push(Arc::clone(&outcome));
        outcome
    }
}

/// One worker's numbers of one key.
#[derive(Debug, Default)]
pub(super) struct Shard {
    pub(super) lanes: [OnceLock<Arc<Lane>>; LANES],
    pub(super) retries: [AtomicU64; RetryCause::ALL.len()],
    pub(super) ejections: AtomicU64,
    /// Endpoints out: one number, which all workers' shards of a backend lead to.
    pub(super) ejected: OnceLock<Arc<AtomicI64>>,
    pub(super) pending: AtomicI64,
    pub(super) connections: Connections,
    /// [`Item::bit`]s that have room.
    granted: AtomicU32,
}

impl Shard {
    /// Whether a connection was ever made here.
    pub(super) fn has_connections(&self) -> bool {
        self.granted.load(Ordering::Relaxed) & Item::Connections.bit() != 0
    }

    /// Whether requests ever waited here.
    pub(super) fn has_pending(&self) -> bool {
        self.granted.load(Ordering::Relaxed) & Item::Pending.bit() != 0
    }
}

/// Adds to a number that only this worker writes.
pub(super) fn add(number: &AtomicU64, more: u64) {
    number.store(
        number.load(Ordering::Relaxed).wrapping_add(more),
        Ordering::Relaxed,
    );
}

pub(super) fn shift(number: &AtomicI64, by: i64) {
    number.store(
        number.load(Ordering::Relaxed).wrapping_add(by),
        Ordering::Relaxed,
    );
}

/// A worker's handle on the counters of one [`SeriesKey`]; resolve it once, keep it beside the
/// cluster, and drop it with the cluster.
#[derive(Debug)]
pub struct Series {
    key: SeriesKey,
    table: Arc<Table>,
    shard: Arc<Shard>,
    /// Where what finds no room is counted; made when first needed.
    other: RefCell<Option<Arc<Shard>>>,
    /// Outcomes seen, the last one used first.
    recent: RefCell<Vec<Hit>>,
}

/// Longest list of recent outcomes: a handle that sees more forgets the last and asks again.
const RECENT_MAX: usize = 32;

#[derive(Debug)]
struct Hit {
    lane: LaneIndex,
    status: u16,
    grpc: Option<u8>,
    reason: Option<Reason>,
    failed: bool,
    counters: Arc<Lane>,
    outcome: Arc<Outcome>,
}

impl Series {
    pub(super) fn new(table: Arc<Table>, key: SeriesKey) -> Self {
        let (key, shard) = table.open(key);
        Self {
            key,
            table,
            shard,
            other: RefCell::new(None),
            recent: RefCell::new(Vec::new()),
        }
    }

    /// Counts a finished request or connection.
    pub(super) fn record(&self, record: &RequestRecord<'_>, failed: bool) {
        let lane = LaneIndex::of(record.carried, record.security);
        let mut recent = self.recent.borrow_mut();
        let hit = recent.iter().position(|hit| {
            hit.status == record.status
                && hit.lane == lane
                && hit.failed == failed
                && hit.grpc == record.grpc_status
                && hit.reason == record.reason
        });
        let index = match hit {
            Some(index) => index,
            None => {
                recent.truncate(RECENT_MAX - 1);
                recent.push(self.resolve(record, lane, failed));
                recent.len() - 1
            }
        };
        recent.swap(0, index);
        if let Some(hit) = recent.first() {
            hit.count(record);
        }
    }

    /// A TCP connection began; [`super::Telemetry::record`] counts its end.
    pub fn tcp_opened(&self, security: Security) {
        let lane = LaneIndex::of(Carried::Tcp, security);
        add(&self.lane(lane).opened, 1);
    }

    pub(super) fn retry(&self, cause: RetryCause) {
        let shard = self.shard_for(Item::Retry(cause));
        if let Some(count) = shard.retries.get(cause.index()) {
            add(count, 1);
        }
    }

    pub(super) fn ejected(&self) {
        let shard = self.shard_for(Item::Ejection);
        add(&shard.ejections, 1);
        if let Some(out) = self.shard.ejected.get() {
            shard.ejected.get_or_init(|| Arc::clone(out));
        }
    }

    /// Where it stands how many endpoints of this backend are out. Only the first call counts.
    pub fn ejections_of(&self, out: &Arc<AtomicI64>) {
        self.shard.ejected.get_or_init(|| Arc::clone(out));
    }

    /// Changes the number of requests that wait for a connection.
    pub fn pending(&self, by: i64) {
        shift(&self.shard_for(Item::Pending).pending, by);
    }

    #[cold]
    fn resolve(&self, record: &RequestRecord<'_>, lane: LaneIndex, failed: bool) -> Hit {
        let key = OutcomeKey::of(record);
        let room = self.is_other().is_none()
            && self.table.admit(&self.key, Item::Lane(lane))
            && (!failed || lane.is_tcp() || self.table.admit(&self.key, Item::Failed(lane)))
            && self.table.admit(&self.key, Item::Outcome(lane, key));
        let (counters, key) = if room {
            (lane_of(&self.shard, lane), key)
        } else {
            (self.other_lane(lane), key.coarse())
        };
        Hit {
            lane,
            status: record.status,
            grpc: record.grpc_status,
            reason: record.reason,
            failed,
            outcome: counters.outcome(key),
            counters,
        }
    }

    /// The lane, or that of the `other` series when there is no room.
    fn lane(&self, lane: LaneIndex) -> Arc<Lane> {
        if let Some(known) = self.shard.lanes.get(lane.get()).and_then(OnceLock::get) {
            Arc::clone(known)
        } else if self.is_other().is_none() && self.table.admit(&self.key, Item::Lane(lane)) {
            lane_of(&self.shard, lane)
        } else {
            self.other_lane(lane)
        }
    }

    fn is_other(&self) -> Option<Direction> {
        match self.key {
            SeriesKey::Other(direction) => Some(direction),
            SeriesKey::Outbound(_)
            | SeriesKey::Unrouted(_)
            | SeriesKey::UnknownService
            | SeriesKey::Passthrough
            | SeriesKey::Inbound { .. } => None,
        }
    }

    /// `other` has one lane for requests and one for TCP.
    fn other_lane(&self, lane: LaneIndex) -> Arc<Lane> {
        let carried = if lane.is_tcp() {
            Carried::Tcp
        } else {
            Carried::Http1
        };
        lane_of(
            &self.other_shard(),
            LaneIndex::of(carried, Security::Unknown),
        )
    }

    fn other_shard(&self) -> Arc<Shard> {
        if self.is_other().is_some() {
            return Arc::clone(&self.shard);
        }
        let mut other = self.other.borrow_mut();
        Arc::clone(
            other.get_or_insert_with(|| self.table.open(SeriesKey::Other(self.key.direction())).1),
        )
    }

    /// The shard on which this item is counted.
    pub(super) fn shard_for(&self, item: Item) -> Arc<Shard> {
        let bit = item.bit();
        let granted = self.shard.granted.load(Ordering::Relaxed);
        if granted & bit != 0 {
            Arc::clone(&self.shard)
        } else if self.is_other().is_none() && self.table.admit(&self.key, item) {
            self.shard.granted.store(granted | bit, Ordering::Relaxed);
            Arc::clone(&self.shard)
        } else {
            let other = self.other_shard();
            other.granted.fetch_or(bit, Ordering::Relaxed);
            other
        }
    }
}

impl Hit {
    fn count(&self, record: &RequestRecord<'_>) {
        let lane = &self.counters;
        add(&self.outcome.count, 1);
        add(&lane.request_bytes, record.request_bytes);
        add(&lane.response_bytes, record.response_bytes);
        if self.failed {
            lane.failed
                .get_or_init(Box::default)
                .observe(record.duration);
        } else {
            lane.succeeded.observe(record.duration);
        }
    }
}

fn lane_of(shard: &Shard, lane: LaneIndex) -> Arc<Lane> {
    shard
        .lanes
        .get(lane.get())
        .map(|lane| Arc::clone(lane.get_or_init(Arc::default)))
        .unwrap_or_default()
}
