//! HTTPS for whoever is no part of the mesh: the API server, which calls webhooks. The same
//! certificate authority, no client certificate, HTTP/1.1 and HTTP/2.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{Router, serve::Listener};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Connection, Incoming, ServerTls, TransportMetrics};

/// Serves `router` at `listener` until stopped: open connections end with what they are at. Keeps
/// the certificate renewed.
pub fn serve(
    listener: TcpListener,
    tls: Arc<ServerTls>,
    metrics: TransportMetrics,
    router: Router,
    stop: &CancellationToken,
    tasks: &mut JoinSet<()>,
) {
    let incoming = Connections(Incoming {
        listener,
        tls: Arc::clone(&tls),
        metrics,
        handshakes: JoinSet::new(),
        failing: false,
    });
    let stopped = stop.clone().cancelled_owned();
    let served = axum::serve(incoming, router).with_graceful_shutdown(stopped);
    tasks.spawn(async move {
        if let Err(error) = served.await {
            tracing::error!(%error, "the web server ended");
        }
    });
    let stopped = stop.clone();
    tasks.spawn(async move {
        stopped.run_until_cancelled(tls.keep_renewed()).await;
    });
}

struct Connections(Incoming);

impl Listener for Connections {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let connection = self.0.next().await;
        let address = connection.peer.address;
        (connection, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.listener.local_addr()
    }
}
