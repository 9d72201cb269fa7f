//! The outbound request path: from the application into the mesh.
//!
//! [`Outbound::forward`] names the phases in DESIGN §5's order and reads in it; each phase is one
//! call. Decisions are `outrigger-policy`'s, bytes are the engine's; this file is the order.
//!
//! The backend is drawn once for each request and kept for its retries: a traffic split is one of
//! requests, not of tries.

mod call;
mod captured;

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use outrigger_model::{HttpTarget, Origin, Port};
use outrigger_policy::{
    RequestView, filter,
    retry::{Decision, Failed, Idempotency, Replay},
    route::{CompiledRule, RuleAction},
};
use tokio::time::Instant;

use crate::{
    cluster::{Account, Cluster},
    ending::Ending,
    exchange::{AttemptFailure, Engine, Exchange, Handler, ResponseHead},
    reason::{Reason, Refusal},
    snapshot::Service,
    telemetry::{Direction, RequestRecord, RetryCause, SeriesKey},
    worker::Worker,
};
use call::Call;
pub use captured::Captured;

/// Which service a connection's requests are for.
#[derive(Debug, Clone)]
pub enum Scope {
    /// Explicit mode: this one, `host:port`.
    Destination(Box<str>),
    /// The one that each request's authority names; port 80 if it names none.
    ForwardProxy,
    /// The one that each request's authority names, else the one of the original destination.
    Captured(Captured),
}

impl Scope {
    /// The endpoint that the client itself addressed.
    pub(crate) fn pinned(&self, service: &Service) -> Option<SocketAddr> {
        match self {
            Self::Captured(captured) => captured.pinned(service),
            Self::Destination(_) | Self::ForwardProxy => None,
        }
    }
}

/// Handler of one outbound connection.
#[derive(Debug)]
pub struct Outbound {
    worker: Rc<Worker>,
    scope: Scope,
    /// The connection's end.
    pub ending: Rc<Ending>,
}

impl Outbound {
    /// A handler for a connection.
    #[must_use]
    pub fn new(worker: Rc<Worker>, scope: Scope) -> Self {
        let ending = worker.ending();
        Self {
            worker,
            scope,
            ending,
        }
    }

    /// Phases 1 to 9; what it returns is still to be delivered.
    async fn forward<E: Exchange>(
        &self,
        exchange: &mut E,
        call: &mut Call,
    ) -> Result<ResponseHead, Refusal> {
        self.worker.shared.limits.overload.admit()?;
        // 1. Service, port, route and policy.
        let service = self.service(exchange).await?;
        call.destination = Some(service.destination.name.clone());
        call.pinned = self.scope.pinned(&service);
        call.path = canonical(&service, exchange.request().path())?;
        let rule = route(&service, &call.canonical(exchange.request()))?;
        call.origin = Some(rule.origin.clone());
        // 2. The deadline starts. (Fault injection and rate limit will stand before it.)
        call.start_deadline(rule, exchange.request());
        // 3. Backend; 4. its bulkhead. (Fallback will wrap what follows, 5. a breaker stand here.)
        let cluster = self.backend(&service, rule, exchange, call)?;
        call.admit(&cluster)?;
        // 6. Retry loop.
        loop {
            // 7. Endpoint by the balancer.
            let account = self.pick(&cluster, rule, call)?;
            // 8. Connection, send.
            let result = call.attempt(exchange, account, rule).await;
            // 9. The outcome was fed to estimate and detector; what follows from it?
            let outcome = call.retried_outcome(&result, &rule.retry);
            let failed = Failed {
                policy: &rule.retry,
                idempotency: Idempotency::of_method(exchange.request().method()),
                outcome,
                retries: call.retries(),
                body: if exchange.can_replay() {
                    Replay::Possible
                } else {
                    Replay::TooLarge
                },
                deadline: call.deadline,
            };
            let now = Instant::now().into_std();
            let decision = cluster.decide(&failed, now, &mut self.worker.rng.borrow_mut());
            match decision {
                Decision::Retry { pause, permit } => {
                    exchange.discard().await;
                    self.worker
                        .shared
                        .telemetry
                        .retry(&cluster.series, retry_cause(&result));
                    tokio::time::sleep(pause).await;
                    call.retry_place = Some(permit);
                }
                Decision::GiveUp(why) => {
                    let origins = (&rule.origin, &cluster.policy_origin());
                    return result.map_err(|failure| call.refusal(&failure, why, origins));
                }
            }
        }
    }

    async fn service<E: Exchange>(&self, exchange: &E) -> Result<Arc<Service>, Refusal> {
        match &self.scope {
            Scope::Destination(authority) => self.worker.service(authority).await,
            Scope::ForwardProxy => {
                let authority = named_service(exchange.authority());
                self.worker.service(&authority).await
            }
            Scope::Captured(captured) => captured.service(&self.worker, exchange.authority()).await,
        }
    }

    /// The backend by weight, as this worker knows it.
    fn backend<E: Exchange>(
        &self,
        service: &Service,
        rule: &CompiledRule,
        exchange: &E,
        call: &mut Call,
    ) -> Result<Rc<Cluster>, Refusal> {
        let refuse = |reason, detail: &Origin| {
            let refusal = Refusal::new(reason).detail(detail.as_str().to_owned());
            Err(refusal.by(&rule.origin))
        };
        let choice = match &rule.action {
            RuleAction::Forward(split) => split.pick(&mut self.worker.rng.borrow_mut()),
            RuleAction::Redirect(redirect) => {
                let authority = exchange.authority();
                let request = call.canonical(exchange.request());
                let location = filter::location(redirect, authority, &request);
                let refusal = Refusal::redirect(redirect.status.get(), location);
                return Err(refusal.by(&rule.origin));
            }
            RuleAction::Invalid { reason } => return refuse(Reason::RouteInvalid, reason),
        };
        let backend = match &choice.target {
            HttpTarget::Backend(backend) => backend,
            HttpTarget::Invalid { reason } => return refuse(Reason::BackendInvalid, reason),
        };
        call.changes = choice.changes.clone();
        call.backend = Some(backend.clone());
        let target = service.targets.get(backend).ok_or_else(|| {
            Refusal::new(Reason::NoEndpoint)
                .detail(backend.to_string())
                .by(&rule.origin)
        })?;
        let cluster = self.worker.cluster(target);
        call.series = Some(Rc::clone(&cluster.series));
        Ok(cluster)
    }

    fn pick(
        &self,
        cluster: &Rc<Cluster>,
        rule: &CompiledRule,
        call: &mut Call,
    ) -> Result<Account, Refusal> {
        let now = Instant::now().into_std();
        let pinned = call
            .pinned
            .and_then(|address| cluster.pick_at(address, now));
        let picked =
            pinned.or_else(|| cluster.pick(&call.tried, now, &mut self.worker.rng.borrow_mut()));
        let Some(picked) = picked else {
            let (all, out) = cluster.health();
            let backend = cluster.backend().to_string();
            let detail = match all {
                0 => format!("{backend} has no endpoint"),
                _ => {
                    format!("{backend}: {out} of {all} endpoints are ejected, none takes requests")
                }
            };
            // Outlier detection is the DestinationRule's.
            let by = if out > 0 {
                cluster.policy_origin()
            } else {
                rule.origin.clone()
            };
            return Err(Refusal::new(Reason::NoEndpoint).detail(detail).by(&by));
        };
        call.tried.push(picked.endpoint.address);
        call.endpoint = Some(Rc::clone(&picked.endpoint));
        Ok(Account::new(cluster, picked))
    }
}

/// Why a try is repeated, for the metric.
fn retry_cause(result: &Result<ResponseHead, AttemptFailure>) -> RetryCause {
    match result {
        Ok(ResponseHead {
            refused: Some(reason),
            ..
        }) if RetryCause::of_peer(*reason).is_some() => {
            RetryCause::of_peer(*reason).unwrap_or(RetryCause::Status)
        }
        Ok(ResponseHead {
            grpc_status: Some(_),
            ..
        }) => RetryCause::GrpcStatus,
        Ok(ResponseHead {
            grpc_status: None, ..
        }) => RetryCause::Status,
        Err(failure) => RetryCause::of(failure.kind).unwrap_or(RetryCause::Reset),
    }
}

/// The path to decide on and to send, where it is another than the request's.
fn canonical(service: &Service, path: &str) -> Result<Option<Box<str>>, Refusal> {
    service.http.canonical(path).map_err(|error| {
        let detail = format!("{error}; {} routes by path", service.destination.name);
        Refusal::new(Reason::BadRequest("path-ambiguous")).detail(detail)
    })
}

/// The rule that the route table gives this request.
fn route<'s>(
    service: &'s Service,
    request: &impl RequestView,
) -> Result<&'s CompiledRule, Refusal> {
    service.http.find(request).ok_or_else(|| {
        let detail = format!("no rule of {} matches", service.destination.name);
        Refusal::new(Reason::NoRoute).detail(detail)
    })
}

/// `host:port` in lower case; port 80 where the authority names none (RFC 9110 §4.2.1). Only
/// forward-proxied requests pay this allocation.
fn named_service(authority: &str) -> String {
    let mut text = authority.to_ascii_lowercase();
    let port = authority
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse::<u16>().ok());
    if port.and_then(|port| Port::new(port).ok()).is_none() {
        text.push_str(":80");
    }
    text
}

impl Handler for Outbound {
    fn rejected(&self, engine: Engine, refusal: &Refusal) {
        let record = RequestRecord::unread(Direction::Outbound, engine, refusal);
        let series = self.worker.series(&SeriesKey::UnknownService);
        self.worker.shared.telemetry.record(&record, &series);
    }

    async fn handle<E: Exchange>(&self, exchange: &mut E) {
        let work = self.ending.work();
        exchange.watch(work.hold());
        let call = Call::new(self.worker.begin_trace(exchange.request()));
        let mut work = Work {
            worker: &self.worker,
            exchange,
            call,
        };
        let answer = self.forward(work.exchange, &mut work.call).await;
        let delivery = work.call.answer(work.exchange, answer).await;
        work.call.account(work.exchange, &delivery, &self.worker);
    }
}

/// A request under way: recorded also when it is cut off.
struct Work<'a, E: Exchange> {
    worker: &'a Worker,
    exchange: &'a mut E,
    call: Call,
}

impl<E: Exchange> Drop for Work<'_, E> {
    fn drop(&mut self) {
        self.call.cut(self.exchange, self.worker);
    }
}
