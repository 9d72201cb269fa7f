//! What an attempt came to, and everything that follows from it.
//!
//! One classification, from which the retry decision, outlier detection, the balancer's estimate,
//! the response the mesh makes, its reason and the metric label derive, so that they never
//! contradict each other.

/// Result of one attempt to have a request answered by one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptOutcome {
    /// A response head with this HTTP status.
    Response {
        /// 200–599.
        status: u16,
    },
    /// A gRPC response that ended with this code: in a trailers-only head, or in the trailers.
    Grpc {
        /// `grpc-status`, 0–16; larger ones count as UNKNOWN.
        code: u8,
    },
    /// No TCP connection: refused, unreachable, or timed out. Nothing was sent.
    ConnectFailed,
    /// No TLS session: handshake refused or timed out, or the peer's identity is not the one the
    /// endpoint claims. Nothing of the request was sent.
    HandshakeFailed,
    /// REFUSED_STREAM, or a GOAWAY below the stream (RFC 9113 §8.7): provably not processed.
    RefusedStream,
    /// The connection closed, or the stream was reset, before a response head came.
    ResetBeforeHead,
    /// What came is no valid response head.
    InvalidResponse,
    /// It broke off after the response head.
    ResetAfterHead,
    /// No response head within the per-try timeout.
    PerTryTimeout,
    /// The deadline of the whole request passed during this attempt.
    OverallTimeout,
    /// The client went away. Says nothing about the endpoint.
    DownstreamGone,
}

/// Where a failure comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OriginClass {
    /// The client.
    Downstream,
    /// The endpoint, or the way to it.
    Upstream,
    /// The sidecar itself.
    Internal,
    /// The configuration.
    Config,
}

/// Whether a request may be sent again without harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetrySafety {
    /// It was never processed: any method may.
    NeverSent,
    /// It may have been processed: idempotent methods may, others only when configured.
    IdempotentOnly,
    /// No: too late, or nobody waits.
    Never,
}

/// What outlier detection makes of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The endpoint works.
    Success,
    /// A 5xx answer other than 502, 503, 504.
    ServerError,
    /// 502, 503, 504, or no answer; counts as a 5xx too.
    GatewayError,
    /// Says nothing about the endpoint's health.
    Neutral,
}

/// The response the mesh makes when an outcome is final and the endpoint gave none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MeshResponse {
    /// HTTP status.
    pub status: u16,
    /// `grpc-status` for gRPC requests.
    pub grpc_code: u8,
    /// Stable short reason, for `x-outrigger-reason`, log and metric.
    pub reason: &'static str,
}

impl MeshResponse {
    const fn new(status: u16, grpc_code: u8, reason: &'static str) -> Self {
        Self {
            status,
            grpc_code,
            reason,
        }
    }
}

const GRPC_DEADLINE_EXCEEDED: u8 = 4;
const GRPC_UNAVAILABLE: u8 = 14;

impl AttemptOutcome {
    /// Where it comes from.
    #[must_use]
    pub fn origin_class(self) -> OriginClass {
        match self {
            Self::Response { .. }
            | Self::Grpc { .. }
            | Self::ConnectFailed
            | Self::HandshakeFailed
            | Self::RefusedStream
            | Self::ResetBeforeHead
            | Self::InvalidResponse
            | Self::ResetAfterHead
            | Self::PerTryTimeout
            | Self::OverallTimeout => OriginClass::Upstream,
            Self::DownstreamGone => OriginClass::Downstream,
        }
    }

    /// Whether the request may be sent again.
    #[must_use]
    pub fn retry_safety(self) -> RetrySafety {
        match self {
            Self::ConnectFailed | Self::HandshakeFailed | Self::RefusedStream => {
                RetrySafety::NeverSent
            }
            Self::Response { .. }
            | Self::Grpc { .. }
            | Self::ResetBeforeHead
            | Self::InvalidResponse
            | Self::PerTryTimeout => RetrySafety::IdempotentOnly,
            Self::ResetAfterHead | Self::OverallTimeout | Self::DownstreamGone => {
                RetrySafety::Never
            }
        }
    }

    /// What outlier detection makes of it. gRPC codes count as the HTTP status they map to, as
    /// in Envoy: UNAVAILABLE 503, DEADLINE_EXCEEDED 504, UNKNOWN, INTERNAL and DATA_LOSS 500,
    /// UNIMPLEMENTED 501.
    #[must_use]
    pub fn verdict(self) -> Verdict {
        match self {
            Self::Response { status } => match status {
                502..=504 => Verdict::GatewayError,
                500..=599 => Verdict::ServerError,
                _ => Verdict::Success,
            },
            Self::Grpc { code } => match code {
                4 | 14 => Verdict::GatewayError,
                2 | 12 | 13 | 15 | 17.. => Verdict::ServerError,
                0 | 1 | 3 | 5..=11 | 16 => Verdict::Success,
            },
            Self::ConnectFailed
            | Self::HandshakeFailed
            | Self::ResetBeforeHead
            | Self::InvalidResponse
            | Self::ResetAfterHead
            | Self::PerTryTimeout
            | Self::OverallTimeout => Verdict::GatewayError,
            Self::RefusedStream | Self::DownstreamGone => Verdict::Neutral,
        }
    }

    /// The mesh's own response where the endpoint gave none that can be passed on; `None` where
    /// it did, where its head has already been passed on, or where nobody waits.
    #[must_use]
    pub fn mesh_response(self) -> Option<MeshResponse> {
        let (status, grpc_code) = match self {
            Self::Response { .. }
            | Self::Grpc { .. }
            | Self::ResetAfterHead
            | Self::DownstreamGone => return None,
            Self::ConnectFailed | Self::HandshakeFailed | Self::RefusedStream => {
                (503, GRPC_UNAVAILABLE)
            }
            Self::ResetBeforeHead | Self::InvalidResponse => (502, GRPC_UNAVAILABLE),
            Self::PerTryTimeout | Self::OverallTimeout => (504, GRPC_DEADLINE_EXCEEDED),
        };
        Some(MeshResponse::new(status, grpc_code, self.as_str()))
    }

    /// Stable short name, for reasons and metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Response { .. } => "response",
            Self::Grpc { .. } => "grpc_status",
            Self::ConnectFailed => "connect_failed",
            Self::HandshakeFailed => "handshake_failed",
            Self::RefusedStream => "refused_stream",
            Self::ResetBeforeHead => "reset_before_response",
            Self::InvalidResponse => "invalid_response",
            Self::ResetAfterHead => "reset_after_response",
            Self::PerTryTimeout => "per_try_timeout",
            Self::OverallTimeout => "request_timeout",
            Self::DownstreamGone => "client_gone",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use AttemptOutcome as O;
    use RetrySafety as S;
    use Verdict as V;

    #[track_caller]
    fn check(outcome: O, safety: S, verdict: V, response: Option<(u16, u8)>) {
        assert_eq!(outcome.retry_safety(), safety, "{outcome:?}");
        assert_eq!(outcome.verdict(), verdict, "{outcome:?}");
        let found = outcome.mesh_response();
        let found = found.map(|response| (response.status, response.grpc_code));
        assert_eq!(found, response, "{outcome:?}");
    }

    #[test]
    fn answers() {
        let status = |status, verdict| {
            check(O::Response { status }, S::IdempotentOnly, verdict, None);
        };
        for working in [200, 302, 404, 409, 429, 499, 600] {
            status(working, V::Success);
        }
        for gateway in [502, 503, 504] {
            status(gateway, V::GatewayError);
        }
        for server in [500, 501, 505, 599] {
            status(server, V::ServerError);
        }
        let grpc = |code, verdict| check(O::Grpc { code }, S::IdempotentOnly, verdict, None);
        for working in [0, 1, 3, 5, 6, 7, 8, 9, 10, 11, 16] {
            grpc(working, V::Success);
        }
        for gateway in [4, 14] {
            grpc(gateway, V::GatewayError);
        }
        for server in [2, 12, 13, 15, 17, 255] {
            grpc(server, V::ServerError);
        }
    }

    #[test]
    fn failures() {
        let unavailable = Some((503, 14));
        let bad_gateway = Some((502, 14));
        let late = Some((504, 4));
        check(O::ConnectFailed, S::NeverSent, V::GatewayError, unavailable);
        check(
            O::HandshakeFailed,
            S::NeverSent,
            V::GatewayError,
            unavailable,
        );
        check(O::RefusedStream, S::NeverSent, V::Neutral, unavailable);
        check(
            O::ResetBeforeHead,
            S::IdempotentOnly,
            V::GatewayError,
            bad_gateway,
        );
        check(
            O::InvalidResponse,
            S::IdempotentOnly,
            V::GatewayError,
            bad_gateway,
        );
        check(O::PerTryTimeout, S::IdempotentOnly, V::GatewayError, late);
        check(O::OverallTimeout, S::Never, V::GatewayError, late);
        check(O::ResetAfterHead, S::Never, V::GatewayError, None);
        check(O::DownstreamGone, S::Never, V::Neutral, None);
        assert_eq!(O::DownstreamGone.origin_class(), OriginClass::Downstream);
        assert_eq!(O::ConnectFailed.origin_class(), OriginClass::Upstream);
    }
}
