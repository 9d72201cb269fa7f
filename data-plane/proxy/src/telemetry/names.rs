//! Every metric of the sidecar: name, kind, labels and meaning. There is no other place where a
//! metric name or a label name is written; `docs/metrics.md` is made from this list.
//!
//! (Longer than 400 lines because it is one table, which is the point of it.)
//!
//! Names follow the Prometheus conventions (base units, counters end in `_total`). A label is
//! called as Istio calls it where it means the same. Label values come from enums, from the
//! configuration or from a fixed list, never from a request (SECURITY-NOTES rule 11).
//!
//! Longer than most, because it is one table: every metric with its help, labels and unit.

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

/// One metric family.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Full name.
    pub name: &'static str,
    /// Kind.
    pub kind: Kind,
    /// Label names, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric {
        name,
        kind: Kind::Counter,
        labels,
        help,
    }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric {
        name,
        kind: Kind::Gauge,
        labels,
        help,
    }
}

const fn histogram(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric {
        name,
        kind: Kind::Histogram,
        labels,
        help,
    }
}

/// Upper bounds of Istio's duration buckets, in microseconds: what is kept for every series.
pub(super) const BUCKETS_US: [u64; 20] = [
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];

/// How many of [`BUCKETS_US`] the durations in seconds show: 0.5 ms to 60 s.
pub(super) const BUCKETS_SECONDS: usize = 16;

/// The bucket bound that Istio does not have.
pub(super) const BUCKET_NOT_ISTIO: usize = 2;

/// Where traffic goes: the labels that every traffic metric starts with.
pub(super) const BASE: usize = 8;

macro_rules! base_labels {
    ($($more:literal),*) => {
        &[
            "direction",
            "destination_service_name",
            "destination_service_namespace",
            "destination_port",
            "destination_subset",
            "source_principal",
            "protocol",
            "connection_security_policy",
            $($more),*
        ]
    };
}

macro_rules! target_labels {
    ($($more:literal),*) => {
        &[
            "destination_service_name",
            "destination_service_namespace",
            "destination_port",
            "destination_subset",
            $($more),*
        ]
    };
}

macro_rules! connection_labels {
    ($($more:literal),*) => {
        &[
            "direction",
            "destination_service_name",
            "destination_service_namespace",
            "destination_port",
            "destination_subset",
            $($more),*
        ]
    };
}

macro_rules! istio_labels {
    ($($more:literal),*) => {
        &[
            "reporter",
            "source_workload",
            "source_workload_namespace",
            "source_principal",
            "destination_workload",
            "destination_workload_namespace",
            "destination_principal",
            "destination_service",
            "destination_service_name",
            "destination_service_namespace",
            "destination_version",
            "request_protocol",
            "connection_security_policy",
            $($more),*
        ]
    };
}

pub(super) const REQUESTS: Metric = counter(
    "outrigger_requests_total",
    base_labels!("response_code", "grpc_response_status", "reason"),
    "Requests finished; reason names the cause when the mesh itself answered or broke off.",
);
pub(super) const DURATION: Metric = histogram(
    "outrigger_request_duration_seconds",
    base_labels!("outcome"),
    "Time from a request's head to the end of its response; outcome is success or failure.",
);
pub(super) const REQUEST_BYTES: Metric = counter(
    "outrigger_request_body_bytes_total",
    base_labels!(),
    "Body bytes from clients.",
);
pub(super) const RESPONSE_BYTES: Metric = counter(
    "outrigger_response_body_bytes_total",
    base_labels!(),
    "Body bytes to clients.",
);
pub(super) const TCP_OPENED: Metric = counter(
    "outrigger_tcp_connections_opened_total",
    base_labels!(),
    "Opaque TCP connections carried; those refused are only in the closed ones.",
);
pub(super) const TCP_CLOSED: Metric = counter(
    "outrigger_tcp_connections_closed_total",
    base_labels!("reason"),
    "Opaque TCP connections ended; reason names the cause when the mesh ended it.",
);
pub(super) const TCP_RECEIVED: Metric = counter(
    "outrigger_tcp_received_bytes_total",
    base_labels!(),
    "Bytes from clients over opaque TCP connections that have ended.",
);
pub(super) const TCP_SENT: Metric = counter(
    "outrigger_tcp_sent_bytes_total",
    base_labels!(),
    "Bytes to clients over opaque TCP connections that have ended.",
);
pub(super) const RETRIES: Metric = counter(
    "outrigger_retries_total",
    target_labels!("cause"),
    "Further tries of a request, by what the try before ended with.",
);
pub(super) const EJECTIONS: Metric = counter(
    "outrigger_ejections_total",
    target_labels!(),
    "Endpoints taken out of balancing by outlier detection.",
);
pub(super) const EJECTED: Metric = gauge(
    "outrigger_endpoints_ejected",
    target_labels!(),
    "Endpoints out of balancing at present.",
);
pub(super) const PENDING: Metric = gauge(
    "outrigger_pool_pending_requests",
    target_labels!(),
    "Requests that wait for a connection.",
);
pub(super) const UPSTREAM_OPENED: Metric = counter(
    "outrigger_upstream_connections_total",
    connection_labels!(),
    "Connections made to endpoints, TLS included; inbound: to the application.",
);
pub(super) const UPSTREAM_CLOSED: Metric = counter(
    "outrigger_upstream_connections_closed_total",
    connection_labels!("reason"),
    "Connections to endpoints that ended: peer, reset, idle, spent (requests, age), certificate, room (others waited), removed (the endpoint), unusable (the rest).",
);
pub(super) const UPSTREAM_ACTIVE: Metric = gauge(
    "outrigger_upstream_connections_active",
    connection_labels!(),
    "Connections to endpoints that carry a request or opaque bytes at present.",
);
pub(super) const UPSTREAM_IDLE: Metric = gauge(
    "outrigger_upstream_connections_idle",
    connection_labels!(),
    "Connections to endpoints that are kept for the next request.",
);
pub(super) const UPSTREAM_SENT: Metric = counter(
    "outrigger_upstream_sent_bytes_total",
    connection_labels!(),
    "Bytes written to endpoints, heads and framing included, without TLS's own.",
);
pub(super) const UPSTREAM_RECEIVED: Metric = counter(
    "outrigger_upstream_received_bytes_total",
    connection_labels!(),
    "Bytes read from endpoints, heads and framing included, without TLS's own.",
);
pub(super) const REFUSALS: Metric = counter(
    "outrigger_refusals_total",
    &["direction", "reason"],
    "Answers made and connections ended by the mesh itself.",
);
pub(super) const CONNECTIONS: Metric = counter(
    "outrigger_connections_total",
    &["direction"],
    "Connections accepted.",
);
pub(super) const CONNECTIONS_ACTIVE: Metric = gauge(
    "outrigger_connections_active",
    &["direction"],
    "Accepted connections open at present.",
);
pub(super) const HANDSHAKES: Metric = counter(
    "outrigger_tls_handshakes_total",
    &["direction", "result"],
    "TLS handshakes with other sidecars by how they ended.",
);
pub(super) const HANDSHAKE_DURATION: Metric = histogram(
    "outrigger_tls_handshake_duration_seconds",
    &["direction"],
    "Time of TLS handshakes that succeeded.",
);
pub(super) const CERTIFICATE_EXPIRY: Metric = gauge(
    "outrigger_certificate_expiry_timestamp_seconds",
    &[],
    "When the certificate in use expires (Unix time); 0 while there is none.",
);
pub(super) const CONFIGURATION_NUMBER: Metric = gauge(
    "outrigger_configuration_number",
    &[],
    "Number of the configuration snapshot in force; grows with each change.",
);
pub(super) const CONFIGURATION_TIME: Metric = gauge(
    "outrigger_configuration_update_timestamp_seconds",
    &[],
    "When the snapshot in force took effect (Unix time).",
);
pub(super) const CONFIGURATION_REJECTIONS: Metric = counter(
    "outrigger_configuration_rejections_total",
    &[],
    "Discovery responses refused (NACK); the configuration before stays in force.",
);
pub(super) const DISCOVERY_CONNECTED: Metric = gauge(
    "outrigger_discovery_connected",
    &[],
    "1 while a stream to the control plane is open, else 0.",
);
pub(super) const OVERLOAD_LEVEL: Metric = gauge(
    "outrigger_overload_level",
    &[],
    "What is given up for want of memory: 0 nothing, 1 idle connections, 2 connections after their request, 3 new requests, 4 new connections.",
);
pub(super) const MEMORY_LIMIT: Metric = gauge(
    "outrigger_memory_limit_bytes",
    &[],
    "Memory that the process may use, by its cgroup or its bootstrap file; 0 without a limit.",
);
pub(super) const LOG_DROPPED: Metric = counter(
    "outrigger_access_log_dropped_total",
    &[],
    "Access log lines shed because the reader of standard output was too slow.",
);
pub(super) const SPANS: Metric = counter(
    "outrigger_spans_total",
    &["result"],
    "Spans by what became of them: exported, dropped (queue full) or failed (collector).",
);
pub(super) const SERIES: Metric = gauge(
    "outrigger_telemetry_series",
    &[],
    "Traffic series on this page; at the bound, new ones are counted under `other`.",
);
pub(super) const SERIES_REFUSED: Metric = counter(
    "outrigger_telemetry_series_refused_total",
    &[],
    "Series that were counted under `other` because the page was full.",
);
pub(super) const BUILD: Metric = gauge(
    "outrigger_build_info",
    &["version"],
    "Always 1; the version is the label.",
);
pub(super) const PROCESS_CPU: Metric = counter(
    "process_cpu_seconds_total",
    &[],
    "Processor time used by the process, user and system.",
);
pub(super) const PROCESS_RSS: Metric = gauge(
    "process_resident_memory_bytes",
    &[],
    "Memory of the process that is in RAM.",
);
pub(super) const PROCESS_FDS: Metric = gauge(
    "process_open_fds",
    &[],
    "File descriptors open in the process.",
);
pub(super) const PROCESS_START: Metric = gauge(
    "process_start_time_seconds",
    &[],
    "When the process started (Unix time).",
);

pub(super) const ISTIO_REQUESTS: Metric = counter(
    "istio_requests_total",
    istio_labels!("response_code", "grpc_response_status", "response_flags"),
    "As outrigger_requests_total, in the form that Istio's dashboards read.",
);
pub(super) const ISTIO_DURATION: Metric = histogram(
    "istio_request_duration_milliseconds",
    istio_labels!(),
    "As outrigger_request_duration_seconds, in milliseconds, in Istio's form.",
);
pub(super) const ISTIO_REQUEST_BYTES: Metric = histogram(
    "istio_request_bytes",
    istio_labels!(),
    "Request body sizes in Istio's form; sum and count only.",
);
pub(super) const ISTIO_RESPONSE_BYTES: Metric = histogram(
    "istio_response_bytes",
    istio_labels!(),
    "Response body sizes in Istio's form; sum and count only.",
);
pub(super) const ISTIO_TCP_OPENED: Metric = counter(
    "istio_tcp_connections_opened_total",
    istio_labels!(),
    "As outrigger_tcp_connections_opened_total, in Istio's form.",
);
pub(super) const ISTIO_TCP_CLOSED: Metric = counter(
    "istio_tcp_connections_closed_total",
    istio_labels!("response_flags"),
    "As outrigger_tcp_connections_closed_total, in Istio's form.",
);
pub(super) const ISTIO_TCP_RECEIVED: Metric = counter(
    "istio_tcp_received_bytes_total",
    istio_labels!(),
    "As outrigger_tcp_received_bytes_total, in Istio's form.",
);
pub(super) const ISTIO_TCP_SENT: Metric = counter(
    "istio_tcp_sent_bytes_total",
    istio_labels!(),
    "As outrigger_tcp_sent_bytes_total, in Istio's form.",
);

/// All, in the order of the documentation.
pub const ALL: &[Metric] = &[
    REQUESTS,
    DURATION,
    REQUEST_BYTES,
    RESPONSE_BYTES,
    TCP_OPENED,
    TCP_CLOSED,
    TCP_RECEIVED,
    TCP_SENT,
    RETRIES,
    EJECTIONS,
    EJECTED,
    PENDING,
    UPSTREAM_OPENED,
    UPSTREAM_CLOSED,
    UPSTREAM_ACTIVE,
    UPSTREAM_IDLE,
    UPSTREAM_SENT,
    UPSTREAM_RECEIVED,
    REFUSALS,
    CONNECTIONS,
    CONNECTIONS_ACTIVE,
    HANDSHAKES,
    HANDSHAKE_DURATION,
    CERTIFICATE_EXPIRY,
    CONFIGURATION_NUMBER,
    CONFIGURATION_TIME,
    CONFIGURATION_REJECTIONS,
    DISCOVERY_CONNECTED,
    OVERLOAD_LEVEL,
    MEMORY_LIMIT,
    LOG_DROPPED,
    SPANS,
    SERIES,
    SERIES_REFUSED,
    BUILD,
    PROCESS_CPU,
    PROCESS_RSS,
    PROCESS_FDS,
    PROCESS_START,
    ISTIO_REQUESTS,
    ISTIO_DURATION,
    ISTIO_REQUEST_BYTES,
    ISTIO_RESPONSE_BYTES,
    ISTIO_TCP_OPENED,
    ISTIO_TCP_CLOSED,
    ISTIO_TCP_RECEIVED,
    ISTIO_TCP_SENT,
];

/// `docs/metrics.md`: every metric with its labels.
#[must_use]
pub fn documentation() -> String {
    let mut page = INTRODUCTION.to_owned();
    for (title, istio) in [
        ("Outrigger's metrics", false),
        ("Istio's standard metrics", true),
    ] {
        page.push_str(&format!(
            "\n## {title}\n\n| name | kind | labels | meaning |\n| --- | --- | --- | --- |\n"
        ));
        for metric in ALL
            .iter()
            .filter(|metric| metric.name.starts_with("istio_") == istio)
        {
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let labels: Vec<_> = metric
                .labels
                .iter()
                .map(|label| format!("`{label}`"))
                .collect();
            let Metric { name, help, .. } = metric;
            page.push_str(&format!(
                "| `{name}` | {kind} | {} | {help} |\n",
                labels.join(" ")
            ));
        }
    }
    page
}

const INTRODUCTION: &str = "\
<!-- Made from data-plane/proxy/src/telemetry/names.rs by a test: UPDATE_DOCS=1 cargo test -p outrigger-proxy documentation -->
# Metrics of the sidecar

`GET /metrics` at the admin address, in Prometheus' text format.

A page has at most 5,000 lines. What finds no room is counted under `other`, and
`outrigger_telemetry_series_refused_total` grows. Series of a destination that nothing uses go after ten
minutes. Label values come from the configuration, from verified identities and from fixed lists, never
from what a request says.

| label | values |
| --- | --- |
| `direction` | `outbound` (from the application), `inbound` (to it) |
| `destination_service_name`, `_namespace`, `_port` | the service of the backend that served; `unknown` where none was chosen |
| `destination_subset` | the subset of the backend; empty without one |
| `source_principal` | inbound: the SPIFFE ID that the client proved; else empty |
| `protocol` | `http1`, `http2`, `grpc`, `tcp` |
| `connection_security_policy` | `mutual_tls`, `none`, `unknown` (no connection was made) |
| `response_code` | the status sent to the client; `0` when it left before; `4xx` and the like for codes that no standard names |
| `reason` | the first word of `x-outrigger-reason`, also of the peer's sidecar; `client-gone` when the client left; empty when the application answered |
| `outcome` | `failure`: 5xx, refused by the mesh, left by the client, or a server-side gRPC code; else `success` |
";
