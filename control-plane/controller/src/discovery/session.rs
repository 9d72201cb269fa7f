//! One stream: requests in, responses out, one in flight.
//!
//! The session is driven by whoever reads its responses: while the peer's flow control holds a
//! response back, nothing is polled, so nothing piles up but names in the dirty set. Dropping the
//! stream of responses ends the session and its subscriptions.

use std::{future::pending, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use outrigger_model::{
    Authority, DestinationName, ResourceKind, ResourceName, SpiffeId, WorkloadName,
};
use outrigger_proto::{Version, wire::discovery::DeltaDiscoveryRequest};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::{Status, metadata::MetadataValue};

use super::{
    DiscoveryEvent, Shared,
    encoded::EncodedResource,
    envelope::Envelope,
    pace::Pace,
    store::Store,
    subscriber::Subscriber,
    subscriptions::{Interest, Subscriptions, View, Wish},
};

mod answer;

/// Time for the first request of a stream.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// Time for the answer to a response. A sidecar applies one in milliseconds; one that does not
/// answer for so long is stuck, and starts over by connecting again.
const ANSWER: Duration = Duration::from_secs(60);
/// Streams served at once: six times the largest mesh we plan for, at 64 KiB each 4 GB.
const STREAMS_MAX: usize = 65_536;

/// Who is at the other end of a stream.
pub(super) struct Peer {
    /// What its certificate proves.
    pub(super) identity: SpiffeId,
    /// Until when; for ever, where there is no end.
    pub(super) ends: Option<Instant>,
}

/// The responses of a stream whose peer is known, and that begins after `wait`.
pub(super) fn run<S>(
    shared: Arc<Shared>,
    peer: Peer,
    requests: S,
    wait: Duration,
) -> impl Stream<Item = Result<Envelope, Status>> + Send
where
    S: Stream<Item = Result<DeltaDiscoveryRequest, Status>> + Send + Unpin + 'static,
{
    let open = async move {
        sleep(wait).await;
        Session::open(shared, peer, requests).await
    };
    stream::once(open)
        .map_ok(|session| {
            stream::unfold(Some(session), async |session| {
                let mut session = session?;
                match session.next().await? {
                    Ok(response) => Some((Ok(response), Some(session))),
                    Err(status) => Some((Err(status), None)),
                }
            })
        })
        .try_flatten()
}

/// A response that was sent and not answered.
struct InFlight {
    nonce: String,
    kind: ResourceKind,
    tells: Vec<(ResourceName, Option<Version>)>,
    sent: Instant,
}

struct Session<S> {
    shared: Arc<Shared>,
    requests: S,
    subscriber: Arc<Subscriber>,
    /// When the peer's certificate ends, and the stream with it.
    ends: Option<Instant>,
    subscriptions: Subscriptions,
    in_flight: Option<InFlight>,
    pace: Pace,
    /// Since when nothing is in flight.
    idle: Instant,
    nonce: u64,
}

/// The store as one sidecar sees it.
struct Seen<'a> {
    store: &'a Store,
    identity: &'a SpiffeId,
}

impl View for Seen<'_> {
    fn resource(&self, name: &ResourceName) -> Option<Arc<EncodedResource>> {
        self.store.get(name, self.identity)
    }

    fn resolve(&self, authority: &Authority) -> Option<DestinationName> {
        self.store.resolve(&self.identity.namespace, authority)
    }
}

impl<S> Session<S>
where
    S: Stream<Item = Result<DeltaDiscoveryRequest, Status>> + Unpin,
{
    /// Waits for the first request, which names the sidecar.
    async fn open(
        shared: Arc<Shared>,
        Peer { identity, ends }: Peer,
        mut requests: S,
    ) -> Result<Self, Status> {
        let first = timeout(FIRST_REQUEST, requests.next()).await;
        let first = match first {
            Ok(Some(request)) => request?,
            Ok(None) => return Err(Status::cancelled("the stream ended without a request")),
            Err(_) => return Err(Status::deadline_exceeded("no request came")),
        };
        let workload = workload(&first, &identity).inspect_err(|status| {
            shared.metrics.refused_streams.inc();
            tracing::warn!(%identity, reason = status.message(), "discovery stream refused");
        })?;
        let subscriber = {
            let mut store = shared.write();
            if store.stream_count() >= STREAMS_MAX {
                shared.metrics.refused_streams.inc();
                return Err(Status::resource_exhausted(
                    "too many sidecars; try another replica",
                ));
            }
            store.join(workload.clone(), identity.clone())
        };
        shared.metrics.streams.inc();
        tracing::info!(sidecar = %workload, %identity, "sidecar connected");
        shared.emit(|| DiscoveryEvent::Connected {
            sidecar: workload,
            identity,
        });
        let mut session = Self {
            shared,
            requests,
            subscriber,
            ends,
            subscriptions: Subscriptions::default(),
            in_flight: None,
            pace: Pace::default(),
            idle: Instant::now(),
            nonce: 0,
        };
        session.take_request(&first)?;
        Ok(session)
    }

    /// The next response; `None` when the sidecar ended the stream.
    async fn next(&mut self) -> Option<Result<Envelope, Status>> {
        loop {
            // Before anything is sent: a peer that did not read meanwhile has not been noticed.
            if self.ends.is_some_and(|ends| ends <= Instant::now()) {
                tracing::info!(sidecar = %self.subscriber.workload, identity = %self.subscriber.identity,
                    "a sidecar's certificate has ended; so does its stream");
                return Some(Err(certificate_ended()));
            }
            if let Some(response) = self.push().await {
                return Some(Ok(response));
            }
            let wake = self.wake_at();
            tokio::select! {
                request = self.requests.next() => {
                    let taken = request?.and_then(|request| self.take_request(&request));
                    if let Err(status) = taken {
                        return Some(Err(status));
                    }
                }
                () = self.subscriber.changed() => {}
                () = at(self.ends) => {}
                () = at(wake) => {
                    if self.is_overdue() {
                        tracing::warn!(sidecar = %self.subscriber.workload, identity = %self.subscriber.identity,
                            "a sidecar did not answer for a minute; its stream ends");
                        return Some(Err(Status::deadline_exceeded("a response was not answered")));
                    }
                }
                () = self.shared.closing.cancelled() => {
                    return Some(Err(Status::unavailable("the control plane is stopping")));
                }
            }
        }
    }

    /// When to look again although nothing came.
    fn wake_at(&self) -> Option<Instant> {
        match &self.in_flight {
            Some(in_flight) => Some(in_flight.sent + ANSWER),
            None => {
                let (_, urgent) = self.subscriber.waiting()?;
                self.pace.delay(urgent, Instant::now())
            }
        }
    }

    fn is_overdue(&self) -> bool {
        let in_flight = self.in_flight.as_ref();
        in_flight.is_some_and(|in_flight| in_flight.sent + ANSWER <= Instant::now())
    }

    /// [`Self::respond`], among the streams that do so at this moment (DEF-35).
    async fn push(&mut self) -> Option<Envelope> {
        let shared = Arc::clone(&self.shared);
        // The semaphore is never closed.
        let _turn = shared.pushes.acquire().await.ok()?;
        self.respond()
    }

    /// The next response, if one may go now.
    fn respond(&mut self) -> Option<Envelope> {
        if self.in_flight.is_some() || !self.shared.read().is_ready() {
            return None;
        }
        let shared = Arc::clone(&self.shared);
        let draft = loop {
            if !self.subscriptions.has_next() {
                self.take_changes()?;
            }
            let store = shared.read();
            let seen = Seen {
                store: &store,
                identity: &self.subscriber.identity,
            };
            if let Some(draft) = self.subscriptions.next(&seen) {
                break draft;
            }
        };
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        let envelope = Envelope {
            kind: draft.kind,
            nonce: nonce.clone(),
            resources: draft.resources,
            removed: draft.removed,
        };
        let metrics = shared.metrics.of(draft.kind);
        metrics.responses.inc();
        let bytes = u64::try_from(envelope.encoded_len()).unwrap_or(u64::MAX);
        metrics.response_bytes.inc_by(bytes);
        self.in_flight = Some(InFlight {
            nonce,
            kind: draft.kind,
            tells: draft.tells,
            sent: Instant::now(),
        });
        Some(envelope)
    }

    /// Moves what became dirty to the subscriptions; `None` when there is nothing, or not yet.
    fn take_changes(&mut self) -> Option<()> {
        let now = Instant::now();
        let (since, urgent) = self.subscriber.waiting()?;
        if self.pace.delay(urgent, now).is_some() {
            return None;
        }
        self.pace.sends(since.max(self.idle), now);
        let dirty = self.subscriber.take_dirty();
        if dirty.aliases {
            let interest = {
                let store = self.shared.read();
                let seen = Seen {
                    store: &store,
                    identity: &self.subscriber.identity,
                };
                self.subscriptions.resolve_again(&seen)
            };
            self.register(&interest);
        }
        for name in dirty.names {
            self.subscriptions.changed(name);
        }
        Some(())
    }

    fn take_request(&mut self, request: &DeltaDiscoveryRequest) -> Result<(), Status> {
        let Some(kind) = ResourceKind::from_type_url(&request.type_url) else {
            // A newer sidecar may ask for more than this control plane knows; it waits a bounded
            // time for an answer.
            tracing::warn!(sidecar = %self.subscriber.workload, type_url = request.type_url,
                "a sidecar asked for resources of an unknown type");
            return Ok(());
        };
        self.take_answer(request);
        let wish = Wish {
            subscribe: &request.resource_names_subscribe,
            unsubscribe: &request.resource_names_unsubscribe,
            versions: &request.initial_resource_versions,
        };
        if wish.subscribe.is_empty() && wish.unsubscribe.is_empty() && wish.versions.is_empty() {
            return Ok(());
        }
        let interest = {
            let store = self.shared.read();
            let seen = Seen {
                store: &store,
                identity: &self.subscriber.identity,
            };
            let interest = self.subscriptions.request(kind, &wish, &seen);
            interest.map_err(|error| Status::resource_exhausted(error.to_string()))?
        };
        self.log_withheld(&interest);
        self.register(&interest);
        if !wish.versions.is_empty() {
            self.note_held(kind, wish.versions);
        }
        Ok(())
    }

    /// Registers before anything is read for a response: a change in between is seen twice, never
    /// missed.
    fn register(&self, interest: &Interest) {
        if interest.added.is_empty() && interest.dropped.is_empty() {
            return;
        }
        let mut store = self.shared.write();
        for name in &interest.added {
            store.subscribe(&self.subscriber, name.clone());
        }
        for name in &interest.dropped {
            store.unsubscribe(&self.subscriber, name);
        }
        drop(store);
        let mut progress = self.subscriber.progress();
        for name in &interest.dropped {
            progress.remove(name);
        }
    }

    fn log_withheld(&self, interest: &Interest) {
        let identity = &self.subscriber.identity;
        let store = self.shared.read();
        for name in interest
            .added
            .iter()
            .filter(|name| store.is_withheld(name, identity))
        {
            tracing::warn!(sidecar = %self.subscriber.workload, %identity,
                kind = name.kind().as_str(), %name,
                "a sidecar asked for what belongs to another identity; it is told that there is none");
        }
    }
}

impl<S> Drop for Session<S> {
    fn drop(&mut self) {
        let subscriber = &self.subscriber;
        self.shared
            .write()
            .leave(subscriber, self.subscriptions.names());
        self.shared.metrics.streams.dec();
        self.shared.metrics.rejections().clear_stream(subscriber.id);
        tracing::info!(sidecar = %subscriber.workload, identity = %subscriber.identity, "sidecar disconnected");
        self.shared.emit(|| DiscoveryEvent::Disconnected {
            sidecar: subscriber.workload.clone(),
        });
    }
}

/// What the certificate proved it proves no longer (E1). A sidecar renews in good time, so it may come
/// again at once, with the new one.
pub(super) fn certificate_ended() -> Status {
    let text = "the certificate of this connection has ended; connect with the new one";
    let mut status = Status::unauthenticated(text);
    let metadata = status.metadata_mut();
    metadata.insert("grpc-retry-pushback-ms", MetadataValue::from(0));
    status
}

/// Who the sidecar says it is; its certificate must belong to the same namespace.
fn workload(request: &DeltaDiscoveryRequest, identity: &SpiffeId) -> Result<WorkloadName, Status> {
    let id = request.node.as_ref().map_or("", |node| &node.id);
    let workload: WorkloadName = id.parse().map_err(|error| {
        Status::invalid_argument(format!("node.id of the first request: {error}"))
    })?;
    if workload.namespace != identity.namespace {
        return Err(Status::permission_denied(format!(
            "node.id {workload} is not in the namespace of {identity}"
        )));
    }
    Ok(workload)
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}
