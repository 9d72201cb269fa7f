//! What discovery counts. Labels are kinds, but for rejections in force: those name the sidecar,
//! the resource and the reason, and are few.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use outrigger_model::{ResourceKind, ResourceName, WorkloadName};
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Rejections shown one by one; further ones are counted alone.
pub(super) const REJECTIONS_MAX: usize = 64;

/// Metrics of one kind, resolved once.
#[derive(Debug)]
pub(super) struct KindMetrics {
    pub(super) resources: IntGauge,
    pub(super) responses: IntCounter,
    pub(super) response_bytes: IntCounter,
    pub(super) acks: IntCounter,
    pub(super) nacks: IntCounter,
}

/// All metrics of discovery.
#[derive(Debug)]
pub(super) struct Metrics {
    kinds: BTreeMap<ResourceKind, KindMetrics>,
    pub(super) streams: IntGauge,
    pub(super) refused_streams: IntCounter,
    pub(super) throttled_streams: IntCounter,
    pub(super) refused: IntCounter,
    pub(super) holding: IntGauge,
    /// From sending a response to its answer.
    pub(super) answer_seconds: Histogram,
    rejections: Rejections,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounterVec, prometheus::Error> {
            let vec = IntCounterVec::new(Opts::new(name, help), &["type"])?;
            registry.register(Box::new(vec.clone()))?;
            Ok(vec)
        };
        let resources = IntGaugeVec::new(
            Opts::new("outrigger_discovery_resources", "Resources that exist."),
            &["type"],
        )?;
        registry.register(Box::new(resources.clone()))?;
        let responses = counter(
            "outrigger_discovery_responses_total",
            "Responses sent to sidecars.",
        )?;
        let bytes = counter(
            "outrigger_discovery_response_bytes_total",
            "Bytes of responses sent to sidecars.",
        )?;
        let acks = counter(
            "outrigger_discovery_acks_total",
            "Responses that a sidecar applied.",
        )?;
        let nacks = counter(
            "outrigger_discovery_nacks_total",
            "Responses that a sidecar refused; the log has sidecar, resources and reason.",
        )?;
        let of = |kind: ResourceKind| KindMetrics {
            resources: resources.with_label_values(&[kind.as_str()]),
            responses: responses.with_label_values(&[kind.as_str()]),
            response_bytes: bytes.with_label_values(&[kind.as_str()]),
            acks: acks.with_label_values(&[kind.as_str()]),
            nacks: nacks.with_label_values(&[kind.as_str()]),
        };
        let single = Singles::register(registry)?;
        Ok(Self {
            kinds: ResourceKind::ALL.map(|kind| (kind, of(kind))).into(),
            streams: single.streams,
            refused_streams: single.refused_streams,
            throttled_streams: single.throttled_streams,
            refused: single.refused,
            holding: single.holding,
            answer_seconds: single.answer_seconds,
            rejections: Rejections::register(registry)?,
        })
    }

    #[expect(clippy::expect_used, reason = "the map is made from ResourceKind::ALL")]
    pub(super) fn of(&self, kind: ResourceKind) -> &KindMetrics {
        self.kinds.get(&kind).expect("every kind was registered")
    }

    pub(super) fn rejections(&self) -> &Rejections {
        &self.rejections
    }
}

struct Singles {
    streams: IntGauge,
    refused_streams: IntCounter,
    throttled_streams: IntCounter,
    refused: IntCounter,
    holding: IntGauge,
    answer_seconds: Histogram,
}

impl Singles {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let single = Self {
            streams: IntGauge::new("outrigger_discovery_streams", "Sidecars connected.")?,
            refused_streams: IntCounter::new(
                "outrigger_discovery_streams_refused_total",
                "Streams refused: no identity, a foreign name, too many.",
            )?,
            throttled_streams: IntCounter::new(
                "outrigger_discovery_streams_throttled_total",
                "Streams told to come again because too many came at once.",
            )?,
            refused: IntCounter::new(
                "outrigger_discovery_unsendable_total",
                "Resources that no sidecar could decode and that were not published.",
            )?,
            holding: IntGauge::new(
                "outrigger_discovery_holding",
                "1 while endpoints are kept that the source shows no more, because most vanished at once.",
            )?,
            answer_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "outrigger_discovery_answer_seconds",
                    "Time from sending a response to its ACK or NACK.",
                )
                .buckets(vec![
                    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
                ]),
            )?,
        };
        registry.register(Box::new(single.streams.clone()))?;
        registry.register(Box::new(single.refused_streams.clone()))?;
        registry.register(Box::new(single.throttled_streams.clone()))?;
        registry.register(Box::new(single.refused.clone()))?;
        registry.register(Box::new(single.holding.clone()))?;
        registry.register(Box::new(single.answer_seconds.clone()))?;
        Ok(single)
    }
}

/// Rejections in force: a sidecar refused this resource and has not accepted one since.
#[derive(Debug)]
pub(super) struct Rejections {
    series: IntGaugeVec,
    /// By stream and resource, the label values of the series.
    present: Mutex<BTreeMap<(u64, ResourceName), [String; 4]>>,
}

impl Rejections {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let series = IntGaugeVec::new(
            Opts::new(
                "outrigger_discovery_rejected",
                "1 while a sidecar refuses a resource and works on with what it had.",
            ),
            &["sidecar", "type", "resource", "reason"],
        )?;
        registry.register(Box::new(series.clone()))?;
        Ok(Self {
            series,
            present: Mutex::default(),
        })
    }

    pub(super) fn add(
        &self,
        stream: u64,
        sidecar: &WorkloadName,
        names: &[ResourceName],
        reason: &str,
    ) {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            let labels = [
                sidecar.to_string(),
                name.kind().as_str().to_owned(),
                name.to_string(),
                reason.chars().take(128).collect(),
            ];
            let key = (stream, name.clone());
            if present.len() >= REJECTIONS_MAX && !present.contains_key(&key) {
                return;
            }
            if let Some(old) = present.insert(key, labels.clone()) {
                self.forget(&present, &old);
            }
            self.series
                .with_label_values(&labels.each_ref().map(String::as_str))
                .set(1);
        }
    }

    /// The stream accepted these names.
    pub(super) fn clear(&self, stream: u64, names: &[ResourceName]) {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if present.is_empty() {
            return;
        }
        for name in names {
            if let Some(labels) = present.remove(&(stream, name.clone())) {
                self.forget(&present, &labels);
            }
        }
    }

    /// The stream ended.
    pub(super) fn clear_stream(&self, stream: u64) {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let names: BTreeSet<ResourceName> = present
            .keys()
            .filter(|(id, _)| *id == stream)
            .map(|(_, name)| name.clone())
            .collect();
        for name in names {
            if let Some(labels) = present.remove(&(stream, name)) {
                self.forget(&present, &labels);
            }
        }
    }

    /// Takes a series away unless another stream of the same name has it too.
    fn forget(&self, present: &BTreeMap<(u64, ResourceName), [String; 4]>, labels: &[String; 4]) {
        if !present.values().any(|other| other == labels) {
            let labels = labels.each_ref().map(String::as_str);
            // An error would say that the series is not there.
            drop(self.series.remove_label_values(&labels));
        }
    }
}
