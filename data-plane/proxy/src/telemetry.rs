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
mod line_writer;
pub mod logging;
mod metrics;
pub mod names;
mod process;
mod record;
mod series;
mod table;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    io::{self, Write},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use outrigger_model::{AccessLog, MeshSettings};

use line_writer::LineWriter;
use metrics::Metrics;

pub use collect::Identity;
pub use metrics::Handshake;
pub use record::{Carried, Direction, RequestRecord, Security};
pub use series::{RetryCause, Series, SeriesKey};

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
}

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
        let metrics = Metrics::new(identity, istio == IstioMetrics::Shown)?;
        let log =
            LineWriter::start(sink, metrics.log_dropped.clone()).map_err(TelemetryError::Thread)?;
        let log_mode = AtomicU8::new(mode(AccessLog::Failures));
        Ok(Self(Arc::new(Inner {
            metrics,
            log,
            log_mode,
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
        if let Some(reason) = record.reason {
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

    /// An ejected endpoint came back, or left the backend.
    pub fn returned(&self, series: &Series) {
        series.returned();
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
