//! A worker: one thread that carries traffic, with everything it owns.
//!
//! On the request path workers share the snapshot (one atomic read), the counters of limits that
//! span them and the health of endpoints ([`SharedLimits`]), and metric cells. The rest (clusters,
//! pools, timers) is the worker's own, plain and unlocked.
//!
//! Longer than most, because the worker is the one owner of what it holds: how each part is found,
//! made and forgotten stands beside the others.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::{Arc, Mutex, PoisonError, Weak as SharedWeak},
    time::Duration,
};

use outrigger_model::{
    Authority, Backend, ConnectionLimits, Lifetime, Peer, Port, RequestsPerConnection,
};
use outrigger_policy::{
    RequestView,
    overload::{Level, to_reset},
};
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cluster::{Cluster, EndpointReport, SharedBackend},
    drain::Drain,
    ending::Ending,
    exchange::Deadline,
    hold::Hold,
    http2,
    overload::{Overload, Place},
    reason::{Reason, Refusal},
    snapshot::{Lookup, Service, SnapshotReader, Target},
    telemetry::{Series, SeriesKey, Telemetry, trace::Context},
    upstream::{Bell, Endpoint, Permits, Pool, TlsReader},
};

/// Handshakes at once in one worker (DEF-11).
const HANDSHAKES_MAX: usize = 256;

/// How long the first request to a service waits for its configuration.
const DISCOVERY_WAIT: Duration = Duration::from_secs(5);

/// DEF-16, outside the mesh.
const OUTSIDE_CONNECT_MAX: Duration = Duration::from_secs(5);

/// How often idle connections are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The same while memory fills (DEF-21): connections are looked at more often, and idle ones to
/// upstreams kept for as long.
const SWEEP_INTERVAL_SHORT: Duration = Duration::from_secs(1);

/// What exchanges said they hold is of no worth after this: several rounds at 95 % of the memory.
const TOLD_MAX: Duration = Duration::from_secs(1);

/// Where a worker asks the control thread for a service it does not know. Bounded: what does not
/// fit is refused, the client's retry asks again.
pub type Demand = mpsc::Sender<Authority>;

/// What all workers share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Configuration.
    pub snapshots: SnapshotReader,
    /// Requests for services not known yet.
    pub demand: Demand,
    /// The certificate in force.
    pub tls: TlsReader,
    /// Metrics, log, traces.
    pub telemetry: Telemetry,
    /// Orderly end.
    pub drain: Drain,
    /// Limits that span workers.
    pub limits: Arc<SharedLimits>,
    /// The process's start, for coarse times of use.
    pub started: Instant,
}

/// Counters of limits that span workers, by what they bound, and what workers know together.
#[derive(Debug)]
pub struct SharedLimits {
    /// Connections from clients (DEF-18).
    pub downstream: Arc<Permits>,
    /// Rung when requests begin to wait for a connection to a backend.
    short: Bell,
    /// What workers share of each backend. Locked only when a worker meets one for the first time.
    backends: Mutex<HashMap<Backend, SharedWeak<SharedBackend>>>,
    /// What is given up for want of memory (DEF-21).
    pub overload: Overload,
}

impl SharedLimits {
    /// Limits with room for `downstream` connections from clients.
    #[must_use]
    pub fn new(downstream: u32) -> Arc<Self> {
        Arc::new(Self {
            downstream: Permits::new(downstream),
            short: Bell::default(),
            backends: Mutex::new(HashMap::new()),
            overload: Overload::default(),
        })
    }

    fn backend(&self, target: &Target) -> Arc<SharedBackend> {
        let mut backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
        let known = backends.get(&target.backend).and_then(SharedWeak::upgrade);
        if let Some(known) = known {
            return known;
        }
        backends.retain(|_, known| known.strong_count() > 0);
        let made = SharedBackend::new(target, self.short.clone());
        backends.insert(target.backend.clone(), Arc::downgrade(&made));
        made
    }
}

/// What a worker tells of the endpoints it has met.
#[derive(Debug, Default)]
pub struct Health {
    /// By backend; unhealthy endpoints first.
    pub endpoints: Vec<(Backend, EndpointReport)>,
    /// Healthy ones that had no room.
    pub left_out: usize,
}

/// One worker's state.
#[derive(Debug)]
pub struct Worker {
    /// What it shares with the others.
    pub shared: Shared,
    /// Its tasks: accept loops, connections, upstream drivers.
    pub tasks: TaskTracker,
    /// Bound on handshakes at once.
    pub handshakes: Semaphore,
    /// Seen by engines once a request; a child of the process's, so that workers do not meet at
    /// its lock.
    pub engine_drain: CancellationToken,
    /// Accepted connections that can be told to end; those gone are dropped by the sweep.
    endings: RefCell<Vec<Weak<Ending>>>,
    /// Among the workers that look for the exchange that holds the most, and when it last asked.
    place: Place,
    asked: Cell<Option<Instant>>,
    /// Bounds of HTTP/2 connections.
    pub http2_limits: Rc<http2::Limits>,
    /// Randomness of splits and balancers.
    pub rng: RefCell<fastrand::Rng>,
    clusters: RefCell<HashMap<Backend, Rc<Cluster>, foldhash::fast::FixedState>>,
    applications: RefCell<HashMap<SocketAddr, Rc<Endpoint>, foldhash::fast::FixedState>>,
    /// Bounded by the page of metrics: what nobody holds is dropped by the sweep.
    series: RefCell<HashMap<SeriesKey, Rc<Series>, foldhash::fast::FixedState>>,
}

impl Worker {
    /// A worker without tasks.
    #[must_use]
    pub fn new(shared: Shared, seed: u64) -> Rc<Self> {
        Rc::new(Self {
            tasks: TaskTracker::new(),
            handshakes: Semaphore::new(HANDSHAKES_MAX),
            rng: RefCell::new(fastrand::Rng::with_seed(seed)),
            clusters: RefCell::default(),
            applications: RefCell::default(),
            series: RefCell::default(),
            endings: RefCell::default(),
            place: shared.limits.overload.join(),
            asked: Cell::new(None),
            engine_drain: shared.drain.token(),
            http2_limits: Rc::new(http2::Limits::DEFAULT),
            shared,
        })
    }

    /// Seconds since the process's start.
    #[must_use]
    pub fn seconds(&self) -> u32 {
        u32::try_from(self.shared.started.elapsed().as_secs()).unwrap_or(u32::MAX)
    }

    /// The service that an application calls `authority` (`host:port`, lower case). One not known
    /// yet is asked for and waited for, at most 5 s. Cancel safe: yes.
    ///
    /// # Errors
    /// `NoService`, `DiscoveryTimeout`.
    pub async fn service(&self, authority: &str) -> Result<Arc<Service>, Refusal> {
        if let Some(known) = self.known(authority) {
            return known;
        }
        let name = Authority::parse(authority, None)
            .map_err(|error| Refusal::new(Reason::NoService).detail(error.to_string()))?;
        // The one spelling under which it is known, whatever dots and zeros the client writes.
        let authority = name.to_string();
        if let Some(known) = self.known(&authority) {
            return known;
        }
        if self.shared.demand.try_send(name).is_err() {
            return Err(Refusal::new(Reason::DiscoveryTimeout)
                .detail("too many services asked for at once"));
        }
        let waited = tokio::time::timeout(DISCOVERY_WAIT, self.appears(&authority)).await;
        waited.unwrap_or_else(|_| {
            let detail = format!("no configuration for {authority} within 5 s");
            Err(Refusal::new(Reason::DiscoveryTimeout).detail(detail))
        })
    }

    async fn appears(&self, authority: &str) -> Result<Arc<Service>, Refusal> {
        let mut snapshots = self.shared.snapshots.clone();
        loop {
            let number = snapshots.load().number;
            if let Some(known) = self.known(authority) {
                return known;
            }
            if snapshots.newer_than(number).await.is_err() {
                return Err(Refusal::new(Reason::Draining));
            }
        }
    }

    fn known(&self, authority: &str) -> Option<Result<Arc<Service>, Refusal>> {
        let snapshot = self.shared.snapshots.load();
        Some(match snapshot.services.get(authority)? {
            Lookup::Found(service) => {
                service.touch(self.seconds());
                Ok(Arc::clone(service))
            }
            Lookup::Missing => Err(Refusal::new(Reason::NoService)
                .detail(format!("{authority} is no service of this mesh"))),
        })
    }

    /// This worker's state for a target, brought up to date.
    #[must_use]
    pub fn cluster(&self, target: &Arc<Target>) -> Rc<Cluster> {
        let mut clusters = self.clusters.borrow_mut();
        if let Some(cluster) = clusters.get(&target.backend) {
            cluster.update(target);
            return Rc::clone(cluster);
        }
        let shared = self.shared.limits.backend(target);
        let tls = Arc::clone(&self.shared.tls);
        let cluster = Cluster::new(target, shared, tls, &self.shared.telemetry);
        clusters.insert(target.backend.clone(), Rc::clone(&cluster));
        cluster
    }

    /// The health of every endpoint of a backend in use, at most `most` of them.
    #[must_use]
    pub fn health(&self, most: usize) -> Health {
        let now = std::time::Instant::now();
        let clusters = self.clusters.borrow();
        let reports = clusters.iter().flat_map(|(backend, cluster)| {
            let reports = cluster.report(now).into_iter();
            reports.map(|report| (backend.clone(), report))
        });
        let mut endpoints: Vec<_> = reports.collect();
        endpoints.sort_by(|(left, a), (right, b)| {
            let key = |report: &EndpointReport| (report.is_healthy(), report.address);
            (key(a), left).cmp(&(key(b), right))
        });
        let left_out = endpoints.len().saturating_sub(most);
        endpoints.truncate(most);
        Health {
            endpoints,
            left_out,
        }
    }

    /// The trace context of a request that just came in.
    #[must_use]
    pub fn begin_trace(&self, request: &impl RequestView) -> Context {
        let mut rng = self.rng.borrow_mut();
        self.shared
            .telemetry
            .begin_trace(request, &mut || rng.u64(..))
    }

    /// The metric cells of a key, resolved once.
    #[must_use]
    pub fn series(&self, key: &SeriesKey) -> Rc<Series> {
        let mut series = self.series.borrow_mut();
        if let Some(known) = series.get(key) {
            return Rc::clone(known);
        }
        let made = self.shared.telemetry.series(key);
        series.insert(key.clone(), Rc::clone(&made));
        made
    }

    /// The application's own port, as an endpoint.
    #[must_use]
    pub fn application(&self, address: SocketAddr) -> Rc<Endpoint> {
        let mut applications = self.applications.borrow_mut();
        let endpoint = applications.entry(address).or_insert_with(|| {
            let limits = application_limits();
            let permits = Permits::new(limits.connections_max);
            let pool = Pool::new(limits, permits);
            if let Ok(port) = Port::new(address.port()) {
                let series = self.series(&SeriesKey::Inbound { port, peer: None });
                pool.report_to(&self.shared.telemetry, &series);
            }
            Endpoint::new(address, Peer::Plain, &pool, Arc::clone(&self.shared.tls))
        });
        Rc::clone(endpoint)
    }

    /// A captured address that is no service's, for one connection: nothing is kept of it.
    #[must_use]
    pub fn outside(&self, address: SocketAddr) -> Rc<Endpoint> {
        let limits = ConnectionLimits {
            connections_max: 1,
            connect_timeout: OUTSIDE_CONNECT_MAX,
            ..application_limits()
        };
        let permits = Permits::new(limits.connections_max);
        let pool = Pool::new(limits, permits);
        let series = self.series(&SeriesKey::Passthrough);
        pool.report_to(&self.shared.telemetry, &series);
        Endpoint::new(address, Peer::Plain, &pool, Arc::clone(&self.shared.tls))
    }

    /// The end of a connection just accepted. While memory is short it ends after its first request.
    #[must_use]
    pub fn ending(&self) -> Rc<Ending> {
        let ending = Ending::new(&self.engine_drain);
        let level = self.shared.limits.overload.level();
        if level >= Level::EndConnections {
            ending.tend(Instant::now(), level);
        }
        self.endings.borrow_mut().push(Rc::downgrade(&ending));
        ending
    }

    /// Tells connections to end that are due: their peer's certificate ended, or memory is short.
    pub fn tend(&self, now: Instant) {
        let level = self.shared.limits.overload.level();
        self.endings
            .borrow_mut()
            .retain(|ending| match ending.upgrade() {
                Some(ending) => {
                    ending.tend(now, level);
                    true
                }
                None => false,
            });
    }

    /// One round at 95 % of the memory (DEF-21): resets the exchange that holds the most by what all
    /// told since the last round, if it is the largest of all workers too, and asks again.
    pub fn shed(&self, now: Instant) {
        let endings = self.endings.borrow();
        let holds: Vec<Rc<Hold>> = endings
            .iter()
            .filter_map(Weak::upgrade)
            .flat_map(|ending| ending.holds())
            .collect();
        let asked = self.asked.replace(Some(now));
        let fresh = asked.is_some_and(|at| now.saturating_duration_since(at) <= TOLD_MAX);
        let told = holds
            .iter()
            .filter(|_| fresh)
            .filter_map(|hold| Some((hold, hold.told()?)));
        let largest = to_reset(told);
        let bytes = largest.map_or(0, |(_, bytes)| bytes);
        if self.shared.limits.overload.is_largest(self.place, bytes)
            && let Some((hold, bytes)) = largest
        {
            tracing::warn!(
                bytes,
                "memory is nearly full: the largest exchange is reset"
            );
            hold.reset();
        }
        for hold in &holds {
            hold.ask();
        }
    }

    /// Closes idle connections in time, or where requests of other workers wait for their place,
    /// and forgets what the snapshot no longer names, until the
    /// drain ends.
    pub async fn sweep(self: Rc<Self>) {
        let mut levels = self.shared.limits.overload.follow();
        let mut short = self.shared.limits.short.listen();
        let mut rounds = self.shared.limits.overload.rounds();
        let mut swept = Instant::now();
        loop {
            let level = *levels.borrow_and_update();
            let (pause, idle_max) = match level {
                Level::Normal => (SWEEP_INTERVAL, Lifetime::Unlimited),
                Level::ShorterIdle
                | Level::EndConnections
                | Level::Refuse
                | Level::StopAccepting => {
                    let short = SWEEP_INTERVAL_SHORT;
                    (short, Lifetime::AtMost(short))
                }
            };
            tokio::select! {
                () = tokio::time::sleep_until(swept + pause) => {}
                Ok(()) = levels.changed() => {}
                Ok(()) = rounds.changed() => {
                    self.shed(Instant::now());
                    continue;
                }
                _ = short.changed() => {
                    for cluster in self.clusters.borrow().values() {
                        cluster.pool().make_room();
                    }
                    continue;
                }
                () = self.shared.drain.cut() => return,
            }
            let now = Instant::now();
            swept = now;
            self.tend(now);
            // Captured connections name any port of the pod: what is unused is forgotten.
            self.applications.borrow_mut().retain(|_, endpoint| {
                endpoint.pool().sweep(now, idle_max);
                Rc::strong_count(endpoint) > 1 || !endpoint.is_unused()
            });
            self.series
                .borrow_mut()
                .retain(|_, series| Rc::strong_count(series) > 1);
            let named = self.named();
            self.clusters.borrow_mut().retain(|backend, cluster| {
                cluster.pool().sweep(now, idle_max);
                let keep = named.contains(backend) || Rc::strong_count(cluster) > 1;
                if !keep {
                    cluster.retire();
                }
                keep
            });
        }
    }

    fn named(&self) -> std::collections::HashSet<Backend> {
        let snapshot = self.shared.snapshots.load();
        let found = snapshot
            .services
            .values()
            .filter_map(|lookup| match lookup {
                Lookup::Found(service) => Some(service),
                Lookup::Missing => None,
            });
        found
            .flat_map(|service| service.targets.keys().cloned())
            .collect()
    }
}

/// Bounds towards the application beside us: it is near, and what limits it is its own affair.
fn application_limits() -> ConnectionLimits {
    ConnectionLimits {
        connections_max: 10_000,
        pending_max: 1_024,
        pending_timeout: Duration::from_secs(1),
        requests_max: u32::MAX,
        requests_per_connection: RequestsPerConnection::Unlimited,
        retries_max: 0,
        connect_timeout: Duration::from_secs(1),
        idle_timeout: Lifetime::AtMost(Duration::from_secs(90)),
        connection_age: Lifetime::Unlimited,
    }
}

/// The deadline of a request that has none.
pub(crate) const NO_DEADLINE: Deadline = Deadline::NONE;
