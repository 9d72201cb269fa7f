//! The control plane's own page of metrics, in plain HTTP: `/metrics` for Prometheus (text format
//! 0.0.4), `/live` for whoever restarts it, `/ready` for whoever sends sidecars to it. Read-only; it
//! holds names of workloads, no secrets.

use std::net::SocketAddr;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::{Registry, TextEncoder};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::StartError;

/// What the page shows.
#[derive(Debug, Clone)]
pub(super) struct Page {
    pub(super) registry: Registry,
    /// Whether everything is known and served; nothing for one that is ready when it listens.
    pub(super) ready: Option<watch::Receiver<bool>>,
}

/// Listens at `address` and serves the page until stopped. Returns where.
pub(super) async fn serve(
    address: SocketAddr,
    page: Page,
    stop: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<SocketAddr, StartError> {
    let listen_error = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(listen_error)?;
    let bound = listener.local_addr().map_err(listen_error)?;
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .with_state(page);
    let stopped = stop.clone();
    tasks.spawn(async move {
        // Not gracefully: a scraper's idle connection would hold up the end.
        stopped
            .run_until_cancelled(axum::serve(listener, router).into_future())
            .await;
    });
    Ok(bound)
}

async fn ready(State(page): State<Page>) -> (StatusCode, &'static str) {
    match page.ready {
        Some(ready) if !*ready.borrow() => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        Some(_) | None => (StatusCode::OK, "ready\n"),
    }
}

async fn metrics(State(page): State<Page>) -> Response {
    match TextEncoder::new().encode_to_string(&page.registry.gather()) {
        Ok(text) => {
            let kind = [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)];
            (kind, text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "metrics cannot be encoded");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
