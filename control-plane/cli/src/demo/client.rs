//! HTTP/1.1 to loopback for the demo's own use: load through a sidecar, metrics, fault control.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// The largest answer that is read: a page of metrics has at most 5,000 lines of some 300 bytes.
const BYTES_MAX: usize = 4 << 20;
/// Shorter than any server's here, so that a connection is never closed under a request.
const TIMEOUT_IDLE: Duration = Duration::from_secs(20);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// No connection, or one that broke.
    #[error("no answer")]
    Send(#[from] hyper_util::client::legacy::Error),
    /// An answer that broke off or is too large.
    #[error("no complete answer: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The deadline passed.
    #[error("no answer in time")]
    Timeout,
}

/// A client with a pool of connections; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Client(Pool<HttpConnector, Full<Bytes>>);

impl Client {
    pub(super) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self(
            Pool::builder(TokioExecutor::new())
                .pool_idle_timeout(TIMEOUT_IDLE)
                .pool_timer(hyper_util::rt::TokioTimer::new())
                .build(connector),
        )
    }

    /// Sends, and reads the whole answer. Cancel safe: no, the request may have been sent.
    ///
    /// # Errors
    /// If there is no complete answer within `timeout`.
    pub(super) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        timeout: Duration,
    ) -> Result<Response<Bytes>, ClientError> {
        let exchange = async {
            let (head, body) = self.0.request(request).await?.into_parts();
            let body = Limited::new(body, BYTES_MAX).collect().await;
            let body = body.map_err(ClientError::Body)?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        let answer = tokio::time::timeout(timeout, exchange).await;
        answer.unwrap_or(Err(ClientError::Timeout))
    }
}
