//! What holds where nothing is configured (DESIGN §5, SECURITY-NOTES §3).

use std::time::Duration;

use outrigger_model::{
    Backoff, Balancer, ConnectionLimits, EjectionThreshold, Lifetime, OutlierDetection, Percent,
    Protocol, Ratio, RequestsPerConnection, RetryBudget, RetryConditions, RetryPolicy, Timeout,
};

/// First pause before a retry, as in Istio; the longest is ten times as long.
pub(crate) const RETRY_BACKOFF_BASE: Duration = Duration::from_millis(25);

/// Endpoint choice.
pub(crate) const BALANCER: Balancer = Balancer::PeakEwma;

/// DEF-18: connections of one sidecar to one destination.
const CONNECTIONS_MAX: u32 = 10_000;
/// DEF-19.
const PENDING_MAX: u32 = 1_024;
/// DEF-19.
const PENDING_TIMEOUT: Duration = Duration::from_secs(1);
/// DEF-16, inside the mesh.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// DEF-16, outside the mesh.
const CONNECT_TIMEOUT_EXTERNAL: Duration = Duration::from_secs(5);
/// DEF-14.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Istio's default for opaque TCP, where an idle connection is the application's own.
const IDLE_TIMEOUT_TCP: Duration = Duration::from_secs(3_600);

/// Whether a service is part of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Location {
    /// Inside.
    Internal,
    /// Outside: `location: MESH_EXTERNAL`.
    External,
}

/// Bounds of a port.
pub(crate) fn limits(protocol: Protocol, location: Location) -> ConnectionLimits {
    ConnectionLimits {
        connections_max: CONNECTIONS_MAX,
        pending_max: PENDING_MAX,
        pending_timeout: PENDING_TIMEOUT,
        requests_max: u32::MAX,
        requests_per_connection: RequestsPerConnection::Unlimited,
        retries_max: u32::MAX,
        connect_timeout: match location {
            Location::Internal => CONNECT_TIMEOUT,
            Location::External => CONNECT_TIMEOUT_EXTERNAL,
        },
        idle_timeout: Lifetime::AtMost(match protocol {
            Protocol::Tcp => IDLE_TIMEOUT_TCP,
            Protocol::Detect | Protocol::Http | Protocol::Http2 | Protocol::Grpc => IDLE_TIMEOUT,
        }),
        connection_age: Lifetime::Unlimited,
    }
}

/// Ejection is off until it is configured, as in Istio.
pub(crate) fn outlier_off() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: EjectionThreshold::Never,
        consecutive_gateway: EjectionThreshold::Never,
        interval: Duration::from_secs(10),
        base_ejection: Duration::from_secs(30),
        max_ejection: Duration::from_secs(300),
        max_ejection_percent: percent(10),
        min_health_percent: percent(0),
    }
}

/// DEF-20.
pub(crate) fn retry_budget() -> RetryBudget {
    RetryBudget {
        percent: percent(20),
        min_per_second: 10,
    }
}

/// Two retries of what was provably never processed, or is idempotent and was reset before a
/// response (DESIGN §5).
pub(crate) fn retry() -> RetryPolicy {
    RetryPolicy {
        attempts: 2,
        per_try_timeout: Timeout::Disabled,
        on: RetryConditions {
            connect_failure: true,
            refused_stream: true,
            ..RetryConditions::default()
        },
        on_idempotent: RetryConditions {
            reset: true,
            ..RetryConditions::default()
        },
        backoff: Backoff {
            base: RETRY_BACKOFF_BASE,
            max: RETRY_BACKOFF_BASE * 10,
            jitter: Ratio::ONE,
        },
        budget: retry_budget(),
    }
}

/// A percentage written in this crate.
fn percent(number: u8) -> Percent {
    Percent::new(number).expect("the percentages written here are at most 100")
}
