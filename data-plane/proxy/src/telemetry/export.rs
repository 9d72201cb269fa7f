//! Sends spans to an OTLP receiver, from the control thread.
//!
//! Workers put spans into a queue of [`QUEUE`]; a full queue sheds and counts. The one task here
//! takes them in batches and hands them to OpenTelemetry's exporter. (Not the SDK's batch
//! processor: that starts a thread of its own for each endpoint and only logs what it lost, while
//! this runs on the control thread's runtime and counts.) A receiver that is away or slow costs
//! spans, never traffic.

use std::{sync::Arc, time::Duration};

use opentelemetry::KeyValue;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanExporter as _},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    Inner,
    collect::Identity,
    metrics::{Metrics, SpanResult},
};

/// Spans that wait at most: 2,048 as in the OpenTelemetry SDK, near 4 MB.
pub(super) const QUEUE: usize = 2_048;

/// Spans in one request, as in the SDK.
const BATCH: usize = 512;

/// How long the first span of a batch waits for others.
const GATHER: Duration = Duration::from_secs(1);

/// One export, retries included.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// What the last export may take once the process is ending; it waits 2 s for its tasks.
const LAST_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Where spans come from and go.
#[derive(Debug)]
pub(super) struct Export {
    pub(super) spans: mpsc::Receiver<SpanData>,
    /// URL of the receiver; `None` while tracing is off.
    pub(super) endpoint: watch::Receiver<Option<String>>,
}

impl Export {
    /// Exports until `stop`; then once more what is left.
    pub(super) async fn run(self, inner: Arc<Inner>, stop: CancellationToken) {
        let Self {
            mut spans,
            mut endpoint,
        } = self;
        let metrics = &inner.metrics;
        let mut target = Target::Off;
        let mut batch = Vec::new();
        endpoint.mark_changed();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = endpoint.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let url = endpoint.borrow_and_update().clone();
                    target = Target::of(url, &inner.identity);
                }
                // Cancel safe: what was received is in `batch`.
                more = fill(&mut spans, &mut batch) => {
                    if !more {
                        break;
                    }
                    target.send(std::mem::take(&mut batch), metrics, &stop).await;
                }
            }
        }
        spans.close();
        while let Ok(span) = spans.try_recv() {
            batch.push(span);
        }
        if !batch.is_empty() {
            target.send(batch, metrics, &stop).await;
        }
    }
}

/// Fills the batch; false when there will be no more spans.
async fn fill(spans: &mut mpsc::Receiver<SpanData>, batch: &mut Vec<SpanData>) -> bool {
    if batch.is_empty() && spans.recv_many(batch, BATCH).await == 0 {
        return false;
    }
    let full = Instant::now() + GATHER;
    while batch.len() < BATCH {
        let room = BATCH - batch.len();
        match timeout_at(full, spans.recv_many(batch, room)).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    true
}

/// The present receiver.
enum Target {
    Off,
    Receiver(Box<SpanExporter>),
    /// The URL cannot be used; told once in the log, then counted.
    Unusable,
}

impl Target {
    fn of(url: Option<String>, identity: &Identity) -> Self {
        let Some(url) = url else { return Self::Off };
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(url.clone())
            .with_timeout(EXPORT_TIMEOUT)
            .build();
        match exporter {
            Ok(mut exporter) => {
                let workload = &identity.workload;
                let resource = Resource::builder_empty()
                    .with_service_name(workload.name.to_string())
                    .with_attribute(KeyValue::new(
                        "service.namespace",
                        workload.namespace.to_string(),
                    ))
                    .build();
                exporter.set_resource(&resource);
                Self::Receiver(Box::new(exporter))
            }
            Err(error) => {
                tracing::warn!(%error, endpoint = %url, "spans cannot be exported: the endpoint of the trace receiver is not usable; write http://host:port");
                Self::Unusable
            }
        }
    }

    /// Sends within [`EXPORT_TIMEOUT`], or [`LAST_TIMEOUT`] after `stop`, and counts.
    async fn send(&self, batch: Vec<SpanData>, metrics: &Metrics, stop: &CancellationToken) {
        let number = batch.len();
        let Self::Receiver(exporter) = self else {
            let result = match self {
                Self::Off => SpanResult::Dropped,
                Self::Unusable | Self::Receiver(_) => SpanResult::Failed,
            };
            metrics.spans(result, number);
            return;
        };
        let ending = async {
            stop.cancelled().await;
            sleep(LAST_TIMEOUT).await;
        };
        let result = tokio::select! {
            result = timeout(EXPORT_TIMEOUT, exporter.export(batch)) => match result {
                Ok(Ok(())) => SpanResult::Exported,
                Ok(Err(error)) => {
                    tracing::debug!(%error, spans = number, "spans were not exported");
                    SpanResult::Failed
                }
                Err(_) => {
                    tracing::debug!(spans = number, "the trace receiver did not answer in time");
                    SpanResult::Failed
                }
            },
            () = ending => SpanResult::Failed,
        };
        metrics.spans(result, number);
    }
}

#[cfg(test)]
mod tests;
