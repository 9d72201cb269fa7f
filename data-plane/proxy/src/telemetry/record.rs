//! What the request path hands to telemetry at the end of each request or TCP connection.

use std::{net::SocketAddr, time::Duration};

use outrigger_model::{Backend, DestinationName, Origin, SpiffeId};

use crate::{
    exchange::Engine,
    reason::{Reason, Refusal},
};

/// Side of the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the application into the mesh.
    Outbound,
    /// From the mesh into the application.
    Inbound,
}

/// What a connection carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Carried {
    /// HTTP/1.
    Http1,
    /// HTTP/2 other than gRPC.
    Http2,
    /// gRPC.
    Grpc,
    /// Opaque bytes.
    Tcp,
}

/// How the connection to the other side was secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    /// TLS with both sides verified.
    MutualTls,
    /// Plain text.
    None,
    /// There was no connection.
    Unknown,
}

/// One finished request (or TCP connection). Borrowed: nothing is copied unless it is logged.
#[derive(Debug)]
pub struct RequestRecord<'a> {
    /// Side.
    pub direction: Direction,
    /// Protocol.
    pub carried: Carried,
    /// Method; empty for TCP. A label only through a fixed list (rule 11).
    pub method: &'a str,
    /// Path without query; only for the log and spans.
    pub path: &'a str,
    /// As the client wrote it; only for the log and spans.
    pub authority: &'a str,
    /// The service addressed (outbound), once known.
    pub destination: Option<&'a DestinationName>,
    /// The backend chosen, once known.
    pub backend: Option<&'a Backend>,
    /// Endpoint of the last try.
    pub endpoint: Option<SocketAddr>,
    /// Identity of the other sidecar, if it proved one.
    pub peer: Option<&'a SpiffeId>,
    /// Security of the connection to (outbound) or from (inbound) the other side.
    pub security: Security,
    /// HTTP status sent to the client, 0 for TCP or when the client left before.
    pub status: u16,
    /// gRPC status, if known.
    pub grpc_status: Option<u8>,
    /// Why the mesh answered or broke off by itself.
    pub reason: Option<Reason>,
    /// Detail of the reason.
    pub detail: &'a str,
    /// The object and field that decided.
    pub origin: Option<&'a Origin>,
    /// Tries made, 0 if none.
    pub attempts: u32,
    /// From the head's arrival to the end.
    pub duration: Duration,
    /// Body bytes from the client.
    pub request_bytes: u64,
    /// Body bytes to the client.
    pub response_bytes: u64,
    /// Trace context sent on, for the log.
    pub traceparent: &'a str,
}

impl<'a> RequestRecord<'a> {
    /// Of a request whose head the engine refused: nothing of it can be believed.
    #[must_use]
    pub fn unread(direction: Direction, engine: Engine, refusal: &'a Refusal) -> Self {
        Self {
            direction,
            carried: Carried::of(engine, false),
            method: "",
            path: "",
            authority: "",
            destination: None,
            backend: None,
            endpoint: None,
            peer: None,
            security: Security::Unknown,
            status: refusal.status(),
            grpc_status: None,
            reason: Some(refusal.reason),
            detail: &refusal.detail,
            origin: refusal.origin.as_ref(),
            attempts: 0,
            duration: Duration::ZERO,
            request_bytes: 0,
            response_bytes: 0,
            traceparent: "",
        }
    }
}

impl Carried {
    /// What an HTTP engine carried.
    #[must_use]
    pub fn of(engine: Engine, is_grpc: bool) -> Self {
        match engine {
            Engine::H1 => Self::Http1,
            Engine::H2 if is_grpc => Self::Grpc,
            Engine::H2 => Self::Http2,
        }
    }

    /// Value of the `protocol` label.
    #[must_use]
    pub fn slug(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

impl RequestRecord<'_> {
    /// Whether it counts as a failure: 5xx, refused or broken off by the mesh, left by the client
    /// before an answer, or one of gRPC's server-side codes (OpenTelemetry's list: UNKNOWN,
    /// DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS).
    #[must_use]
    pub fn is_failure(&self) -> bool {
        self.reason.is_some_and(|reason| reason != Reason::Redirect)
            || self.status >= 500
            || (self.status == 0 && self.carried != Carried::Tcp)
            || matches!(self.grpc_status, Some(2 | 4 | 12 | 13 | 14 | 15))
    }
}
