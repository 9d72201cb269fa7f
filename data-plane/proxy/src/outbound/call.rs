//! One outbound request's record: what was decided, how often it was tried, how it ended.
//!
//! Longer than most, because what a try came to is said here in four ways (outcome, retried outcome,
//! refusal, record) that must agree.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use bytes::Bytes;
use outrigger_model::{Backend, DestinationName, Origin, Peer, RetryPolicy};
use outrigger_policy::{
    RequestView,
    admission::Permit,
    deadline::{Bound, Deadline as PolicyDeadline, Remaining, write_grpc_timeout},
    filter::{self, Changes},
    outcome::AttemptOutcome,
    path::Canonical,
    retry::{GiveUp, covers},
    route::CompiledRule,
};
use smallvec::SmallVec;
use tokio::time::{Instant, timeout_at};

use crate::{
    cluster::{Account, Cluster},
    exchange::{
        AttemptFailure, AttemptFailureKind as Kind, Deadline, Delivery, DeliveryEnd, Exchange,
        RequestEdit, ResponseEdit, ResponseHead,
    },
    reason::{Reason, Refusal},
    telemetry::{Carried, Direction, RequestRecord, Security, Series, SeriesKey, trace::Context},
    upstream::Endpoint,
    worker::Worker,
};

/// What is known of a request so far.
pub(super) struct Call {
    begun: Instant,
    trace: Context,
    pub(super) deadline: PolicyDeadline,
    /// Which bound the present try runs under.
    bound: Bound,
    pub(super) destination: Option<DestinationName>,
    pub(super) backend: Option<Backend>,
    pub(super) origin: Option<Origin>,
    /// The path that was decided on, where it is another than the request's own (DEF-33).
    pub(super) path: Option<Box<str>>,
    /// What the route changes on the way to the backend.
    pub(super) changes: Option<Arc<Changes>>,
    /// Metric cells of the backend.
    pub(super) series: Option<Rc<Series>>,
    /// Endpoint of the last try.
    pub(super) endpoint: Option<Rc<Endpoint>>,
    /// The account of the try whose answer is being delivered.
    account: Option<Account>,
    /// The endpoint that the client itself addressed.
    pub(super) pinned: Option<SocketAddr>,
    /// Endpoints tried, in order.
    pub(super) tried: SmallVec<[SocketAddr; 4]>,
    /// Its place among the backend's requests in flight.
    place: Option<Permit>,
    /// The present retry's place among those running.
    pub(super) retry_place: Option<Permit>,
    status: u16,
    refusal: Option<Refusal>,
    /// The reason of the endpoint's sidecar, where the answer passed on is its.
    peer_reason: Option<Reason>,
    /// Whether the caller named a `grpc-timeout`: then each try tells what is left of it.
    tells_timeout: bool,
    /// Told to telemetry.
    accounted: bool,
}

impl Call {
    pub(super) fn new(trace: Context) -> Self {
        Self {
            begun: Instant::now(),
            trace,
            deadline: PolicyDeadline::None,
            bound: Bound::Request,
            destination: None,
            backend: None,
            origin: None,
            path: None,
            changes: None,
            series: None,
            endpoint: None,
            account: None,
            pinned: None,
            tried: SmallVec::new(),
            place: None,
            retry_place: None,
            status: 0,
            refusal: None,
            peer_reason: None,
            tells_timeout: false,
            accounted: false,
        }
    }

    /// The route's timeout, or the caller's `grpc-timeout` if that is shorter.
    pub(super) fn start_deadline(&mut self, rule: &CompiledRule, request: &impl RequestView) {
        let mut grpc_timeout: Option<SmallVec<[u8; 16]>> = None;
        request.visit_header("grpc-timeout", &mut |value| {
            grpc_timeout = Some(value.into())
        });
        self.tells_timeout = grpc_timeout.is_some();
        let begun = self.begun.into_std();
        self.deadline = PolicyDeadline::of_request(rule.timeout, grpc_timeout.as_deref(), begun);
    }

    /// Takes a place among the backend's requests in flight, held until the answer is through.
    pub(super) fn admit(&mut self, cluster: &Cluster) -> Result<(), Refusal> {
        let place = cluster.admit(Instant::now().into_std());
        self.place = Some(place.ok_or_else(|| {
            Refusal::new(Reason::RequestsFull)
                .detail(cluster.backend().to_string())
                .by(&cluster.policy_origin())
        })?);
        Ok(())
    }

    /// The request under the path that was decided on.
    pub(super) fn canonical<'a, R: RequestView>(&'a self, request: &'a R) -> Canonical<'a, R> {
        Canonical {
            request,
            path: self.path.as_deref(),
        }
    }

    /// Retries made so far.
    pub(super) fn retries(&self) -> u8 {
        u8::try_from(self.tried.len().saturating_sub(1)).unwrap_or(u8::MAX)
    }

    /// One try, its outcome told to the endpoint's account. That of an answer stays open until the
    /// answer is through: it may yet break off, or end with a gRPC status that is a failure.
    pub(super) async fn attempt<E: Exchange>(
        &mut self,
        exchange: &mut E,
        mut account: Account,
        rule: &CompiledRule,
    ) -> Result<ResponseHead, AttemptFailure> {
        self.account = None;
        let Some(endpoint) = self.endpoint.clone() else {
            return Err(AttemptFailure::new(Kind::Connect, "no endpoint"));
        };
        let now = Instant::now();
        let (until, bound) = self
            .deadline
            .of_try(rule.retry.per_try_timeout, now.into_std());
        self.bound = bound;
        let deadline = Deadline(match until {
            PolicyDeadline::None => None,
            PolicyDeadline::At(at) => Some(Instant::from_std(at)),
        });
        let left = until.remaining(now.into_std());
        let edit = self.edit(&endpoint, exchange.request(), left);
        let trying = exchange.attempt(&endpoint, &edit, deadline);
        let result = match deadline.0 {
            // The engine keeps the deadline too; this holds where a wait of its own forgets it.
            Some(at) => timeout_at(at, trying)
                .await
                .unwrap_or_else(|_| Err(AttemptFailure::new(Kind::Timeout, "no response in time"))),
            None => trying.await,
        };
        self.retry_place = None;
        let outcome = self.outcome(&result);
        if result.is_ok() {
            account.answered(outcome);
            self.account = Some(account);
        } else {
            account.close(outcome);
        }
        result
    }

    fn edit(
        &self,
        endpoint: &Endpoint,
        request: &impl RequestView,
        left: Remaining,
    ) -> RequestEdit {
        let changes = self.changes.as_ref();
        let request = &self.canonical(request);
        let mut edit = RequestEdit {
            remove: &["x-forwarded-client-cert"],
            target: changes
                .and_then(|changes| changes.target(request))
                .or_else(|| self.path.is_some().then(|| filter::target(request))),
            changes: changes.cloned(),
            ..Default::default()
        };
        self.trace.apply(&mut edit);
        if let Remaining::For(left) = left
            && self.tells_timeout
        {
            let mut buffer = [0; 9];
            let value = write_grpc_timeout(left, &mut buffer);
            edit.set
                .push(("grpc-timeout", Bytes::copy_from_slice(value)));
        }
        if self.tried.len() > 1 && matches!(endpoint.peer, Peer::Meshed(_)) {
            edit.set.push((
                "x-outrigger-attempt",
                Bytes::from(self.tried.len().to_string()),
            ));
        }
        edit
    }

    /// The policy's word for what came of a try.
    pub(super) fn outcome(&self, result: &Result<ResponseHead, AttemptFailure>) -> AttemptOutcome {
        match result {
            Ok(head) => match head.refused.and_then(of_refusal) {
                Some(outcome) => outcome,
                None => of_answer(head),
            },
            Err(failure) => match failure.kind {
                Kind::Connect => AttemptOutcome::ConnectFailed,
                Kind::Handshake => AttemptOutcome::HandshakeFailed,
                Kind::RefusedStream => AttemptOutcome::RefusedStream,
                Kind::Reset => AttemptOutcome::ResetBeforeHead,
                Kind::Protocol => AttemptOutcome::InvalidResponse,
                Kind::Timeout => match self.bound {
                    Bound::Try => AttemptOutcome::PerTryTimeout,
                    Bound::Request => AttemptOutcome::OverallTimeout,
                },
                Kind::PendingFull | Kind::PendingTimeout | Kind::NoCertificate => {
                    AttemptOutcome::HeldBack
                }
                Kind::Downstream(_) | Kind::ClientGone => AttemptOutcome::DownstreamGone,
            },
        }
    }

    /// The outcome as the retry policy is asked for it: what a peer's sidecar says happened,
    /// unless the policy names only the status in which it said so.
    pub(super) fn retried_outcome(
        &self,
        result: &Result<ResponseHead, AttemptFailure>,
        policy: &RetryPolicy,
    ) -> AttemptOutcome {
        let outcome = self.outcome(result);
        match result {
            Ok(head)
                if head.refused.is_some()
                    && !covers(&policy.on, outcome)
                    && !covers(&policy.on_idempotent, outcome) =>
            {
                of_answer(head)
            }
            Ok(_) | Err(_) => outcome,
        }
    }

    /// The answer of the mesh where no try brought one.
    pub(super) fn refusal(
        &self,
        failure: &AttemptFailure,
        why: GiveUp,
        (rule, policy): (&Origin, &Origin),
    ) -> Refusal {
        let reason = match failure.kind {
            Kind::Connect => Reason::ConnectFailed,
            Kind::Handshake => Reason::HandshakeFailed,
            Kind::NoCertificate => Reason::NoCertificate,
            Kind::PendingFull => Reason::PendingFull,
            Kind::PendingTimeout => Reason::PendingTimeout,
            Kind::RefusedStream => Reason::RefusedStream,
            Kind::Reset => Reason::UpstreamReset,
            Kind::Protocol => Reason::UpstreamProtocol,
            Kind::Timeout => match self.bound {
                Bound::Try => Reason::PerTryTimeout,
                Bound::Request => Reason::RequestTimeout,
            },
            Kind::Downstream(reason) => reason,
            Kind::ClientGone => Reason::ClientGone,
        };
        let detail = match (failure.kind, &self.endpoint) {
            (Kind::Connect | Kind::Handshake, Some(endpoint)) => {
                format!("{}: {}", endpoint.address, failure.detail)
            }
            _ => failure.detail.to_string(),
        };
        if why == GiveUp::AttemptsExhausted && self.tried.len() > 1 {
            let tries = self.tried.len();
            let detail = format!("{tries} tries, the last: {}: {detail}", reason.slug());
            let mut refusal = Refusal::new(Reason::RetriesExhausted)
                .detail(detail)
                .by(rule);
            refusal.status = Some(reason.status());
            return refusal;
        }
        let detail = match why {
            GiveUp::NotRetried | GiveUp::AttemptsExhausted => detail,
            GiveUp::NotIdempotent
            | GiveUp::BodyTooLarge
            | GiveUp::DeadlineNear
            | GiveUp::BudgetExhausted
            | GiveUp::TooManyRunning => format!("{detail} ({})", why.as_str()),
        };
        let by = match failure.kind {
            Kind::PendingFull | Kind::PendingTimeout => policy,
            _ => rule,
        };
        Refusal::new(reason).detail(detail).by(by)
    }

    /// Ends the exchange: the upstream's response, or the mesh's.
    pub(super) async fn answer<E: Exchange>(
        &mut self,
        exchange: &mut E,
        answer: Result<ResponseHead, Refusal>,
    ) -> Delivery {
        let refusal = match answer {
            Ok(head) => {
                self.status = head.status;
                self.peer_reason = head.refused;
                let delivery = self.deliver(exchange).await;
                if let Some(account) = self.account.take() {
                    account.ended(self.broken(&delivery));
                }
                return delivery;
            }
            Err(refusal) => refusal,
        };
        if refusal.reason == Reason::ClientGone {
            return exchange.abandon();
        }
        // What is sent: gRPC has its status in a field of its own, but no word for a redirect.
        self.status = if exchange.is_grpc() && refusal.location.is_none() {
            200
        } else {
            refusal.status()
        };
        let delivery = exchange.refuse(&refusal).await;
        self.refusal = Some(refusal);
        delivery
    }

    /// What the end of an answer says of the endpoint beyond its head. Deadline and idleness say
    /// nothing: it may be the client that does not read. In a tunnel (101) the protocol is the
    /// application's own, and so is the way to end it.
    fn broken(&self, delivery: &Delivery) -> Option<AttemptOutcome> {
        match delivery.end {
            DeliveryEnd::UpstreamReset if self.status != 101 => {
                Some(AttemptOutcome::ResetAfterHead)
            }
            DeliveryEnd::Complete => delivery
                .grpc_status
                .map(|code| AttemptOutcome::Grpc { code }),
            DeliveryEnd::UpstreamReset
            | DeliveryEnd::DownstreamClosed
            | DeliveryEnd::Idle
            | DeliveryEnd::DeadlinePassed
            | DeliveryEnd::HeldMost => None,
        }
    }

    async fn deliver<E: Exchange>(&self, exchange: &mut E) -> Delivery {
        let meshed = self.security() == Security::MutualTls;
        let edit = ResponseEdit {
            keep_reserved: meshed,
            changes: self.changes.clone(),
            ..ResponseEdit::default()
        };
        let deadline = Deadline(match self.deadline {
            PolicyDeadline::None => None,
            PolicyDeadline::At(at) => Some(Instant::from_std(at)),
        });
        exchange.deliver(&edit, deadline).await
    }

    fn security(&self) -> Security {
        match self.endpoint.as_ref().map(|endpoint| &endpoint.peer) {
            Some(Peer::Meshed(_)) => Security::MutualTls,
            Some(Peer::Plain) => Security::None,
            None => Security::Unknown,
        }
    }

    /// Records a request whose work was dropped: the drain's time was up, or the worker panicked.
    pub(super) fn cut<E: Exchange>(&mut self, exchange: &E, worker: &Worker) {
        if self.accounted {
            return;
        }
        self.refusal = Some(Refusal::cut_off());
        self.account(exchange, &Delivery::so_far(exchange), worker);
    }

    /// Hands the finished request to telemetry.
    pub(super) fn account<E: Exchange>(
        &mut self,
        exchange: &E,
        delivery: &Delivery,
        worker: &Worker,
    ) {
        self.accounted = true;
        let request = exchange.request();
        let refusal = self.refusal.as_ref();
        let reason = refusal.map(|refusal| refusal.reason);
        let endpoint = self.endpoint.as_ref();
        let record = RequestRecord {
            direction: Direction::Outbound,
            carried: Carried::of(exchange.engine(), exchange.is_grpc()),
            method: request.method(),
            path: request.path(),
            authority: exchange.authority(),
            destination: self.destination.as_ref(),
            backend: self.backend.as_ref(),
            endpoint: endpoint.map(|endpoint| endpoint.address),
            peer: endpoint.and_then(|endpoint| match &endpoint.peer {
                Peer::Meshed(identity) => Some(identity),
                Peer::Plain => None,
            }),
            security: self.security(),
            status: delivery.status(self.status),
            grpc_status: delivery.grpc_status,
            reason: reason.or(delivery.reason()).or(self.peer_reason),
            detail: refusal.map_or("", |refusal| &refusal.detail),
            origin: refusal
                .and_then(|refusal| refusal.origin.as_ref())
                .or(self.origin.as_ref()),
            attempts: u32::try_from(self.tried.len()).unwrap_or(u32::MAX),
            duration: self.begun.elapsed(),
            request_bytes: delivery.request_bytes,
            response_bytes: delivery.response_bytes,
            traceparent: self.trace.traceparent(),
        };
        let series = match (&self.series, &self.destination) {
            (Some(series), _) => Rc::clone(series),
            (None, Some(name)) => worker.series(&SeriesKey::Unrouted(name.clone())),
            (None, None) => worker.series(&SeriesKey::UnknownService),
        };
        worker
            .shared
            .telemetry
            .finish(&record, &series, &self.trace);
    }
}

/// What an answer is by its own status.
fn of_answer(head: &ResponseHead) -> AttemptOutcome {
    match head.grpc_status {
        Some(code) => AttemptOutcome::Grpc { code },
        None => AttemptOutcome::Response {
            status: head.status,
        },
    }
}

/// What happened between the endpoint's sidecar and its application, where that sidecar answered
/// in its place; `None` where the status says it as well.
fn of_refusal(reason: Reason) -> Option<AttemptOutcome> {
    match reason {
        Reason::ApplicationUnavailable | Reason::ConnectFailed => {
            Some(AttemptOutcome::ConnectFailed)
        }
        Reason::RefusedStream => Some(AttemptOutcome::RefusedStream),
        Reason::UpstreamReset => Some(AttemptOutcome::ResetBeforeHead),
        Reason::UpstreamProtocol => Some(AttemptOutcome::InvalidResponse),
        _ => None,
    }
}
