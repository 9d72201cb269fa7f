//! What an attempt came to, and everything that follows from it.
//!
//! One classification, from which the retry decision, outlier detection, the balancer's estimate
//! and the metric label derive, so that they never contradict each other. Which response the mesh
//! makes of a final failure is the shell's list of reasons; the names here are its slugs.

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
    /// A bound or lack of the sidecar itself (no place for a connection, no certificate) kept the
    /// request back: nothing was sent, the endpoint is not to blame. Not retried, as in Envoy
    /// (overflow): another try would only add to what is too much.
    HeldBack,
    /// The client went away, or broke off its request. Says nothing about the endpoint.
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
            Self::HeldBack => OriginClass::Internal,
            Self::DownstreamGone => OriginClass::Downstream,
        }
    }

    /// Whether the request may be sent again.
    #[must_use]
    pub fn retry_safety(self) -> RetrySafety {
        match self {
            Self::ConnectFailed | Self::HandshakeFailed | Self::RefusedStream | Self::HeldBack => {
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
            Self::RefusedStream | Self::HeldBack | Self::DownstreamGone => Verdict::Neutral,
        }
    }

    /// Stable short name, for reasons and metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Response { .. } => "response",
            Self::Grpc { .. } => "grpc-status",
            Self::ConnectFailed => "connect-failed",
            Self::HandshakeFailed => "handshake-failed",
            Self::RefusedStream => "refused-stream",
            Self::ResetBeforeHead => "upstream-reset",
            Self::InvalidResponse => "upstream-protocol",
            Self::ResetAfterHead => "upstream-reset-in-response",
            Self::PerTryTimeout => "per-try-timeout",
            Self::OverallTimeout => "request-timeout",
            Self::HeldBack => "held-back",
            Self::DownstreamGone => "client-gone",
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
    fn check(outcome: O, safety: S, verdict: V) {
        assert_eq!(outcome.retry_safety(), safety, "{outcome:?}");
        assert_eq!(outcome.verdict(), verdict, "{outcome:?}");
    }

    #[test]
    fn answers() {
        let status = |status, verdict| {
            check(O::Response { status }, S::IdempotentOnly, verdict);
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
        let grpc = |code, verdict| check(O::Grpc { code }, S::IdempotentOnly, verdict);
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
        check(O::ConnectFailed, S::NeverSent, V::GatewayError);
        check(O::HandshakeFailed, S::NeverSent, V::GatewayError);
        check(O::RefusedStream, S::NeverSent, V::Neutral);
        check(O::HeldBack, S::NeverSent, V::Neutral);
        check(O::ResetBeforeHead, S::IdempotentOnly, V::GatewayError);
        check(O::InvalidResponse, S::IdempotentOnly, V::GatewayError);
        check(O::PerTryTimeout, S::IdempotentOnly, V::GatewayError);
        check(O::OverallTimeout, S::Never, V::GatewayError);
        check(O::ResetAfterHead, S::Never, V::GatewayError);
        check(O::DownstreamGone, S::Never, V::Neutral);
        assert_eq!(O::DownstreamGone.origin_class(), OriginClass::Downstream);
        assert_eq!(O::HeldBack.origin_class(), OriginClass::Internal);
        assert_eq!(O::ConnectFailed.origin_class(), OriginClass::Upstream);
    }
}
