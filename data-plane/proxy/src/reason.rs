//! Why the mesh itself answered: one list of causes, from which status, gRPC code, header, log
//! field and metric label derive (STYLE §4). Nothing else in the proxy invents a reason.
//!
//! Longer than most, because each reason has a line in six tables, and one that were missing in
//! another file would be missed there.

use std::{borrow::Cow, fmt};

use outrigger_model::Origin;

use crate::h1;

/// Cause of a response that the mesh made, or of a connection that it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The request head breaks HTTP; the text is the engine's slug.
    BadRequest(&'static str),
    /// Head or trailers over DEF-01/02.
    HeadTooLarge,
    /// A method or feature this proxy does not carry (CONNECT, unknown transfer coding).
    NotImplemented(&'static str),
    /// HTTP version other than 1.0, 1.1, 2.
    HttpVersion,
    /// The head did not arrive in time (DEF-12).
    RequestHeadTimeout,
    /// The authority names no service of the mesh.
    NoService,
    /// The control plane did not answer in time for a service used for the first time.
    DiscoveryTimeout,
    /// No rule of the route table matches.
    NoRoute,
    /// The rule that matched is invalid, by its configuration.
    RouteInvalid,
    /// The backend that was drawn is named wrongly, or must not be: its share of the requests.
    BackendInvalid,
    /// The route sends the client elsewhere: no failure.
    Redirect,
    /// The destination (or subset) has no endpoint that can take the request.
    NoEndpoint,
    /// No connection could be made.
    ConnectFailed,
    /// The TLS handshake failed, or the peer did not prove the expected identity.
    HandshakeFailed,
    /// The sidecar holds no certificate yet, and the endpoint is meshed.
    NoCertificate,
    /// The upstream closed or reset before a response head.
    UpstreamReset,
    /// The endpoint (or its sidecar) refused the stream: provably not processed.
    RefusedStream,
    /// The client left before its answer was through. Nobody was answered.
    ClientGone,
    /// The upstream broke off inside its response: what the client has is not whole. The status
    /// and head were passed on before.
    UpstreamResetInResponse,
    /// Nothing moved for five minutes while a response was streaming; it was broken off.
    StreamIdle,
    /// The upstream's response breaks HTTP.
    UpstreamProtocol,
    /// Route timeout or the caller's `grpc-timeout`.
    RequestTimeout,
    /// The last try ran into its per-try timeout.
    PerTryTimeout,
    /// Retries were used up; the last cause is in the detail.
    RetriesExhausted,
    /// `connections_max` reached and the waiting line is full.
    PendingFull,
    /// Waited `pending_timeout` for a connection.
    PendingTimeout,
    /// `requests_max` reached.
    RequestsFull,
    /// Inbound: plain text where mTLS is required.
    PlaintextRefused,
    /// Inbound: the application's port is not known or nothing listens there.
    ApplicationUnavailable,
    /// A connection to the sidecar itself, where only redirected ones are taken: following it would
    /// go round in circles.
    NotCaptured,
    /// The sidecar is short of memory (DEF-21).
    Overloaded,
    /// Memory is nearly full and this exchange held the most of it (DEF-21).
    HeldMost,
    /// An HTTP/2 client that makes work without requests (DEF-07, DEF-08).
    Http2Flood,
    /// The sidecar is shutting down.
    Draining,
    /// A defect of this proxy.
    Internal,
}

impl Reason {
    /// Every reason, with what it tells an operator. Reasons that carry the engine's own slug stand
    /// here with the general one.
    pub const ALL: &'static [(Self, &'static str)] = &[
        (
            Self::BadRequest("bad-request"),
            "the request head or body framing breaks HTTP; the slug names how (`bare-lf`, `length-and-encoding`, …)",
        ),
        (
            Self::HeadTooLarge,
            "more than 64 KiB or 100 fields in a head or trailer section",
        ),
        (
            Self::NotImplemented("not-implemented"),
            "a method or transfer coding that the sidecar does not carry; the slug names it",
        ),
        (
            Self::HttpVersion,
            "an HTTP version other than 1.0, 1.1 and 2",
        ),
        (
            Self::RequestHeadTimeout,
            "the request head did not arrive within 10 s",
        ),
        (
            Self::NoService,
            "the authority names no service of the mesh: check host, namespace and port",
        ),
        (
            Self::DiscoveryTimeout,
            "the control plane did not answer within 5 s for a service used for the first time",
        ),
        (
            Self::NoRoute,
            "no rule of the VirtualService, HTTPRoute or GRPCRoute matches the request",
        ),
        (
            Self::RouteInvalid,
            "the rule that matched is invalid; the detail says why",
        ),
        (
            Self::BackendInvalid,
            "the backend drawn for the request does not exist or may not be referred to; the detail says why",
        ),
        (
            Self::Redirect,
            "the route sends the client elsewhere, with its own status: no failure",
        ),
        (
            Self::NoEndpoint,
            "the destination or subset has no endpoint that takes requests: none exists, or all are ejected",
        ),
        (Self::ConnectFailed, "no connection to the endpoint"),
        (
            Self::HandshakeFailed,
            "TLS failed, or the endpoint proved another identity than it should",
        ),
        (Self::NoCertificate, "this sidecar holds no certificate yet"),
        (
            Self::UpstreamReset,
            "the endpoint broke off before answering",
        ),
        (
            Self::RefusedStream,
            "the endpoint refused the stream without looking at it",
        ),
        (
            Self::ClientGone,
            "the client left before its answer was through; nobody was answered, and it is no refusal",
        ),
        (
            Self::UpstreamResetInResponse,
            "the endpoint broke off inside its answer or an opaque connection: what the client has is not whole",
        ),
        (
            Self::StreamIdle,
            "nothing moved for 5 min inside an answer, or for 1 h on an opaque connection, which was broken off",
        ),
        (Self::UpstreamProtocol, "the endpoint's answer breaks HTTP"),
        (
            Self::RequestTimeout,
            "the route's timeout or the caller's `grpc-timeout` passed",
        ),
        (
            Self::PerTryTimeout,
            "the only or last try ran into `perTryTimeout`",
        ),
        (
            Self::RetriesExhausted,
            "all retries failed; the detail has the last cause; 504 where that was a timeout",
        ),
        (
            Self::PendingFull,
            "`maxConnections` reached, and `http1MaxPendingRequests` wait already",
        ),
        (Self::PendingTimeout, "waited 1 s for a connection"),
        (Self::RequestsFull, "`http2MaxRequests` reached"),
        (
            Self::PlaintextRefused,
            "plain text on a port that requires mutual TLS",
        ),
        (
            Self::ApplicationUnavailable,
            "the application does not accept connections on its port",
        ),
        (
            Self::NotCaptured,
            "a connection to the sidecar's own port, which takes redirected connections alone",
        ),
        (
            Self::Overloaded,
            "the sidecar uses 95 % of the memory it may have: give it more, or send it less",
        ),
        (
            Self::HeldMost,
            "the sidecar uses 95 % of its memory and nothing held more in buffers than this request, answer or opaque connection, because a side does not take what it is sent; inside an answer, which is broken off, the status is the one sent",
        ),
        (
            Self::Http2Flood,
            "an HTTP/2 client sent control frames, empty frames or streams to be reset far beyond its requests; the detail names them; its connection ended with GOAWAY ENHANCE_YOUR_CALM, no request was answered with this",
        ),
        (Self::Draining, "the sidecar is ending"),
        (Self::Internal, "a defect of the sidecar: please report it"),
    ];

    /// Stable short text: first word of `x-outrigger-reason`, label of metrics, field of logs.
    #[must_use]
    pub fn slug(self) -> &'static str {
        match self {
            Self::BadRequest(slug) | Self::NotImplemented(slug) => slug,
            Self::HeadTooLarge => "head-too-large",
            Self::HttpVersion => "http-version",
            Self::RequestHeadTimeout => "request-head-timeout",
            Self::NoService => "no-service",
            Self::DiscoveryTimeout => "discovery-timeout",
            Self::NoRoute => "no-route",
            Self::RouteInvalid => "route-invalid",
            Self::BackendInvalid => "backend-invalid",
            Self::Redirect => "redirect",
            Self::NoEndpoint => "no-endpoint",
            Self::ConnectFailed => "connect-failed",
            Self::HandshakeFailed => "handshake-failed",
            Self::NoCertificate => "no-certificate",
            Self::UpstreamReset => "upstream-reset",
            Self::RefusedStream => "refused-stream",
            Self::ClientGone => "client-gone",
            Self::UpstreamResetInResponse => "upstream-reset-in-response",
            Self::StreamIdle => "stream-idle",
            Self::UpstreamProtocol => "upstream-protocol",
            Self::RequestTimeout => "request-timeout",
            Self::PerTryTimeout => "per-try-timeout",
            Self::RetriesExhausted => "retries-exhausted",
            Self::PendingFull => "pending-full",
            Self::PendingTimeout => "pending-timeout",
            Self::RequestsFull => "requests-full",
            Self::PlaintextRefused => "plaintext-refused",
            Self::ApplicationUnavailable => "application-unavailable",
            Self::NotCaptured => "not-captured",
            Self::Overloaded => "overloaded",
            Self::HeldMost => "held-most-memory",
            Self::Http2Flood => "http2-flood",
            Self::Draining => "draining",
            Self::Internal => "internal",
        }
    }

    /// Whether it ends an answer that has begun: then the status is the one already sent, and no
    /// header can name the reason.
    #[must_use]
    pub fn is_inside_answer(self) -> bool {
        matches!(self, Self::UpstreamResetInResponse | Self::StreamIdle)
    }

    /// Whether the mesh refused or ended something: false where the client left by itself.
    #[must_use]
    pub fn is_refusal(self) -> bool {
        self != Self::ClientGone
    }

    /// The reason in a peer's `x-outrigger-reason`; `None` for one that this version does not know.
    #[must_use]
    pub fn of_header(value: &[u8]) -> Option<Self> {
        let slug = value.split(|&byte| byte == b';').next()?.trim_ascii();
        let known = Self::ALL
            .iter()
            .map(|(reason, _)| *reason)
            .find(|reason| reason.slug().as_bytes() == slug);
        known.or_else(|| h1::reason_of_slug(slug))
    }

    /// HTTP status of the answer; 0 where there is none.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::ClientGone | Self::Http2Flood => 0,
            Self::BadRequest(_) => 400,
            Self::HeadTooLarge => 431,
            Self::NotImplemented(_) => 501,
            Self::HttpVersion => 505,
            Self::RequestHeadTimeout => 408,
            Self::NoRoute => 404,
            Self::Redirect => 302,
            Self::RouteInvalid | Self::BackendInvalid | Self::Internal => 500,
            Self::NoService
            | Self::UpstreamProtocol
            | Self::UpstreamResetInResponse
            | Self::NotCaptured => 502,
            Self::RequestTimeout | Self::PerTryTimeout | Self::StreamIdle => 504,
            Self::PlaintextRefused => 403,
            Self::DiscoveryTimeout
            | Self::NoEndpoint
            | Self::ConnectFailed
            | Self::HandshakeFailed
            | Self::NoCertificate
            | Self::UpstreamReset
            | Self::RefusedStream
            | Self::RetriesExhausted
            | Self::PendingFull
            | Self::PendingTimeout
            | Self::RequestsFull
            | Self::ApplicationUnavailable
            | Self::Overloaded
            | Self::HeldMost
            | Self::Draining => 503,
        }
    }

    /// gRPC status code of the answer (gRPC `statuscodes.md`).
    #[must_use]
    pub fn grpc_status(self) -> u8 {
        match self {
            Self::ClientGone => 1,
            Self::RequestTimeout | Self::PerTryTimeout | Self::StreamIdle => 4,
            Self::PlaintextRefused => 7,
            Self::HeadTooLarge
            | Self::PendingFull
            | Self::PendingTimeout
            | Self::RequestsFull
            | Self::Http2Flood
            | Self::HeldMost
            | Self::Overloaded => 8,
            Self::NotImplemented(_) | Self::NoRoute | Self::HttpVersion | Self::Redirect => 12,
            Self::BadRequest(_) | Self::RouteInvalid | Self::Internal => 13,
            Self::RequestHeadTimeout
            | Self::NoService
            | Self::NotCaptured
            | Self::DiscoveryTimeout
            | Self::BackendInvalid
            | Self::NoEndpoint
            | Self::ConnectFailed
            | Self::HandshakeFailed
            | Self::NoCertificate
            | Self::UpstreamReset
            | Self::RefusedStream
            | Self::UpstreamResetInResponse
            | Self::UpstreamProtocol
            | Self::RetriesExhausted
            | Self::ApplicationUnavailable
            | Self::Draining => 14,
        }
    }
}

/// A response that the mesh makes: what, why, and who decided.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Cause.
    pub reason: Reason,
    /// Status in place of the reason's own, where configuration or the last answer names one.
    pub status: Option<u16>,
    /// What a person needs beside the slug; short, printable, without secrets or internals.
    pub detail: Cow<'static, str>,
    /// The object and field that decided.
    pub origin: Option<Origin>,
    /// Where a redirect sends the client: an absolute location.
    pub location: Option<Box<str>>,
}

impl Refusal {
    /// A refusal with no more to say than its reason.
    #[must_use]
    pub fn new(reason: Reason) -> Self {
        Self {
            reason,
            status: None,
            detail: Cow::Borrowed(""),
            origin: None,
            location: None,
        }
    }

    /// Of work that is dropped before its end: the drain's time is up, or the worker panicked.
    #[must_use]
    pub fn cut_off() -> Self {
        let reason = if std::thread::panicking() {
            Reason::Internal
        } else {
            Reason::Draining
        };
        Self::new(reason).detail("cut off")
    }

    /// An answer with this status that sends the client to `location`.
    #[must_use]
    pub fn redirect(status: u16, location: String) -> Self {
        Self {
            status: Some(status),
            location: Some(location.into()),
            ..Self::new(Reason::Redirect)
        }
    }

    /// Adds what a person needs to know.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = detail.into();
        self
    }

    /// Names the object and field that decided.
    #[must_use]
    pub fn by(mut self, origin: &Origin) -> Self {
        self.origin = Some(origin.clone());
        self
    }

    /// HTTP status of the answer.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status.unwrap_or(self.reason.status())
    }
}

/// The value of `x-outrigger-reason`: `slug`, `slug; detail`, `slug; detail; by <origin>`, with
/// everything that may not stand in a header value replaced by `?`.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.slug())?;
        if !self.detail.is_empty() {
            f.write_str("; ")?;
            for c in self.detail.chars().take(256) {
                let shown = if c.is_ascii_graphic() || c == ' ' {
                    c
                } else {
                    '?'
                };
                fmt::Write::write_char(f, shown)?;
            }
        }
        if let Some(origin) = &self.origin {
            write!(f, "; by {origin}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    #[test]
    fn docs_reasons_is_the_code() {
        let mut page = String::from(
            "# Reasons\n\nEvery answer that the mesh itself makes carries `x-outrigger-reason: SLUG; DETAIL; by OBJECT FIELD`.\nThe same slug is in the access log (`reason`) and in metrics. For gRPC the status travels in `grpc-status`.\nAn answer that is broken off after its head keeps the status that was sent (`as sent`): its reason is in log and metrics only.\n\nOne answer has no reason: the 431 that the HTTP/2 library sends by itself to a head of more than 128 KiB.\n\n| slug | HTTP | gRPC | meaning |\n| --- | --- | --- | --- |\n",
        );
        for (reason, about) in Reason::ALL {
            let (slug, status, grpc) = (reason.slug(), reason.status(), reason.grpc_status());
            if reason.is_inside_answer() {
                writeln!(page, "| `{slug}` | as sent | as sent | {about} |").unwrap();
            } else {
                writeln!(page, "| `{slug}` | {status} | {grpc} | {about} |").unwrap();
            }
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reasons.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(kept, page, "run UPDATE_DOCS=1 cargo test docs_");
    }

    #[test]
    fn what_a_peer_says_is_read_back() {
        for (reason, _) in Reason::ALL {
            let said = Refusal::new(*reason).detail("more; of it").to_string();
            assert_eq!(Reason::of_header(said.as_bytes()), Some(*reason), "{said}");
        }
        let check = |said: &str, reason| assert_eq!(Reason::of_header(said.as_bytes()), reason);
        check("bare-lf", Some(Reason::BadRequest("bare-lf")));
        check("no-route; x", Some(Reason::NoRoute));
        check("no-routes", None);
        check("", None);
    }

    #[test]
    fn the_header_starts_with_the_slug_and_is_printable() {
        let refusal = Refusal::new(Reason::NoEndpoint)
            .detail("subset v2\r\nx: y")
            .by(&Origin::new("VirtualService/shop/payments spec.http[0]"));
        assert_eq!(
            refusal.to_string(),
            "no-endpoint; subset v2??x: y; by VirtualService/shop/payments spec.http[0]"
        );
        assert_eq!(Refusal::new(Reason::NoRoute).to_string(), "no-route");
    }
}
