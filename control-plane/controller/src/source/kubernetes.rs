//! The Kubernetes API as a source of objects (DESIGN §2): every kind watched, trimmed, and turned
//! into changes.
//!
//! [`Kubernetes::start`] begins to watch; [`Kubernetes::synced`] gives everything there is once every
//! kind that is served was listed, and [`Kubernetes::watch`] each change after that. One task a kind
//! ([`crate::cluster::watch`]), one that looks which kinds are served, and this one, which owns the
//! store they fill.
//!
//! What the rest of the control plane wants to know of the cluster apart from configuration
//! ([`Cluster`]: who a pod is, which namespaces there are) is kept beside it.
//!
//! Invariants: see [`store`]. Events wait in a channel of [`EVENTS_MAX`]; when it is full the watches
//! wait, and the API server with them.

mod cluster;
mod kinds;
mod metrics;
mod served;
mod store;
#[cfg(test)]
mod tests;
mod trim;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use outrigger_compiler::{Kind, Object};
use prometheus::Registry;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{Instant, timeout_at},
};

pub use cluster::{Cluster, KnownPod};

use super::Update;
use crate::cluster::{
    Api,
    watch::{Event, Listing, Read, Watch},
};
use cluster::Publish;
use kinds::Row;
use metrics::SourceMetrics;
use served::Served;
use store::Store;

/// Events that wait. Each is an object of some kilobytes; a list is one event.
const EVENTS_MAX: usize = 256;
/// How long to collect what belongs together: a rollout changes pods and slices at once.
const COLLECT: Duration = Duration::from_millis(5);
/// Events taken at most before the changes are handed on.
const BATCH_MAX: usize = 4_096;

/// Which run of which kind's watch an event is from: what a watch that was ended still had in the
/// channel is not taken.
type Tag = (Kind, u64);

/// A watched cluster. Dropped, it watches no more.
#[expect(missing_debug_implementations, reason = "holds the whole cluster")]
pub struct Kubernetes {
    api: Api,
    store: Store,
    publish: Publish,
    metrics: SourceMetrics,
    events: mpsc::Receiver<(Tag, Event<Arc<Object>>)>,
    to_events: mpsc::Sender<(Tag, Event<Arc<Object>>)>,
    served: mpsc::Receiver<Served>,
    /// What was served at the last look; nothing before the first.
    present: Option<Served>,
    watches: BTreeMap<Kind, (u64, AbortHandle)>,
    runs: u64,
    tasks: JoinSet<()>,
    said: usize,
}

impl Kubernetes {
    /// Begins to watch. The metrics of the source go into `registry`.
    ///
    /// # Errors
    /// When the registry has metrics of these names already.
    pub fn start(api: Api, registry: &Registry) -> Result<(Self, Cluster), prometheus::Error> {
        let metrics = SourceMetrics::register(registry)?;
        let (to_events, events) = mpsc::channel(EVENTS_MAX);
        let (to_served, served) = mpsc::channel(1);
        let (publish, cluster) = cluster::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(served::follow(api.clone(), to_served));
        let source = Self {
            api,
            store: Store::default(),
            publish,
            metrics,
            events,
            to_events,
            served,
            present: None,
            watches: BTreeMap::new(),
            runs: 0,
            tasks,
            said: 0,
        };
        Ok((source, cluster))
    }

    /// Everything there is, once every kind that is served was listed. Waits for as long as that
    /// takes. Cancel safe: yes.
    pub async fn synced(&mut self) -> Update {
        while self.present.is_none() || !self.store.is_listed() {
            self.step().await;
        }
        self.hand_on()
    }

    /// The next changes. Cancel safe: yes, what was taken is kept.
    pub async fn watch(&mut self) -> Update {
        loop {
            self.step().await;
            let until = Instant::now() + COLLECT;
            for _ in 0..BATCH_MAX {
                if timeout_at(until, self.step()).await.is_err() {
                    break;
                }
            }
            let update = self.hand_on();
            // Trouble that began or ended is news, too.
            let said = std::mem::replace(&mut self.said, update.diagnostics.len());
            if !update.changes.is_empty() || said != self.said {
                return update;
            }
        }
    }

    /// One thing that happened. Cancel safe: yes, each branch is taken whole or not at all.
    async fn step(&mut self) {
        tokio::select! {
            Some((tag, event)) = self.events.recv() => self.take(tag, event),
            Some(served) = self.served.recv() => self.serve(served),
            Some(ended) = self.tasks.join_next_with_id() => self.restart(ended),
        }
    }

    fn take(&mut self, (kind, run): Tag, event: Event<Arc<Object>>) {
        if self.watches.get(&kind).is_some_and(|(now, _)| *now == run) {
            self.metrics.count(kind, &event);
            self.publish.take(kind, &event);
            self.store.take(kind, event);
        }
    }

    /// Begins and ends watches as kinds come and go.
    fn serve(&mut self, served: Served) {
        let before = self.present.replace(served.clone()).unwrap_or_default();
        for kind in before.keys().filter(|kind| !served.contains_key(kind)) {
            tracing::info!(%kind, "a kind is no longer served: its objects are gone");
            if let Some((_, watch)) = self.watches.remove(kind) {
                watch.abort();
            }
            self.store.leave(*kind);
            self.metrics.leave(*kind);
        }
        for (kind, version) in &served {
            if before.get(kind) != Some(version) {
                tracing::info!(%kind, version, "watching a kind");
                self.store.join(*kind);
                self.begin(*kind, version);
            }
        }
    }

    fn begin(&mut self, kind: Kind, version: &'static str) {
        let Some((_, row)) = Row::used().find(|(used, _)| *used == kind) else {
            return;
        };
        let api_version = row.api_version(version);
        let read: Read<Arc<Object>> =
            Arc::new(move |raw| trim::read_object(kind, &api_version, raw));
        let listing = Listing {
            path: row.path(version),
            query: String::new(),
        };
        self.runs += 1;
        let tag = (kind, self.runs);
        let watch = Watch::new(self.api.clone(), listing, read, tag, self.to_events.clone());
        let handle = self.tasks.spawn(watch.run());
        if let Some((_, former)) = self.watches.insert(kind, (self.runs, handle)) {
            former.abort();
        }
    }

    /// A task ended that nobody ended: it panicked, and begins anew.
    fn restart(&mut self, ended: Result<(tokio::task::Id, ()), tokio::task::JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let found = self.watches.iter().find(|(_, (_, watch))| watch.id() == id);
        let kind = found.map(|(kind, _)| *kind);
        let version = kind.and_then(|kind| self.present.as_ref()?.get(&kind).copied());
        if let (Some(kind), Some(version)) = (kind, version) {
            tracing::error!(%kind, "a watch ended by itself and begins anew");
            self.begin(kind, version);
        }
    }

    fn hand_on(&mut self) -> Update {
        self.publish.namespaces(&self.store);
        self.metrics.show(&self.store);
        self.store.update()
    }
}
