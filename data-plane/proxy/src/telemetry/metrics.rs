//! The metrics page: traffic series, events of the process, and what the kernel tells.

use std::{
    sync::{Arc, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use outrigger_model::Hostname;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{
    Direction,
    collect::{Identity, TrafficCollector, direction},
    names::{self, Metric},
    process::Process,
    table::Table,
};
use crate::reason::Reason;

/// How a TLS handshake with another sidecar ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Handshake {
    /// Both sides verified.
    Completed,
    /// Over DEF-11.
    TimedOut,
    /// The connection broke before the end.
    Closed,
    /// The peer's certificate does not lead to a root of the mesh, is expired, or names nobody.
    Untrusted,
    /// A valid certificate, but of another identity than the endpoint's.
    WrongIdentity,
    /// The peer refused our certificate or offer with an alert.
    RefusedByPeer,
    /// No certificate of our own yet.
    NoCertificate,
    /// Anything else that TLS calls an error.
    Protocol,
}

impl Handshake {
    /// All.
    pub const ALL: [Self; 8] = [
        Self::Completed,
        Self::TimedOut,
        Self::Closed,
        Self::Untrusted,
        Self::WrongIdentity,
        Self::RefusedByPeer,
        Self::NoCertificate,
        Self::Protocol,
    ];

    /// Label value.
    #[must_use]
    pub fn slug(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::TimedOut => "timed-out",
            Self::Closed => "closed",
            Self::Untrusted => "untrusted",
            Self::WrongIdentity => "wrong-identity",
            Self::RefusedByPeer => "refused-by-peer",
            Self::NoCertificate => "no-certificate",
            Self::Protocol => "protocol",
        }
    }

    /// The kind of an error that rustls gave, alone or inside an I/O error.
    #[must_use]
    pub fn of_error(error: &std::io::Error) -> Self {
        let inner = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match inner {
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
                Self::Untrusted
            }
            Some(rustls::Error::AlertReceived(_)) => Self::RefusedByPeer,
            Some(_) => Self::Protocol,
            None if error.kind() == std::io::ErrorKind::TimedOut => Self::TimedOut,
            None => Self::Closed,
        }
    }
}

/// What became of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum SpanResult {
    Exported,
    Dropped,
    Failed,
}

/// Everything on the page. Children of fixed labels are resolved here, once.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    pub(super) table: Arc<Table>,
    pub(super) cluster_domain: Arc<RwLock<Option<Hostname>>>,
    connections: PerDirection<IntCounter>,
    active: PerDirection<IntGauge>,
    handshakes: IntCounterVec,
    handshake_seconds: PerDirection<Histogram>,
    refusals: IntCounterVec,
    pub(super) certificate_expiry: IntGauge,
    pub(super) configuration_number: IntGauge,
    configuration_time: Gauge,
    pub(super) rejections: IntCounter,
    pub(super) discovery: IntGauge,
    pub(super) overload_level: IntGauge,
    pub(super) memory_limit: IntGauge,
    pub(super) log_dropped: IntCounter,
    spans_exported: IntCounter,
    spans_dropped: IntCounter,
    spans_failed: IntCounter,
}

#[derive(Debug)]
struct PerDirection<T> {
    outbound: T,
    inbound: T,
}

impl<T> PerDirection<T> {
    fn of(child: impl Fn(&str) -> T) -> Self {
        Self {
            outbound: child(direction(Direction::Outbound)),
            inbound: child(direction(Direction::Inbound)),
        }
    }

    fn get(&self, direction: Direction) -> &T {
        match direction {
            Direction::Outbound => &self.outbound,
            Direction::Inbound => &self.inbound,
        }
    }
}

impl Metrics {
    /// # Errors
    /// When a declaration in [`names`] breaks the rules of Prometheus.
    pub(super) fn new(identity: Identity, istio: bool) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let table = Table::new(istio);
        let cluster_domain = Arc::new(RwLock::new(None));
        let traffic =
            TrafficCollector::new(Arc::clone(&table), identity, Arc::clone(&cluster_domain))?;
        registry.register(Box::new(traffic))?;
        registry.register(Box::new(Moment::new(Arc::clone(&table))?))?;

        let connections = counters(&registry, &names::CONNECTIONS)?;
        let active = gauges(&registry, &names::CONNECTIONS_ACTIVE)?;
        let handshakes = counters(&registry, &names::HANDSHAKES)?;
        let spans = counters(&registry, &names::SPANS)?;
        let seconds = handshake_seconds(&registry)?;
        let build = gauges(&registry, &names::BUILD)?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        for direction in [Direction::Outbound, Direction::Inbound].map(direction) {
            for result in Handshake::ALL {
                // All lines from the start: a rate needs a first value.
                handshakes
                    .with_label_values(&[direction, result.slug()])
                    .reset();
            }
        }
        Ok(Self {
            connections: PerDirection::of(|d| connections.with_label_values(&[d])),
            active: PerDirection::of(|d| active.with_label_values(&[d])),
            handshakes,
            handshake_seconds: PerDirection::of(|d| seconds.with_label_values(&[d])),
            refusals: counters(&registry, &names::REFUSALS)?,
            certificate_expiry: gauge(&registry, &names::CERTIFICATE_EXPIRY)?,
            configuration_number: gauge(&registry, &names::CONFIGURATION_NUMBER)?,
            configuration_time: float_gauge(&registry, &names::CONFIGURATION_TIME)?,
            rejections: counter(&registry, &names::CONFIGURATION_REJECTIONS)?,
            discovery: gauge(&registry, &names::DISCOVERY_CONNECTED)?,
            overload_level: gauge(&registry, &names::OVERLOAD_LEVEL)?,
            memory_limit: gauge(&registry, &names::MEMORY_LIMIT)?,
            log_dropped: counter(&registry, &names::LOG_DROPPED)?,
            spans_exported: spans.with_label_values(&["exported"]),
            spans_dropped: spans.with_label_values(&["dropped"]),
            spans_failed: spans.with_label_values(&["failed"]),
            registry,
            table,
            cluster_domain,
        })
    }

    /// The page in the text format, version 0.0.4.
    pub(super) fn page(&self) -> String {
        let mut page = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut page) {
            Ok(()) => String::from_utf8_lossy(&page).into_owned(),
            Err(error) => {
                tracing::error!(%error, "metrics cannot be shown");
                String::new()
            }
        }
    }

    pub(super) fn connection_opened(&self, direction: Direction) {
        self.connections.get(direction).inc();
        self.active.get(direction).inc();
    }

    pub(super) fn connection_closed(&self, direction: Direction) {
        self.active.get(direction).dec();
    }

    pub(super) fn handshake(&self, side: Direction, result: Handshake, took: Duration) {
        self.handshakes
            .with_label_values(&[direction(side), result.slug()])
            .inc();
        if result == Handshake::Completed {
            self.handshake_seconds.get(side).observe(took.as_secs_f64());
        }
    }

    /// Rare enough to look the label up: 250 instructions.
    #[cold]
    pub(super) fn refused(&self, side: Direction, reason: Reason) {
        self.refusals
            .with_label_values(&[direction(side), reason.slug()])
            .inc();
    }

    pub(super) fn configuration(&self, number: u64) {
        self.configuration_number
            .set(i64::try_from(number).unwrap_or(i64::MAX));
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.configuration_time.set(now.as_secs_f64());
    }

    pub(super) fn spans(&self, result: SpanResult, number: usize) {
        let counter = match result {
            SpanResult::Exported => &self.spans_exported,
            SpanResult::Dropped => &self.spans_dropped,
            SpanResult::Failed => &self.spans_failed,
        };
        counter.inc_by(u64::try_from(number).unwrap_or(u64::MAX));
    }
}

fn opts(metric: &Metric) -> Opts {
    Opts::new(metric.name, metric.help)
}

fn counters(registry: &Registry, metric: &Metric) -> prometheus::Result<IntCounterVec> {
    let counters = IntCounterVec::new(opts(metric), metric.labels)?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

fn counter(registry: &Registry, metric: &Metric) -> prometheus::Result<IntCounter> {
    counters(registry, metric)?.get_metric_with_label_values::<&str>(&[])
}

fn gauges(registry: &Registry, metric: &Metric) -> prometheus::Result<IntGaugeVec> {
    let gauges = IntGaugeVec::new(opts(metric), metric.labels)?;
    registry.register(Box::new(gauges.clone()))?;
    Ok(gauges)
}

fn gauge(registry: &Registry, metric: &Metric) -> prometheus::Result<IntGauge> {
    gauges(registry, metric)?.get_metric_with_label_values::<&str>(&[])
}

fn float_gauge(registry: &Registry, metric: &Metric) -> prometheus::Result<Gauge> {
    let gauges = GaugeVec::new(opts(metric), metric.labels)?;
    registry.register(Box::new(gauges.clone()))?;
    gauges.get_metric_with_label_values::<&str>(&[])
}

/// A mutual handshake takes near 1 ms of CPU, and is cut off at 5 s (DEF-11).
fn handshake_seconds(registry: &Registry) -> prometheus::Result<HistogramVec> {
    let metric = &names::HANDSHAKE_DURATION;
    let bounds = vec![
        0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    ];
    let opts = HistogramOpts::new(metric.name, metric.help).buckets(bounds);
    let histograms = HistogramVec::new(opts, metric.labels)?;
    registry.register(Box::new(histograms.clone()))?;
    Ok(histograms)
}

/// What is read when the page is asked for: the kernel's numbers, and the table's size.
#[derive(Debug)]
struct Moment {
    table: Arc<Table>,
    cpu: prometheus::Counter,
    resident: IntGauge,
    fds: IntGauge,
    start: Gauge,
    series: IntGauge,
    refused: IntCounter,
}

impl Moment {
    fn new(table: Arc<Table>) -> prometheus::Result<Self> {
        Ok(Self {
            table,
            cpu: prometheus::Counter::with_opts(opts(&names::PROCESS_CPU))?,
            resident: IntGauge::with_opts(opts(&names::PROCESS_RSS))?,
            fds: IntGauge::with_opts(opts(&names::PROCESS_FDS))?,
            start: Gauge::with_opts(opts(&names::PROCESS_START))?,
            series: IntGauge::with_opts(opts(&names::SERIES))?,
            refused: IntCounter::with_opts(opts(&names::SERIES_REFUSED))?,
        })
    }

    fn parts(&self) -> [&dyn Collector; 6] {
        [
            &self.cpu,
            &self.resident,
            &self.fds,
            &self.start,
            &self.series,
            &self.refused,
        ]
    }
}

impl Collector for Moment {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let process = Process::read();
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        // Counters cannot be set: they are brought forward to the number that is true now.
        self.cpu
            .inc_by((process.cpu_seconds.unwrap_or(0.0) - self.cpu.get()).max(0.0));
        self.refused
            .inc_by(self.table.refused().saturating_sub(self.refused.get()));
        self.resident
            .set(whole(process.resident_bytes.unwrap_or(0)));
        self.fds.set(whole(process.open_fds.unwrap_or(0)));
        self.start.set(process.start_seconds.unwrap_or(0.0));
        self.series
            .set(whole(u64::try_from(self.table.lines()).unwrap_or(u64::MAX)));
        self.parts()
            .into_iter()
            .flat_map(Collector::collect)
            .collect()
    }
}
