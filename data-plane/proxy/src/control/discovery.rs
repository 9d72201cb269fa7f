//! The discovery stream: subscribe on demand, apply whole, ACK or NACK, connect again.
//!
//! One response is applied at a time, between two polls of the stream. The fold outlives streams:
//! a new one opens with the versions held and receives only what differs (DESIGN §4). So does the
//! first of a process that found its last good configuration on local disk ([`super::disk`]).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use outrigger_model::{Authority, ResourceKind, TrustBundle, TrustDomain, WorkloadName};
use outrigger_proto::wire::{
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    rpc::Status,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, interval, sleep},
};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    backoff::Backoff,
    fold::Fold,
    keeper::Keeper,
    link::{self, ControlPlane},
    state::State,
    subscriptions::Resources,
};
use crate::{snapshot::SnapshotWriter, telemetry::Telemetry, upstream::TlsReader};

/// Requests on their way to the control plane. One demand makes two at most, and the server
/// answers each; a queue this long that is full means a stream that is stuck.
const REQUESTS_MAX: usize = 256;
/// DEF-34.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A service unused for so long is forgotten (DESIGN §4: "minutes").
const UNUSED_MAX: Duration = Duration::from_secs(600);
/// How often that is looked at.
const FORGET_INTERVAL: Duration = Duration::from_secs(60);
/// gRPC INVALID_ARGUMENT, as xDS clients send it with a NACK.
const INVALID_ARGUMENT: i32 = 3;

/// The task's state.
#[derive(Debug)]
pub(super) struct Discovery {
    pub(super) to: ControlPlane,
    pub(super) workload: WorkloadName,
    pub(super) trust_domain: TrustDomain,
    pub(super) tls: TlsReader,
    pub(super) has_certificate: watch::Receiver<u64>,
    pub(super) demanded: mpsc::Receiver<Authority>,
    pub(super) writer: SnapshotWriter,
    pub(super) trust: watch::Sender<Option<Arc<TrustBundle>>>,
    pub(super) telemetry: Telemetry,
    pub(super) started: Instant,
    /// For the admin address.
    pub(super) resources: Resources,
    /// `None` without a `state_dir`.
    pub(super) keeper: Option<Keeper>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("cannot reach the control plane")]
    Connect(#[source] tonic::transport::Error),
    #[error("the control plane ended the stream: {text}")]
    Status {
        text: String,
        /// When to come again, if it said so.
        again_after: Option<Duration>,
    },
    #[error("the control plane closed the stream")]
    Closed,
    #[error("the control plane takes no more requests")]
    Stuck,
    #[error("no certificate yet")]
    NoCertificate,
}

impl StreamError {
    /// With gRPC's own way to say when to come again (proposal A6).
    fn of(status: &tonic::Status) -> Self {
        let asked = status.metadata().get("grpc-retry-pushback-ms");
        let asked = asked.and_then(|value| value.to_str().ok()?.parse().ok());
        Self::Status {
            text: format!("{:?}: {}", status.code(), status.message()),
            again_after: asked.map(Duration::from_millis),
        }
    }

    /// Whether the control plane asks to come again at once: the certificate of the connection has
    /// ended, and there is a newer one by now.
    fn is_planned(&self) -> bool {
        self.again_after() == Some(Duration::ZERO)
    }

    fn again_after(&self) -> Option<Duration> {
        match self {
            Self::Status { again_after, .. } => *again_after,
            Self::Connect(_) | Self::Closed | Self::Stuck | Self::NoCertificate => None,
        }
    }
}

/// One open stream.
struct Stream {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: tonic::Streaming<DeltaDiscoveryResponse>,
}

impl Discovery {
    /// Runs until dropped.
    pub(super) async fn run(mut self) {
        let mut state = State {
            fold: Fold::default(),
            subscriptions: self.resources.clone(),
            keeper: self.keeper.take(),
        };
        self.subscribe_own(&state);
        self.restore(&mut state);
        let mut backoff = Backoff::default();
        loop {
            let begun = Instant::now();
            let Err(error) = self.stream(&mut state).await;
            self.connected(&state, false);
            // A stream that worked for a while starts the backoff anew.
            if error.is_planned() || begun.elapsed() > Duration::from_secs(10) {
                backoff.reset();
            }
            let pause = backoff.next_after(error.again_after());
            if error.is_planned() {
                tracing::info!(%error, ?pause, "discovery connects again");
            } else {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, cause, ?pause, "discovery interrupted; traffic goes on, trying again");
            }
            self.pause(&mut state, pause).await;
        }
    }

    /// Waits, and meanwhile notes what the application uses.
    async fn pause(&mut self, state: &mut State, pause: Duration) {
        let until = sleep(pause);
        tokio::pin!(until);
        loop {
            tokio::select! {
                () = &mut until => return,
                demanded = self.demanded.recv() => match demanded {
                    Some(authority) => {
                        state.fold.demand(&authority);
                    }
                    None => return until.await,
                },
                () = state.due() => state.save(),
            }
        }
    }

    fn connected(&self, state: &State, connected: bool) {
        self.telemetry.discovery_connected(connected);
        state
            .subscriptions
            .source_is(|source| source.connected = connected);
    }

    /// Begins with what local disk has: workers decide from it before the control plane answers.
    fn restore(&self, state: &mut State) {
        let Some(disk) = state.keeper.as_ref().map(|keeper| keeper.disk().clone()) else {
            return;
        };
        let file = disk.path().display();
        let saved = match disk.read() {
            Ok(Some(saved)) => saved,
            Ok(None) => return,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%file, %error, cause, "the configuration kept on disk is ignored");
                return;
            }
        };
        let (at, resources, used) = (saved.at, saved.resources.len(), saved.used.len());
        match state.take_back(saved) {
            Ok(()) => {
                let age = at.elapsed().unwrap_or_default();
                tracing::info!(%file, resources, used, ?age, "configuration restored from disk");
                state
                    .subscriptions
                    .source_is(|source| source.restored = Some(at));
                self.publish(state);
            }
            Err(rejected) => {
                tracing::warn!(%file, error = %rejected, "the configuration kept on disk is ignored");
            }
        }
    }

    fn subscribe_own(&self, state: &State) {
        let own = [
            (ResourceKind::MeshSettings, "mesh".to_owned()),
            (ResourceKind::TrustBundle, self.trust_domain.to_string()),
            (ResourceKind::InboundPolicy, self.workload.to_string()),
        ];
        for (kind, name) in own {
            state
                .subscriptions
                .with(|all| all.update(kind, BTreeSet::from([name])));
        }
    }

    async fn stream(&mut self, state: &mut State) -> Result<std::convert::Infallible, StreamError> {
        if self
            .has_certificate
            .wait_for(|count| *count > 0)
            .await
            .is_err()
        {
            return Err(StreamError::NoCertificate);
        }
        let mut stream = self.open(state).await?;
        self.connected(state, true);
        tracing::info!(control_plane = %self.to.address, "discovery connected");
        let mut forget = interval(FORGET_INTERVAL);
        loop {
            tokio::select! {
                response = stream.responses.message() => {
                    let response = response
                        .map_err(|status| StreamError::of(&status))?
                        .ok_or(StreamError::Closed)?;
                    self.respond(state, &stream, response)?;
                }
                Some(authority) = self.demanded.recv() => {
                    // Whoever else is asking at this moment goes into the same request.
                    let mut new = state.fold.demand(&authority);
                    while let Ok(authority) = self.demanded.try_recv() {
                        new |= state.fold.demand(&authority);
                    }
                    if new {
                        subscribe(state, &stream)?;
                    }
                }
                _ = forget.tick() => self.forget(state, &stream)?,
                () = state.due() => state.save(),
            }
        }
    }

    async fn open(&self, state: &State) -> Result<Stream, StreamError> {
        let tls = self
            .tls
            .load_full()
            .ok_or(StreamError::NoCertificate)?
            .control();
        let channel = link::connect(&self.to, tls)
            .await
            .map_err(StreamError::Connect)?;
        let (requests, outgoing) = mpsc::channel(REQUESTS_MAX);
        for kind in [
            ResourceKind::Destination,
            ResourceKind::RouteTable,
            ResourceKind::EndpointShard,
        ] {
            let wanted = state.fold.wanted(kind);
            state.subscriptions.with(|all| all.update(kind, wanted));
        }
        for kind in ResourceKind::ALL {
            let opening = state.subscriptions.with(|all| all.opening(kind));
            let request = DeltaDiscoveryRequest {
                node: Some(Node {
                    id: self.workload.to_string(),
                    ..Node::default()
                }),
                type_url: kind.type_url().into(),
                resource_names_subscribe: opening.subscribe,
                initial_resource_versions: opening.versions.into_iter().collect(),
                ..DeltaDiscoveryRequest::default()
            };
            requests.try_send(request).map_err(|_| StreamError::Stuck)?;
        }
        let mut client = AggregatedDiscoveryServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let responses = client
            .delta_aggregated_resources(ReceiverStream::new(outgoing))
            .await
            .map_err(|status| StreamError::of(&status))?
            .into_inner();
        Ok(Stream {
            requests,
            responses,
        })
    }

    /// Applies a response and acknowledges it, or refuses it whole.
    fn respond(
        &self,
        state: &mut State,
        stream: &Stream,
        response: DeltaDiscoveryResponse,
    ) -> Result<(), StreamError> {
        let answer = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        match state.take_in(response) {
            Ok(()) => {
                stream
                    .requests
                    .try_send(answer)
                    .map_err(|_| StreamError::Stuck)?;
                self.publish(state);
                subscribe(state, stream)
            }
            Err(rejected) => {
                tracing::error!(%rejected, "configuration rejected; the last good one stays");
                self.telemetry.nack();
                let error = Status {
                    code: INVALID_ARGUMENT,
                    message: rejected.to_string(),
                };
                let answer = DeltaDiscoveryRequest {
                    error_detail: Some(error),
                    ..answer
                };
                stream
                    .requests
                    .try_send(answer)
                    .map_err(|_| StreamError::Stuck)
            }
        }
    }

    fn publish(&self, state: &mut State) {
        if let Some(keeper) = &mut state.keeper {
            keeper.changed(Instant::now());
        }
        if let Some(snapshot) = state.fold.snapshot() {
            self.telemetry.configuration(snapshot.number);
            self.telemetry.configure(&snapshot.settings);
            self.writer.publish(snapshot);
        }
        let trust = state.fold.trust();
        self.trust.send_if_modified(|present| {
            let changed = present.as_ref() != trust;
            if changed {
                *present = trust.cloned();
            }
            changed
        });
    }

    fn forget(&self, state: &mut State, stream: &Stream) -> Result<(), StreamError> {
        let before = self.started.elapsed().saturating_sub(UNUSED_MAX).as_secs();
        if state
            .fold
            .forget_unused(u32::try_from(before).unwrap_or(u32::MAX))
        {
            self.publish(state);
            subscribe(state, stream)?;
        }
        Ok(())
    }
}

/// Tells the server what is wanted now and was not, and the other way round.
fn subscribe(state: &State, stream: &Stream) -> Result<(), StreamError> {
    for kind in [
        ResourceKind::Destination,
        ResourceKind::RouteTable,
        ResourceKind::EndpointShard,
    ] {
        let wanted = state.fold.wanted(kind);
        let fold = &state.fold;
        let change = state.subscriptions.with(|all| {
            let change = all.update(kind, wanted)?;
            all.retain(kind, |name| fold.holds(kind, name));
            Some(change)
        });
        let Some(change) = change else {
            continue;
        };
        let request = DeltaDiscoveryRequest {
            type_url: kind.type_url().into(),
            resource_names_subscribe: change.subscribe,
            resource_names_unsubscribe: change.unsubscribe,
            ..DeltaDiscoveryRequest::default()
        };
        stream
            .requests
            .try_send(request)
            .map_err(|_| StreamError::Stuck)?;
    }
    Ok(())
}
