//! What the request path knows of an HTTP engine: one request and its answer, as an [`Exchange`].
//!
//! `outbound.rs` and `inbound.rs` are generic over it and name the phases of DESIGN §5; the
//! engines (`h1`, `http2`) own bytes, framing and streams. An engine parses a request, makes an
//! exchange, hands it to the path, and afterwards looks at the exchange to see whether its
//! connection may be used again.
//!
//! ```text
//! attempt ──► Ok(head) ──► deliver            (stream both bodies to their ends)
//!    │            └─────► discard ──► attempt  (retry on the status)
//!    └──► Err(failure) ──────────────► attempt (retry) or refuse (answer by the mesh)
//! ```
//! Exactly one of `deliver`, `refuse` and `abandon` ends an exchange. The request's deadline covers
//! the response to its last byte, for streams too (as Istio's and Envoy's route timeout does): a
//! route of long streams has no timeout, or one that is meant. After `101` there is no response
//! any more, and no deadline: a WebSocket lives until a side closes it or nothing moves for 1 h.
//! Everything runs on one worker
//! thread; futures need not be `Send`.

use std::{borrow::Cow, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use outrigger_model::Peer;
use outrigger_policy::{RequestView, filter::Changes};
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::{
    hold::Hold,
    reason::{Reason, Refusal},
    upstream::Endpoint,
};

/// Which engine carries a request. HTTP/1 stays HTTP/1 and HTTP/2 stays HTTP/2 (DESIGN §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    /// HTTP/1.0 and 1.1.
    H1,
    /// HTTP/2.
    H2,
}

/// One request and its answer, while the mesh works on it.
#[expect(
    async_fn_in_trait,
    reason = "one worker thread: futures need no Send bound"
)]
pub trait Exchange {
    /// The head, as decisions see it.
    type Request: RequestView;

    /// The head.
    fn request(&self) -> &Self::Request;

    /// Engine in use.
    fn engine(&self) -> Engine;

    /// `:authority`, the absolute form's authority, or `Host`; `host` or `host:port`.
    fn authority(&self) -> &str;

    /// Whether the content type is `application/grpc` (then refusals are gRPC trailers).
    fn is_grpc(&self) -> bool;

    /// Whether a further attempt could send the whole request again: nothing of the body read so
    /// far is lost (DEF-20: it is kept up to 64 KiB), and no upgrade was begun.
    fn can_replay(&self) -> bool;

    /// Sends the request to this endpoint over a pooled or new connection and waits for the
    /// response head. The request body may still be on its way when it returns.
    ///
    /// A pooled connection that turns out closed before anything was answered is replaced once,
    /// silently, where the request can be replayed.
    ///
    /// Cancel safe: yes; a dropped attempt closes (H1) or resets (H2) what it used upstream, and
    /// keeps every body byte of the replay buffer.
    async fn attempt(
        &mut self,
        endpoint: &Rc<Endpoint>,
        edit: &RequestEdit,
        deadline: Deadline,
    ) -> Result<ResponseHead, AttemptFailure>;

    /// Drops the response held since the last successful `attempt`, because it will be retried.
    async fn discard(&mut self);

    /// Sends the held response to the client and streams both bodies to their ends, or until
    /// `deadline`. What is broken off then is never ended as if it were whole: HTTP/1 closes by
    /// reset, a gRPC stream gets trailers with `grpc-status: 4`, another HTTP/2 stream CANCEL.
    ///
    /// Cancel safe: no; a dropped delivery leaves the client's connection (H1) or stream (H2) to
    /// be reset by the engine.
    async fn deliver(&mut self, edit: &ResponseEdit, deadline: Deadline) -> Delivery;

    /// Answers by the mesh: status, `x-outrigger-reason`, `content-length` and a short text body;
    /// for gRPC a trailers-only response.
    async fn refuse(&mut self, refusal: &Refusal) -> Delivery;

    /// Ends the exchange without an answer, because the client has left.
    fn abandon(&mut self) -> Delivery;

    /// From now on, tells `hold` what it holds in buffers when asked, and ends when told: an attempt
    /// fails with `Downstream(HeldMost)`, a delivery ends with `HeldMost`.
    fn watch(&mut self, hold: &Rc<Hold>);

    /// Body bytes from the client, and to it, so far.
    fn progress(&self) -> (u64, u64);
}

/// What is done with each request of a connection: the outbound or the inbound path. Engines call
/// it for every request; it ends every exchange by `deliver` or `refuse`.
#[expect(
    async_fn_in_trait,
    reason = "one worker thread: futures need no Send bound"
)]
pub trait Handler {
    /// Takes one request to its end. Not cancel safe: an engine that drops it closes the
    /// client's connection (H1) or resets the stream (H2).
    async fn handle<E: Exchange>(&self, exchange: &mut E);

    /// Told of a request that the engine answered by itself, because its head breaks HTTP or a
    /// limit; for log and metric. The status sent is the refusal's.
    fn rejected(&self, engine: Engine, refusal: &Refusal) {
        tracing::debug!(?engine, %refusal, "request refused by its head");
    }
}

/// When a wait ends. `None`: the engine's own bounds alone (SECURITY-NOTES §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline(pub Option<Instant>);

/// Changes to the request head sent upstream.
#[derive(Debug, Clone, Default)]
pub struct RequestEdit {
    /// Fields set (every incoming spelling of the name is removed first).
    pub set: SmallVec<[(&'static str, Bytes); 4]>,
    /// Names removed, in lower case; a trailing `*` removes by prefix. `x-outrigger-*` and every
    /// `_`/`-` spelling of it is always removed from what an application sends.
    pub remove: &'static [&'static str],
    /// What the route changes of the fields, before `set` and `remove`, which go before it.
    pub changes: Option<Arc<Changes>>,
    /// Path and query instead of the request's own.
    pub target: Option<Box<str>>,
}

/// Changes to the response head sent downstream.
#[derive(Debug, Clone, Default)]
pub struct ResponseEdit {
    /// Fields set.
    pub set: SmallVec<[(&'static str, Bytes); 2]>,
    /// Whether `x-outrigger-*` of the answer is kept: true for answers of a meshed peer, whose
    /// sidecar may have refused, false for those of an application.
    pub keep_reserved: bool,
    /// What the route changes of the fields, before `set`, which goes before it.
    pub changes: Option<Arc<Changes>>,
}

/// What decisions see of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseHead {
    /// Status, 200–599 or 101.
    pub status: u16,
    /// `grpc-status` of a trailers-only response.
    pub grpc_status: Option<u8>,
    /// The reason that the endpoint's own sidecar gave, where it made this answer. Read only from
    /// a peer that proved its identity: an application's word is never believed.
    pub refused: Option<Reason>,
}

impl ResponseHead {
    /// Whether an answer of `endpoint` with this status can be its sidecar's own.
    pub(crate) fn may_be_refusal(endpoint: &Endpoint, status: u16, grpc: Option<u8>) -> bool {
        matches!(endpoint.peer, Peer::Meshed(_)) && (status >= 400 || grpc.is_some())
    }
}

/// Why a try brought no response head.
#[derive(Debug, Clone)]
pub struct AttemptFailure {
    /// Kind.
    pub kind: AttemptFailureKind,
    /// For the log and the reason header; short, without secrets.
    pub detail: Cow<'static, str>,
}

/// Kinds of [`AttemptFailure`], from which retry safety and outlier accounting derive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptFailureKind {
    /// No connection: refused, unreachable, connect timeout. Nothing was sent.
    Connect,
    /// TLS handshake or identity. Nothing was sent.
    Handshake,
    /// This sidecar has no certificate for a meshed endpoint. Nothing was sent.
    NoCertificate,
    /// The waiting line for a connection is full. Nothing was sent, the endpoint is not to blame.
    PendingFull,
    /// Waited `pending_timeout` for a connection. Nothing was sent.
    PendingTimeout,
    /// REFUSED_STREAM or GOAWAY below the stream: provably not processed.
    RefusedStream,
    /// Closed or reset after the request was sent in part or whole, before a response head.
    Reset,
    /// The response head breaks HTTP or a limit.
    Protocol,
    /// `deadline` passed.
    Timeout,
    /// The client broke framing in its body: not the upstream's doing, no retry; carries the
    /// reason to answer with.
    Downstream(Reason),
    /// The client went away, or stopped inside its request: nobody is there to be answered.
    ClientGone,
}

/// How an exchange ended.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Body bytes from the client.
    pub request_bytes: u64,
    /// Body bytes to the client.
    pub response_bytes: u64,
    /// `grpc-status` from the trailers (or the trailers-only head).
    pub grpc_status: Option<u8>,
    /// How it ended.
    pub end: DeliveryEnd,
}

/// Ends of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryEnd {
    /// Both sides complete.
    Complete,
    /// The client went away.
    DownstreamClosed,
    /// The upstream broke off inside the response.
    UpstreamReset,
    /// No byte either way for DEF-13 (5 min).
    Idle,
    /// The request's deadline passed while the response was streaming; it was broken off.
    DeadlinePassed,
    /// Memory is nearly full and it held the most: broken off (DEF-21).
    HeldMost,
}

impl Delivery {
    /// Of an exchange that is recorded without having ended: what was carried until now.
    pub(crate) fn so_far(exchange: &impl Exchange) -> Self {
        let (request_bytes, response_bytes) = exchange.progress();
        Self {
            request_bytes,
            response_bytes,
            grpc_status: None,
            end: DeliveryEnd::Complete,
        }
    }

    /// Why it did not end as it should.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self.end {
            DeliveryEnd::Complete => None,
            DeliveryEnd::DownstreamClosed => Some(Reason::ClientGone),
            DeliveryEnd::UpstreamReset => Some(Reason::UpstreamResetInResponse),
            DeliveryEnd::Idle => Some(Reason::StreamIdle),
            DeliveryEnd::DeadlinePassed => Some(Reason::RequestTimeout),
            DeliveryEnd::HeldMost => Some(Reason::HeldMost),
        }
    }

    /// The status for the record: 0 when the client left before the answer was through.
    #[must_use]
    pub fn status(&self, sent: u16) -> u16 {
        match self.end {
            DeliveryEnd::DownstreamClosed => 0,
            DeliveryEnd::Complete
            | DeliveryEnd::UpstreamReset
            | DeliveryEnd::Idle
            | DeliveryEnd::DeadlinePassed
            | DeliveryEnd::HeldMost => sent,
        }
    }
}

impl Deadline {
    /// No deadline of the request's own.
    pub const NONE: Self = Self(None);

    /// The earlier of this deadline and `after` from now on.
    #[must_use]
    pub fn or_after(self, now: Instant, after: Option<Duration>) -> Self {
        let after = after.and_then(|after| now.checked_add(after));
        Self(match (self.0, after) {
            (Some(own), Some(other)) => Some(own.min(other)),
            (own, other) => own.or(other),
        })
    }
}

impl AttemptFailure {
    /// A failure of this kind with a text for people.
    #[must_use]
    pub fn new(kind: AttemptFailureKind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            detail: detail.into(),
        }
    }
}
