//! Which service a host means: full names, short names, virtual addresses, addresses of pods.
//!
//! A resolver keeps a copy of all of it and is replaced when it changes. Names change rarely and
//! are copied whole; pods come and go, so their addresses stand in many small maps of which a
//! change copies one.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use jiff::Timestamp;
use outrigger_model::{Authority, DestinationName, Hostname, Namespace, Port};

use crate::ObjectKey;

/// A service: the part of a destination's name without the port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ServiceName {
    pub(crate) namespace: Namespace,
    pub(crate) service: Hostname,
}

impl std::fmt::Display for ServiceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service)
    }
}

impl ServiceName {
    pub(crate) fn port(&self, port: Port) -> DestinationName {
        DestinationName {
            namespace: self.namespace.clone(),
            service: self.service.clone(),
            port,
        }
    }
}

/// What precedes what where several objects want the same: the older, then by key.
pub(crate) type Age = (bool, Option<Timestamp>, Arc<ObjectKey>);

/// Who owns a host name. Ordered: a Service before a ServiceEntry, then by age.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Owner {
    is_entry: bool,
    age: Age,
    name: ServiceName,
}

/// The destination that an address of one of its pods means. Ordered: the oldest service first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Direct {
    pub(crate) age: Age,
    pub(crate) destination: DestinationName,
}

type DirectMap = HashMap<SocketAddr, BTreeSet<Direct>>;

/// Maps of addresses: some 100 addresses each where there are 10,000 pods.
const DIRECT_MAPS: usize = 128;

/// Host names and virtual addresses of all services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aliases {
    cluster_domain: Hostname,
    owners: Arc<HashMap<Hostname, BTreeSet<Owner>>>,
    services: Arc<HashMap<ServiceName, Entry>>,
    direct: Vec<Arc<DirectMap>>,
}

/// What is known of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    owner: Owner,
    hosts: Vec<Hostname>,
    ports: Vec<Port>,
}

impl Aliases {
    pub(crate) fn new(cluster_domain: Hostname) -> Self {
        Self {
            cluster_domain,
            owners: Arc::default(),
            services: Arc::default(),
            direct: vec![Arc::default(); DIRECT_MAPS],
        }
    }

    /// The destination that a client in `namespace` means: `orders`, `orders.shop`,
    /// `orders.shop.svc`, the full name, the host of a ServiceEntry, or a virtual address.
    /// A Service goes before a ServiceEntry, and among ServiceEntries for one host that of the
    /// client's own namespace, then the oldest. An address that is none of these means the
    /// destination of which it is an endpoint, that of the oldest service if it is of several.
    #[must_use]
    pub fn resolve(&self, namespace: &Namespace, authority: &Authority) -> Option<DestinationName> {
        let host = &authority.host;
        let domain = &self.cluster_domain;
        let forms = if host.as_str().contains('.') {
            [format!("{host}.svc.{domain}"), format!("{host}.{domain}")].to_vec()
        } else {
            [format!("{host}.{namespace}.svc.{domain}")].to_vec()
        };
        // Short forms mean Services only: a ServiceEntry must not capture them.
        let short = forms.iter().find_map(|form| {
            let owner = self.owners.get(form.as_str())?.first()?;
            (!owner.is_entry && self.has_port(&owner.name, authority.port)).then_some(&owner.name)
        });
        let found = short.or_else(|| {
            self.candidates(host, namespace)
                .find(|name| self.has_port(name, authority.port))
        });
        match found {
            Some(found) => Some(found.port(authority.port)),
            None => self.endpoint(authority),
        }
    }

    fn endpoint(&self, authority: &Authority) -> Option<DestinationName> {
        let address = SocketAddr::new(authority.host.address()?, authority.port.get());
        let direct = self.direct.get(direct_map(&address))?.get(&address)?;
        Some(direct.first()?.destination.clone())
    }

    /// The service that has the full name `host`, as seen from `namespace`.
    pub(crate) fn find(&self, host: &Hostname, namespace: &Namespace) -> Option<&ServiceName> {
        self.candidates(host, namespace).next()
    }

    /// Every service with the full name `host`.
    pub(crate) fn all(&self, host: &Hostname) -> impl Iterator<Item = &ServiceName> {
        let owners = self.owners.get(host);
        owners.into_iter().flatten().map(|owner| &owner.name)
    }

    /// Every host name that a service has.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &Hostname> {
        self.owners.keys()
    }

    /// Ports of a service, in the order of their numbers.
    pub(crate) fn ports(&self, name: &ServiceName) -> &[Port] {
        self.services
            .get(name)
            .map_or(&[], |entry| entry.ports.as_slice())
    }

    /// What is known of a service.
    pub(crate) fn entry(&self, name: &ServiceName) -> Option<&Entry> {
        self.services.get(name)
    }

    /// Host names and virtual addresses of a service.
    pub(crate) fn hosts_of(&self, name: &ServiceName) -> &[Hostname] {
        self.services
            .get(name)
            .map_or(&[], |entry| entry.hosts.as_slice())
    }

    fn has_port(&self, name: &ServiceName, port: Port) -> bool {
        self.ports(name).contains(&port)
    }

    fn candidates(
        &self,
        host: &Hostname,
        namespace: &Namespace,
    ) -> impl Iterator<Item = &ServiceName> {
        let all = || self.owners.get(host).into_iter().flatten();
        let namespace = namespace.clone();
        // The client's own go before older ones; that they come again after does no harm.
        let services = all().filter(|owner| !owner.is_entry);
        let own = all().filter(move |owner| owner.is_entry && owner.name.namespace == namespace);
        services.chain(own).chain(all()).map(|owner| &owner.name)
    }

    /// Enters a service, or what has become of it.
    pub(crate) fn insert(
        &mut self,
        name: &ServiceName,
        is_entry: bool,
        age: Age,
        hosts: Vec<Hostname>,
        vips: &[IpAddr],
        ports: Vec<Port>,
    ) {
        self.remove(name);
        let vips = vips.iter().copied().map(Hostname::from);
        let hosts: Vec<Hostname> = hosts.into_iter().chain(vips).collect();
        let owner = Owner {
            is_entry,
            age,
            name: name.clone(),
        };
        for host in &hosts {
            Arc::make_mut(&mut self.owners)
                .entry(host.clone())
                .or_default()
                .insert(owner.clone());
        }
        Arc::make_mut(&mut self.services).insert(
            name.clone(),
            Entry {
                owner,
                hosts,
                ports,
            },
        );
    }

    /// Takes a service out.
    pub(crate) fn remove(&mut self, name: &ServiceName) {
        if !self.services.contains_key(name) {
            return;
        }
        let Some(entry) = Arc::make_mut(&mut self.services).remove(name) else {
            return;
        };
        let all = Arc::make_mut(&mut self.owners);
        for host in &entry.hosts {
            if let Some(owners) = all.get_mut(host) {
                owners.remove(&entry.owner);
                if owners.is_empty() {
                    all.remove(host);
                }
            }
        }
    }

    /// Enters the addresses of a service's pods in place of those it had.
    pub(crate) fn replace_direct(
        &mut self,
        before: &BTreeMap<SocketAddr, Direct>,
        after: &BTreeMap<SocketAddr, Direct>,
    ) {
        for (address, direct) in before {
            if after.get(address) != Some(direct) {
                let all = Arc::make_mut(&mut self.direct[direct_map(address)]);
                if let Some(of_address) = all.get_mut(address) {
                    of_address.remove(direct);
                    if of_address.is_empty() {
                        all.remove(address);
                    }
                }
            }
        }
        for (address, direct) in after {
            if before.get(address) != Some(direct) {
                let all = Arc::make_mut(&mut self.direct[direct_map(address)]);
                all.entry(*address).or_default().insert(direct.clone());
            }
        }
    }
}

/// Which map an address is in: any spread will do that is the same for all.
fn direct_map(address: &SocketAddr) -> usize {
    let last = match address.ip() {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let mixed = last ^ (last >> 7) ^ u128::from(address.port());
    usize::try_from(mixed & 0xffff).unwrap_or_default() % DIRECT_MAPS
}
