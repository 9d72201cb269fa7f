//! The gRPC method: who may open a stream, and its two directions.
//!
//! Written by hand where generated code would do but for one thing: responses are not messages to
//! encode, they are bytes already ([`EnvelopeCodec`]).

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};
use outrigger_proto::wire::discovery::DeltaDiscoveryRequest;
use tokio::time::Instant;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::{Body as HttpBody, Service, StdError},
    metadata::MetadataValue,
    server::{Grpc, NamedService, StreamingService},
};

use super::{
    Shared,
    envelope::{Envelope, EnvelopeCodec},
    session,
};
use crate::transport::PeerInfo;

const METHOD: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// Largest request (DEF-34): a gateway's reconnect with 10,000 names and versions takes 2 MiB.
const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest response, kept by construction: see `subscriptions::RESPONSE_BYTES`.
const RESPONSE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Serves discovery streams. Over [`crate::transport::connections`] only: elsewhere the peer is
/// unknown, and every stream is refused.
#[derive(Clone)]
pub struct DiscoveryServer {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for DiscoveryServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiscoveryServer").finish_non_exhaustive()
    }
}

impl DiscoveryServer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl NamedService for DiscoveryServer {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl<B> Service<http::Request<B>> for DiscoveryServer
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if request.uri().path() != METHOD {
            let status = Status::unimplemented("only DeltaAggregatedResources is served");
            return ready(Ok(status.into_http())).boxed();
        }
        let open = Open {
            shared: Arc::clone(&self.shared),
        };
        let grpc = Grpc::new(EnvelopeCodec)
            .apply_max_message_size_config(Some(REQUEST_BYTES_MAX), Some(RESPONSE_BYTES_MAX));
        async move {
            let mut grpc = grpc;
            Ok(grpc.streaming(open, request).await)
        }
        .boxed()
    }
}

/// Opens one stream.
struct Open {
    shared: Arc<Shared>,
}

impl StreamingService<DeltaDiscoveryRequest> for Open {
    type Response = Envelope;
    type ResponseStream = BoxStream<'static, Result<Envelope, Status>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        let peer = request.extensions().get::<PeerInfo>();
        let Some(identity) = peer.and_then(|peer| peer.identity.clone()) else {
            self.shared.metrics.refused_streams.inc();
            tracing::warn!(
                peer = peer.map(|peer| tracing::field::display(peer.address)),
                "discovery stream refused: no certificate"
            );
            return ready(Err(Status::unauthenticated(
                "discovery needs a certificate of this mesh; ask CertificateService for one",
            )));
        };
        let ends = peer.and_then(|peer| peer.ends);
        if ends.is_some_and(|ends| ends <= Instant::now()) {
            self.shared.metrics.refused_streams.inc();
            tracing::warn!(%identity, "discovery stream refused: its certificate has ended");
            return ready(Err(session::certificate_ended()));
        }
        if self.shared.closing.is_cancelled() {
            return ready(Err(Status::unavailable("the control plane is stopping")));
        }
        let wait = match self.shared.admissions.admit(Instant::now()) {
            Ok(wait) => wait,
            Err(after) => {
                self.shared.metrics.throttled_streams.inc();
                tracing::debug!(%identity, ?after, "discovery stream refused: too many at once");
                return ready(Err(come_again(after)));
            }
        };
        let shared = Arc::clone(&self.shared);
        let peer = session::Peer { identity, ends };
        let responses = session::run(shared, peer, request.into_inner(), wait);
        ready(Ok(Response::new(responses.boxed())))
    }
}

/// Refused for now: gRPC's own way to say when to come again (proposal A6, "pushback").
fn come_again(after: Duration) -> Status {
    let mut status = Status::resource_exhausted("too many sidecars connect at once; come again");
    let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    let metadata = status.metadata_mut();
    metadata.insert("grpc-retry-pushback-ms", MetadataValue::from(after));
    status
}
