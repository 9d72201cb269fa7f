//! A connection from the mesh: who it is, and what it carries.
//!
//! TLS with both sides verified, or plain text where the port's policy allows it. One peeked byte
//! tells them apart. Plain text where it is refused gets a reason if it is HTTP, and is counted.
//!
//! What a peer says its bytes are (ALPN) is not believed against the port's protocol: HTTP called
//! opaque would reach the application past everything that is done for requests here, with an
//! `x-forwarded-client-cert` of the peer's choice. On a port declared as HTTP all is HTTP; on an
//! undeclared one the first bytes decide; only a port declared as TCP is opaque unseen.

use std::{cell::Cell, net::SocketAddr, rc::Rc, time::Duration};

use bytes::BytesMut;
use outrigger_model::{MtlsMode, Port, Protocol, SpiffeId};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    detect::{Detected, Hello, classify, client_hello},
    engine,
    inbound::{Admission, Inbound},
    io::Io,
    reason::Reason,
    tcp_path::{self, Reached},
    telemetry::{Direction, Handshake},
    tls::{Alpn, ends_at, identity_of},
    worker::Worker,
};

/// DEF-10 and DEF-11.
const FIRST_BYTE_MAX: Duration = Duration::from_secs(5);
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// How long a sidecar's first byte may take, where the application might speak before it.
const CLIENT_HELLO_MAX: Duration = Duration::from_millis(200);
/// Bytes of a hello that are looked at; with post-quantum key shares they have 2 KiB.
const CLIENT_HELLO_BYTES_MAX: usize = 16 * 1024;
/// Between two looks at a hello that comes in pieces.
const CLIENT_HELLO_PAUSE: Duration = Duration::from_millis(2);
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
    let at = At {
        port,
        application,
        protocol,
        expires: Cell::new(None),
    };
    let may_be_opaque = matches!(protocol, Protocol::Tcp | Protocol::Detect);
    let first = if mtls == MtlsMode::Permissive && may_be_opaque {
        // The client of a server-first protocol would never send a byte to look at.
        match either_side(worker, &stream, application).await {
            Either::Client(first) => first,
            Either::Application(reached) => {
                return tcp_path::deliver(worker, Io::Plain(stream), port, *reached, None).await;
            }
        }
    } else {
        let peeking = timeout(FIRST_BYTE_MAX, peek(&stream));
        // Nothing came: a port probe, or a client that left.
        peeking.await.unwrap_or(None)
    };
    match first {
        // TLS of the application's own, from outside the mesh.
        Some(TLS_HANDSHAKE) if mtls == MtlsMode::Permissive && !is_mesh(&stream).await => {
            plain(worker, stream, client, &at, mtls).await;
        }
        Some(TLS_HANDSHAKE) => secured(worker, stream, client, &at).await,
        Some(_) => plain(worker, stream, client, &at, mtls).await,
        None => {}
    }
}

/// Where a connection goes, and what is spoken there.
struct At {
    port: Port,
    application: SocketAddr,
    protocol: Protocol,
    /// When the peer's certificate ends.
    expires: Cell<Option<Instant>>,
}

/// The first byte, left where it is; `None` at the end of the stream. Cancel safe: yes.
async fn peek(stream: &TcpStream) -> Option<u8> {
    let mut first = [0_u8; 1];
    match stream.peek(&mut first).await {
        Ok(1) => Some(first[0]),
        Ok(_) | Err(_) => None,
    }
}

/// Whether a TLS client speaks for the mesh: its hello, left where it is, offers one of the mesh's
/// protocols. A hello that does not come whole in time is left to the handshake to refuse.
async fn is_mesh(stream: &TcpStream) -> bool {
    let mut bytes = vec![0_u8; CLIENT_HELLO_BYTES_MAX];
    let reading = async {
        loop {
            let length = stream.peek(&mut bytes).await.ok()?;
            match client_hello(bytes.get(..length)?) {
                Hello::Partial if length < CLIENT_HELLO_BYTES_MAX => {}
                hello => return Some(hello),
            }
            // The kernel reports readable for what is there already; more comes with the next packet.
            sleep(CLIENT_HELLO_PAUSE).await;
        }
    };
    match timeout(HANDSHAKE_MAX, reading).await {
        Ok(Some(Hello::Whole { alpn, .. })) => alpn
            .iter()
            .any(|offered| Alpn::from_bytes(offered).is_some()),
        Ok(Some(Hello::Other)) => false,
        Ok(Some(Hello::Partial) | None) | Err(_) => true,
    }
}

/// Who spoke first.
enum Either {
    /// The client: its first byte, `None` when it left.
    Client(Option<u8>),
    /// The application.
    Application(Box<Reached>),
}

/// Waits for the first byte of a plain connection or of the application. A sidecar sends its
/// ClientHello at once, so the application is not asked before the client had time for that: its
/// greeting in plain text would spoil the handshake.
async fn either_side(worker: &Worker, stream: &TcpStream, application: SocketAddr) -> Either {
    if let Ok(first) = timeout(CLIENT_HELLO_MAX, peek(stream)).await {
        return Either::Client(first);
    }
    let application = async {
        let mut reached = tcp_path::reach(worker, application).await;
        reached.speaks().await;
        reached
    };
    tokio::select! {
        biased;
        first = peek(stream) => Either::Client(first),
        reached = application => Either::Application(Box::new(reached)),
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

async fn secured(worker: &Rc<Worker>, stream: TcpStream, client: SocketAddr, at: &At) {
    let begun = Instant::now();
    let telemetry = &worker.shared.telemetry;
    let shaken = handshake(worker, stream, client).await;
    let result = shaken
        .as_ref()
        .map_or_else(|failed| *failed, |_| Handshake::Completed);
    telemetry.handshake(Direction::Inbound, result, begun.elapsed());
    let Ok((stream, peer)) = shaken else { return };
    let leaf = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first);
    at.expires.set(leaf.and_then(ends_at));
    let alpn = stream
        .get_ref()
        .1
        .alpn_protocol()
        .and_then(Alpn::from_bytes);
    let io = Io::Server(Box::new(stream));
    let admission = Admission::Proven(peer.clone());
    match alpn {
        Some(Alpn::H1) => serve(worker, io, at, admission, Detected::Http1).await,
        Some(Alpn::H2) => serve(worker, io, at, admission, Detected::Http2).await,
        Some(Alpn::Tcp) => opaque(worker, io, at, &peer).await,
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
    stream: TcpStream,
    client: SocketAddr,
    at: &At,
    mtls: MtlsMode,
) {
    let mut io = Io::Plain(stream);
    let mut ahead = BytesMut::with_capacity(64);
    let Ok(Some(detected)) = timeout(FIRST_BYTE_MAX, decide(&mut io, &mut ahead)).await else {
        return;
    };
    let io = io.replay(ahead.freeze());
    let admission = match mtls {
        MtlsMode::Permissive => Admission::Plain,
        MtlsMode::Strict => Admission::PlainRefused,
    };
    match (detected, at.protocol) {
        (_, Protocol::Http | Protocol::Http2 | Protocol::Grpc)
        | (Detected::Http1 | Detected::Http2, Protocol::Detect) => {
            serve(worker, io, at, admission, detected).await;
        }
        // Refused as HTTP where it is, so that the client reads why.
        (Detected::Http1 | Detected::Http2, Protocol::Tcp) if mtls == MtlsMode::Strict => {
            serve(worker, io, at, admission, detected).await;
        }
        (_, Protocol::Tcp) | (_, Protocol::Detect) => match mtls {
            MtlsMode::Permissive => {
                let reached = tcp_path::reach(worker, at.application).await;
                tcp_path::deliver(worker, io, at.port, reached, None).await;
            }
            MtlsMode::Strict => {
                worker
                    .shared
                    .telemetry
                    .refused(Direction::Inbound, Reason::PlaintextRefused);
                tracing::info!(%client, "plain text refused: this port requires mutual TLS");
            }
        },
    }
}

/// A connection whose peer calls its bytes opaque.
async fn opaque(worker: &Rc<Worker>, mut io: Io, at: &At, peer: &SpiffeId) {
    let admission = || Admission::Proven(peer.clone());
    let mut ahead = BytesMut::with_capacity(64);
    match at.protocol {
        Protocol::Tcp => {
            let reached = tcp_path::reach(worker, at.application).await;
            tcp_path::deliver(worker, io, at.port, reached, Some(peer)).await;
        }
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => {
            let deciding = timeout(FIRST_BYTE_MAX, decide(&mut io, &mut ahead));
            if let Ok(Some(detected)) = deciding.await {
                let io = io.replay(ahead.freeze());
                serve(worker, io, at, admission(), detected).await;
            }
        }
        Protocol::Detect => {
            let mut reached = tcp_path::reach(worker, at.application).await;
            let decided = tokio::select! {
                biased;
                decided = begun(&mut io, &mut ahead) => decided,
                () = reached.speaks() => Some(Detected::Opaque),
            };
            let io = io.replay(ahead.freeze());
            match decided {
                None => {}
                Some(detected @ (Detected::Http1 | Detected::Http2)) => {
                    drop(reached);
                    serve(worker, io, at, admission(), detected).await;
                }
                Some(Detected::Opaque | Detected::Tls | Detected::Undecided) => {
                    tcp_path::deliver(worker, io, at.port, reached, Some(peer)).await;
                }
            }
        }
    }
}

/// As [`decide`], with all the time of the world for the first byte and [`FIRST_BYTE_MAX`] for what
/// must follow it. A connection that leaves open for longer whether it is HTTP is ended: called
/// opaque, its next bytes could be a request that nobody looks at. Where a protocol is like that,
/// its port has to be declared as TCP. Cancel safe: yes.
async fn begun(io: &mut Io, ahead: &mut BytesMut) -> Option<Detected> {
    if io.read_buf(ahead).await.ok()? == 0 {
        return None;
    }
    match classify(ahead) {
        Detected::Undecided => {}
        decided => return Some(decided),
    }
    if let Ok(decided) = timeout(FIRST_BYTE_MAX, decide(io, ahead)).await {
        return decided;
    }
    tracing::warn!(
        "a connection to an undeclared port says too little to tell whether it is HTTP: ended; \
         declare the port's protocol (appProtocol: tcp, or a name that begins with tcp-)"
    );
    None
}

/// Reads until the bytes decide; `None` when the client leaves without a word. Cancel safe: yes,
/// what was read is in `ahead`.
async fn decide(io: &mut Io, ahead: &mut BytesMut) -> Option<Detected> {
    loop {
        let read = io.read_buf(ahead).await.ok()?;
        match classify(ahead) {
            Detected::Undecided if read == 0 => {
                return (!ahead.is_empty()).then_some(Detected::Opaque);
            }
            Detected::Undecided => {}
            decided => return Some(decided),
        }
    }
}

/// By the HTTP engines. What is not HTTP gets version 1's 400.
async fn serve(worker: &Rc<Worker>, io: Io, at: &At, admission: Admission, detected: Detected) {
    let handler = Rc::new(Inbound::new(worker, at.port, at.application, admission));
    let ending = Rc::clone(&handler.ending);
    ending.expires_at(at.expires.get());
    match detected {
        Detected::Http2 => engine::http2(worker, io, &ending, handler).await,
        Detected::Http1 | Detected::Opaque | Detected::Tls | Detected::Undecided => {
            engine::http1(io, &ending, handler).await;
        }
    }
}
