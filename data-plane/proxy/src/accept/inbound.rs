//! A connection from the mesh: who it is, and what it carries.
//!
//! TLS with both sides verified, or plain text where the port's policy allows it. One peeked byte
//! tells them apart. Plain text where it is refused gets a reason if it is HTTP, and is counted.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use bytes::BytesMut;
use outrigger_model::{MtlsMode, Port, Protocol, SpiffeId};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    detect::{Detected, classify},
    engine,
    inbound::{Admission, Inbound},
    io::Io,
    tcp_path,
    telemetry::{Direction, Handshake},
    tls::{Alpn, identity_of},
    worker::Worker,
};

/// DEF-10 and DEF-11.
const FIRST_BYTE_MAX: Duration = Duration::from_secs(5);
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// First byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

pub(super) async fn connection(
    worker: &Rc<Worker>,
    stream: TcpStream,
    client: SocketAddr,
    port: Port,
    application: SocketAddr,
) {
    let (mtls, protocol) = policy(worker, port);
    if mtls == MtlsMode::Permissive && protocol == Protocol::Tcp {
        // A server-first client on a plain connection would never send a byte to look at.
        return permissive_tcp(worker, stream, client, port, application).await;
    }
    let mut first = [0_u8; 1];
    let peeking = timeout(FIRST_BYTE_MAX, stream.peek(&mut first));
    match peeking.await {
        Ok(Ok(1)) if first == [TLS_HANDSHAKE] => {
            secured(worker, stream, client, port, application).await;
        }
        Ok(Ok(1)) => {
            plain(
                worker,
                stream,
                client,
                (port, application),
                (mtls, protocol),
            )
            .await
        }
        // Nothing came: a port probe, or a client that left.
        Ok(_) | Err(_) => {}
    }
}

/// What the workload's policy says of a port; nothing known means nothing allowed (rule 1).
fn policy(worker: &Worker, port: Port) -> (MtlsMode, Protocol) {
    let snapshot = worker.shared.snapshots.load();
    let Some(policy) = &snapshot.inbound else {
        return (MtlsMode::Strict, Protocol::Detect);
    };
    let known = policy.ports.iter().find(|known| known.port == port);
    known.map_or((policy.default_mtls, Protocol::Detect), |known| {
        (known.mtls, known.protocol)
    })
}

async fn secured(
    worker: &Rc<Worker>,
    stream: TcpStream,
    client: SocketAddr,
    port: Port,
    app: SocketAddr,
) {
    let begun = Instant::now();
    let telemetry = &worker.shared.telemetry;
    let shaken = handshake(worker, stream, client).await;
    let result = shaken
        .as_ref()
        .map_or_else(|failed| *failed, |_| Handshake::Completed);
    telemetry.handshake(Direction::Inbound, result, begun.elapsed());
    let Ok((stream, peer)) = shaken else { return };
    let alpn = stream
        .get_ref()
        .1
        .alpn_protocol()
        .and_then(Alpn::from_bytes);
    let io = Io::Server(Box::new(stream));
    let handler = || {
        Rc::new(Inbound::new(
            worker,
            port,
            app,
            Admission::Proven(peer.clone()),
        ))
    };
    match alpn {
        Some(Alpn::H1) => engine::http1(worker, io, handler()).await,
        Some(Alpn::H2) => engine::http2(worker, io, handler()).await,
        Some(Alpn::Tcp) => tcp_path::deliver(worker, io, port, app, Some(&peer)).await,
        // rustls refuses a client that offers only others; one that offers none ends here.
        None => tracing::debug!(%client, "peer named no protocol"),
    }
}

async fn handshake(
    worker: &Worker,
    stream: TcpStream,
    client: SocketAddr,
) -> Result<(TlsStream<TcpStream>, SpiffeId), Handshake> {
    let Some(context) = worker.shared.tls.load_full() else {
        tracing::warn!(%client, "refused: this sidecar holds no certificate yet");
        return Err(Handshake::NoCertificate);
    };
    let accepting = async {
        // Waiting for a turn is part of the handshake's deadline: a flood sheds itself.
        let _turn = worker.handshakes.acquire().await;
        TlsAcceptor::from(context.server()).accept(stream).await
    };
    let stream = match timeout(HANDSHAKE_MAX, accepting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::info!(%client, %error, "TLS handshake refused");
            return Err(Handshake::of_error(&error));
        }
        Err(_) => {
            tracing::info!(%client, "TLS handshake did not end in time");
            return Err(Handshake::TimedOut);
        }
    };
    let leaf = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first);
    match leaf.map(identity_of) {
        Some(Ok(peer)) => Ok((stream, peer)),
        Some(Err(error)) => {
            tracing::info!(%client, %error, "peer refused");
            Err(Handshake::Untrusted)
        }
        None => Err(Handshake::Untrusted),
    }
}

async fn plain(
    worker: &Rc<Worker>,
    mut stream: TcpStream,
    client: SocketAddr,
    (port, app): (Port, SocketAddr),
    (mtls, protocol): (MtlsMode, Protocol),
) {
    let mut ahead = BytesMut::with_capacity(64);
    let detected = loop {
        match timeout(FIRST_BYTE_MAX, stream.read_buf(&mut ahead)).await {
            Ok(Ok(read)) if read > 0 => {}
            Ok(_) | Err(_) => return,
        }
        match classify(&ahead) {
            Detected::Undecided => {}
            decided => break decided,
        }
    };
    let io = Io::Plain(stream).replay(ahead.freeze());
    let admission = match mtls {
        MtlsMode::Permissive => Admission::Plain,
        MtlsMode::Strict => Admission::PlainRefused,
    };
    let declared_http = matches!(protocol, Protocol::Http | Protocol::Http2 | Protocol::Grpc);
    let handler = Rc::new(Inbound::new(worker, port, app, admission));
    match detected {
        Detected::Http2 => engine::http2(worker, io, handler).await,
        Detected::Http1 => engine::http1(worker, io, handler).await,
        Detected::Opaque | Detected::Tls | Detected::Undecided if declared_http => {
            engine::http1(worker, io, handler).await;
        }
        Detected::Opaque | Detected::Tls | Detected::Undecided => match mtls {
            MtlsMode::Permissive => tcp_path::deliver(worker, io, port, app, None).await,
            MtlsMode::Strict => {
                worker
                    .shared
                    .telemetry
                    .refused(Direction::Inbound, crate::reason::Reason::PlaintextRefused);
                tracing::info!(%client, "plain text refused: this port requires mutual TLS");
            }
        },
    }
}

/// Plain TCP allowed: the first byte may come from either side.
async fn permissive_tcp(
    worker: &Rc<Worker>,
    stream: TcpStream,
    client: SocketAddr,
    port: Port,
    app: SocketAddr,
) {
    let mut first = [0_u8; 1];
    // A sidecar sends its ClientHello at once; a plain client of a server-first protocol is silent.
    match timeout(Duration::from_millis(200), stream.peek(&mut first)).await {
        Ok(Ok(1)) if first == [TLS_HANDSHAKE] => secured(worker, stream, client, port, app).await,
        Ok(_) | Err(_) => tcp_path::deliver(worker, Io::Plain(stream), port, app, None).await,
    }
}
