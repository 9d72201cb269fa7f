//! Destination: what a service port is and how traffic to it is treated.

use std::{net::IpAddr, time::Duration};

use crate::{DestinationName, Hostname, Origin, Percent, SubsetName};

/// One port of one service (DESIGN §4). Changes rarely; endpoints travel apart, in shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Key.
    pub name: DestinationName,
    /// Host names under which clients know the service, fully qualified first. Together with
    /// the port they are the resource's aliases.
    pub hosts: Vec<Hostname>,
    /// Virtual addresses of the service, for captured traffic.
    pub vips: Vec<IpAddr>,
    /// What the port speaks.
    pub protocol: Protocol,
    /// Policy for endpoints chosen without a subset.
    pub policy: TrafficPolicy,
    /// Subsets by name, each with its complete policy. Sorted by name, at most 256.
    pub subsets: Vec<Subset>,
    /// Number of endpoint shards, 0 when the service has no endpoint.
    pub shards: u16,
}

/// What a service port speaks: declared by appProtocol or port name prefix (as in Istio).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Not declared: found from the first bytes (DESIGN §5).
    Detect,
    /// HTTP/1.1, or HTTP/2 if the client opens with its preface.
    Http,
    /// HTTP/2.
    Http2,
    /// gRPC over HTTP/2: refusals are gRPC trailers.
    Grpc,
    /// Opaque bytes.
    Tcp,
}

/// A named part of a destination's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subset {
    /// Name, as routes refer to it.
    pub name: SubsetName,
    /// Complete policy, already merged with the destination's.
    pub policy: TrafficPolicy,
}

/// How traffic to a destination (or one of its subsets) is balanced, bounded and watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficPolicy {
    /// The object these settings come from.
    pub origin: Origin,
    /// Endpoint choice.
    pub balancer: Balancer,
    /// Connection and request bounds.
    pub limits: ConnectionLimits,
    /// Ejection of failing endpoints.
    pub outlier: OutlierDetection,
}

/// Endpoint choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Balancer {
    /// Power of two choices on peak-EWMA latency × outstanding requests: the default.
    PeakEwma,
    /// Weighted round robin.
    RoundRobin,
    /// Weighted random.
    Random,
    /// Power of two choices on outstanding requests.
    LeastRequest,
}

/// Bounds of one destination in one sidecar. What goes beyond is refused with a reason, never
/// queued without end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections to all endpoints together (`tcp.maxConnections`).
    pub connections_max: u32,
    /// Requests waiting for a connection (`http.http1MaxPendingRequests`); the next is refused.
    pub pending_max: u32,
    /// How long a request waits for a connection before it is refused (DEF-19: 1 s).
    pub pending_timeout: Duration,
    /// Requests in flight (`http.http2MaxRequests`).
    pub requests_max: u32,
    /// Requests one connection carries before it is closed (`http.maxRequestsPerConnection`).
    pub requests_per_connection: RequestsPerConnection,
    /// Retries in flight at once (`http.maxRetries`).
    pub retries_max: u32,
    /// Time to a connected socket, and once more to a finished handshake (DEF-16).
    pub connect_timeout: Duration,
    /// How long an unused connection is kept (DEF-14).
    pub idle_timeout: Lifetime,
    /// Oldest age of a connection (`tcp.maxConnectionDuration`).
    pub connection_age: Lifetime,
}

/// How many requests a connection may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestsPerConnection {
    /// No bound.
    Unlimited,
    /// Closed after so many; 1 turns keep-alive off.
    AtMost(std::num::NonZeroU32),
}

/// How long something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lifetime {
    /// As long as it works.
    Unlimited,
    /// At most so long.
    AtMost(Duration),
}

/// Ejection of failing endpoints (DestinationRule `outlierDetection`). Both thresholds `Never`
/// means off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Consecutive 5xx answers, connect failures and timeouts that eject.
    pub consecutive_5xx: EjectionThreshold,
    /// Consecutive gateway errors (502, 503, 504, connect failure, timeout) that eject.
    pub consecutive_gateway: EjectionThreshold,
    /// How often ejected endpoints are looked at for return.
    pub interval: Duration,
    /// First ejection's length; the n-th in a row lasts n times as long.
    pub base_ejection: Duration,
    /// Longest ejection.
    pub max_ejection: Duration,
    /// Largest share of endpoints ejected at once: of a part of an endpoint, none.
    pub max_ejection_percent: Percent,
    /// Below this share of healthy endpoints ejection is disregarded and all are used.
    pub min_health_percent: Percent,
}

/// How many failures in a row eject an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EjectionThreshold {
    /// This kind of failure never ejects.
    Never,
    /// So many in a row.
    After(std::num::NonZeroU32),
}
