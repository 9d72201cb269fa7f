//! The present objects, indexed by what they mean to each other.
//!
//! Holds inputs only: everything here is a function of the present objects, whatever order they
//! came in. What the services need from it is found without scanning all objects.
//!
//! Longer than most, because whatever enters one of its maps has to leave it the same way: both are
//! one function beside the maps.

mod attached;
mod cluster;
mod hosts;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use outrigger_model::{Hostname, Namespace};

use crate::{
    Kind, Object, ObjectKey, Options,
    aliases::{Aliases, ServiceName},
    ir::{Host, Labels, Scope},
    object::{EndpointSlice, Pod, Service, Spec, WorkloadAddress},
};

/// Objects of a name, in the order of their keys.
type Keys = BTreeSet<Arc<ObjectKey>>;
/// A label in a namespace.
type Label = (Namespace, Arc<str>, Arc<str>);

/// See the module.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) options: Options,
    pub(crate) aliases: Aliases,
    objects: HashMap<Arc<ObjectKey>, Arc<Object>>,
    /// Objects that define a service: one Service, or ServiceEntries of one namespace.
    claims: BTreeMap<ServiceName, Keys>,
    slices: HashMap<ServiceName, Keys>,
    /// Slices that name a Pod of their namespace.
    slices_of_pod: HashMap<(Namespace, Hostname), Keys>,
    /// Slices that name a Node.
    slices_of_node: HashMap<Hostname, Keys>,
    /// WorkloadEntries and Pods, by each label.
    workloads: HashMap<Label, Keys>,
    /// The same, by namespace.
    residents: HashMap<Namespace, Keys>,
    /// Services, with the object that says so, by the first label of their selector.
    selectors: HashMap<Label, BTreeSet<(ServiceName, Arc<ObjectKey>)>>,
    routes: HashMap<Host, Keys>,
    policies: HashMap<Host, BTreeMap<Namespace, Keys>>,
    /// Routes by the services that they name as parents.
    attached: HashMap<ServiceName, Keys>,
    /// ReferenceGrants by their namespace.
    grants: HashMap<Namespace, Keys>,
}

/// One object's part in the definition of a service.
#[derive(Debug, Clone)]
pub(crate) struct Claim<'a> {
    pub(crate) object: &'a Arc<Object>,
    pub(crate) service: &'a Service,
}

impl Claim<'_> {
    fn is_service(&self) -> bool {
        self.object.key().kind == Kind::Service
    }
}

impl Index {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            aliases: Aliases::new(options.settings.cluster_domain.clone()),
            options,
            objects: HashMap::new(),
            claims: BTreeMap::new(),
            slices: HashMap::new(),
            slices_of_pod: HashMap::new(),
            slices_of_node: HashMap::new(),
            workloads: HashMap::new(),
            residents: HashMap::new(),
            selectors: HashMap::new(),
            routes: HashMap::new(),
            policies: HashMap::new(),
            attached: HashMap::new(),
            grants: HashMap::new(),
        }
    }

    pub(crate) fn get(&self, key: &ObjectKey) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    pub(crate) fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    pub(crate) fn insert(&mut self, object: Arc<Object>) {
        self.enter(&object, true);
        self.objects.insert(Arc::clone(object.shared_key()), object);
    }

    pub(crate) fn remove(&mut self, key: &ObjectKey) -> Option<Arc<Object>> {
        let object = self.objects.remove(key)?;
        self.enter(&object, false);
        Some(object)
    }

    /// Enters an object under everything it means, or takes it out.
    fn enter(&mut self, object: &Arc<Object>, present: bool) {
        let key = object.shared_key();
        let Some(namespace) = object.namespace() else {
            return;
        };
        match object.spec() {
            // Found by their keys.
            Spec::None | Spec::Namespace(_) | Spec::Node(_) => {}
            Spec::Service(service) => {
                let name = self.service_of(object);
                self.enter_claim(&name, object, service, present);
            }
            Spec::ServiceEntry(entry) => {
                for host in &entry.hosts {
                    let name = ServiceName {
                        namespace: namespace.clone(),
                        service: host.value.clone(),
                    };
                    self.enter_claim(&name, object, &entry.service, present);
                }
            }
            Spec::EndpointSlice(slice) => {
                if let Some(name) = slice_service(namespace, slice) {
                    change(&mut self.slices, name, key, present);
                }
                self.enter_endpoints(namespace, slice, key, present);
            }
            Spec::WorkloadEntry(workload)
            | Spec::Pod(Pod {
                instance: workload, ..
            }) => {
                change(&mut self.residents, namespace.clone(), key, present);
                for (label, value) in &workload.labels {
                    let label = (namespace.clone(), Arc::clone(label), Arc::clone(value));
                    change(&mut self.workloads, label, key, present);
                }
            }
            Spec::Routes(routes) if routes.scope == Scope::Mesh => {
                for host in self.route_hosts(object, routes) {
                    change(&mut self.routes, host, key, present);
                }
            }
            Spec::Routes(_) => {}
            Spec::Attached(routes) => {
                for service in routes.parents.iter().filter_map(|one| one.service.clone()) {
                    change(&mut self.attached, service, key, present);
                }
            }
            Spec::Grant(_) => change(&mut self.grants, namespace.clone(), key, present),
            Spec::Policy(policy) => {
                let host = self.policy_host(object, policy);
                let by_namespace = self.policies.entry(host.clone()).or_default();
                let keys = by_namespace.entry(namespace.clone()).or_default();
                if present {
                    keys.insert(Arc::clone(key));
                    return;
                }
                keys.remove(key);
                if keys.is_empty() {
                    by_namespace.remove(namespace);
                }
                if by_namespace.is_empty() {
                    self.policies.remove(&host);
                }
            }
        }
    }

    fn enter_endpoints(
        &mut self,
        namespace: &Namespace,
        slice: &EndpointSlice,
        key: &Arc<ObjectKey>,
        present: bool,
    ) {
        for endpoint in &slice.endpoints {
            if let Some(pod) = &endpoint.pod {
                let pod = (namespace.clone(), pod.clone());
                change(&mut self.slices_of_pod, pod, key, present);
            }
            if let Some(node) = &endpoint.node {
                change(&mut self.slices_of_node, node.clone(), key, present);
            }
        }
    }

    fn enter_claim(
        &mut self,
        name: &ServiceName,
        object: &Arc<Object>,
        service: &Service,
        present: bool,
    ) {
        let keys = self.claims.entry(name.clone()).or_default();
        if present {
            keys.insert(Arc::clone(object.shared_key()));
        } else {
            keys.remove(object.shared_key());
            if keys.is_empty() {
                self.claims.remove(name);
            }
        }
        let Some((label, value)) = service.selector.first_key_value() else {
            return;
        };
        let label = (name.namespace.clone(), Arc::clone(label), Arc::clone(value));
        let claim = (name.clone(), Arc::clone(object.shared_key()));
        let claims = self.selectors.entry(label.clone()).or_default();
        if present {
            claims.insert(claim);
            return;
        }
        claims.remove(&claim);
        if claims.is_empty() {
            self.selectors.remove(&label);
        }
    }

    /// Updates host names after the claims of a service have changed.
    pub(crate) fn refresh_aliases(&mut self, name: &ServiceName) {
        let Some((first, hosts, is_entry)) = self.definition(name) else {
            self.aliases.remove(name);
            return;
        };
        let claims = self.claims(name);
        let mut vips = Vec::new();
        let mut ports = BTreeSet::new();
        for claim in &claims {
            vips.extend(claim.service.vips.iter().copied());
            ports.extend(claim.service.ports.iter().map(|port| port.port));
        }
        let age = first.age();
        let ports = ports.into_iter().collect();
        self.aliases
            .insert(name, is_entry, age, hosts, &vips, ports);
    }

    fn definition(&self, name: &ServiceName) -> Option<(Arc<Object>, Vec<Hostname>, bool)> {
        let claims = self.claims(name);
        let first = Arc::clone(claims.first()?.object);
        let is_entry = first.key().kind == Kind::ServiceEntry;
        let host = if is_entry {
            name.service.clone()
        } else {
            self.full_host(name)?
        };
        Some((first, vec![host], is_entry))
    }

    /// The full name of a Kubernetes Service.
    pub(crate) fn full_host(&self, name: &ServiceName) -> Option<Hostname> {
        let domain = &self.options.settings.cluster_domain;
        let text = format!("{}.{}.svc.{domain}", name.service, name.namespace);
        Hostname::parse(&text).ok()
    }

    /// The objects that define a service: a Service alone, else ServiceEntries, oldest first.
    pub(crate) fn claims(&self, name: &ServiceName) -> Vec<Claim<'_>> {
        let mut claims: Vec<_> = self.all_claims(name).collect();
        if claims.iter().any(|claim| claim.is_service()) {
            claims.retain(Claim::is_service);
        }
        claims.sort_by_key(|claim| claim.object.age());
        claims
    }

    /// The same, and ServiceEntries that a Service of the same name takes the place of.
    pub(crate) fn all_claims(&self, name: &ServiceName) -> impl Iterator<Item = Claim<'_>> {
        self.keys(self.claims.get(name)).filter_map(|object| {
            let service = object.service()?;
            Some(Claim { object, service })
        })
    }

    /// ServiceEntries that a Service of the same name takes the place of.
    pub(crate) fn shadowed_claims(&self, name: &ServiceName) -> Vec<&Arc<Object>> {
        let claims = || self.all_claims(name);
        let has_service = claims().any(|claim| claim.is_service());
        claims()
            .filter(|claim| has_service && !claim.is_service())
            .map(|claim| claim.object)
            .collect()
    }

    /// All services, by name.
    pub(crate) fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.claims.keys()
    }

    /// Services that an object defines.
    pub(crate) fn defined_by(&self, object: &Object) -> Vec<ServiceName> {
        let Some(namespace) = object.namespace() else {
            return Vec::new();
        };
        match object.spec() {
            Spec::Service(_) => vec![self.service_of(object)],
            Spec::ServiceEntry(entry) => entry
                .hosts
                .iter()
                .map(|host| ServiceName {
                    namespace: namespace.clone(),
                    service: host.value.clone(),
                })
                .collect(),
            Spec::None
            | Spec::Namespace(_)
            | Spec::Node(_)
            | Spec::Pod(_)
            | Spec::EndpointSlice(_)
            | Spec::WorkloadEntry(_)
            | Spec::Routes(_)
            | Spec::Policy(_)
            | Spec::Attached(_)
            | Spec::Grant(_) => Vec::new(),
        }
    }

    fn service_of(&self, object: &Object) -> ServiceName {
        let root = &self.options.root_namespace;
        ServiceName {
            namespace: object.namespace().unwrap_or(root).clone(),
            service: object.key().name.clone(),
        }
    }

    /// Slices of a service.
    pub(crate) fn slices(&self, name: &ServiceName) -> impl Iterator<Item = &Arc<Object>> {
        self.keys(self.slices.get(name))
    }

    /// WorkloadEntries of a namespace that carry all of these labels; none if there are no labels.
    pub(crate) fn selected<'a>(
        &'a self,
        namespace: &Namespace,
        selector: &'a Labels,
    ) -> impl Iterator<Item = (&'a Arc<Object>, &'a WorkloadAddress)> {
        self.picked(namespace, selector)
            .filter(|(object, _)| object.workload().is_some())
    }

    /// The same, and Pods: their addresses come from EndpointSlices, their inbound ports from the
    /// services that pick them.
    pub(crate) fn picked<'a>(
        &'a self,
        namespace: &Namespace,
        selector: &'a Labels,
    ) -> impl Iterator<Item = (&'a Arc<Object>, &'a WorkloadAddress)> {
        let smallest = selector
            .iter()
            .map(|(label, value)| {
                let label = (namespace.clone(), Arc::clone(label), Arc::clone(value));
                self.workloads.get(&label)
            })
            .min_by_key(|keys| keys.map_or(0, BTreeSet::len))
            .flatten();
        self.keys(smallest)
            .filter_map(|object| Some((object, object.instance()?)))
            .filter(move |(_, workload)| carries(&workload.labels, selector))
    }

    /// Services whose selector picks a workload.
    pub(crate) fn selecting(
        &self,
        namespace: &Namespace,
        workload: &WorkloadAddress,
    ) -> BTreeSet<ServiceName> {
        let mut found = BTreeSet::new();
        for (label, value) in &workload.labels {
            let label = (namespace.clone(), Arc::clone(label), Arc::clone(value));
            for (name, _) in self.selectors.get(&label).into_iter().flatten() {
                let claims = self.claims(name);
                let picks = |claim: &Claim<'_>| {
                    !claim.service.selector.is_empty()
                        && carries(&workload.labels, &claim.service.selector)
                };
                if claims.iter().any(picks) {
                    found.insert(name.clone());
                }
            }
        }
        found
    }

    fn keys<'a>(&'a self, keys: Option<&'a Keys>) -> impl Iterator<Item = &'a Arc<Object>> {
        keys.into_iter()
            .flatten()
            .filter_map(|key| self.objects.get(key))
    }
}

/// Whether `labels` has all of `wanted`.
pub(crate) fn carries(labels: &Labels, wanted: &Labels) -> bool {
    wanted
        .iter()
        .all(|(label, value)| labels.get(label) == Some(value))
}

/// The service that a slice belongs to.
pub(crate) fn slice_service(namespace: &Namespace, slice: &EndpointSlice) -> Option<ServiceName> {
    Some(ServiceName {
        namespace: namespace.clone(),
        service: slice.service.clone()?,
    })
}

fn change<K: std::hash::Hash + Eq>(
    map: &mut HashMap<K, Keys>,
    key: K,
    object: &Arc<ObjectKey>,
    present: bool,
) {
    if present {
        map.entry(key).or_default().insert(Arc::clone(object));
        return;
    }
    if let std::collections::hash_map::Entry::Occupied(mut entry) = map.entry(key) {
        entry.get_mut().remove(object);
        if entry.get().is_empty() {
            entry.remove();
        }
    }
}
