//! The control plane's gRPC listener: TLS from the first byte (DESIGN §6, port 15012).
//!
//! It takes TCP connections, does the handshake of each in a task of its own, and yields what is
//! left, connections whose peer is known, as the stream that tonic serves from. A client without a
//! certificate may connect (it has to get its first one somehow): it is then a peer without
//! identity, and each service decides what that is worth. A client with a certificate that is not
//! of this mesh is refused here and never seen by a service.
//!
//! Invariants:
//! - TLS 1.3 alone; no tickets, resumption or early data: each connection is judged by its own
//!   certificate (SECURITY-NOTES rule 9).
//! - At most [`HANDSHAKES_MAX`] handshakes at once, each done in [`HANDSHAKE_TIMEOUT`]; beyond
//!   that, connections wait in the kernel's queue.
//! - A peer's identity is proven until its certificate ends ([`PeerInfo::ends`]); what is served beyond
//!   one answer looks at that.
//! - The stream owns listener and handshakes: dropping it closes the socket and ends them.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use futures_util::{Stream, stream};
use outrigger_model::SpiffeId;
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

mod credentials;
mod metrics;
pub mod web;

pub use credentials::{Clients, ServerTls, TransportError, mesh_provider};
pub use metrics::TransportMetrics;

/// Most handshakes at once (DEF-11).
pub const HANDSHAKES_MAX: usize = 256;
/// Time for one handshake (DEF-11).
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after the system refused a connection, for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who is at the other end of a connection: in the extensions of every request that comes over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// Where the connection comes from.
    pub address: SocketAddr,
    /// The identity in its certificate, verified; `None` when it presented no certificate.
    pub identity: Option<SpiffeId>,
    /// When that certificate ends, on the clock that timers follow; `None` without one.
    pub ends: Option<Instant>,
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: PeerInfo,
}

impl Connection {
    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &PeerInfo {
        &self.peer
    }
}

/// A gRPC server with this mesh's limits (DEF-01, DEF-04, DEF-05, DEF-07, DEF-17).
#[must_use]
pub fn server() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .max_concurrent_streams(100)
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .http2_max_header_list_size(64 * 1024)
        .http2_max_pending_accept_reset_streams(Some(20))
        .http2_max_local_error_reset_streams(Some(64))
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
}

/// The connections that arrive at `listener`, as tonic's `serve_with_incoming_shutdown` takes
/// them. The stream does not end and yields no errors: those of one connection end that one.
/// Handshakes go on by themselves, but new ones begin only while the stream is polled.
pub fn connections(
    listener: TcpListener,
    tls: Arc<ServerTls>,
    metrics: TransportMetrics,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    let incoming = Incoming {
        listener,
        tls,
        metrics,
        handshakes: JoinSet::new(),
        failing: false,
    };
    stream::unfold(incoming, async |mut incoming| {
        let connection = incoming.next().await;
        Some((Ok(connection), incoming))
    })
}

struct Incoming {
    listener: TcpListener,
    tls: Arc<ServerTls>,
    metrics: TransportMetrics,
    handshakes: JoinSet<Option<Connection>>,
    /// The system refused the last connection.
    failing: bool,
}

impl Incoming {
    /// Cancel safe: yes, whatever is under way stays in `self`.
    async fn next(&mut self) -> Connection {
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if self.handshakes.len() < HANDSHAKES_MAX => {
                    self.accepted(accepted).await;
                }
                Some(done) = self.handshakes.join_next() => {
                    // A panic in one handshake ends that one (SECURITY-NOTES rule 12).
                    if let Ok(Some(connection)) = done {
                        return connection;
                    }
                }
            }
        }
    }

    async fn accepted(&mut self, accepted: io::Result<(TcpStream, SocketAddr)>) {
        match accepted {
            Ok((tcp, address)) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("connections are accepted again");
                }
                let (tls, metrics) = (Arc::clone(&self.tls), self.metrics.clone());
                self.handshakes.spawn(async move {
                    match handshake(tcp, address, &tls).await {
                        Ok(connection) => {
                            metrics.handshakes_ok.inc();
                            Some(connection)
                        }
                        Err(refusal) => {
                            metrics.refused(&refusal);
                            tracing::debug!(peer = %address, reason = refusal.reason(), error = &refusal as &dyn std::error::Error, "connection refused");
                            None
                        }
                    }
                });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%error, "cannot accept connections; trying again; check the limit of open files");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The peer gave up before it was accepted: nothing is wrong with the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

/// Why a connection went no further.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeRefusal {
    /// Not finished in time.
    #[error("the handshake took longer than {HANDSHAKE_TIMEOUT:?}")]
    Timeout,
    /// TLS failed; a certificate of another mesh is among the causes.
    #[error("the handshake failed")]
    Tls(#[source] io::Error),
    /// A certificate that our roots vouch for, but not of a workload of this mesh.
    #[error("the client's certificate has not exactly one SPIFFE ID of this trust domain")]
    Identity,
}

impl HandshakeRefusal {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Tls(_) => "tls",
            Self::Identity => "identity",
        }
    }
}

async fn handshake(
    tcp: TcpStream,
    address: SocketAddr,
    tls: &ServerTls,
) -> Result<Connection, HandshakeRefusal> {
    // Small control messages: waiting to fill a segment would only delay them.
    tcp.set_nodelay(true).map_err(HandshakeRefusal::Tls)?;
    let acceptor = TlsAcceptor::from(tls.config());
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp))
        .await
        .map_err(|_| HandshakeRefusal::Timeout)?
        .map_err(HandshakeRefusal::Tls)?;
    let (identity, ends) = match stream.get_ref().1.peer_certificates() {
        None | Some([]) => (None, None),
        Some([leaf, ..]) => {
            let identity = tls.identity_of(leaf).ok_or(HandshakeRefusal::Identity)?;
            let ends = ends_at(leaf).ok_or(HandshakeRefusal::Identity)?;
            (Some(identity), Some(ends))
        }
    };
    let peer = PeerInfo {
        address,
        identity,
        ends,
    };
    Ok(Connection { stream, peer })
}

/// When a certificate ends; one that has is over now. `None` where it does not say so, or so late
/// that no clock reaches it.
fn ends_at(leaf: &CertificateDer<'_>) -> Option<Instant> {
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    let end = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
    let left = end.duration_since(SystemTime::now()).unwrap_or_default();
    Instant::now().checked_add(left)
}

impl Connected for Connection {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
pub(crate) mod tests;
