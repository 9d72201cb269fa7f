//! Opaque connections: outbound by the TCP rules of a service, inbound to the application.
//!
//! A connection is tried on up to three endpoints while nothing has been sent; after that it is
//! the application's protocol that knows what may be repeated, so nothing is.
//!
//! A connection that did not come to its end on both sides is broken off on both: a reset stays a
//! reset, because an opaque protocol may know the end of a transfer by nothing else.
//!
//! Longer than most, because both sides share the relay and the rule that what is cut is recorded.

use std::{future::poll_fn, io, net::SocketAddr, pin::Pin, rc::Rc, sync::Arc, time::Duration};

use bytes::BytesMut;
use outrigger_model::{Backend, Origin, Peer, Port, SpiffeId};
use outrigger_policy::outcome::AttemptOutcome;
use smallvec::SmallVec;
use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf},
    time::{Instant, sleep},
};

use crate::{
    cluster::Account,
    exchange::{AttemptFailure, AttemptFailureKind as Kind},
    hold::Hold,
    io::Io,
    reason::{Reason, Refusal},
    snapshot::Service,
    tcp::{Moved, RelayEnd, relay},
    telemetry::{Carried, Direction, RequestRecord, RetryCause, Security, Series, SeriesKey},
    tls::Alpn,
    upstream::{Connection, Endpoint},
    worker::{NO_DEADLINE, Worker},
};

/// Endpoints tried for one connection.
const TRIES_MAX: usize = 3;
/// DEF-14: a relay in which nothing moves for so long is taken for dead.
const IDLE_MAX: Duration = Duration::from_secs(3600);
/// Bytes read ahead from a server that speaks first; the rest waits in the socket.
const AHEAD_BYTES: usize = 1024;
/// DEF-10: how long a silent client is kept when its upstream could not be opened.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// An upstream connection opened for opaque bytes.
#[derive(Debug)]
pub(crate) struct Opened {
    connection: Connection,
    endpoint: Rc<Endpoint>,
    /// None outside the mesh.
    backend: Option<Backend>,
    origin: Option<Origin>,
    series: Rc<Series>,
    /// Open until it is certain that the connection carries something: one that was only made
    /// while the protocol was being found out says nothing about the endpoint.
    account: Option<Account>,
    ahead: Ahead,
    tries: u32,
}

/// What a server said before the client did.
#[derive(Debug, Default)]
struct Ahead {
    said: BytesMut,
    /// It broke off after that. The socket tells so only once.
    broken: Option<io::Error>,
}

/// Opens a connection to one of the service's TCP backends. Cancel safe: yes.
/// `pinned` is the endpoint that the client itself addressed, if it did.
pub(crate) async fn open(
    worker: &Rc<Worker>,
    service: &Service,
    pinned: Option<SocketAddr>,
) -> Result<Opened, Refusal> {
    worker.shared.limits.overload.admit()?;
    let rule = service.tcp.find().ok_or_else(|| {
        Refusal::new(Reason::NoRoute)
            .detail(format!("{} has no TCP rule", service.destination.name))
    })?;
    let backend = rule.backends.pick(&mut worker.rng.borrow_mut()).clone();
    let no_endpoint = || {
        Refusal::new(Reason::NoEndpoint)
            .detail(backend.to_string())
            .by(&rule.origin)
    };
    let target = service.targets.get(&backend).ok_or_else(no_endpoint)?;
    let cluster = worker.cluster(target);
    let mut tried: SmallVec<[SocketAddr; TRIES_MAX]> = SmallVec::new();
    loop {
        let now = Instant::now().into_std();
        let picked = pinned
            .and_then(|address| cluster.pick_at(address, now))
            .or_else(|| cluster.pick(&tried, now, &mut worker.rng.borrow_mut()));
        let picked = picked.ok_or_else(no_endpoint)?;
        let endpoint = Rc::clone(&picked.endpoint);
        tried.push(endpoint.address);
        let account = Account::new(&cluster, picked);
        match endpoint.open(Alpn::Tcp, NO_DEADLINE).await {
            Ok(connection) => {
                return Ok(Opened {
                    connection,
                    endpoint,
                    backend: Some(backend),
                    origin: Some(rule.origin.clone()),
                    series: Rc::clone(&cluster.series),
                    account: Some(account),
                    ahead: Ahead::default(),
                    tries: u32::try_from(tried.len()).unwrap_or(u32::MAX),
                });
            }
            Err(failure) => {
                let outcome = outcome(&failure);
                account.close(outcome);
                // Held back by the backend's own bounds: elsewhere they are the same.
                if tried.len() >= TRIES_MAX || outcome == AttemptOutcome::HeldBack {
                    let policy = cluster.policy_origin();
                    let by = match outcome {
                        AttemptOutcome::HeldBack => &policy,
                        _ => &rule.origin,
                    };
                    return Err(refusal(&failure, endpoint.address).by(by));
                }
                if let Some(cause) = RetryCause::of(failure.kind) {
                    worker.shared.telemetry.retry(&cluster.series, cause);
                }
            }
        }
    }
}

fn outcome(failure: &AttemptFailure) -> AttemptOutcome {
    match failure.kind {
        Kind::Handshake => AttemptOutcome::HandshakeFailed,
        Kind::PendingFull | Kind::PendingTimeout | Kind::NoCertificate => AttemptOutcome::HeldBack,
        Kind::Downstream(_) | Kind::ClientGone => AttemptOutcome::DownstreamGone,
        Kind::Connect | Kind::RefusedStream | Kind::Reset | Kind::Protocol | Kind::Timeout => {
            AttemptOutcome::ConnectFailed
        }
    }
}

fn refusal(failure: &AttemptFailure, endpoint: SocketAddr) -> Refusal {
    let reason = match failure.kind {
        Kind::Handshake => Reason::HandshakeFailed,
        Kind::NoCertificate => Reason::NoCertificate,
        Kind::PendingFull => Reason::PendingFull,
        Kind::PendingTimeout => Reason::PendingTimeout,
        Kind::Downstream(reason) => reason,
        Kind::ClientGone => Reason::ClientGone,
        Kind::Connect | Kind::RefusedStream | Kind::Reset | Kind::Protocol | Kind::Timeout => {
            Reason::ConnectFailed
        }
    };
    Refusal::new(reason).detail(format!("{endpoint}: {}", failure.detail))
}

/// Completes when the upstream has spoken first (or closed); when it could not be opened, after a
/// time in which a client that speaks would have. Pending while it is being opened. Cancel safe:
/// yes.
pub(crate) async fn speaks(opened: &mut Option<Result<Opened, Refusal>>) {
    match opened {
        None => std::future::pending().await,
        Some(Err(_)) => sleep(SILENCE_MAX).await,
        Some(Ok(opened)) => {
            read_ahead(&mut opened.connection, &mut opened.ahead).await;
        }
    }
}

/// Completes with the first bytes that a server says, or its end. Cancel safe: yes.
async fn read_ahead(connection: &mut Connection, ahead: &mut Ahead) {
    let mut buffer = [0_u8; AHEAD_BYTES];
    let mut read = ReadBuf::new(&mut buffer);
    let io = &mut connection.io;
    if let Err(error) = poll_fn(|cx| Pin::new(&mut *io).poll_read(cx, &mut read)).await {
        ahead.broken = Some(error);
    }
    ahead.said.extend_from_slice(read.filled());
}

/// Opens a connection to a captured address that no service has. Cancel safe: yes.
pub(crate) async fn open_outside(
    worker: &Rc<Worker>,
    address: SocketAddr,
) -> Result<Opened, Refusal> {
    worker.shared.limits.overload.admit()?;
    let endpoint = worker.outside(address);
    let connection = endpoint.open(Alpn::Tcp, NO_DEADLINE).await;
    Ok(Opened {
        connection: connection.map_err(|failure| refusal(&failure, address))?,
        endpoint,
        backend: None,
        origin: None,
        series: worker.series(&SeriesKey::Passthrough),
        account: None,
        ahead: Ahead::default(),
        tries: 1,
    })
}

/// Carries a client's connection to its end. `opened` is what [`open`] brought, and when the
/// connection began.
pub(crate) async fn carry(
    worker: &Rc<Worker>,
    service: &Arc<Service>,
    client: Io,
    opened: (Result<Opened, Refusal>, Instant),
) {
    let to = To::Service(service);
    run_to_end(worker, &to, client, opened).await;
}

/// Carries a client's connection past the mesh. `opened` is what [`open_outside`] brought.
pub(crate) async fn pass(
    worker: &Rc<Worker>,
    client: Io,
    opened: Result<Opened, Refusal>,
    (address, begun): (SocketAddr, Instant),
) {
    run_to_end(worker, &To::Outside(address), client, (opened, begun)).await;
}

/// Where a connection was for.
enum To<'a> {
    Service(&'a Service),
    Outside(SocketAddr),
}

async fn run_to_end(
    worker: &Rc<Worker>,
    to: &To<'_>,
    mut client: Io,
    (opened, begun): (Result<Opened, Refusal>, Instant),
) {
    let mut carried = Carrying {
        worker,
        to,
        opened: None,
        refusal: None,
        begun,
        moved: Moved::default(),
        accounted: false,
    };
    match opened {
        Ok(mut opened) => {
            if let Some(account) = opened.account.take() {
                account.close(AttemptOutcome::Response { status: 200 });
            }
            opened.series.tcp_opened(security(&opened.endpoint).1);
            let ahead = std::mem::take(&mut opened.ahead);
            let opened = carried.opened.insert(opened);
            let io = &mut opened.connection.io;
            let (ending, moved) = (worker.ending(), &carried.moved);
            let end = run(&mut client, io, ahead, moved, ending.work().hold()).await;
            carried.refusal = cause(end);
        }
        // Opaque bytes have no answer to give; the reason is in log and metric.
        Err(refusal) => {
            client.cut();
            drop(client);
            carried.refusal = Some(refusal);
        }
    }
    carried.account();
}

/// Both sides of a connection, broken off together unless they came to their end, also when the
/// task is dropped.
struct Sides<'a> {
    client: &'a mut Io,
    server: &'a mut Io,
    whole: bool,
}

impl Drop for Sides<'_> {
    fn drop(&mut self) {
        if !self.whole {
            self.client.cut();
            self.server.cut();
        }
    }
}

/// Relays to the end, beginning with what the server said ahead.
async fn run(
    client: &mut Io,
    server: &mut Io,
    ahead: Ahead,
    moved: &Moved,
    hold: &Hold,
) -> RelayEnd {
    let mut sides = Sides {
        client,
        server,
        whole: false,
    };
    let Sides { client, server, .. } = &mut sides;
    if !ahead.said.is_empty() {
        let written = async {
            client.write_all(&ahead.said).await?;
            client.flush().await
        };
        if let Err(error) = written.await {
            return RelayEnd::Client(error);
        }
    }
    let length = u64::try_from(ahead.said.len()).unwrap_or(u64::MAX);
    moved.received.set(length);
    if let Some(error) = ahead.broken {
        return RelayEnd::Upstream(error);
    }
    let end = relay(*client, *server, IDLE_MAX, moved, hold).await.end;
    sides.whole = matches!(end, RelayEnd::Complete);
    end
}

/// Why a connection that was relayed did not come to its end.
fn cause(end: RelayEnd) -> Option<Refusal> {
    let (reason, detail) = match end {
        RelayEnd::Complete => return None,
        RelayEnd::Idle => (Reason::StreamIdle, "no byte for an hour".to_owned()),
        RelayEnd::HeldMost => (
            Reason::HeldMost,
            "the connection held the most memory".to_owned(),
        ),
        RelayEnd::Client(error) => (Reason::ClientGone, error.kind().to_string()),
        RelayEnd::Upstream(error) => (Reason::UpstreamResetInResponse, error.kind().to_string()),
    };
    Some(Refusal::new(reason).detail(detail))
}

/// A connection under way: recorded once, also when it is cut off.
struct Carrying<'a> {
    worker: &'a Worker,
    to: &'a To<'a>,
    opened: Option<Opened>,
    refusal: Option<Refusal>,
    begun: Instant,
    moved: Moved,
    accounted: bool,
}

impl Drop for Carrying<'_> {
    fn drop(&mut self) {
        if !self.accounted {
            self.refusal = Some(Refusal::cut_off());
            self.account();
        }
    }
}

fn security(endpoint: &Endpoint) -> (Option<&SpiffeId>, Security) {
    match &endpoint.peer {
        Peer::Meshed(peer) => (Some(peer), Security::MutualTls),
        Peer::Plain => (None, Security::None),
    }
}

impl Carrying<'_> {
    fn account(&mut self) {
        self.accounted = true;
        let (opened, refusal) = (self.opened.as_ref(), self.refusal.as_ref());
        let endpoint = opened.map(|opened| &opened.endpoint);
        let (destination, outside) = match self.to {
            To::Service(service) => (Some(&service.destination.name), None),
            To::Outside(address) => (None, Some(*address)),
        };
        let (peer, security) = endpoint.map_or((None, Security::Unknown), |one| security(one));
        let record = RequestRecord {
            direction: Direction::Outbound,
            carried: Carried::Tcp,
            method: "",
            path: "",
            authority: "",
            destination,
            backend: opened.and_then(|opened| opened.backend.as_ref()),
            endpoint: endpoint.map(|endpoint| endpoint.address).or(outside),
            peer,
            security,
            status: 0,
            grpc_status: None,
            reason: refusal.map(|refusal| refusal.reason),
            detail: refusal.map_or("", |refusal| &refusal.detail),
            origin: refusal
                .and_then(|refusal| refusal.origin.as_ref())
                .or(opened.and_then(|opened| opened.origin.as_ref())),
            attempts: opened.map_or(0, |opened| opened.tries),
            duration: self.begun.elapsed(),
            request_bytes: self.moved.sent.get(),
            response_bytes: self.moved.received.get(),
            traceparent: "",
        };
        let series = match opened {
            Some(opened) => Rc::clone(&opened.series),
            None => self
                .worker
                .series(&destination.map_or(SeriesKey::Passthrough, |name| {
                    SeriesKey::Unrouted(name.clone())
                })),
        };
        self.worker.shared.telemetry.record(&record, &series);
    }
}

/// The application beside us, connected for opaque bytes.
#[derive(Debug)]
pub(crate) struct Reached {
    address: SocketAddr,
    connection: Result<Connection, AttemptFailure>,
    ahead: Ahead,
    begun: Instant,
}

/// Connects to the application. Cancel safe: yes.
pub(crate) async fn reach(worker: &Worker, application: SocketAddr) -> Reached {
    let begun = Instant::now();
    let connection = match worker.shared.limits.overload.admit() {
        Ok(()) => {
            let endpoint = worker.application(application);
            endpoint.open(Alpn::Tcp, NO_DEADLINE).await
        }
        Err(refusal) => {
            let kind = Kind::Downstream(refusal.reason);
            Err(AttemptFailure::new(kind, refusal.detail))
        }
    };
    Reached {
        address: application,
        connection,
        ahead: Ahead::default(),
        begun,
    }
}

impl Reached {
    /// Completes when the application has spoken first (or closed); when it could not be reached,
    /// after a time in which a client that speaks would have. Cancel safe: yes.
    pub(crate) async fn speaks(&mut self) {
        match &mut self.connection {
            Ok(connection) => read_ahead(connection, &mut self.ahead).await,
            Err(_) => sleep(SILENCE_MAX).await,
        }
    }
}

/// Inbound: carries a connection to the application's port.
pub(crate) async fn deliver(
    worker: &Rc<Worker>,
    mut client: Io,
    port: Port,
    reached: Reached,
    peer: Option<&SpiffeId>,
) {
    let Reached {
        address: application,
        connection: opened,
        ahead,
        begun,
    } = reached;
    let series = worker.series(&SeriesKey::Inbound {
        port,
        peer: peer.cloned(),
    });
    let security = if peer.is_some() {
        Security::MutualTls
    } else {
        Security::None
    };
    let mut delivered = Delivered {
        worker,
        application,
        peer,
        series,
        security,
        refusal: None,
        begun,
        moved: Moved::default(),
        accounted: false,
    };
    match opened {
        Ok(mut connection) => {
            delivered.series.tcp_opened(security);
            let io = &mut connection.io;
            let (ending, moved) = (worker.ending(), &delivered.moved);
            let end = run(&mut client, io, ahead, moved, ending.work().hold()).await;
            delivered.refusal = cause(end);
        }
        Err(failure) => {
            client.cut();
            let detail = format!("application {application}: {}", failure.detail);
            let reason = match failure.kind {
                Kind::Downstream(reason) => reason,
                Kind::Connect
                | Kind::Handshake
                | Kind::NoCertificate
                | Kind::PendingFull
                | Kind::PendingTimeout
                | Kind::RefusedStream
                | Kind::Reset
                | Kind::Protocol
                | Kind::Timeout
                | Kind::ClientGone => Reason::ApplicationUnavailable,
            };
            delivered.refusal = Some(Refusal::new(reason).detail(detail));
        }
    }
    delivered.account();
}

/// A connection to the application under way: recorded once, also when it is cut off.
struct Delivered<'a> {
    worker: &'a Worker,
    application: SocketAddr,
    peer: Option<&'a SpiffeId>,
    series: Rc<Series>,
    security: Security,
    refusal: Option<Refusal>,
    begun: Instant,
    moved: Moved,
    accounted: bool,
}

impl Drop for Delivered<'_> {
    fn drop(&mut self) {
        if !self.accounted {
            self.refusal = Some(Refusal::cut_off());
            self.account();
        }
    }
}

impl Delivered<'_> {
    fn account(&mut self) {
        self.accounted = true;
        let refusal = self.refusal.as_ref();
        let record = RequestRecord {
            direction: Direction::Inbound,
            carried: Carried::Tcp,
            method: "",
            path: "",
            authority: "",
            destination: None,
            backend: None,
            endpoint: Some(self.application),
            peer: self.peer,
            security: self.security,
            status: 0,
            grpc_status: None,
            reason: refusal.map(|refusal| refusal.reason),
            detail: refusal.map_or("", |refusal| &refusal.detail),
            origin: None,
            attempts: 1,
            duration: self.begun.elapsed(),
            request_bytes: self.moved.sent.get(),
            response_bytes: self.moved.received.get(),
            traceparent: "",
        };
        self.worker.shared.telemetry.record(&record, &self.series);
    }
}
