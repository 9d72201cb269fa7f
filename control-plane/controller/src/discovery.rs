//! Discovery: each sidecar gets the part of the configuration that it uses (DESIGN §4).
//!
//! Whoever compiles calls [`DiscoveryHandle::publish`]; sidecars come over gRPC through
//! [`DiscoveryHandle::server`]. Between the two:
//!
//! - `store`: the present resources, encoded once, and who subscribes to which;
//! - `session`: one stream, its requests, answers and pace;
//! - `subscriptions`: what one sidecar asked for and was told, and what to tell it next (pure);
//! - `envelope`: responses from pre-encoded resources; `server`: the gRPC method;
//! - `admission`: how fast new streams are let in.
//!
//! Invariants:
//! - A stream holds a set of changed names, not a queue, and has one response in flight until it is
//!   answered: a sidecar that does not read costs what it subscribed to, delays nobody, and gets
//!   the newest state when it reads on.
//! - What is named goes before what names it, and goes away after it (make before break).
//! - Nothing is answered before the first `publish`: a control plane that just started must not
//!   tell sidecars that their services are gone.
//! - The certificate's identity decides: without one nothing is served, and an InboundPolicy only
//!   to who holds its identity.
//!
//! On reconnect, `initial_resource_versions` lists what a sidecar holds by canonical name, and, with
//! the same version, by each other text that it knows to mean that name. A text that is not listed
//! is answered with the whole resource: the sidecar may not know yet what it means.
//!
//! State: one [`RwLock`](std::sync::RwLock) around the store (written by `publish` and when
//! subscriptions change), one mutex a stream around its dirty set and its progress. No lock is held
//! across an await.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use outrigger_model::{
    Authority, DestinationName, Namespace, Resource, ResourceKind, ResourceName,
};
use outrigger_proto::DecodeError;
use prometheus::Registry;
use tokio::{
    sync::{Semaphore, broadcast},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

mod admission;
mod encoded;
mod envelope;
mod hold;
mod metrics;
mod pace;
mod server;
mod session;
mod status;
mod store;
mod subscriber;
mod subscriptions;
#[cfg(test)]
mod tests;

pub use hold::HOLD_MAX;
pub use server::DiscoveryServer;
pub use status::{DiscoveryEvent, ResourceStatus, SidecarStatus};

use admission::Admissions;
use metrics::Metrics;
use store::Store;

/// Events kept for a reader that lags; beyond that it misses the oldest and is told how many.
/// A change that 1,000 sidecars apply makes 1,000 events.
const EVENTS_MAX: usize = 1024;

/// Streams for which a response is made at one moment (DEF-35). More than a machine has cores, so
/// that it binds only where there are very many.
const PUSHES_MAX: usize = 64;

/// The destination that a client in a namespace means by an authority.
pub type Resolve = Arc<dyn Fn(&Namespace, &Authority) -> Option<DestinationName> + Send + Sync>;

/// A resource that is new or different. All variants are of one name, that of `default`.
#[derive(Debug, Clone)]
pub struct Upsert {
    /// For clients of any namespace that is not listed.
    pub default: Arc<Resource>,
    /// For clients of these namespaces.
    pub per_namespace: BTreeMap<Namespace, Arc<Resource>>,
}

/// One batch of changes.
#[derive(Default)]
pub struct Update {
    /// Resources that are new or different; those that are the same after all cost only their
    /// encoding.
    pub upserts: Vec<Upsert>,
    /// Resources that are gone.
    pub removals: Vec<ResourceName>,
    /// Given when authorities may mean something else than before; the resolver must agree with
    /// the resources of this batch.
    pub resolve: Option<Resolve>,
    /// A person wrote these changes, as in a folder: they are meant, however many endpoints they
    /// take away. What a source observes is held back instead: see [`Published::held`].
    pub is_written: bool,
}

impl std::fmt::Debug for Update {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Update")
            .field("upserts", &self.upserts)
            .field("removals", &self.removals)
            .field("resolve", &self.resolve.is_some())
            .field("is_written", &self.is_written)
            .finish()
    }
}

/// What a [`DiscoveryHandle::publish`] did.
#[derive(Debug, Default)]
pub struct Published {
    /// Names whose content is different now, for clients of at least one namespace.
    pub changed: Vec<ResourceName>,
    /// Names that sidecars could not decode: what was published before stays in force.
    pub refused: Vec<(ResourceName, DecodeError)>,
    /// Most endpoints of the mesh would be gone: what takes them away waits until a later batch
    /// brings enough back, or [`DiscoveryHandle::release`].
    pub held: Option<Held>,
}

/// Endpoints that sidecars keep although the source shows them no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// How many.
    pub endpoints: usize,
    /// Since when.
    pub since: Instant,
}

/// The discovery service. Clones are handles to the same one.
#[derive(Clone)]
pub struct DiscoveryHandle {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for DiscoveryHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiscoveryHandle").finish_non_exhaustive()
    }
}

/// What handle, server and streams share.
pub(crate) struct Shared {
    store: RwLock<Store>,
    metrics: Metrics,
    events: broadcast::Sender<DiscoveryEvent>,
    closing: CancellationToken,
    admissions: Admissions,
    pushes: Semaphore,
}

impl Shared {
    /// A panic elsewhere leaves the store whole: each change of it is complete or not begun.
    fn read(&self) -> RwLockReadGuard<'_, Store> {
        self.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Store> {
        self.store.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells who listens; `event` is not even made when nobody does.
    fn emit(&self, event: impl FnOnce() -> DiscoveryEvent) {
        if self.events.receiver_count() > 0 {
            // An error says that the last reader left meanwhile.
            drop(self.events.send(event()));
        }
    }
}

impl DiscoveryHandle {
    /// A service without resources, whose metrics are in `registry`. It answers nothing until the
    /// first [`Self::publish`]. New streams are let in at the pace of this machine: 15 + 5 a core
    /// each second (DEF-35).
    ///
    /// # Errors
    /// When the registry has metrics of these names already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Self::admitting(admission::of_this_machine(), registry)
    }

    /// [`Self::new`] with another pace, in streams a second.
    ///
    /// # Errors
    /// As there.
    pub fn admitting(
        per_second: NonZeroU32,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        Ok(Self {
            shared: Arc::new(Shared {
                store: RwLock::new(Store::default()),
                metrics: Metrics::register(registry)?,
                events: broadcast::channel(EVENTS_MAX).0,
                closing: CancellationToken::new(),
                admissions: Admissions::new(per_second),
                pushes: Semaphore::new(PUSHES_MAX),
            }),
        })
    }

    /// Makes a batch of changes visible, whole, to every sidecar that subscribes to what changed.
    /// The first call must bring everything there is: from then on, what is not there does not
    /// exist. Returns when the sidecars' streams are told, not when they have it: see
    /// [`Self::status`] and [`Self::events`].
    pub fn publish(&self, update: Update) -> Published {
        let (entries, refused) = store::encode(update.upserts);
        for (name, error) in &refused {
            self.shared.metrics.refused.inc();
            tracing::error!(kind = name.kind().as_str(), %name, %error,
                "a resource that no sidecar can decode was not published");
        }
        let changed =
            self.shared
                .write()
                .apply(entries, update.removals, update.resolve, update.is_written);
        self.measure();
        Published {
            changed,
            refused,
            held: self.held(),
        }
    }

    /// What is held back at present.
    #[must_use]
    pub fn held(&self) -> Option<Held> {
        let (endpoints, since) = self.shared.read().holding()?;
        Some(Held { endpoints, since })
    }

    /// Applies changes that are held back because they take away most endpoints of the mesh. Says
    /// what changed; nothing when nothing was held.
    pub fn release(&self) -> Vec<ResourceName> {
        let changed = self.shared.write().release();
        self.measure();
        changed
    }

    fn measure(&self) {
        let store = self.shared.read();
        let metrics = &self.shared.metrics;
        for kind in ResourceKind::ALL {
            metrics.of(kind).resources.set(store.count(kind));
        }
        metrics.holding.set(store.holding().is_some().into());
    }

    /// The gRPC service, for [`crate::transport::server`] over [`crate::transport::connections`].
    #[must_use]
    pub fn server(&self) -> DiscoveryServer {
        DiscoveryServer::new(Arc::clone(&self.shared))
    }

    /// How many sidecars use a resource and have its present content.
    #[must_use]
    pub fn status(&self, name: &ResourceName) -> ResourceStatus {
        self.shared.read().status(name)
    }

    /// Every connected sidecar, by name.
    #[must_use]
    pub fn sidecars(&self) -> Vec<SidecarStatus> {
        self.shared.read().sidecars()
    }

    /// Follows what sidecars do from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<DiscoveryEvent> {
        self.shared.events.subscribe()
    }

    /// Ends all streams and refuses new ones, with UNAVAILABLE: sidecars connect elsewhere.
    pub fn close(&self) {
        self.shared.closing.cancel();
    }
}
