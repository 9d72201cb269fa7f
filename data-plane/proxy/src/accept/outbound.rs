//! A connection from the application: which protocol, and so which engine.

use std::{rc::Rc, sync::Arc, time::Duration};

use bytes::BytesMut;
use outrigger_model::Protocol;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::{
    detect::{Detected, classify},
    engine,
    exchange::Engine,
    io::Io,
    outbound::{Outbound, Scope},
    reason::Refusal,
    snapshot::Service,
    tcp_path,
    worker::Worker,
};

/// How long a client may say nothing where only clients speak first (DEF-10 is for a protocol that
/// was begun; an idle keep-alive connection is legitimate: DEF-14 downstream, 1 h).
const SILENCE_MAX: Duration = Duration::from_secs(3600);
/// How long a connection that has said nothing yet is kept once the drain began: as long as the
/// engine keeps one without a request.
const DRAIN_GRACE: Duration = Duration::from_millis(500);
/// Bytes that suffice for every decision.
const AHEAD_BYTES_MAX: usize = 24;

/// Explicit mode: a connection to one service.
pub(super) async fn destination(worker: &Rc<Worker>, stream: TcpStream, authority: &str) {
    let service = worker.service(authority).await;
    let protocol = service
        .as_ref()
        .map_or(Protocol::Detect, |found| found.destination.protocol);
    let scope = Scope::Destination(authority.into());
    match (protocol, service) {
        (Protocol::Tcp, Ok(service)) => {
            tcp_path::carry(worker, &service, Io::Plain(stream), None).await;
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
    let io = Io::Plain(stream);
    let engine = match detected {
        Detected::Http2 => Engine::H2,
        Detected::Http1 => Engine::H1,
        Detected::Opaque | Detected::Tls | Detected::Undecided => other,
    };
    let io = io.replay(ahead.freeze());
    match engine {
        Engine::H1 => engine::http1(worker, io, handler).await,
        Engine::H2 => engine::http2(worker, io, handler).await,
    }
}

/// Reads until the bytes decide; `None` when the client leaves, or says nothing after the drain
/// began: a connection just accepted may have its request on the way.
async fn decide(worker: &Worker, stream: &mut TcpStream, ahead: &mut BytesMut) -> Option<Detected> {
    let drained = async {
        worker.shared.drain.begun().await;
        sleep(DRAIN_GRACE).await;
    };
    tokio::pin!(drained);
    loop {
        let read = tokio::select! {
            biased;
            read = stream.read_buf(ahead) => read.ok()?,
            () = &mut drained => return None,
        };
        match classify(ahead) {
            Detected::Undecided if read == 0 => {
                return (!ahead.is_empty()).then_some(Detected::Opaque);
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
    match first_word(worker, service, &mut stream, &mut ahead).await {
        None => {}
        Some(First::Http(detected)) => {
            serve(worker, stream, ahead, detected, (scope, Engine::H1)).await
        }
        Some(First::Opaque(opened)) => {
            let io = Io::Plain(stream).replay(ahead.freeze());
            tcp_path::carry(worker, service, io, Some((*opened, begun))).await;
        }
    }
}

/// What the first bytes on an undeclared port mean.
enum First {
    Http(Detected),
    /// With the upstream's connection, or why there is none.
    Opaque(Box<Result<tcp_path::Opened, Refusal>>),
}

/// Opens the upstream while the first byte is awaited from either side, so that a server-first
/// protocol never waits (DESIGN §5). HTTP has no use for what was opened, or is being: it is closed
/// here, before a request needs its place among the connections.
async fn first_word(
    worker: &Rc<Worker>,
    service: &Service,
    stream: &mut TcpStream,
    ahead: &mut BytesMut,
) -> Option<First> {
    let opening = tcp_path::open(worker, service);
    tokio::pin!(opening);
    let mut opened = None;
    let decided = {
        let deciding = decide(worker, stream, ahead);
        tokio::pin!(deciding);
        loop {
            tokio::select! {
                biased;
                decided = &mut deciding => break decided?,
                result = &mut opening, if opened.is_none() => opened = Some(result),
                () = tcp_path::speaks(&mut opened) => break Detected::Opaque,
            }
        }
    };
    Some(match decided {
        Detected::Http1 | Detected::Http2 => First::Http(decided),
        Detected::Opaque | Detected::Tls | Detected::Undecided => {
            First::Opaque(Box::new(match opened {
                Some(opened) => opened,
                None => opening.await,
            }))
        }
    })
}
