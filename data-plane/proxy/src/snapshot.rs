//! The snapshot: everything a worker decides from, at one moment; immutable.
//!
//! Built by the control thread (`control`), which is its only writer; read by workers with one
//! atomic load. A part that did not change keeps its `Arc`, so a worker sees by pointer what did.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use outrigger_model::{
    Backend, Balancer, ConnectionLimits, Destination, EjectionThreshold, Endpoint, InboundPolicy,
    Lifetime, MeshSettings, Origin, OutlierDetection, Percent, RequestsPerConnection,
    TrafficPolicy,
};
use outrigger_policy::route::{HttpTable, TcpTable};
use tokio::sync::watch;

/// All that is known.
#[derive(Debug)]
pub struct Snapshot {
    /// Grows with each snapshot.
    pub number: u64,
    /// Mesh-wide settings.
    pub settings: Arc<MeshSettings>,
    /// The workload's own policy; `None` until it arrived: then nothing inbound is accepted.
    pub inbound: Option<Arc<InboundPolicy>>,
    /// Services by what the application calls them: `host:port` in lower case.
    pub services: HashMap<Box<str>, Lookup, foldhash::fast::FixedState>,
}

/// Answer to a look-up by authority.
#[derive(Debug, Clone)]
pub enum Lookup {
    /// Complete: its route table, and every destination and endpoint that it names.
    Found(Arc<Service>),
    /// The control plane says that there is no such service.
    Missing,
}

/// A service port as clients address it: routes and their targets, all present.
#[derive(Debug)]
pub struct Service {
    /// The destination addressed.
    pub destination: Arc<Destination>,
    /// Compiled HTTP rules.
    pub http: Arc<HttpTable>,
    /// Compiled TCP rules.
    pub tcp: Arc<TcpTable>,
    /// Every backend the rules name. A backend whose destination or subset does not exist has no
    /// endpoint.
    pub targets: HashMap<Backend, Arc<Target>, foldhash::fast::FixedState>,
    /// Seconds since the process's start when it was last used; what is unused for minutes is
    /// forgotten.
    pub used: AtomicU32,
}

/// One backend: its policy and its endpoints.
#[derive(Debug)]
pub struct Target {
    /// Destination and subset.
    pub backend: Backend,
    /// Policy of that subset.
    pub policy: TrafficPolicy,
    /// Endpoints of that subset, ready and draining, sorted by address.
    pub endpoints: Vec<Endpoint>,
    serial: u64,
}

impl Target {
    /// A target made now: newer than all before it.
    #[must_use]
    pub fn new(backend: Backend, policy: TrafficPolicy, endpoints: Vec<Endpoint>) -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        Self {
            backend,
            policy,
            endpoints,
            serial: MADE.fetch_add(1, Ordering::Relaxed) + 1,
        }
    }

    /// Grows with each target made in this process, from 1: workers come to them at different times.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }
}

impl Service {
    /// Whether `other` is made of the very same parts.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.destination, &other.destination)
            && Arc::ptr_eq(&self.http, &other.http)
            && Arc::ptr_eq(&self.tcp, &other.tcp)
            && self.targets.len() == other.targets.len()
            && self.targets.iter().all(|(backend, target)| {
                other
                    .targets
                    .get(backend)
                    .is_some_and(|other| Arc::ptr_eq(target, other))
            })
    }

    /// Notes a use. `seconds` since the process's start.
    pub fn touch(&self, seconds: u32) {
        self.used.store(seconds, Ordering::Relaxed);
    }
}

/// The policy of a backend that does not exist: it has no endpoint, so nothing is ever bounded.
#[must_use]
pub fn policy_of_nothing() -> TrafficPolicy {
    let never = EjectionThreshold::Never;
    TrafficPolicy {
        origin: Origin::default_behavior(),
        balancer: Balancer::PeakEwma,
        limits: ConnectionLimits {
            connections_max: 0,
            pending_max: 0,
            pending_timeout: Duration::ZERO,
            requests_max: u32::MAX,
            requests_per_connection: RequestsPerConnection::Unlimited,
            retries_max: 0,
            connect_timeout: Duration::from_secs(1),
            idle_timeout: Lifetime::Unlimited,
            connection_age: Lifetime::Unlimited,
        },
        outlier: OutlierDetection {
            consecutive_5xx: never,
            consecutive_gateway: never,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            max_ejection_percent: Percent::ZERO,
            min_health_percent: Percent::ZERO,
        },
    }
}

/// Where workers read the present snapshot and wait for the next.
#[derive(Debug, Clone)]
pub struct SnapshotReader {
    present: Arc<ArcSwap<Snapshot>>,
    changed: watch::Receiver<u64>,
}

/// The one writer.
#[derive(Debug)]
pub struct SnapshotWriter {
    present: Arc<ArcSwap<Snapshot>>,
    changed: watch::Sender<u64>,
}

/// A writer with its first snapshot, and a reader to clone for every worker.
#[must_use]
pub fn channel(first: Snapshot) -> (SnapshotWriter, SnapshotReader) {
    let (sender, receiver) = watch::channel(first.number);
    let present = Arc::new(ArcSwap::from_pointee(first));
    (
        SnapshotWriter {
            present: Arc::clone(&present),
            changed: sender,
        },
        SnapshotReader {
            present,
            changed: receiver,
        },
    )
}

impl SnapshotWriter {
    /// Replaces the snapshot for all workers at once.
    pub fn publish(&self, next: Snapshot) {
        let number = next.number;
        self.present.store(Arc::new(next));
        self.changed.send_replace(number);
    }

    /// The snapshot in force.
    #[must_use]
    pub fn present(&self) -> Arc<Snapshot> {
        self.present.load_full()
    }
}

impl SnapshotReader {
    /// The snapshot in force; hold it for one request at most.
    #[must_use]
    pub fn load(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.present.load()
    }

    /// Waits until the snapshot is newer than `number`; ends at once if it already is, and with
    /// `Err` when the writer is gone. Cancel safe: yes.
    ///
    /// # Errors
    /// When the control thread has ended.
    pub async fn newer_than(&mut self, number: u64) -> Result<(), watch::error::RecvError> {
        self.changed
            .wait_for(|present| *present > number)
            .await
            .map(|_| ())
    }
}
