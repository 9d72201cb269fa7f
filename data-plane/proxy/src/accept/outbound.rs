//! A connection from the application: which protocol, and so which engine.

use std::{rc::Rc, sync::Arc, time::Duration};

use bytes::BytesMut;
use outrigger_model::Protocol;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{
    detect::{Detected, classify},
    engine,
    io::Io,
    outbound::{Outbound, Scope},
    snapshot::Service,
    tcp_path,
    telemetry::Direction,
    worker::Worker,
};

/// How long a client may say nothing where only clients speak first (DEF-10 is for a protocol that
/// was begun; an idle keep-alive connection is legitimate: DEF-14 downstream, 1 h).
const SILENCE_MAX: Duration = Duration::from_secs(3600);
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
        | (Protocol::Detect, Err(_)) => http(worker, stream, scope).await,
    }
}

/// A forward proxy's connection: HTTP alone.
pub(super) async fn forward_proxy(worker: &Rc<Worker>, stream: TcpStream) {
    http(worker, stream, Scope::ForwardProxy).await;
}

/// A connection known to carry HTTP: version 1 or 2, by the preface.
async fn http(worker: &Rc<Worker>, mut stream: TcpStream, scope: Scope) {
    let mut ahead = BytesMut::with_capacity(AHEAD_BYTES_MAX);
    let reading = timeout(SILENCE_MAX, decide(worker, &mut stream, &mut ahead));
    let Ok(Some(detected)) = reading.await else {
        return;
    };
    serve(worker, stream, ahead, detected, scope).await;
}

async fn serve(
    worker: &Rc<Worker>,
    stream: TcpStream,
    ahead: BytesMut,
    detected: Detected,
    scope: Scope,
) {
    let handler = Rc::new(Outbound::new(Rc::clone(worker), scope));
    let io = Io::Plain(stream);
    match detected {
        Detected::Http2 => engine::http2(worker, io.replay(ahead.freeze()), handler).await,
        // Not HTTP on a port declared as HTTP: the engine answers 400 with the reason.
        Detected::Http1 | Detected::Opaque | Detected::Tls | Detected::Undecided => {
            engine::http1(
                worker,
                io.replay(ahead.freeze()),
                Direction::Outbound,
                handler,
            )
            .await;
        }
    }
}

/// Reads until the bytes decide; `None` when the client leaves or the drain begins first.
async fn decide(worker: &Worker, stream: &mut TcpStream, ahead: &mut BytesMut) -> Option<Detected> {
    loop {
        let read = tokio::select! {
            read = stream.read_buf(ahead) => read.ok()?,
            () = worker.shared.drain.begun() => return None,
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

/// An undeclared port: the upstream is opened while the first byte is awaited from either side, so
/// that a server-first protocol never waits (DESIGN §5). What turns out to be HTTP goes its own way.
async fn detect(worker: &Rc<Worker>, service: &Arc<Service>, mut stream: TcpStream, scope: Scope) {
    let mut ahead = BytesMut::with_capacity(AHEAD_BYTES_MAX);
    let begun = Instant::now();
    let opening = tcp_path::open(worker, service);
    tokio::pin!(opening);
    let mut opened = None;
    let decided = {
        let deciding = decide(worker, &mut stream, &mut ahead);
        tokio::pin!(deciding);
        loop {
            tokio::select! {
                biased;
                decided = &mut deciding => break decided,
                result = &mut opening, if opened.is_none() => opened = Some(result),
                () = tcp_path::speaks(&mut opened) => break Some(Detected::Opaque),
            }
        }
    };
    match decided {
        None => {}
        Some(detected @ (Detected::Http1 | Detected::Http2)) => {
            drop(opened);
            serve(worker, stream, ahead, detected, scope).await;
        }
        Some(Detected::Opaque | Detected::Tls | Detected::Undecided) => {
            let opened = match opened {
                Some(opened) => opened,
                None => opening.await,
            };
            let io = Io::Plain(stream).replay(ahead.freeze());
            tcp_path::carry(worker, service, io, Some((opened, begun))).await;
        }
    }
}
