//! The compiler itself: takes changes of objects, keeps what they compile to.
//!
//! Incremental: a change recompiles the services and workloads that depend on what changed, and
//! what comes out the same is not reported. The result is always that of a compile from scratch
//! (a property test holds it to that): everything kept here is a function of the present objects.
//!
//! Who depends on what: a service on its own objects, the workloads its selector picks, its slices,
//! the Pods and Nodes that these name, routes and policies for its host, routes that name it as a
//! parent, on the ports and subsets of the hosts that its routes name, and on the ReferenceGrants
//! where they are; a workload on its namespace and the services that pick it.
//!
//! Longer than most, because what depends on what has to be seen in one place.

mod report;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use outrigger_model::{Hostname, Namespace, Resource, ResourceName};

use crate::{
    Kind, Object, ObjectKey, Options,
    aliases::{Aliases, ServiceName},
    compiled::{Resources, Variants, Workload},
    index::{Index, slice_service},
    ir::Host,
    object::Spec,
    service, workload,
};

/// A change of the stored objects.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The object is there, new or changed.
    Upsert(Arc<Object>),
    /// The object is gone.
    Delete(ObjectKey),
}

/// What a batch of changes changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Update {
    /// Resources that are new or different, for clients of at least one namespace.
    pub changed: BTreeSet<ResourceName>,
    /// Resources that are gone.
    pub removed: BTreeSet<ResourceName>,
    /// Whether any host name, virtual address or port of a service came, went or moved: what
    /// [`Aliases::resolve`] answered may not hold any more.
    pub aliases: bool,
    /// Whether a workload came, went or changed.
    pub workloads: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Compiler {
    index: Index,
    services: HashMap<ServiceName, service::Compiled>,
    workloads: BTreeMap<Arc<ObjectKey>, workload::Compiled>,
    resources: Resources,
    /// Services whose routes name a host.
    referrers: HashMap<Hostname, BTreeSet<ServiceName>>,
    /// Services whose routes depend on the ReferenceGrants of a namespace.
    grant_referrers: HashMap<Namespace, BTreeSet<ServiceName>>,
}

/// What has to be compiled again.
#[derive(Debug, Default)]
struct Dirty {
    services: BTreeSet<ServiceName>,
    workloads: BTreeSet<Arc<ObjectKey>>,
    /// Services whose objects changed: their host names may have, too.
    definitions: BTreeSet<ServiceName>,
    /// Hosts whose ports or subsets may have changed.
    hosts: BTreeSet<Hostname>,
}

impl Compiler {
    /// A compiler without objects. Its one resource is the mesh's settings.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let settings = Resource::MeshSettings(options.settings.clone());
        Self {
            resources: [(ResourceName::MeshSettings, Variants::new(settings))].into(),
            index: Index::new(options),
            services: HashMap::new(),
            workloads: BTreeMap::new(),
            referrers: HashMap::new(),
            grant_referrers: HashMap::new(),
        }
    }

    /// Takes a batch of changes; of several for one object, the last counts.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Update {
        let mut dirty = Dirty::default();
        for change in changes {
            let key = match &change {
                Change::Upsert(object) => object.key(),
                Change::Delete(key) => key,
            };
            if let (Change::Upsert(object), Some(present)) = (&change, self.index.get(key))
                && **object == **present
            {
                continue;
            }
            if let Some(before) = self.index.remove(key) {
                self.touch(&before, &mut dirty);
            }
            if let Change::Upsert(object) = change {
                self.index.insert(Arc::clone(&object));
                self.touch(&object, &mut dirty);
            }
        }
        self.compile(dirty)
    }

    /// Marks what depends on an object, besides host names. The object is in the index or was
    /// just taken out of it.
    fn touch(&self, object: &Arc<Object>, dirty: &mut Dirty) {
        let Some(namespace) = object.namespace() else {
            return self.touch_global(object, dirty);
        };
        match object.spec() {
            Spec::None | Spec::Namespace(_) | Spec::Node(_) => {}
            Spec::Service(_) | Spec::ServiceEntry(_) => {
                let names = self.index.defined_by(object);
                // Those that another object of the same name picks as well: a Service takes the
                // place of ServiceEntries, and gives it back.
                let others = names.iter().flat_map(|name| self.index.all_claims(name));
                let services = others.map(|claim| claim.service).chain(object.service());
                for service in services {
                    let picked = self.index.picked(namespace, &service.selector);
                    let keys = picked.map(|(object, _)| Arc::clone(object.shared_key()));
                    dirty.workloads.extend(keys);
                }
                dirty.definitions.extend(names);
            }
            Spec::EndpointSlice(slice) => {
                dirty.services.extend(slice_service(namespace, slice));
            }
            Spec::Pod(_) => {
                dirty.workloads.insert(Arc::clone(object.shared_key()));
                let entry = ObjectKey {
                    kind: Kind::WorkloadEntry,
                    ..object.key().clone()
                };
                dirty.workloads.insert(Arc::new(entry));
                let pod = &object.key().name;
                let services = self.index.services_of_pod(namespace, pod);
                dirty.services.extend(services);
            }
            Spec::WorkloadEntry(entry) => {
                dirty.workloads.insert(Arc::clone(object.shared_key()));
                dirty
                    .services
                    .extend(self.index.selecting(namespace, entry));
            }
            Spec::Routes(routes) => {
                for host in self.index.route_hosts(object, routes) {
                    dirty.services.extend(self.index.matching(&host));
                }
            }
            Spec::Policy(policy) => {
                let host = self.index.policy_host(object, policy);
                dirty.services.extend(self.index.matching(&host));
                let referred = self.referrers.keys();
                let named = referred.filter(|named| covers(&host, named));
                dirty.hosts.extend(named.cloned());
            }
            Spec::Attached(routes) => {
                let services = routes.parents.iter().filter_map(|one| one.service.clone());
                dirty.services.extend(services);
            }
            Spec::Grant(_) => {
                let referrers = self.grant_referrers.get(namespace);
                dirty
                    .services
                    .extend(referrers.into_iter().flatten().cloned());
            }
        }
    }

    /// The same for an object without a namespace.
    fn touch_global(&self, object: &Object, dirty: &mut Dirty) {
        let name = &object.key().name;
        if let Spec::Node(_) = object.spec() {
            dirty.services.extend(self.index.services_of_node(name));
        }
        if let Spec::Namespace(_) = object.spec()
            && let Ok(namespace) = Namespace::parse(name.as_str())
        {
            let residents = self.index.residents(&namespace);
            dirty.workloads.extend(residents.cloned());
        }
    }

    fn compile(&mut self, mut dirty: Dirty) -> Update {
        let mut update = Update::default();
        let before = (!dirty.definitions.is_empty()).then(|| self.definitions(&dirty));
        for name in &dirty.definitions {
            dirty
                .hosts
                .extend(self.index.aliases.hosts_of(name).iter().cloned());
            self.index.refresh_aliases(name);
            dirty
                .hosts
                .extend(self.index.aliases.hosts_of(name).iter().cloned());
        }
        update.aliases = before.is_some_and(|before| before != self.definitions(&dirty));
        dirty.services.extend(dirty.definitions.iter().cloned());
        for host in &dirty.hosts {
            let referrers = self.referrers.get(host);
            dirty
                .services
                .extend(referrers.into_iter().flatten().cloned());
        }
        for name in &dirty.services {
            let after = service::compile(&self.index, name);
            self.replace_service(name, after, &mut update);
        }
        self.replace_workloads(dirty.workloads, &mut update);
        update
            .changed
            .retain(|name| self.resources.contains_key(name));
        update
    }

    fn definitions(&self, dirty: &Dirty) -> Vec<Option<crate::aliases::Entry>> {
        let names = dirty.definitions.iter();
        names
            .map(|name| self.index.aliases.entry(name).cloned())
            .collect()
    }

    fn replace_service(
        &mut self,
        name: &ServiceName,
        after: service::Compiled,
        update: &mut Update,
    ) {
        let before = self.services.remove(name).unwrap_or_default();
        refer(
            &mut self.referrers,
            name,
            &before.references,
            &after.references,
        );
        refer(
            &mut self.grant_referrers,
            name,
            &before.grants,
            &after.grants,
        );
        if before.direct != after.direct {
            let aliases = &mut self.index.aliases;
            aliases.replace_direct(&before.direct, &after.direct);
            update.aliases = true;
        }
        for gone in before.resources.keys() {
            if !after.resources.contains_key(gone) {
                self.resources.remove(gone);
                update.removed.insert(gone.clone());
            }
        }
        for (name, variants) in &after.resources {
            if before.resources.get(name) != Some(variants) {
                self.resources.insert(name.clone(), variants.clone());
                update.changed.insert(name.clone());
            }
        }
        let is_empty = after == service::Compiled::default();
        if !is_empty {
            self.services.insert(name.clone(), after);
        }
    }

    fn replace_workloads(&mut self, keys: BTreeSet<Arc<ObjectKey>>, update: &mut Update) {
        // A policy may pass from a WorkloadEntry to a Pod of the same name, and back.
        let mut policies: BTreeMap<ResourceName, Option<Variants<Resource>>> = BTreeMap::new();
        for key in keys {
            let object = self.index.get(&key);
            let after = object.and_then(|object| workload::compile(&self.index, object));
            let before = self.workloads.remove(&key);
            update.workloads |= before != after;
            if let Some(before) = before {
                policies.entry(before.name).or_default();
            }
            if let Some(after) = after {
                policies.insert(after.name.clone(), Some(after.policy.clone()));
                self.workloads.insert(key, after);
            }
        }
        for (name, policy) in policies {
            match policy {
                Some(policy) if self.resources.get(&name) == Some(&policy) => {}
                Some(policy) => {
                    self.resources.insert(name.clone(), policy);
                    update.changed.insert(name);
                }
                None => {
                    self.resources.remove(&name);
                    update.removed.insert(name);
                }
            }
        }
    }

    /// Every resource.
    #[must_use]
    pub fn resources(&self) -> &Resources {
        &self.resources
    }

    /// A resource as a client of `namespace` sees it.
    #[must_use]
    pub fn get(&self, name: &ResourceName, namespace: &Namespace) -> Option<&Arc<Resource>> {
        Some(self.resources.get(name)?.of(namespace))
    }

    /// Host names and virtual addresses.
    #[must_use]
    pub fn aliases(&self) -> &Aliases {
        &self.index.aliases
    }

    /// Every workload, by namespace and name.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values().map(|compiled| &compiled.workload)
    }

    /// The objects that are compiled, in no order.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.index.objects()
    }
}

fn covers(host: &Host, name: &Hostname) -> bool {
    match host {
        Host::Short(_) => false,
        Host::Full(full) => full == name,
        Host::Suffix(suffix) => name.as_str().ends_with(suffix.as_ref()),
        Host::Any => true,
    }
}

/// Keeps who refers to what true after a service was compiled again.
fn refer<K: Clone + Ord + std::hash::Hash>(
    referrers: &mut HashMap<K, BTreeSet<ServiceName>>,
    name: &ServiceName,
    before: &BTreeSet<K>,
    after: &BTreeSet<K>,
) {
    for key in before.difference(after) {
        if let Some(names) = referrers.get_mut(key) {
            names.remove(name);
            if names.is_empty() {
                referrers.remove(key);
            }
        }
    }
    for key in after.difference(before) {
        let names = referrers.entry(key.clone()).or_default();
        names.insert(name.clone());
    }
}
