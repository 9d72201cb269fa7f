//! The present resources, and who subscribes to which.
//!
//! One write lock a `publish` and a change of subscriptions, one read lock a response. Marking
//! 10,000 subscribers takes about a millisecond; their sessions read afterwards, each in turn.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use outrigger_model::{
    Authority, DestinationName, Namespace, Resource, ResourceKind, ResourceName, SpiffeId,
    WorkloadName,
};
use outrigger_proto::DecodeError;
use tokio::time::Instant;

use super::{
    Resolve, ResourceStatus, SidecarStatus, Upsert,
    encoded::EncodedResource,
    hold::{self, Batch, Held},
    subscriber::{Answer, Subscriber},
};

/// The variants of one resource.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) default: Arc<EncodedResource>,
    per_namespace: BTreeMap<Namespace, Arc<EncodedResource>>,
}

impl Entry {
    pub(super) fn of(&self, namespace: &Namespace) -> &Arc<EncodedResource> {
        self.per_namespace.get(namespace).unwrap_or(&self.default)
    }

    fn is_same(&self, other: &Self) -> bool {
        let versions = |entry: &Self| {
            let each = entry.per_namespace.iter();
            each.map(|(namespace, resource)| (namespace.clone(), resource.version))
                .collect::<Vec<_>>()
        };
        self.default.version == other.default.version && versions(self) == versions(other)
    }
}

/// Encodes a batch; each distinct value once. What cannot be sent is set apart.
pub(super) fn encode(upserts: Vec<Upsert>) -> (Vec<Entry>, Vec<(ResourceName, DecodeError)>) {
    let mut entries = Vec::with_capacity(upserts.len());
    let mut refused = Vec::new();
    for upsert in upserts {
        match encode_one(&upsert) {
            Ok(entry) => entries.push(entry),
            Err(error) => refused.push((upsert.default.name(), error)),
        }
    }
    (entries, refused)
}

fn encode_one(upsert: &Upsert) -> Result<Entry, DecodeError> {
    let default = Arc::new(EncodedResource::new(&upsert.default)?);
    let mut done: Vec<(&Arc<Resource>, Arc<EncodedResource>)> = Vec::new();
    let mut per_namespace = BTreeMap::new();
    for (namespace, resource) in &upsert.per_namespace {
        let shared = done.iter().find(|(value, _)| Arc::ptr_eq(value, resource));
        let encoded = match shared {
            Some((_, encoded)) => Arc::clone(encoded),
            None => {
                let encoded = Arc::new(EncodedResource::new(resource)?);
                done.push((resource, Arc::clone(&encoded)));
                encoded
            }
        };
        debug_assert_eq!(encoded.name, default.name, "variants are of one name");
        per_namespace.insert(namespace.clone(), encoded);
    }
    Ok(Entry {
        default,
        per_namespace,
    })
}

/// See the module.
#[derive(Default)]
pub(super) struct Store {
    entries: HashMap<ResourceName, Entry>,
    counts: BTreeMap<ResourceKind, i64>,
    /// Endpoints that take work, in all shards.
    endpoints: usize,
    resolve: Option<Resolve>,
    /// Whether there was a first batch.
    ready: bool,
    held: Option<Held>,
    subscribers: HashMap<u64, Arc<Subscriber>>,
    by_name: HashMap<ResourceName, HashMap<u64, Arc<Subscriber>>>,
    next_id: u64,
}

impl Store {
    /// Adds a batch to what is held back, if anything, and applies the whole; if it takes away most
    /// endpoints, and nobody wrote it, without what takes them away. Returns what is different now.
    pub(super) fn apply(
        &mut self,
        entries: Vec<Entry>,
        removals: Vec<ResourceName>,
        resolve: Option<Resolve>,
        is_written: bool,
    ) -> Vec<ResourceName> {
        let was_held = self.held.take();
        let mut held = was_held.unwrap_or_else(|| Held {
            batch: Batch::default(),
            before: self.endpoints,
            resolve: self.resolve.clone(),
            since: None,
        });
        held.batch.add(entries, removals, resolve);
        // Gains of a batch that is held in part are in force already.
        let loss = held.batch.loss(|name| self.ready_of(name));
        let loss = held
            .before
            .saturating_sub(self.endpoints.saturating_sub(loss));
        if is_written || !hold::is_blackout(held.before, loss) {
            return self.commit(held.batch);
        }
        if held.since.is_none() {
            tracing::error!(
                endpoints = held.before,
                loss,
                "most endpoints of the mesh vanished at once: sidecars keep them"
            );
            held.since = Some(Instant::now());
        }
        let mut harmless = held.batch.take_harmless(|name| self.entries.get(name));
        harmless.resolve = held.batch.resolve.clone().map(|next| {
            // Names of what is kept go on to mean it.
            let kept = held.resolve.clone();
            let resolve: Resolve = Arc::new(move |namespace, authority| {
                let kept = || kept.as_ref()?(namespace, authority);
                next(namespace, authority).or_else(kept)
            });
            resolve
        });
        self.held = Some(held);
        self.commit(harmless)
    }

    /// Applies what is held back.
    pub(super) fn release(&mut self) -> Vec<ResourceName> {
        let held = self.held.take();
        held.map_or_else(Vec::new, |held| self.commit(held.batch))
    }

    /// Endpoints that are kept against what the source says, and since when.
    pub(super) fn holding(&self) -> Option<(usize, Instant)> {
        let held = self.held.as_ref()?;
        Some((held.batch.loss(|name| self.ready_of(name)), held.since?))
    }

    fn ready_of(&self, name: &ResourceName) -> usize {
        let entry = self.entries.get(name);
        entry.map_or(0, |entry| entry.default.ready.len())
    }

    fn commit(&mut self, batch: Batch) -> Vec<ResourceName> {
        let now = Instant::now();
        let mut changed = Vec::new();
        for (name, entry) in batch.entries {
            if self.replace(&name, entry, now) {
                changed.push(name);
            }
        }
        let first = !std::mem::replace(&mut self.ready, true);
        let resolves = batch.resolve.is_some();
        if resolves {
            self.resolve = batch.resolve;
        }
        if first || resolves {
            for subscriber in self.subscribers.values() {
                subscriber.mark(|dirty| dirty.aliases = true, now);
            }
        }
        changed
    }

    /// False when nothing is different.
    fn replace(&mut self, name: &ResourceName, entry: Option<Entry>, now: Instant) -> bool {
        self.endpoints -= self.ready_of(name);
        let old = match entry {
            Some(entry) => self.entries.insert(name.clone(), entry),
            None => self.entries.remove(name),
        };
        self.endpoints += self.ready_of(name);
        let new = self.entries.get(name);
        let count = self.counts.entry(name.kind()).or_default();
        *count += i64::from(new.is_some()) - i64::from(old.is_some());
        match (&old, new) {
            (None, None) => return false,
            (Some(old), Some(new)) if old.is_same(new) => return false,
            _ => {}
        }
        for subscriber in self.by_name.get(name).into_iter().flat_map(HashMap::values) {
            let namespace = &subscriber.identity.namespace;
            let before = old.as_ref().map(|entry| entry.of(namespace));
            let after = new.map(|entry| entry.of(namespace));
            if before.map(|r| r.version) == after.map(|r| r.version) {
                continue;
            }
            let urgent = match (before, after) {
                (Some(before), Some(after)) => before.loses_endpoint(after),
                (before, None) => before.is_some(),
                (None, Some(_)) => false,
            };
            let change = |dirty: &mut super::subscriber::Dirty| {
                dirty.names.insert(name.clone());
                dirty.urgent |= urgent;
            };
            subscriber.mark(change, now);
        }
        true
    }

    /// The resource as a client sees it; `None` when it does not exist for this client.
    pub(super) fn get(
        &self,
        name: &ResourceName,
        identity: &SpiffeId,
    ) -> Option<Arc<EncodedResource>> {
        let resource = self.entries.get(name)?.of(&identity.namespace);
        let audience = resource.audience.as_ref();
        audience
            .is_none_or(|audience| audience == identity)
            .then(|| Arc::clone(resource))
    }

    /// Whether it exists, but not for this client.
    pub(super) fn is_withheld(&self, name: &ResourceName, identity: &SpiffeId) -> bool {
        self.entries.contains_key(name) && self.get(name, identity).is_none()
    }

    pub(super) fn resolve(
        &self,
        namespace: &Namespace,
        authority: &Authority,
    ) -> Option<DestinationName> {
        self.resolve.as_ref()?(namespace, authority)
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    pub(super) fn count(&self, kind: ResourceKind) -> i64 {
        self.counts.get(&kind).copied().unwrap_or_default()
    }

    pub(super) fn stream_count(&self) -> usize {
        self.subscribers.len()
    }

    pub(super) fn join(&mut self, workload: WorkloadName, identity: SpiffeId) -> Arc<Subscriber> {
        self.next_id += 1;
        let subscriber = Arc::new(Subscriber::new(self.next_id, workload, identity));
        self.subscribers
            .insert(subscriber.id, Arc::clone(&subscriber));
        subscriber
    }

    /// `names`: everything the subscriber is still subscribed to.
    pub(super) fn leave<'a>(
        &mut self,
        subscriber: &Subscriber,
        names: impl Iterator<Item = &'a ResourceName>,
    ) {
        self.subscribers.remove(&subscriber.id);
        for name in names {
            self.unsubscribe(subscriber, name);
        }
    }

    pub(super) fn subscribe(&mut self, subscriber: &Arc<Subscriber>, name: ResourceName) {
        let subscribers = self.by_name.entry(name).or_default();
        subscribers.insert(subscriber.id, Arc::clone(subscriber));
    }

    pub(super) fn unsubscribe(&mut self, subscriber: &Subscriber, name: &ResourceName) {
        if let Some(subscribers) = self.by_name.get_mut(name) {
            subscribers.remove(&subscriber.id);
            if subscribers.is_empty() {
                self.by_name.remove(name);
            }
        }
    }

    pub(super) fn status(&self, name: &ResourceName) -> ResourceStatus {
        let mut status = ResourceStatus::default();
        for subscriber in self.by_name.get(name).into_iter().flat_map(HashMap::values) {
            let present = self.get(name, &subscriber.identity);
            let present = Answer::from(present.map(|resource| resource.version));
            let progress = subscriber.progress().get(name).copied().unwrap_or_default();
            status.subscribed += 1;
            status.acked += usize::from(progress.accepted == present);
            status.rejected += usize::from(progress.rejected == present);
        }
        status
    }

    pub(super) fn sidecars(&self) -> Vec<SidecarStatus> {
        let status = |subscriber: &Arc<Subscriber>| SidecarStatus {
            workload: subscriber.workload.clone(),
            identity: subscriber.identity.clone(),
            accepted: subscriber
                .progress()
                .iter()
                .map(|(name, progress)| {
                    let version = match progress.accepted {
                        Answer::Present(version) => Some(version),
                        Answer::None | Answer::Absent => None,
                    };
                    (name.clone(), version)
                })
                .collect(),
        };
        let mut all: Vec<_> = self.subscribers.values().map(status).collect();
        all.sort_by(|a, b| a.workload.cmp(&b.workload));
        all
    }
}
