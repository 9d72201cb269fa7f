//! What the source counts.

use std::sync::Arc;

use outrigger_compiler::{Kind, Object};
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use super::store::Store;
use crate::cluster::watch::Event;

/// Metrics of the source; the label is a kind, of which there are few.
#[derive(Debug)]
pub(super) struct SourceMetrics {
    objects: IntGaugeVec,
    healthy: IntGaugeVec,
    events: IntCounterVec,
    lists: IntCounterVec,
    failures: IntCounterVec,
}

impl SourceMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGaugeVec::new(Opts::new(name, help), &["kind"])?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        Ok(Self {
            objects: gauge(
                "outrigger_source_objects",
                "Objects known of the cluster, by kind.",
            )?,
            healthy: gauge(
                "outrigger_source_healthy",
                "1 while a kind is followed, 0 while the API server gives no news of it.",
            )?,
            events: counter(
                "outrigger_source_events_total",
                "Objects that came, changed or went, by kind.",
                &["kind"],
            )?,
            lists: counter(
                "outrigger_source_lists_total",
                "Times that all objects of a kind were listed.",
                &["kind"],
            )?,
            failures: counter(
                "outrigger_source_failures_total",
                "Times that the API server gave no objects of a kind, by reason.",
                &["kind", "reason"],
            )?,
        })
    }

    pub(super) fn count(&self, kind: Kind, event: &Event<Arc<Object>>) {
        let kind = [kind.as_str()];
        match event {
            Event::Listed(_) => self.lists.with_label_values(&kind).inc(),
            Event::Put(_) | Event::Deleted(_) => self.events.with_label_values(&kind).inc(),
            Event::Trouble(Some(trouble)) => {
                let labels = [kind[0], trouble.reason];
                self.failures.with_label_values(&labels).inc();
            }
            Event::Trouble(None) => {}
        }
    }

    pub(super) fn show(&self, store: &Store) {
        for (kind, objects, trouble) in store.kinds() {
            let kind = [kind.as_str()];
            let objects = i64::try_from(objects).unwrap_or(i64::MAX);
            self.objects.with_label_values(&kind).set(objects);
            let healthy = self.healthy.with_label_values(&kind);
            healthy.set(trouble.is_none().into());
        }
    }

    /// An error says that there was nothing to take away.
    pub(super) fn leave(&self, kind: Kind) {
        self.objects.remove_label_values(&[kind.as_str()]).ok();
        self.healthy.remove_label_values(&[kind.as_str()]).ok();
    }
}
