//! What the store keeps of one open stream: what changed for it, and how far it came.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use outrigger_model::{ResourceName, SpiffeId, WorkloadName};
use outrigger_proto::Version;
use tokio::{sync::Notify, time::Instant};

/// One stream. Written by `publish` (dirty) and by its session (progress).
#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) id: u64,
    pub(super) workload: WorkloadName,
    pub(super) identity: SpiffeId,
    wake: Notify,
    dirty: Mutex<Dirty>,
    progress: Mutex<HashMap<ResourceName, Progress>>,
}

/// What changed since the session last looked. Bounded by what the stream subscribes to.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) names: HashSet<ResourceName>,
    /// Authorities may mean something else than before.
    pub(super) aliases: bool,
    /// Something is gone: not to be held back.
    pub(super) urgent: bool,
    /// When the first of these changes came; `None`: nothing changed.
    pub(super) since: Option<Instant>,
}

/// How far one resource has come on one stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) accepted: Answer,
    pub(super) rejected: Answer,
}

/// What the sidecar last said about a resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing yet.
    #[default]
    None,
    /// About this content.
    Present(Version),
    /// About its absence.
    Absent,
}

impl From<Option<Version>> for Answer {
    fn from(content: Option<Version>) -> Self {
        content.map_or(Self::Absent, Self::Present)
    }
}

impl Subscriber {
    pub(super) fn new(id: u64, workload: WorkloadName, identity: SpiffeId) -> Self {
        Self {
            id,
            workload,
            identity,
            wake: Notify::new(),
            dirty: Mutex::default(),
            progress: Mutex::default(),
        }
    }

    /// Notes a change and wakes the session.
    pub(super) fn mark(&self, change: impl FnOnce(&mut Dirty), now: Instant) {
        let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut dirty);
        dirty.since.get_or_insert(now);
        drop(dirty);
        self.wake.notify_one();
    }

    /// Waits for a change. Cancel safe: yes, a change that nobody waited for is kept.
    pub(super) async fn changed(&self) {
        self.wake.notified().await;
    }

    /// When the changes began that wait, and whether they are urgent.
    pub(super) fn waiting(&self) -> Option<(Instant, bool)> {
        let dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        dirty.since.map(|since| (since, dirty.urgent))
    }

    pub(super) fn take_dirty(&self) -> Dirty {
        let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *dirty)
    }

    pub(super) fn progress(&self) -> MutexGuard<'_, HashMap<ResourceName, Progress>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
