//! Metrics, access log and traces: what the request path tells, and how it is kept and shown.
//!
//! A worker resolves a [`Series`] once for each cluster and hands every finished request to
//! [`Telemetry::record`]; all else is one call an event. Nothing here waits, and everything is
//! bounded: lines of the metrics page, the log's buffer, the queue of spans. What goes beyond is
//! shed and counted.
//!
//! The control thread owns the settings ([`Telemetry::configure`]), reads the page
//! ([`Telemetry::page`]) and exports spans.

mod access;
mod collect;
mod export;
mod line_writer;
pub mod logging;
mod metrics;
pub mod names;
mod process;
mod record;
mod series;
mod span;
mod table;
#[cfg(test)]
mod tests;
pub mod trace;
mod upstream;

use std::{
    cell::RefCell,
    io::{self, Write},
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry_sdk::trace::SpanData;
use outrigger_model::{AccessLog, MeshSettings, Ratio, Tracing};
use outrigger_policy::{RequestView, overload::Level};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use export::Export;
use line_writer::LineWriter;
use metrics::{Metrics, SpanResult};
use trace::{Context, Sampling};

pub use collect::Identity;
pub use metrics::Handshake;
pub use record::{Carried, Direction, RequestRecord, Security};
pub use series::{RetryCause, Series, SeriesKey};
pub use upstream::{Closed, OpenConnection};

use crate::reason::Reason;

/// Telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// A defect of [`names`].
    #[error("a metric's declaration is not valid")]
    Metrics(#[from] prometheus::Error),
    /// No thread for the access log.
    #[error("the thread that writes the access log could not be started")]
    Thread(#[source] io::Error),
}

/// Whether Istio's standard metrics are on the page beside Outrigger's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IstioMetrics {
    /// Yes: made from the same counters when the page is asked for.
    Shown,
    /// No: the page has room for twice as many series.
    Hidden,
}

/// One per process; clones share it. All methods may be called from every thread.
#[derive(Debug, Clone)]
pub struct Telemetry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    metrics: Metrics,
    log: Arc<LineWriter>,
    log_mode: AtomicU8,
    identity: Identity,
    /// Parts per million, or [`TRACING_OFF`].
    sampling: AtomicU32,
    spans: mpsc::Sender<SpanData>,
    endpoint: watch::Sender<Option<String>>,
    /// Until [`Telemetry::export`] takes it.
    export: Mutex<Option<Export>>,
}

const TRACING_OFF: u32 = u32::MAX;

thread_local! {
    /// A worker's line, before it goes to the buffer that all share.
    static LINE: RefCell<String> = const { RefCell::new(String::new()) };
}

impl Telemetry {
    /// Telemetry of this workload, with access log lines going to `sink` (standard output).
    /// Until [`Self::configure`] is called, failures are logged and nothing is traced.
    ///
    /// # Errors
    /// When a metric is declared badly or no thread can be started.
    pub fn new(
        identity: Identity,
        istio: IstioMetrics,
        sink: impl Write + Send + 'static,
    ) -> Result<Self, TelemetryError> {
        let metrics = Metrics::new(identity.clone(), istio == IstioMetrics::Shown)?;
        let log =
            LineWriter::start(sink, metrics.log_dropped.clone()).map_err(TelemetryError::Thread)?;
        let log_mode = AtomicU8::new(mode(AccessLog::Failures));
        let (spans, receiver) = mpsc::channel(export::QUEUE);
        let (endpoint, changes) = watch::channel(None);
        let export = Export {
            spans: receiver,
            endpoint: changes,
        };
        Ok(Self(Arc::new(Inner {
            metrics,
            log,
            log_mode,
            identity,
            sampling: AtomicU32::new(TRACING_OFF),
            spans,
            endpoint,
            export: Mutex::new(Some(export)),
        })))
    }

    /// Takes over the mesh's settings; in force from the next request.
    pub fn configure(&self, settings: &MeshSettings) {
        self.0
            .log_mode
            .store(mode(settings.access_log), Ordering::Relaxed);
        if let Ok(mut domain) = self.0.metrics.cluster_domain.write() {
            *domain = Some(settings.cluster_domain.clone());
        }
        let (sampling, endpoint) = match &settings.tracing {
            Tracing::Off => (TRACING_OFF, None),
            Tracing::Otlp { endpoint, sampling } => {
                (sampling.parts_per_million(), Some(endpoint.clone()))
            }
        };
        self.0.sampling.store(sampling, Ordering::Relaxed);
        self.0.endpoint.send_if_modified(|present| {
            let changed = *present != endpoint;
            *present = endpoint;
            changed
        });
    }

    /// What is done about traces at present.
    #[must_use]
    pub fn sampling(&self) -> Sampling {
        Ratio::from_parts_per_million(self.0.sampling.load(Ordering::Relaxed))
            .map_or(Sampling::Off, Sampling::Ratio)
    }

    /// The trace context of a request that just came in; [`Context::apply`] puts it into the
    /// head that goes upstream.
    #[must_use]
    pub fn begin_trace(
        &self,
        request: &impl RequestView,
        random: &mut impl FnMut() -> u64,
    ) -> Context {
        Context::begin(request, self.sampling(), random)
    }

    /// The end of a request: [`Self::record`], and its span if its trace is sampled.
    pub fn finish(&self, record: &RequestRecord<'_>, series: &Series, context: &Context) {
        self.record(record, series);
        if context.is_sampled() {
            self.span(record, context);
        }
    }

    #[cold]
    fn span(&self, record: &RequestRecord<'_>, context: &Context) {
        if let Some(span) = span::of(context, record, SystemTime::now())
            && self.0.spans.try_send(span).is_err()
        {
            self.0.metrics.spans(SpanResult::Dropped, 1);
        }
    }

    /// Exports spans until `stop`, and then what is left, for at most 1.5 s. The control thread
    /// runs this once, inside its runtime; a second call ends at once.
    ///
    /// Cancel safe: no; a dropped export loses what it was about to send.
    pub async fn export(self, stop: CancellationToken) {
        let export = self
            .0
            .export
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(export) = export {
            export.run(self.0, stop).await;
        }
    }

    /// A handle on the counters of this key, for one worker. Not free (a lock, a few
    /// allocations): resolve it once and keep it beside the cluster.
    #[must_use]
    pub fn series(&self, key: &SeriesKey) -> Rc<Series> {
        Rc::new(Series::new(Arc::clone(&self.0.metrics.table), key.clone()))
    }

    /// Counts a finished request or TCP connection, and logs it if its kind is logged.
    pub fn record(&self, record: &RequestRecord<'_>, series: &Series) {
        let failed = record.is_failure();
        series.record(record, failed);
        if let Some(reason) = record.reason
            && reason.is_refusal()
        {
            self.0.metrics.refused(record.direction, reason);
        }
        let mode = self.0.log_mode.load(Ordering::Relaxed);
        if mode == ALL || (failed && mode == FAILURES) {
            self.log(record);
        }
    }

    #[cold]
    fn log(&self, record: &RequestRecord<'_>) {
        LINE.with_borrow_mut(|line| {
            line.clear();
            access::line(line, record, SystemTime::now());
            self.0.log.push(line);
        });
    }

    /// A connection was ended, or never begun, before there was a request to record.
    pub fn refused(&self, direction: Direction, reason: Reason) {
        self.0.metrics.refused(direction, reason);
    }

    /// A connection was accepted.
    pub fn connection_opened(&self, direction: Direction) {
        self.0.metrics.connection_opened(direction);
    }

    /// An accepted connection ended.
    pub fn connection_closed(&self, direction: Direction) {
        self.0.metrics.connection_closed(direction);
    }

    /// A TLS handshake ended; `outbound` is as the client, `inbound` as the server.
    pub fn handshake(&self, direction: Direction, result: Handshake, took: Duration) {
        self.0.metrics.handshake(direction, result, took);
    }

    /// A request is tried again.
    pub fn retry(&self, series: &Series, cause: RetryCause) {
        series.retry(cause);
    }

    /// An endpoint of this series' backend was taken out of balancing.
    pub fn ejected(&self, series: &Series) {
        series.ejected();
    }

    /// The certificate in use ends at this time.
    pub fn certificate(&self, not_after: SystemTime) {
        let seconds = not_after
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        self.0
            .metrics
            .certificate_expiry
            .set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    /// The snapshot of this number is in force.
    pub fn configuration(&self, number: u64) {
        self.0.metrics.configuration(number);
    }

    /// Whether a stream to the control plane is open.
    pub fn discovery_connected(&self, connected: bool) {
        self.0.metrics.discovery.set(i64::from(connected));
    }

    /// A discovery response was refused.
    pub fn nack(&self) {
        self.0.metrics.rejections.inc();
    }

    /// What is given up for want of memory (DEF-21).
    pub fn overload(&self, level: Level) {
        self.0.metrics.overload_level.set(i64::from(level.number()));
    }

    /// Memory that the process may use; 0 without a limit.
    pub fn memory_limit(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.0.metrics.memory_limit.set(bytes);
    }

    /// The metrics page: Prometheus' text format, version 0.0.4.
    #[must_use]
    pub fn page(&self) -> String {
        self.0.metrics.page()
    }

    /// Writes out what is logged, waiting at most `patience`. For the end of the process: what
    /// is recorded afterwards is counted, but not logged.
    pub fn close(&self, patience: Duration) {
        self.0.log.close(patience);
    }
}

/// RFC 3339 in UTC with milliseconds, as in log lines.
pub(crate) fn timestamp(time: SystemTime) -> String {
    let mut text = String::new();
    access::timestamp(&mut text, time);
    text
}

const OFF: u8 = 0;
const FAILURES: u8 = 1;
const ALL: u8 = 2;

fn mode(log: AccessLog) -> u8 {
    match log {
        AccessLog::Off => OFF,
        AccessLog::Failures => FAILURES,
        AccessLog::All => ALL,
    }
}
