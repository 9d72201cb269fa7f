//! Opaque connections: outbound by the TCP rules of a service, inbound to the application.
//!
//! A connection is tried on up to three endpoints while nothing has been sent; after that it is
//! the application's protocol that knows what may be repeated, so nothing is.

use std::{future::poll_fn, net::SocketAddr, pin::Pin, rc::Rc, sync::Arc, time::Duration};

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
    io::Io,
    reason::{Reason, Refusal},
    snapshot::Service,
    tcp::{RelayEnd, Relayed, relay},
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
    /// What the server said before the client did.
    ahead: BytesMut,
    tries: u32,
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
                account.close(AttemptOutcome::Response { status: 200 });
                return Ok(Opened {
                    connection,
                    endpoint,
                    backend: Some(backend),
                    origin: Some(rule.origin.clone()),
                    series: Rc::clone(&cluster.series),
                    ahead: BytesMut::new(),
                    tries: u32::try_from(tried.len()).unwrap_or(u32::MAX),
                });
            }
            Err(failure) => {
                let outcome = outcome(&failure);
                account.close(outcome);
                // Held back by the backend's own bounds: elsewhere they are the same.
                if tried.len() >= TRIES_MAX || outcome == AttemptOutcome::HeldBack {
                    return Err(refusal(&failure).by(&rule.origin));
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
        Kind::Downstream(_) => AttemptOutcome::DownstreamGone,
        Kind::Connect | Kind::RefusedStream | Kind::Reset | Kind::Protocol | Kind::Timeout => {
            AttemptOutcome::ConnectFailed
        }
    }
}

fn refusal(failure: &AttemptFailure) -> Refusal {
    let reason = match failure.kind {
        Kind::Handshake => Reason::HandshakeFailed,
        Kind::NoCertificate => Reason::NoCertificate,
        Kind::PendingFull => Reason::PendingFull,
        Kind::PendingTimeout => Reason::PendingTimeout,
        Kind::Downstream(reason) => reason,
        Kind::Connect | Kind::RefusedStream | Kind::Reset | Kind::Protocol | Kind::Timeout => {
            Reason::ConnectFailed
        }
    };
    Refusal::new(reason).detail(failure.detail.clone())
}

/// Completes when the upstream has spoken first (or closed); when it could not be opened, after a
/// time in which a client that speaks would have. Pending while it is being opened. Cancel safe: yes.
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
async fn read_ahead(connection: &mut Connection, ahead: &mut BytesMut) {
    let mut buffer = [0_u8; AHEAD_BYTES];
    let mut read = ReadBuf::new(&mut buffer);
    let io = &mut connection.io;
    if let Err(error) = poll_fn(|cx| Pin::new(&mut *io).poll_read(cx, &mut read)).await {
        tracing::debug!(%error, "the server broke off before anybody spoke");
    }
    ahead.extend_from_slice(read.filled());
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
        connection: connection.map_err(|failure| refusal(&failure))?,
        endpoint,
        backend: None,
        origin: None,
        series: worker.series(&SeriesKey::Passthrough),
        ahead: BytesMut::new(),
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
    let (relayed, refusal) = match opened {
        Ok(mut opened) => {
            opened.series.tcp_opened(security(&opened.endpoint).1);
            let relayed = run(&mut client, &mut opened.connection, opened.ahead.split()).await;
            let ended = Ended {
                to,
                opened: Some(&opened),
                refusal: None,
                begun,
            };
            return account(worker, &ended, &relayed);
        }
        // Opaque bytes have no answer to give; the reason is in log and metric.
        Err(refusal) => (
            Relayed {
                sent: 0,
                received: 0,
                end: RelayEnd::Complete,
            },
            refusal,
        ),
    };
    drop(client);
    account(
        worker,
        &Ended {
            to,
            opened: None,
            refusal: Some(&refusal),
            begun,
        },
        &relayed,
    );
}

/// Relays to the end, beginning with what the server said ahead.
async fn run(client: &mut Io, server: &mut Connection, ahead: BytesMut) -> Relayed {
    if !ahead.is_empty() {
        let written = async {
            client.write_all(&ahead).await?;
            client.flush().await
        };
        if let Err(error) = written.await {
            return Relayed {
                sent: 0,
                received: 0,
                end: RelayEnd::Failed(error),
            };
        }
    }
    let mut relayed = relay(client, &mut server.io, IDLE_MAX).await;
    relayed.received += u64::try_from(ahead.len()).unwrap_or(u64::MAX);
    relayed
}

struct Ended<'a> {
    to: &'a To<'a>,
    opened: Option<&'a Opened>,
    refusal: Option<&'a Refusal>,
    begun: Instant,
}

fn security(endpoint: &Endpoint) -> (Option<&SpiffeId>, Security) {
    match &endpoint.peer {
        Peer::Meshed(peer) => (Some(peer), Security::MutualTls),
        Peer::Plain => (None, Security::None),
    }
}

fn account(worker: &Worker, ended: &Ended<'_>, relayed: &Relayed) {
    let endpoint = ended.opened.map(|opened| &opened.endpoint);
    let (destination, outside) = match ended.to {
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
        backend: ended.opened.and_then(|opened| opened.backend.as_ref()),
        endpoint: endpoint.map(|endpoint| endpoint.address).or(outside),
        peer,
        security,
        status: 0,
        grpc_status: None,
        reason: ended.refusal.map(|refusal| refusal.reason),
        detail: ended.refusal.map_or("", |refusal| &refusal.detail),
        origin: ended
            .refusal
            .and_then(|refusal| refusal.origin.as_ref())
            .or(ended.opened.and_then(|opened| opened.origin.as_ref())),
        attempts: ended.opened.map_or(0, |opened| opened.tries),
        duration: ended.begun.elapsed(),
        request_bytes: relayed.sent,
        response_bytes: relayed.received,
        traceparent: "",
    };
    let series = match ended.opened {
        Some(opened) => Rc::clone(&opened.series),
        None => worker.series(&destination.map_or(SeriesKey::Passthrough, |name| {
            SeriesKey::Unrouted(name.clone())
        })),
    };
    worker.shared.telemetry.record(&record, &series);
}

/// The application beside us, connected for opaque bytes.
#[derive(Debug)]
pub(crate) struct Reached {
    address: SocketAddr,
    connection: Result<Connection, AttemptFailure>,
    /// What it said before the client did.
    ahead: BytesMut,
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
        ahead: BytesMut::new(),
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
    if opened.is_ok() {
        series.tcp_opened(security);
    }
    let (relayed, refusal) = match opened {
        Ok(mut connection) => (run(&mut client, &mut connection, ahead).await, None),
        Err(failure) => {
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
                | Kind::Timeout => Reason::ApplicationUnavailable,
            };
            let refusal = Refusal::new(reason).detail(detail);
            (
                Relayed {
                    sent: 0,
                    received: 0,
                    end: RelayEnd::Complete,
                },
                Some(refusal),
            )
        }
    };
    let record = RequestRecord {
        direction: Direction::Inbound,
        carried: Carried::Tcp,
        method: "",
        path: "",
        authority: "",
        destination: None,
        backend: None,
        endpoint: Some(application),
        peer,
        security,
        status: 0,
        grpc_status: None,
        reason: refusal.as_ref().map(|refusal| refusal.reason),
        detail: refusal.as_ref().map_or("", |refusal| &refusal.detail),
        origin: None,
        attempts: 1,
        duration: begun.elapsed(),
        request_bytes: relayed.sent,
        response_bytes: relayed.received,
        traceparent: "",
    };
    worker.shared.telemetry.record(&record, &series);
}
