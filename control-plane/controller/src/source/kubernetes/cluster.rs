//! What is known of the cluster apart from configuration: who its pods are, and its namespaces.
//!
//! Written by the source alone; readers see each change as soon as it has arrived.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use outrigger_compiler::{Kind, Object};
use outrigger_model::{Namespace, ServiceAccount, WorkloadName};
use tokio::sync::watch;

use super::store::Store;
use crate::cluster::watch::{Event, Item, Key};

type Objects = Arc<RwLock<HashMap<Key, Arc<Object>>>>;

/// A pod that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPod {
    /// `metadata.uid`.
    pub uid: String,
    /// `spec.serviceAccountName`.
    pub service_account: ServiceAccount,
}

/// For whoever reads. Clones see the same.
#[derive(Debug, Clone)]
pub struct Cluster {
    pods: Objects,
    /// Namespaces as objects; `namespaces` are their names.
    spaces: Objects,
    namespaces: watch::Receiver<BTreeSet<Namespace>>,
}

impl Cluster {
    /// A pod, if it is there.
    #[must_use]
    pub fn pod(&self, name: &WorkloadName) -> Option<KnownPod> {
        let key = (name.namespace.as_str().into(), name.name.as_str().into());
        let pods = self.pods.read().unwrap_or_else(PoisonError::into_inner);
        let identity = pods.get(&key)?.pod_identity()?;
        Some(KnownPod {
            uid: identity.uid.to_owned(),
            service_account: identity.service_account.clone(),
        })
    }

    /// The labels of a namespace; `None` while it is not known.
    #[must_use]
    pub fn namespace_labels(&self, name: &str) -> Option<BTreeMap<Arc<str>, Arc<str>>> {
        let spaces = self.spaces.read().unwrap_or_else(PoisonError::into_inner);
        let space = spaces.get(&("".into(), name.into()))?;
        Some(space.metadata().labels.clone())
    }

    /// Every namespace; empty before the source is synced.
    #[must_use]
    pub fn namespaces(&self) -> watch::Receiver<BTreeSet<Namespace>> {
        self.namespaces.clone()
    }
}

/// For the source.
pub(super) struct Publish {
    pods: Objects,
    spaces: Objects,
    namespaces: watch::Sender<BTreeSet<Namespace>>,
}

pub(super) fn new() -> (Publish, Cluster) {
    let (pods, spaces) = (Objects::default(), Objects::default());
    let (namespaces, seen) = watch::channel(BTreeSet::new());
    let publish = Publish {
        pods: Arc::clone(&pods),
        spaces: Arc::clone(&spaces),
        namespaces,
    };
    let cluster = Cluster {
        pods,
        spaces,
        namespaces: seen,
    };
    (publish, cluster)
}

impl Publish {
    pub(super) fn take(&self, kind: Kind, event: &Event<Arc<Object>>) {
        let objects = match kind {
            Kind::Pod => &self.pods,
            Kind::Namespace => &self.spaces,
            _ => return,
        };
        let mut objects = objects.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Listed(items) => {
                let items = items.iter();
                *objects = items
                    .map(|item| (item.key.clone(), Arc::clone(&item.value)))
                    .collect();
            }
            Event::Put(Item { key, value }) => {
                objects.insert(key.clone(), Arc::clone(value));
            }
            Event::Deleted(key) => {
                objects.remove(key);
            }
            Event::Trouble(_) => {}
        }
    }

    pub(super) fn namespaces(&self, store: &Store) {
        let now: BTreeSet<Namespace> = store
            .objects(Kind::Namespace)
            .filter_map(|object| Namespace::parse(object.key().name.as_str()).ok())
            .collect();
        self.namespaces.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }
}
