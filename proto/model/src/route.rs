//! RouteTable: how requests to a destination pick their backends.

use std::{collections::BTreeSet, time::Duration};

use crate::{DestinationName, Filters, Origin, Ratio, Redirect, SubsetName, Weight};

/// Ordered rules of one destination; the first that matches decides. The compiler always ends
/// both lists with a rule that matches everything, unless the configuration itself leaves
/// requests unmatched (Istio answers those 404).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteTable {
    /// Key: the destination that clients address.
    pub name: DestinationName,
    /// For HTTP/1, HTTP/2 and gRPC.
    pub http: Vec<HttpRule>,
    /// For opaque TCP.
    pub tcp: Vec<TcpRule>,
}

/// One HTTP rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRule {
    /// The object and field that decided: shown in reasons, logs and `explain`.
    pub origin: Origin,
    /// Any of these; empty matches every request.
    pub matches: Vec<HttpMatch>,
    /// What is done.
    pub action: HttpAction,
    /// What changes on the way; of each backend, its own filters after these.
    pub filters: Filters,
    /// Whole request, retries included.
    pub timeout: Timeout,
    /// Retries.
    pub retry: RetryPolicy,
}

/// What a rule does with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpAction {
    /// Send to one of these by weight. Not empty; the weights' sum is above 0.
    Forward(Vec<HttpBackend>),
    /// Answer with another place to go.
    Redirect(Redirect),
    /// The rule's configuration is invalid: answer 500 with this reason (DESIGN §2).
    Invalid {
        /// What is wrong, for the reason header.
        reason: Origin,
    },
}

/// A share of an HTTP rule's requests, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpBackend {
    /// Share among the rule's backends.
    pub weight: Weight,
    /// Where it goes.
    pub target: HttpTarget,
    /// What changes on the way there, after the rule's own filters.
    pub filters: Filters,
}

/// Where a share of requests goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpTarget {
    /// To a service.
    Backend(Backend),
    /// Nowhere: the reference is invalid, and its share is answered 500 (gRPC: UNAVAILABLE).
    Invalid {
        /// What is wrong, for the reason header.
        reason: Origin,
    },
}

/// One TCP rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpRule {
    /// The object and field that decided.
    pub origin: Origin,
    /// Not empty; the weights' sum is above 0.
    pub backends: Vec<WeightedBackend>,
}

/// A backend and its share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightedBackend {
    /// Share among the rule's backends.
    pub weight: Weight,
    /// Target.
    pub backend: Backend,
}

/// A (service, port, subset).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    /// Service and port.
    pub destination: DestinationName,
    /// `None`: all endpoints of the service.
    pub subset: Option<SubsetName>,
}

/// All conditions hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpMatch {
    /// Path without query, as received.
    pub path: PathMatch,
    /// Method.
    pub method: MethodMatch,
    /// Each must hold.
    pub headers: Vec<HeaderMatch>,
    /// Each must hold.
    pub query: Vec<QueryMatch>,
}

/// Condition on the path. The query is never part of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathMatch {
    /// Every path.
    Any,
    /// Equal, case-sensitive.
    Exact(String),
    /// Starts with this text (Istio `uri.prefix`: characters, not segments).
    Prefix(String),
    /// Its first elements are these: the same text, or it goes on with `/` (Gateway API
    /// `PathPrefix`). Not empty, and without a `/` at the end.
    Elements(String),
    /// The whole path matches this RE2-style expression (at most 1,024 characters).
    Regex(String),
}

/// Condition on one parameter of the query. Of several with the name, the first counts; names and
/// values are compared with percent-encoding undone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct QueryMatch {
    /// Name, case-sensitive.
    pub name: String,
    /// Test of its value.
    pub value: TextMatch,
}

/// Condition on the method.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MethodMatch {
    /// Every method.
    Any,
    /// A method that matches, case-sensitive (RFC 9110 §9.1).
    Text(TextMatch),
}

/// Istio's StringMatch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TextMatch {
    /// Equal, case-sensitive.
    Exact(String),
    /// Starts with.
    Prefix(String),
    /// The whole text matches this RE2-style expression (at most 1,024 characters).
    Regex(String),
}

/// Condition on one header.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeaderMatch {
    /// Name in lower case.
    pub name: String,
    /// Test of its values. Several fields of one name are matched joined by `,` (RFC 9110 §5.3).
    pub test: HeaderTest,
}

/// Test of a header.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HeaderTest {
    /// The header is there, with any value.
    Present,
    /// Its value matches.
    Value(TextMatch),
}

/// A bound in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Timeout {
    /// No bound.
    Disabled,
    /// So long; never zero.
    After(Duration),
}

/// Retries of one rule (DESIGN §5; Istio `HTTPRetry`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Retries after the first try, 0 for none, at most 255.
    pub attempts: u8,
    /// Each try.
    pub per_try_timeout: Timeout,
    /// What is retried for any method.
    pub on: RetryConditions,
    /// What is retried only for methods that are idempotent (RFC 9110 §9.2.2).
    pub on_idempotent: RetryConditions,
    /// Pause before each retry.
    pub backoff: Backoff,
    /// Bound on the load that retries add.
    pub budget: RetryBudget,
}

/// Conditions by the names that Istio and Envoy give them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a set of independent named conditions"
)]
pub struct RetryConditions {
    /// `5xx`: any 5xx answer, reset, connect failure, per-try timeout.
    pub any_5xx: bool,
    /// `gateway-error`: 502, 503, 504, reset, connect failure, per-try timeout.
    pub gateway_error: bool,
    /// `reset`: the peer closed or reset before a response head came.
    pub reset: bool,
    /// `connect-failure`: no connection was made, so nothing was sent.
    pub connect_failure: bool,
    /// `refused-stream`: REFUSED_STREAM, or GOAWAY below the stream: provably not processed.
    pub refused_stream: bool,
    /// `retriable-4xx`: 409.
    pub retriable_4xx: bool,
    /// A try that ran into `per_try_timeout`.
    pub per_try_timeout: bool,
    /// Answers with these statuses (`retriable-status-codes`, and numbers in `retryOn`).
    pub statuses: BTreeSet<u16>,
    /// gRPC answers with these codes in a trailers-only response (`cancelled` 1,
    /// `deadline-exceeded` 4, `resource-exhausted` 8, `internal` 13, `unavailable` 14).
    pub grpc_statuses: BTreeSet<u8>,
}

/// Exponential backoff: before retry n the pause is `base × 2^(n-1)`, at most `max`, of which the
/// share `jitter` is random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Backoff {
    /// First pause.
    pub base: Duration,
    /// Longest pause.
    pub max: Duration,
    /// Random share: 1 draws from zero to the full pause, 0.3 from 70 % of it to the full.
    pub jitter: Ratio,
}

/// Retries a destination may add (DEF-20: 20 % and 10 a second).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RetryBudget {
    /// Share of recent requests.
    pub percent: crate::Percent,
    /// Retries a second that are always allowed.
    pub min_per_second: u32,
}

impl RetryConditions {
    /// Whether nothing is retried.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl RouteTable {
    /// Every backend that any rule names, in order, without repetition. A sidecar keeps its old
    /// table until all of them have arrived (make before break).
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        let http = self.http.iter().flat_map(|rule| match &rule.action {
            HttpAction::Forward(backends) => backends.as_slice(),
            HttpAction::Redirect(_) | HttpAction::Invalid { .. } => &[],
        });
        let http = http.filter_map(|share| match &share.target {
            HttpTarget::Backend(backend) => Some(backend),
            HttpTarget::Invalid { .. } => None,
        });
        let tcp = self.tcp.iter().flat_map(|rule| &rule.backends);
        let mut seen = BTreeSet::new();
        http.chain(tcp.map(|weighted| &weighted.backend))
            .filter(move |backend| seen.insert(*backend))
    }
}

/// A backend that changes nothing on the way.
impl From<WeightedBackend> for HttpBackend {
    fn from(weighted: WeightedBackend) -> Self {
        Self {
            weight: weighted.weight,
            target: HttpTarget::Backend(weighted.backend),
            filters: Filters::default(),
        }
    }
}

/// `namespace/name:port` or `namespace/name:port subset v2`.
impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.destination.fmt(f)?;
        match &self.subset {
            Some(subset) => write!(f, " subset {subset}"),
            None => Ok(()),
        }
    }
}
