//! One service compiled: destinations, endpoint shards and route tables of its ports.
//!
//! The unit of incremental work: a pure function of the index, so that compiling a service
//! again gives the same unless something it depends on has changed.
//!
//! Longer than most, because destinations, shards and tables of a port are made from the same look
//! at the index, and what one says of a subset the others must say too.

mod notes;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use outrigger_model::{
    Backend, Destination, DestinationName, EndpointShard, Hostname, Namespace, Resource,
    ResourceName, RouteTable, ShardName,
};

use crate::{
    Diagnostic, Object,
    aliases::{Direct, ServiceName},
    compiled::Variants,
    defaults::Location,
    endpoints::{self, Candidates},
    index::{Claim, Index},
    ir::Routes,
    ledger::{Effects, FieldState},
    merge::{
        attached::{self, Attached},
        policy,
        routes::Merge,
        targets::Resolver,
    },
    object::ServicePort,
    shard,
};

/// What a service was compiled to.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Compiled {
    pub(crate) resources: BTreeMap<ResourceName, Variants<Resource>>,
    pub(crate) diagnostics: BTreeSet<Diagnostic>,
    pub(crate) effects: Effects,
    /// Hosts that its routes name.
    pub(crate) references: BTreeSet<Hostname>,
    /// Namespaces whose ReferenceGrants its routes depend on.
    pub(crate) grants: BTreeSet<Namespace>,
    /// Addresses of its pods, by which clients may mean it.
    pub(crate) direct: BTreeMap<SocketAddr, Direct>,
}

/// Compiles a service; nothing if no object defines it.
pub(crate) fn compile(index: &Index, name: &ServiceName) -> Compiled {
    let claims = index.claims(name);
    let mut out = Compiled::default();
    let Some(first) = claims.first() else {
        return out;
    };
    let first = Arc::clone(first.object);
    for object in index.shadowed_claims(name) {
        out.shadow(object, "", &first);
        out.shadow(object, "spec.hosts", &first);
    }
    let Some((host, hosts)) = hosts(index, name, &first) else {
        return out;
    };
    let routes = index.routes(&host);
    // Parents are Services: a ServiceEntry whose host looks like one is none.
    let attached = match first.service_entry() {
        None => index.attached(name),
        Some(_) => Vec::new(),
    };
    let mut unit = Unit {
        index,
        name,
        host: &host,
        hosts,
        location: location(&first),
        routes,
        attached,
        coverage: notes::Coverage::default(),
        out,
    };
    unit.note_policies();
    unit.ports(&claims);
    unit.note_routes();
    let mut out = unit.out;
    for claim in &claims {
        out.effects.add(claim.object, "", FieldState::Active);
    }
    for slice in index.slices(name) {
        out.effects.add(slice, "", FieldState::Active);
    }
    out.diagnose_effects(index);
    out
}

/// The full name of a service, and all names under which clients know it.
fn hosts(index: &Index, name: &ServiceName, object: &Object) -> Option<(Hostname, Vec<Hostname>)> {
    if object.service_entry().is_some() {
        let host = name.service.clone();
        return Some((host.clone(), vec![host]));
    }
    let full = index.full_host(name)?;
    let (service, namespace) = (&name.service, &name.namespace);
    let short = [
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}"),
    ];
    let short = short.iter().filter_map(|text| Hostname::parse(text).ok());
    let hosts = std::iter::once(full.clone()).chain(short).collect();
    Some((full, hosts))
}

fn location(object: &Object) -> Location {
    match object.service_entry() {
        Some(entry) if entry.is_external => Location::External,
        Some(_) | None => Location::Internal,
    }
}

struct Unit<'a> {
    index: &'a Index,
    name: &'a ServiceName,
    host: &'a Hostname,
    hosts: Vec<Hostname>,
    location: Location,
    routes: Vec<(&'a Arc<Object>, &'a Routes)>,
    /// Routes that name it as a parent.
    attached: Vec<Attached<'a>>,
    /// Which of them decide for clients in general.
    coverage: notes::Coverage,
    out: Compiled,
}

impl Unit<'_> {
    /// Every port; of several objects with one port number, the first counts.
    fn ports(&mut self, claims: &[Claim<'_>]) {
        let mut vips: Vec<_> = claims
            .iter()
            .flat_map(|claim| claim.service.vips.iter().copied())
            .collect();
        vips.sort();
        vips.dedup();
        let mut by_number: BTreeMap<_, (&ServicePort, Vec<&Claim<'_>>)> = BTreeMap::new();
        for claim in claims {
            for port in &claim.service.ports {
                let entry = by_number.entry(port.port);
                let (_, with) = entry.or_insert_with(|| (port, Vec::new()));
                with.push(claim);
            }
        }
        for (port, with) in by_number.into_values() {
            let mut candidates = Candidates::new();
            let mut diagnostics = Vec::new();
            let mut direct = BTreeSet::new();
            let mut first = None;
            for claim in with {
                first.get_or_insert_with(|| claim.object.age());
                let own = claim.service.ports.iter().find(|own| own.port == port.port);
                let own = own.unwrap_or(port);
                let more = endpoints::of_port(
                    self.index,
                    self.name,
                    claim,
                    own,
                    &mut direct,
                    &mut diagnostics,
                );
                for (address, candidate) in more {
                    candidates.entry(address).or_insert(candidate);
                }
            }
            self.out.diagnostics.extend(diagnostics);
            for (at, age) in direct.into_iter().zip(first.into_iter().cycle()) {
                let destination = self.name.port(port.port);
                let direct = Direct { age, destination };
                // Of several ports that lead there, the lowest.
                self.out.direct.entry(at).or_insert(direct);
            }
            self.port(port, &vips, &candidates);
        }
    }

    fn port(&mut self, port: &ServicePort, vips: &[std::net::IpAddr], candidates: &Candidates) {
        let name = self.name.port(port.port);
        let addresses: Vec<SocketAddr> = candidates.keys().copied().collect();
        let shards = shard::assign(&addresses);
        let own = policy::client_namespaces(self.index, self.host);
        self.variants(&own, |unit, client| {
            let destination = unit.destination(&name, port, vips, shards.len(), client);
            (
                ResourceName::Destination(name.clone()),
                Resource::Destination(destination),
            )
        });
        for (index, members) in shards.iter().enumerate().take(shard::SHARDS_MAX) {
            let Ok(index) = u16::try_from(index) else {
                continue;
            };
            let shard = ShardName {
                destination: name.clone(),
                index,
            };
            self.variants(&own, |unit, client| {
                let shard = unit.shard(&shard, &addresses, members, candidates, client);
                (
                    ResourceName::EndpointShard(shard.name.clone()),
                    Resource::EndpointShard(shard),
                )
            });
        }
        self.route_table(&name, port);
    }

    /// A resource as most clients see it, and as those of some namespaces do where that differs.
    fn variants(
        &mut self,
        clients: &BTreeSet<Namespace>,
        mut make: impl FnMut(&mut Self, Option<&Namespace>) -> (ResourceName, Resource),
    ) {
        let (name, default) = make(self, None);
        let mut variants = Variants::new(default);
        for client in clients {
            let (_, resource) = make(self, Some(client));
            variants.add(client, resource);
        }
        self.out.resources.insert(name, variants);
    }

    fn destination(
        &self,
        name: &DestinationName,
        port: &ServicePort,
        vips: &[std::net::IpAddr],
        shards: usize,
        client: Option<&Namespace>,
    ) -> Destination {
        let policies = policy::deciding(self.index, self.host, self.name, client);
        let merged = policy::merge(&policies);
        let (port, protocol) = (port.port, port.protocol);
        Destination {
            name: name.clone(),
            hosts: self.hosts.clone(),
            vips: vips.to_vec(),
            protocol,
            policy: merged.policy(port, protocol, self.location),
            subsets: merged.subsets(port, protocol, self.location),
            shards: u16::try_from(shards).unwrap_or(u16::MAX),
        }
    }

    fn shard(
        &self,
        name: &ShardName,
        addresses: &[SocketAddr],
        members: &[usize],
        candidates: &Candidates,
        client: Option<&Namespace>,
    ) -> EndpointShard {
        let policies = policy::deciding(self.index, self.host, self.name, client);
        let merged = policy::merge(&policies);
        let subsets = merged.labels();
        let endpoints = members
            .iter()
            .filter_map(|member| addresses.get(*member))
            .filter_map(|address| Some((*address, candidates.get(address)?)))
            .map(|(address, candidate)| endpoints::complete(address, candidate, &subsets))
            .take(outrigger_model::ENDPOINTS_PER_SHARD_MAX)
            .collect();
        EndpointShard {
            name: name.clone(),
            endpoints,
        }
    }

    fn route_table(&mut self, name: &DestinationName, port: &ServicePort) {
        let default = self.routes_for(name, port, None);
        // Which subsets exist depends on the client's namespace, and it may have routes of its own.
        let mut clients = attached::client_namespaces(&self.attached, self.name);
        let references = self.out.references.iter();
        clients.extend(references.flat_map(|host| policy::client_namespaces(self.index, host)));
        let mut variants = Variants::new(Resource::RouteTable(default));
        for client in &clients {
            let table = self.routes_for(name, port, Some(client));
            variants.add(client, Resource::RouteTable(table));
        }
        self.out
            .resources
            .insert(ResourceName::RouteTable(name.clone()), variants);
    }

    fn routes_for(
        &mut self,
        name: &DestinationName,
        port: &ServicePort,
        client: Option<&Namespace>,
    ) -> RouteTable {
        let selection = attached::select(&self.attached, self.name, port, client);
        if client.is_none() {
            self.coverage.add(selection.deciding.first());
        }
        let mut merge = Merge {
            resolver: Resolver {
                index: self.index,
                client,
                port: name.port,
                diagnostics: &mut self.out.diagnostics,
                references: &mut self.out.references,
                grants: &mut self.out.grants,
            },
            own: Backend {
                destination: name.clone(),
                subset: None,
            },
            effects: &mut self.out.effects,
        };
        let http = match selection.deciding.first() {
            None => merge.http(&self.routes),
            Some((winner, _)) => {
                if client.is_none() {
                    merge.shadow_http(&self.routes, winner);
                }
                merge.shadow_attached(&selection.shadowed, winner);
                merge.attached(&selection.deciding)
            }
        };
        RouteTable {
            name: name.clone(),
            http,
            tcp: merge.tcp(&self.routes),
        }
    }
}
