//! A connection from the application: which protocol, and so which engine.

use std::{net::SocketAddr, pin::Pin, rc::Rc, sync::Arc, time::Duration};

use bytes::BytesMut;
use outrigger_model::Protocol;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::{
    detect::{Detected, Hello, classify, client_hello, http1_host},
    engine,
    exchange::Engine,
    io::Io,
    outbound::{Captured, Outbound, Scope},
    reason::Refusal,
    snapshot::Service,
    tcp_path,
    worker::Worker,
};

/// How long a client may say nothing where only clients speak first (DEF-10 is for a protocol that
/// was begun; an idle keep-alive connection is legitimate: DEF-14 downstream, 1 h).
const SILENCE_MAX: Duration = Duration::from_secs(3600);
/// DEF-10: how long the first bytes of a connection may leave open what it speaks.
const DECIDE_MAX: Duration = Duration::from_secs(5);
/// How long a connection that has said nothing yet is kept once the drain began: as long as the
/// engine keeps one without a request.
const DRAIN_GRACE: Duration = Duration::from_millis(500);
/// Bytes and time in which a request head or TLS hello to a stranger names its host.
const NAME_BYTES_MAX: usize = 16 * 1024;
const NAME_MAX: Duration = Duration::from_secs(5);
/// Bytes that suffice for every decision.
const AHEAD_BYTES_MAX: usize = 24;

/// Explicit mode: a connection to one service.
pub(super) async fn destination(worker: &Rc<Worker>, stream: TcpStream, authority: &str) {
    let service = worker.service(authority).await;
    to(
        worker,
        stream,
        service,
        Scope::Destination(authority.into()),
    )
    .await;
}

/// A redirected connection: to the service of the address that it was going to; to an address that
/// no service has, as the bytes say, or unseen.
pub(super) async fn captured(worker: &Rc<Worker>, stream: TcpStream, original: SocketAddr) {
    let captured = Captured::new(original);
    match captured.by_address(worker).await {
        Ok(service) => to(worker, stream, Ok(service), Scope::Captured(captured)).await,
        Err(_) => stranger(worker, stream, original, captured).await,
    }
}

async fn to(
    worker: &Rc<Worker>,
    stream: TcpStream,
    service: Result<Arc<Service>, Refusal>,
    scope: Scope,
) {
    let protocol = service
        .as_ref()
        .map_or(Protocol::Detect, |found| found.destination.protocol);
    match (protocol, service) {
        (Protocol::Tcp, Ok(service)) => {
            let begun = Instant::now();
            let opened = tcp_path::open(worker, &service, scope.pinned(&service)).await;
            tcp_path::carry(worker, &service, Io::Plain(stream), (opened, begun)).await;
        }
        (Protocol::Detect, Ok(service)) => detect(worker, &service, stream, scope).await,
        // Without a service nobody can speak first; an HTTP client gets its reason.
        (Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Tcp, _)
        | (Protocol::Detect, Err(_)) => http(worker, stream, scope, answers(protocol)).await,
    }
}

/// A forward proxy's connection: HTTP alone.
pub(super) async fn forward_proxy(worker: &Rc<Worker>, stream: TcpStream) {
    http(worker, stream, Scope::ForwardProxy, Engine::H1).await;
}

/// Which engine answers bytes that are no HTTP: on a port declared as HTTP/2, a broken preface
/// ends the connection (RFC 9113 §3.4); elsewhere HTTP/1 says 400 with the reason.
fn answers(protocol: Protocol) -> Engine {
    match protocol {
        Protocol::Http2 | Protocol::Grpc => Engine::H2,
        Protocol::Http | Protocol::Tcp | Protocol::Detect => Engine::H1,
    }
}

/// A connection known to carry HTTP: version 1 or 2, by the preface.
async fn http(worker: &Rc<Worker>, mut stream: TcpStream, scope: Scope, other: Engine) {
    let mut ahead = BytesMut::with_capacity(AHEAD_BYTES_MAX);
    let reading = timeout(SILENCE_MAX, decide(worker, &mut stream, &mut ahead));
    let Ok(Some(detected)) = reading.await else {
        return;
    };
    serve(worker, stream, ahead, detected, (scope, other)).await;
}

async fn serve(
    worker: &Rc<Worker>,
    stream: TcpStream,
    ahead: BytesMut,
    detected: Detected,
    (scope, other): (Scope, Engine),
) {
    let handler = Rc::new(Outbound::new(Rc::clone(worker), scope));
    let ending = Rc::clone(&handler.ending);
    let io = Io::Plain(stream);
    let engine = match detected {
        Detected::Http2 => Engine::H2,
        Detected::Http1 => Engine::H1,
        Detected::Opaque | Detected::Tls | Detected::Undecided => other,
    };
    let io = io.replay(ahead.freeze());
    match engine {
        Engine::H1 => engine::http1(io, &ending, handler).await,
        Engine::H2 => engine::http2(worker, io, &ending, handler).await,
    }
}

/// Reads until the bytes decide, or are too few for too long; `None` when the client leaves, or
/// says nothing after the drain began: a connection just accepted may have its request on the way.
async fn decide(worker: &Worker, stream: &mut TcpStream, ahead: &mut BytesMut) -> Option<Detected> {
    let drained = async {
        worker.shared.drain.begun().await;
        sleep(DRAIN_GRACE).await;
    };
    tokio::pin!(drained);
    let undecided = sleep(DECIDE_MAX);
    tokio::pin!(undecided);
    loop {
        let is_begun = !ahead.is_empty();
        let read = tokio::select! {
            biased;
            read = stream.read_buf(ahead) => read.ok()?,
            () = &mut drained => return None,
            () = &mut undecided, if is_begun => return Some(Detected::Opaque),
        };
        match classify(ahead) {
            Detected::Undecided if read == 0 => {
                return (!ahead.is_empty()).then_some(Detected::Opaque);
            }
            Detected::Undecided if !is_begun => {
                undecided.as_mut().reset(Instant::now() + DECIDE_MAX);
            }
            Detected::Undecided => {}
            decided => return Some(decided),
        }
    }
}

/// An undeclared port: what turns out to be HTTP goes its own way.
async fn detect(worker: &Rc<Worker>, service: &Arc<Service>, mut stream: TcpStream, scope: Scope) {
    let mut ahead = BytesMut::with_capacity(AHEAD_BYTES_MAX);
    let begun = Instant::now();
    let mut opening = Opening::new(tcp_path::open(worker, service, scope.pinned(service)));
    let first = first_word(worker, &mut opening, &mut stream, &mut ahead).await;
    match first {
        None => {}
        Some(detected @ (Detected::Http1 | Detected::Http2)) => {
            drop(opening);
            serve(worker, stream, ahead, detected, (scope, Engine::H1)).await;
        }
        Some(Detected::Opaque | Detected::Tls | Detected::Undecided) => {
            let io = Io::Plain(stream).replay(ahead.freeze());
            let opened = opening.finish().await;
            tcp_path::carry(worker, service, io, (opened, begun)).await;
        }
    }
}

/// An address that no service has. A request or hello that names a service goes to that; the rest
/// goes where it was going, as it is.
async fn stranger(
    worker: &Rc<Worker>,
    mut stream: TcpStream,
    original: SocketAddr,
    captured: Captured,
) {
    let mut ahead = BytesMut::with_capacity(AHEAD_BYTES_MAX);
    let begun = Instant::now();
    let mut opening = Opening::new(tcp_path::open_outside(worker, original));
    let Some(detected) = first_word(worker, &mut opening, &mut stream, &mut ahead).await else {
        return;
    };
    let name = match detected {
        Detected::Http1 | Detected::Tls => name(&mut stream, &mut ahead, detected).await,
        Detected::Http2 | Detected::Opaque | Detected::Undecided => None,
    };
    let service = match &name {
        Some(name) => captured.by_name(worker, name).await.ok(),
        None => None,
    };
    match service {
        Some(_) if detected == Detected::Http1 => {
            drop(opening);
            let scope = (Scope::Captured(captured), Engine::H1);
            serve(worker, stream, ahead, detected, scope).await;
        }
        Some(service) => {
            drop(opening);
            let io = Io::Plain(stream).replay(ahead.freeze());
            let opened = tcp_path::open(worker, &service, captured.pinned(&service)).await;
            tcp_path::carry(worker, &service, io, (opened, begun)).await;
        }
        None => {
            let io = Io::Plain(stream).replay(ahead.freeze());
            let opened = opening.finish().await;
            tcp_path::pass(worker, io, opened, (original, begun)).await;
        }
    }
}

/// The host that the first bytes name, if they do within a bounded length and time.
async fn name(
    stream: &mut TcpStream,
    ahead: &mut BytesMut,
    detected: Detected,
) -> Option<Box<str>> {
    let reading = async {
        loop {
            let found = match detected {
                Detected::Tls => match client_hello(ahead) {
                    Hello::Partial => None,
                    Hello::Whole { server_name, .. } => Some(server_name),
                    Hello::Other => Some(None),
                },
                Detected::Http1 | Detected::Http2 | Detected::Opaque | Detected::Undecided => {
                    let host = http1_host(ahead).ok();
                    host.map(|host| host.map(Into::into))
                }
            };
            if let Some(found) = found {
                return found;
            }
            if ahead.len() >= NAME_BYTES_MAX || stream.read_buf(ahead).await.ok()? == 0 {
                return None;
            }
        }
    };
    timeout(NAME_MAX, reading).await.ok().flatten()
}

/// An upstream connection that is being opened while the first byte is awaited.
struct Opening<F> {
    future: Pin<Box<F>>,
    opened: Option<Result<tcp_path::Opened, Refusal>>,
}

impl<F: Future<Output = Result<tcp_path::Opened, Refusal>>> Opening<F> {
    fn new(future: F) -> Self {
        Self {
            future: Box::pin(future),
            opened: None,
        }
    }

    /// Completes when the upstream has spoken. Cancel safe: yes.
    async fn speaks(&mut self) {
        if self.opened.is_none() {
            self.opened = Some(self.future.as_mut().await);
        }
        tcp_path::speaks(&mut self.opened).await;
    }

    async fn finish(mut self) -> Result<tcp_path::Opened, Refusal> {
        match self.opened.take() {
            Some(opened) => opened,
            None => self.future.await,
        }
    }
}

/// Opens the upstream while the first byte is awaited from either side, so that a server-first
/// protocol never waits (DESIGN §5). HTTP has no use for what was opened, or is being: it is closed
/// before a request needs its place among the connections. `None`: the client left.
async fn first_word<F: Future<Output = Result<tcp_path::Opened, Refusal>>>(
    worker: &Worker,
    opening: &mut Opening<F>,
    stream: &mut TcpStream,
    ahead: &mut BytesMut,
) -> Option<Detected> {
    tokio::select! {
        biased;
        decided = decide(worker, stream, ahead) => decided,
        () = opening.speaks() => Some(Detected::Opaque),
    }
}
