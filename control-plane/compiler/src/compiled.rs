//! What the compiler made.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use outrigger_model::{Namespace, Port, Resource, ResourceName, SpiffeId, WorkloadName};

use crate::ir::Labels;

/// A resource as most clients see it, and as clients of some namespaces do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variants<T> {
    /// For clients of any namespace that is not listed.
    pub default: Arc<T>,
    /// For clients of these namespaces, each different from the default.
    pub per_namespace: BTreeMap<Namespace, Arc<T>>,
}

impl<T: PartialEq> Variants<T> {
    pub(crate) fn new(default: T) -> Self {
        Self {
            default: Arc::new(default),
            per_namespace: BTreeMap::new(),
        }
    }

    pub(crate) fn add(&mut self, namespace: &Namespace, value: T) {
        if *self.default == value {
            return;
        }
        let present = self
            .per_namespace
            .values()
            .find(|present| ***present == value);
        let value = present.map_or_else(|| Arc::new(value), Arc::clone);
        self.per_namespace.insert(namespace.clone(), value);
    }

    /// As a client of `namespace` sees it.
    #[must_use]
    pub fn of(&self, namespace: &Namespace) -> &Arc<T> {
        self.per_namespace.get(namespace).unwrap_or(&self.default)
    }
}

/// Every resource, by name.
pub type Resources = BTreeMap<ResourceName, Variants<Resource>>;

/// A workload that has, or may have, a sidecar: a WorkloadEntry, or a Pod that has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Key of its InboundPolicy.
    pub name: WorkloadName,
    /// What its sidecar proves.
    pub identity: SpiffeId,
    /// Its address, if it has one yet.
    pub address: Option<IpAddr>,
    /// The application's ports, sorted: those written and those that services lead to.
    pub ports: Vec<Port>,
    /// Its labels.
    pub labels: Labels,
    /// The object's annotations.
    pub annotations: Labels,
}
