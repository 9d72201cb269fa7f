//! The inbound request path: from the mesh into the application.
//!
//! Short, because the caller's side has decided nearly everything: authorise, send to the
//! application, stream, account. A request is tried once; retries belong to the caller's sidecar,
//! which has the budget.

use std::{net::SocketAddr, rc::Rc};

use bytes::Bytes;
use outrigger_model::{Port, SpiffeId};
use outrigger_policy::RequestView;
use tokio::time::Instant;

use crate::{
    ending::Ending,
    exchange::{
        AttemptFailure, AttemptFailureKind, Delivery, Engine, Exchange, Handler, RequestEdit,
        ResponseEdit,
    },
    reason::{Reason, Refusal},
    telemetry::{Carried, Direction, RequestRecord, Security, Series, SeriesKey, trace::Context},
    upstream::Endpoint,
    worker::{NO_DEADLINE, Worker},
};

/// Who a connection is from, and whether it may carry requests.
#[derive(Debug, Clone)]
pub enum Admission {
    /// A sidecar that proved its identity.
    Proven(SpiffeId),
    /// Plain text, allowed by the port's policy.
    Plain,
    /// Plain text where mutual TLS is required: every request is refused with the reason.
    PlainRefused,
}

/// Handler of one inbound connection.
#[derive(Debug)]
pub struct Inbound {
    worker: Rc<Worker>,
    application: Rc<Endpoint>,
    admission: Admission,
    /// `x-forwarded-client-cert` for the application, in Envoy's form.
    client_cert: Bytes,
    series: Rc<Series>,
    /// The connection's end.
    pub ending: Rc<Ending>,
}

impl Inbound {
    /// A handler that sends to `application`.
    #[must_use]
    pub fn new(
        worker: &Rc<Worker>,
        port: Port,
        application: SocketAddr,
        admission: Admission,
    ) -> Self {
        let client_cert = match (&admission, worker.shared.tls.load_full()) {
            (Admission::Proven(peer), Some(own)) => format!("By={};URI={peer}", own.identity),
            (Admission::Proven(peer), None) => format!("URI={peer}"),
            (Admission::Plain | Admission::PlainRefused, _) => String::new(),
        };
        let peer = match &admission {
            Admission::Proven(peer) => Some(peer.clone()),
            Admission::Plain | Admission::PlainRefused => None,
        };
        Self {
            worker: Rc::clone(worker),
            ending: worker.ending(),
            application: worker.application(application),
            admission,
            client_cert: client_cert.into(),
            series: worker.series(&SeriesKey::Inbound { port, peer }),
        }
    }

    /// Phase 1: may this connection carry requests? (Authorisation by policy joins here.)
    fn authorise(&self) -> Result<(), Refusal> {
        match self.admission {
            Admission::Proven(_) | Admission::Plain => Ok(()),
            Admission::PlainRefused => Err(Refusal::new(Reason::PlaintextRefused)
                .detail("this port requires mutual TLS: call it through a sidecar")),
        }
    }

    /// What the application sees beside what the caller sent.
    fn edit(&self, request: &impl RequestView, trace: &Context) -> RequestEdit {
        let mut edit = RequestEdit {
            remove: &["x-forwarded-client-cert"],
            ..Default::default()
        };
        if !self.client_cert.is_empty() {
            edit.set
                .push(("x-forwarded-client-cert", self.client_cert.clone()));
        }
        if let Admission::Proven(_) = self.admission {
            request.visit_header("x-outrigger-attempt", &mut |value| {
                if value.len() <= 3 && value.iter().all(u8::is_ascii_digit) {
                    edit.set
                        .push(("x-outrigger-attempt", Bytes::copy_from_slice(value)));
                }
            });
        }
        trace.apply(&mut edit);
        edit
    }

    /// The identity and security of the connection.
    fn from(&self) -> (Option<&SpiffeId>, Security) {
        match &self.admission {
            Admission::Proven(peer) => (Some(peer), Security::MutualTls),
            Admission::Plain | Admission::PlainRefused => (None, Security::None),
        }
    }

    fn refusal(&self, failure: &AttemptFailure) -> Refusal {
        let reason = match failure.kind {
            AttemptFailureKind::Connect => Reason::ApplicationUnavailable,
            AttemptFailureKind::Reset => Reason::UpstreamReset,
            AttemptFailureKind::RefusedStream => Reason::RefusedStream,
            AttemptFailureKind::Protocol => Reason::UpstreamProtocol,
            AttemptFailureKind::Timeout => Reason::RequestTimeout,
            AttemptFailureKind::PendingFull => Reason::PendingFull,
            AttemptFailureKind::PendingTimeout => Reason::PendingTimeout,
            AttemptFailureKind::Handshake | AttemptFailureKind::NoCertificate => Reason::Internal,
            AttemptFailureKind::Downstream(reason) => {
                return Refusal::new(reason).detail(failure.detail.clone());
            }
            AttemptFailureKind::ClientGone => Reason::ClientGone,
        };
        // Callers are told what happened, not where the application listens.
        Refusal::new(reason).detail(format!("application: {}", failure.detail))
    }
}

impl Handler for Inbound {
    fn rejected(&self, engine: Engine, refusal: &Refusal) {
        let (peer, security) = self.from();
        let record = RequestRecord {
            peer,
            security,
            ..RequestRecord::unread(Direction::Inbound, engine, refusal)
        };
        self.worker.shared.telemetry.record(&record, &self.series);
    }

    async fn handle<E: Exchange>(&self, exchange: &mut E) {
        let work = self.ending.work();
        exchange.watch(work.hold());
        let trace = self.worker.begin_trace(exchange.request());
        let mut work = Work {
            inbound: self,
            exchange,
            begun: Instant::now(),
            trace,
            answered: Answered::default(),
            accounted: false,
        };
        let delivery = work.run().await;
        work.account(&delivery);
    }
}

/// What the caller got.
#[derive(Default)]
struct Answered {
    status: u16,
    refusal: Option<Refusal>,
}

/// A request under way: recorded also when it is cut off.
struct Work<'a, E: Exchange> {
    inbound: &'a Inbound,
    exchange: &'a mut E,
    begun: Instant,
    trace: Context,
    answered: Answered,
    accounted: bool,
}

impl<E: Exchange> Work<'_, E> {
    async fn run(&mut self) -> Delivery {
        let sent = self.inbound.send(self.exchange, &self.trace).await;
        let refusal = match sent {
            Ok(status) => {
                self.answered.status = status;
                let edit = ResponseEdit::default();
                return self.exchange.deliver(&edit, NO_DEADLINE).await;
            }
            Err(refusal) if refusal.reason == Reason::ClientGone => {
                return self.exchange.abandon();
            }
            Err(refusal) => refusal,
        };
        // What is sent: gRPC has its status in a field of its own.
        self.answered.status = if self.exchange.is_grpc() {
            200
        } else {
            refusal.status()
        };
        let delivery = self.exchange.refuse(&refusal).await;
        self.answered.refusal = Some(refusal);
        delivery
    }

    fn account(&mut self, delivery: &Delivery) {
        self.accounted = true;
        self.inbound.account(
            self.exchange,
            &self.trace,
            self.begun,
            &self.answered,
            delivery,
        );
    }
}

impl<E: Exchange> Drop for Work<'_, E> {
    fn drop(&mut self) {
        if self.accounted {
            return;
        }
        self.answered.refusal = Some(Refusal::cut_off());
        self.account(&Delivery::so_far(self.exchange));
    }
}

impl Inbound {
    async fn send<E: Exchange>(&self, exchange: &mut E, trace: &Context) -> Result<u16, Refusal> {
        self.worker.shared.limits.overload.admit()?;
        self.authorise()?;
        let edit = self.edit(exchange.request(), trace);
        let head = exchange
            .attempt(&self.application, &edit, NO_DEADLINE)
            .await;
        head.map(|head| head.status)
            .map_err(|failure| self.refusal(&failure))
    }

    fn account<E: Exchange>(
        &self,
        exchange: &E,
        trace: &Context,
        begun: Instant,
        answered: &Answered,
        delivery: &Delivery,
    ) {
        let request = exchange.request();
        let (peer, security) = self.from();
        let refusal = answered.refusal.as_ref();
        let record = RequestRecord {
            direction: Direction::Inbound,
            carried: Carried::of(exchange.engine(), exchange.is_grpc()),
            method: request.method(),
            path: request.path(),
            authority: exchange.authority(),
            destination: None,
            backend: None,
            endpoint: Some(self.application.address),
            peer,
            security,
            status: delivery.status(answered.status),
            grpc_status: delivery.grpc_status,
            reason: refusal.map(|refusal| refusal.reason).or(delivery.reason()),
            detail: refusal.map_or("", |refusal| &refusal.detail),
            origin: refusal.and_then(|refusal| refusal.origin.as_ref()),
            attempts: 1,
            duration: begun.elapsed(),
            request_bytes: delivery.request_bytes,
            response_bytes: delivery.response_bytes,
            traceparent: trace.traceparent(),
        };
        self.worker
            .shared
            .telemetry
            .finish(&record, &self.series, trace);
    }
}
