//! From the traffic series to the page: Outrigger's metrics and, from the same numbers, Istio's.
//!
//! Longer than most, because each family is written out once, beside the counters it is made of.

mod targets;

use std::{
    sync::{Arc, RwLock},
    time::Instant,
};

use outrigger_model::{DestinationName, Hostname, SpiffeId, WorkloadName};
use prometheus::{
    core::{Collector, Desc},
    proto::{
        Bucket, Counter, Gauge, Histogram, LabelPair, Metric as Sample, MetricFamily, MetricType,
    },
};

use super::{
    Direction,
    names::{self, BASE, BUCKET_NOT_ISTIO, BUCKETS_SECONDS, BUCKETS_US, Kind, Metric},
    series::{Code, LaneIndex, OutcomeKey, SeriesKey},
    table::{DurationTotals, LaneTotals, Table},
};
use crate::reason::Reason;

/// Whose numbers these are: Istio's metrics say so in every line.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The workload.
    pub workload: WorkloadName,
    /// Its identity.
    pub spiffe: SpiffeId,
}

/// Puts the traffic series on the page.
#[derive(Debug)]
pub(super) struct TrafficCollector {
    table: Arc<Table>,
    identity: Identity,
    cluster_domain: Arc<RwLock<Option<Hostname>>>,
    descriptions: Vec<Desc>,
}

const OWN: [Metric; 18] = [
    names::REQUESTS,
    names::DURATION,
    names::REQUEST_BYTES,
    names::RESPONSE_BYTES,
    names::TCP_OPENED,
    names::TCP_CLOSED,
    names::TCP_RECEIVED,
    names::TCP_SENT,
    names::RETRIES,
    names::EJECTIONS,
    names::EJECTED,
    names::PENDING,
    names::UPSTREAM_OPENED,
    names::UPSTREAM_CLOSED,
    names::UPSTREAM_ACTIVE,
    names::UPSTREAM_IDLE,
    names::UPSTREAM_SENT,
    names::UPSTREAM_RECEIVED,
];

const ISTIO: [Metric; 8] = [
    names::ISTIO_REQUESTS,
    names::ISTIO_DURATION,
    names::ISTIO_REQUEST_BYTES,
    names::ISTIO_RESPONSE_BYTES,
    names::ISTIO_TCP_OPENED,
    names::ISTIO_TCP_CLOSED,
    names::ISTIO_TCP_RECEIVED,
    names::ISTIO_TCP_SENT,
];

impl TrafficCollector {
    /// # Errors
    /// When a declaration in [`names`] breaks the rules of Prometheus.
    pub(super) fn new(
        table: Arc<Table>,
        identity: Identity,
        cluster_domain: Arc<RwLock<Option<Hostname>>>,
    ) -> prometheus::Result<Self> {
        let describe = |metric: &Metric| {
            let labels = metric
                .labels
                .iter()
                .map(|label| (*label).to_owned())
                .collect();
            Desc::new(
                metric.name.to_owned(),
                metric.help.to_owned(),
                labels,
                std::collections::HashMap::new(),
            )
        };
        let descriptions = OWN
            .iter()
            .chain(&ISTIO)
            .map(describe)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            table,
            identity,
            cluster_domain,
            descriptions,
        })
    }
}

impl Collector for TrafficCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let domain = self
            .cluster_domain
            .read()
            .map_or(None, |domain| domain.clone());
        let mut page = Page {
            families: OWN
                .iter()
                .chain(&ISTIO)
                .map(|metric| (*metric, Vec::new()))
                .collect(),
        };
        for (key, totals) in self.table.totals(Instant::now()) {
            let labels = Labels::of(&key);
            page.target(&labels, &totals);
            for (lane, numbers) in &totals.lanes {
                page.lane(&labels, *lane, numbers);
                if self.table.istio() {
                    let istio = labels.istio(*lane, &self.identity, domain.as_ref());
                    page.istio_lane(&istio, *lane, numbers);
                }
            }
        }
        page.families
            .into_iter()
            .map(|(metric, samples)| family(&metric, samples))
            .collect()
    }
}

/// Samples by family, in the order of [`OWN`] and [`ISTIO`].
struct Page {
    families: Vec<(Metric, Vec<Sample>)>,
}

impl Page {
    fn push<V: AsRef<str>>(&mut self, metric: &Metric, values: &[V], more: &[&str], value: Value) {
        let family = self
            .families
            .iter_mut()
            .find(|(known, _)| known.name == metric.name);
        let Some((_, samples)) = family else { return };
        let values = values.iter().map(AsRef::as_ref).chain(more.iter().copied());
        let labels = metric.labels.iter().zip(values).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value(value.to_owned());
            pair
        });
        let mut sample = Sample::from_label(labels.collect());
        value.put(&mut sample);
        samples.push(sample);
    }

    fn lane(&mut self, labels: &Labels, lane: LaneIndex, numbers: &LaneTotals) {
        let base = labels.base(lane);
        if lane.is_tcp() {
            self.push(
                &names::TCP_OPENED,
                &base,
                &[],
                Value::Counter(numbers.opened),
            );
            self.push(
                &names::TCP_RECEIVED,
                &base,
                &[],
                Value::Counter(numbers.request_bytes),
            );
            self.push(
                &names::TCP_SENT,
                &base,
                &[],
                Value::Counter(numbers.response_bytes),
            );
            for (outcome, count) in &numbers.outcomes {
                let reason = reason(*outcome);
                self.push(&names::TCP_CLOSED, &base, &[reason], Value::Counter(*count));
            }
            return;
        }
        self.push(
            &names::REQUEST_BYTES,
            &base,
            &[],
            Value::Counter(numbers.request_bytes),
        );
        self.push(
            &names::RESPONSE_BYTES,
            &base,
            &[],
            Value::Counter(numbers.response_bytes),
        );
        let seconds = |totals: &DurationTotals| Value::seconds(totals);
        self.push(
            &names::DURATION,
            &base,
            &["success"],
            seconds(&numbers.succeeded),
        );
        if let Some(failed) = &numbers.failed {
            self.push(&names::DURATION, &base, &["failure"], seconds(failed));
        }
        for (outcome, count) in &numbers.outcomes {
            let more = [&*code(outcome.code), grpc(outcome.grpc), reason(*outcome)];
            self.push(&names::REQUESTS, &base, &more, Value::Counter(*count));
        }
    }

    fn istio_lane(&mut self, base: &[String], lane: LaneIndex, numbers: &LaneTotals) {
        let counter = Value::Counter;
        if lane.is_tcp() {
            self.push(&names::ISTIO_TCP_OPENED, base, &[], counter(numbers.opened));
            self.push(
                &names::ISTIO_TCP_RECEIVED,
                base,
                &[],
                counter(numbers.request_bytes),
            );
            self.push(
                &names::ISTIO_TCP_SENT,
                base,
                &[],
                counter(numbers.response_bytes),
            );
            for (outcome, count) in &numbers.outcomes {
                self.push(
                    &names::ISTIO_TCP_CLOSED,
                    base,
                    &[flags(*outcome)],
                    counter(*count),
                );
            }
            return;
        }
        let requests = numbers.outcomes.iter().map(|(_, count)| count).sum();
        let bytes = |sum| Value::Histogram {
            bounds: Vec::new(),
            count: requests,
            sum: float(sum),
        };
        self.push(
            &names::ISTIO_REQUEST_BYTES,
            base,
            &[],
            bytes(numbers.request_bytes),
        );
        self.push(
            &names::ISTIO_RESPONSE_BYTES,
            base,
            &[],
            bytes(numbers.response_bytes),
        );
        let all = numbers.succeeded.with(numbers.failed.as_ref());
        self.push(
            &names::ISTIO_DURATION,
            base,
            &[],
            Value::istio_milliseconds(&all),
        );
        for (outcome, count) in &numbers.outcomes {
            let more = [&*code(outcome.code), grpc(outcome.grpc), flags(*outcome)];
            self.push(&names::ISTIO_REQUESTS, base, &more, counter(*count));
        }
    }
}

/// A sample's value.
enum Value {
    Counter(u64),
    Gauge(i64),
    Histogram {
        bounds: Vec<(f64, u64)>,
        count: u64,
        sum: f64,
    },
}

impl Value {
    fn put(self, sample: &mut Sample) {
        match self {
            Self::Counter(value) => {
                let mut counter = Counter::default();
                counter.set_value(float(value));
                sample.set_counter(counter);
            }
            Self::Gauge(value) => {
                let mut gauge = Gauge::default();
                let magnitude = float(value.unsigned_abs());
                gauge.set_value(if value < 0 { -magnitude } else { magnitude });
                sample.set_gauge(gauge);
            }
            Self::Histogram { bounds, count, sum } => {
                let mut histogram = Histogram::default();
                let bucket = |(bound, cumulative)| {
                    let mut bucket = Bucket::default();
                    bucket.set_upper_bound(bound);
                    bucket.set_cumulative_count(cumulative);
                    bucket
                };
                histogram.set_bucket(bounds.into_iter().map(bucket).collect());
                histogram.set_sample_count(count);
                histogram.set_sample_sum(sum);
                sample.set_histogram(histogram);
            }
        }
    }

    fn seconds(totals: &DurationTotals) -> Self {
        Self::durations(totals, 1e6, |index| index < BUCKETS_SECONDS)
    }

    fn istio_milliseconds(totals: &DurationTotals) -> Self {
        Self::durations(totals, 1e3, |index| index != BUCKET_NOT_ISTIO)
    }

    fn durations(totals: &DurationTotals, divisor: f64, shown: impl Fn(usize) -> bool) -> Self {
        let mut count = 0;
        let mut bounds = Vec::new();
        for (index, number) in totals.buckets.iter().enumerate() {
            count += number;
            if let Some(bound) = BUCKETS_US.get(index).filter(|_| shown(index)) {
                bounds.push((float(*bound) / divisor, count));
            }
        }
        Self::Histogram {
            bounds,
            count,
            sum: float(totals.sum_us) / divisor,
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus samples are doubles: counts above 2^53 lose their last digits there"
)]
fn float(number: u64) -> f64 {
    number as f64
}

fn family(metric: &Metric, samples: Vec<Sample>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(metric.name.to_owned());
    family.set_help(metric.help.to_owned());
    family.set_field_type(match metric.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
        Kind::Histogram => MetricType::HISTOGRAM,
    });
    family.set_metric(samples);
    family
}

/// Service label of captured traffic to addresses that are no service's: Istio's, for dashboards.
const PASSTHROUGH: &str = "PassthroughCluster";

/// Label values that a key stands for.
struct Labels {
    direction: Direction,
    service: String,
    namespace: String,
    port: String,
    subset: String,
    peer: Option<SpiffeId>,
    other: bool,
}

impl Labels {
    fn of(key: &SeriesKey) -> Self {
        let mut labels = Self {
            direction: key.direction(),
            service: "unknown".to_owned(),
            namespace: "unknown".to_owned(),
            port: "unknown".to_owned(),
            subset: String::new(),
            peer: None,
            other: false,
        };
        match key {
            SeriesKey::Outbound(backend) => {
                labels.destination(&backend.destination);
                labels.subset = backend
                    .subset
                    .as_ref()
                    .map_or(String::new(), |s| s.as_str().to_owned());
            }
            SeriesKey::Unrouted(destination) => labels.destination(destination),
            SeriesKey::UnknownService => {}
            SeriesKey::Passthrough => PASSTHROUGH.clone_into(&mut labels.service),
            SeriesKey::Inbound { port, peer } => {
                labels.port = port.to_string();
                labels.peer.clone_from(peer);
            }
            SeriesKey::Other(_) => {
                labels.other = true;
                for value in [&mut labels.service, &mut labels.namespace, &mut labels.port] {
                    "other".clone_into(value);
                }
            }
        }
        labels
    }

    fn destination(&mut self, name: &DestinationName) {
        self.service = name.service.to_string();
        self.namespace = name.namespace.to_string();
        self.port = name.port.to_string();
    }

    fn target(&self) -> [&str; 4] {
        [&self.service, &self.namespace, &self.port, &self.subset]
    }

    fn base(&self, lane: LaneIndex) -> [String; BASE] {
        let (mut protocol, mut security) = lane.labels();
        if self.other {
            security = "other";
            if !lane.is_tcp() {
                protocol = "other";
            }
        }
        [
            direction(self.direction).to_owned(),
            self.service.clone(),
            self.namespace.clone(),
            self.port.clone(),
            self.subset.clone(),
            self.peer
                .as_ref()
                .map_or(String::new(), ToString::to_string),
            protocol.to_owned(),
            security.to_owned(),
        ]
    }

    /// Istio's labels up to `connection_security_policy`. What this side cannot know is
    /// `unknown`, as in Istio. A Kubernetes Service has no dot in its name; a ServiceEntry's
    /// host stands for itself.
    fn istio(&self, lane: LaneIndex, own: &Identity, domain: Option<&Hostname>) -> Vec<String> {
        let unknown = || "unknown".to_owned();
        let workload = [
            own.workload.name.to_string(),
            own.workload.namespace.to_string(),
        ];
        let host = match domain {
            Some(domain) if !self.service.contains('.') && self.namespace != "unknown" => {
                format!("{}.{}.svc.{domain}", self.service, self.namespace)
            }
            _ => self.service.clone(),
        };
        let peer = self.peer.as_ref().map_or_else(unknown, ToString::to_string);
        let (source, source_principal, destination, destination_principal) = match self.direction {
            Direction::Outbound => (
                workload,
                own.spiffe.to_string(),
                [unknown(), unknown()],
                unknown(),
            ),
            Direction::Inbound => (
                [unknown(), unknown()],
                peer,
                workload,
                own.spiffe.to_string(),
            ),
        };
        let [_, _, _, _, subset, _, protocol, security] = self.base(lane);
        let reporter = match self.direction {
            Direction::Outbound => "source",
            Direction::Inbound => "destination",
        };
        let protocol = match protocol.as_str() {
            "http1" | "http2" => "http".to_owned(),
            _ => protocol,
        };
        let [source_name, source_namespace] = source;
        let [destination_name, destination_namespace] = destination;
        vec![
            reporter.to_owned(),
            source_name,
            source_namespace,
            source_principal,
            destination_name,
            destination_namespace,
            destination_principal,
            host,
            self.service.clone(),
            self.namespace.clone(),
            subset,
            protocol,
            security,
        ]
    }
}

/// Value of `direction`.
pub(super) fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Outbound => "outbound",
        Direction::Inbound => "inbound",
    }
}

fn code(code: Code) -> String {
    match code {
        Code::Known(code) => code.to_string(),
        Code::Class(class) => format!("{class}xx"),
    }
}

fn reason(outcome: OutcomeKey) -> &'static str {
    outcome.reason.map_or("", Reason::slug)
}

/// Numbers as in gRPC's `statuscodes.md`.
fn grpc(status: u8) -> &'static str {
    const TEXT: [&str; 17] = [
        "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16",
    ];
    match status {
        255 => "",
        known => TEXT.get(usize::from(known)).copied().unwrap_or("unknown"),
    }
}

/// Envoy's response flags, as Istio's dashboards know them.
fn flags(outcome: OutcomeKey) -> &'static str {
    let Some(reason) = outcome.reason else {
        return if outcome.code == Code::Known(0) {
            "DC"
        } else {
            "-"
        };
    };
    match reason {
        Reason::BadRequest(_) | Reason::HeadTooLarge | Reason::HttpVersion => "DPE",
        Reason::NoService | Reason::NoRoute => "NR",
        Reason::NoEndpoint => "UH",
        Reason::ConnectFailed
        | Reason::HandshakeFailed
        | Reason::NoCertificate
        | Reason::ApplicationUnavailable => "UF",
        Reason::UpstreamReset | Reason::RefusedStream | Reason::UpstreamResetInResponse => "UC",
        Reason::ClientGone => "DC",
        Reason::StreamIdle => "SI",
        Reason::UpstreamProtocol => "UPE",
        Reason::RequestTimeout | Reason::PerTryTimeout => "UT",
        Reason::RetriesExhausted => "URX",
        Reason::PendingFull | Reason::PendingTimeout | Reason::RequestsFull => "UO",
        Reason::Overloaded | Reason::HeldMost => "OM",
        Reason::NotImplemented(_)
        | Reason::NotCaptured
        | Reason::RequestHeadTimeout
        | Reason::DiscoveryTimeout
        | Reason::RouteInvalid
        | Reason::BackendInvalid
        | Reason::Redirect
        | Reason::PlaintextRefused
        | Reason::Http2Flood
        | Reason::Draining
        | Reason::Internal => "-",
    }
}
