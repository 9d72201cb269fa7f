//! Connecting: TCP, then for a meshed endpoint TLS and the check of who answered.

use std::{io, net::SocketAddr, time::Duration};

use outrigger_model::{Peer, SpiffeId};
use outrigger_redirect::OWN_POD_PRIORITY;
use rustls_pki_types::ServerName;
use socket2::SockRef;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Connection, Endpoint, Permit};
use crate::{
    exchange::{AttemptFailure, AttemptFailureKind as Kind, Deadline},
    io::{Io, prepare},
    telemetry::Handshake,
    tls::{Alpn, ends_at, identity_of},
};

/// DEF-11.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long before a certificate's end a connection is left: a sixteenth of what it has, 30 s at
/// most.
const LEAVE_EARLY_SHARE: u32 = 16;
const LEAVE_EARLY_MAX: Duration = Duration::from_secs(30);

impl Endpoint {
    /// Opens a connection. Cancel safe: yes, nothing but the socket is lost.
    pub(super) async fn connect(
        &self,
        alpn: Alpn,
        permit: Permit,
        deadline: Deadline,
    ) -> Result<Connection, AttemptFailure> {
        let now = Instant::now();
        let limits = self.pool().limits();
        let until = deadline.or_after(now, Some(limits.connect_timeout));
        let connecting = within(until, dial(self.address, &self.peer));
        let stream = match connecting.await {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => {
                return Err(AttemptFailure::new(Kind::Connect, error.kind().to_string()));
            }
            None => return Err(too_late(deadline, until, Kind::Connect, "connect timeout")),
        };
        prepare(&stream);
        let (io, peer, expires) = match &self.peer {
            Peer::Plain => (Io::Plain(stream), None, None),
            Peer::Meshed(expected) => {
                let stream = self.secure(stream, alpn, expected, deadline).await?;
                let expires = self.expires(&stream);
                (
                    Io::Client(Box::new(stream)),
                    Some(expected.clone()),
                    expires,
                )
            }
        };
        let counted = self.pool().report_connection();
        let io = match &counted {
            Some(counted) => io.counted(counted),
            None => io,
        };
        Ok(Connection {
            io,
            counted,
            peer,
            served: 1,
            opened: now,
            expires,
            idle_max: None,
            permit,
        })
    }

    /// When to leave a connection: at the end of the peer's certificate or of our own, whichever
    /// comes first, and a little before it, so that no request meets the peer's own closing.
    fn expires(&self, stream: &TlsStream<TcpStream>) -> Option<Instant> {
        let now = Instant::now();
        let peer = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(<[_]>::first);
        let own = self.tls.load_full();
        let own = own.as_ref().map(|context| &context.leaf);
        let ends = peer.into_iter().chain(own).filter_map(ends_at);
        ends.min().map(|end| {
            let left = end.saturating_duration_since(now);
            end - (left / LEAVE_EARLY_SHARE).min(LEAVE_EARLY_MAX)
        })
    }

    /// A handshake, reported however it ends.
    async fn secure(
        &self,
        stream: TcpStream,
        alpn: Alpn,
        expected: &SpiffeId,
        deadline: Deadline,
    ) -> Result<TlsStream<TcpStream>, AttemptFailure> {
        let begun = Instant::now();
        let shaken = self.shake(stream, alpn, expected, deadline).await;
        let result = shaken
            .as_ref()
            .map_or_else(|(failed, _)| *failed, |_| Handshake::Completed);
        self.pool().report_handshake(result, begun.elapsed());
        shaken.map_err(|(_, failure)| failure)
    }

    async fn shake(
        &self,
        stream: TcpStream,
        alpn: Alpn,
        expected: &SpiffeId,
        deadline: Deadline,
    ) -> Result<TlsStream<TcpStream>, (Handshake, AttemptFailure)> {
        let Some(context) = self.tls.load_full() else {
            let detail = "this sidecar holds no certificate yet";
            let failure = AttemptFailure::new(Kind::NoCertificate, detail);
            return Err((Handshake::NoCertificate, failure));
        };
        let until = deadline.or_after(Instant::now(), Some(HANDSHAKE_TIMEOUT));
        let name = ServerName::IpAddress(self.address.ip().into());
        let handshake = TlsConnector::from(context.client(alpn)).connect(name, stream);
        let refuse =
            |result, detail: String| (result, AttemptFailure::new(Kind::Handshake, detail));
        let stream = match within(until, handshake).await {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => {
                return Err(refuse(Handshake::of_error(&error), error.to_string()));
            }
            None => {
                let late = too_late(deadline, until, Kind::Handshake, "handshake timeout");
                return Err((Handshake::TimedOut, late));
            }
        };
        let session = stream.get_ref().1;
        let leaf = session.peer_certificates().and_then(<[_]>::first);
        let proven = match leaf.map(identity_of) {
            Some(Ok(proven)) => proven,
            Some(Err(error)) => return Err(refuse(Handshake::Untrusted, error.to_string())),
            None => return Err(refuse(Handshake::Untrusted, "no certificate".to_owned())),
        };
        if proven != *expected {
            let detail = format!("is {proven}, expected {expected}");
            return Err(refuse(Handshake::WrongIdentity, detail));
        }
        if session.alpn_protocol() != Some(alpn.as_bytes()) {
            let detail = "did not agree on the protocol".to_owned();
            return Err(refuse(Handshake::Protocol, detail));
        }
        Ok(stream)
    }
}

/// Whose deadline it was: the request's, or the connection's own.
fn too_late(request: Deadline, until: Deadline, own: Kind, what: &'static str) -> AttemptFailure {
    let kind = if request == until { Kind::Timeout } else { own };
    AttemptFailure::new(kind, what)
}

/// Opens a connection. One to a meshed endpoint may lead to this very pod, and then has to arrive at
/// the sidecar's inbound side as any peer's would: the capture rules know it by its priority.
async fn dial(address: SocketAddr, peer: &Peer) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Peer::Meshed(_) = peer {
        SockRef::from(&socket).set_priority(OWN_POD_PRIORITY)?;
    }
    socket.connect(address).await
}

/// `None` when the deadline passed first.
async fn within<T>(deadline: Deadline, future: impl Future<Output = T>) -> Option<T> {
    match deadline.0 {
        Some(until) => timeout_at(until, future).await.ok(),
        None => Some(future.await),
    }
}
