//! From streamed resources to snapshots: what is wanted, what is complete, what is in force.
//!
//! Pure but for `Arc`s: no I/O, no clock. The control task owns one [`Fold`]; it feeds it demands
//! and responses, sends the subscriptions that [`Fold::wanted`] asks for, and publishes the
//! snapshots that [`Fold::snapshot`] builds.
//!
//! Make before break (DESIGN §4), at two levels:
//! - a new route table comes into force only when every destination it names has arrived with all
//!   its endpoint shards, or is known not to exist; until then the old table serves, with endpoints
//!   kept current;
//! - a destination that announces more shards than have arrived keeps its old endpoints.
//!
//! A response is applied whole or not at all: [`prepare`] checks everything first.
//!
//! Longer than most, because what is wanted, complete and in force are three views of one state,
//! and a step that forgot one of them would show only here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicU32},
};

use outrigger_model::{
    Authority, Backend, Destination, DestinationName, EndpointShard, InboundPolicy, MeshSettings,
    Resource, ResourceKind, RouteTable, ShardName, TrustBundle,
};
use outrigger_policy::route::{HttpTable, TcpTable};

use crate::snapshot::{Lookup, Service, Snapshot, Target};

/// What an application may use at a time; a scan of addresses makes no more of itself.
const DEMANDED_MAX: usize = 16_384;

/// A resource as it came: decoded, with the other names it is known by.
#[derive(Debug)]
pub(super) struct Received {
    /// Value.
    pub(super) resource: Resource,
    /// Names under which it was subscribed, beside its own.
    pub(super) aliases: Vec<String>,
}

/// A response whose every resource can be used.
#[derive(Debug)]
pub(super) struct Prepared {
    resources: Vec<(Checked, Vec<String>)>,
}

#[derive(Debug)]
enum Checked {
    Destination(Arc<Destination>),
    Shard(Arc<EndpointShard>),
    Table(Table),
    Inbound(Arc<InboundPolicy>),
    Trust(Arc<TrustBundle>),
    Settings(Arc<MeshSettings>),
}

/// A resource that this sidecar cannot use: the response is refused (NACK) with this text.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {reason}")]
pub(super) struct Rejected {
    /// Kind and name.
    pub(super) name: String,
    /// Why.
    pub(super) reason: String,
}

/// A route table with its rules compiled.
#[derive(Debug, Clone)]
struct Table {
    source: Arc<RouteTable>,
    http: Arc<HttpTable>,
    tcp: Arc<TcpTable>,
}

/// Checks a response: rules compile. Nothing changes yet.
///
/// # Errors
/// The first resource that cannot be used.
pub(super) fn prepare(received: Vec<Received>) -> Result<Prepared, Rejected> {
    let check = |received: Received| {
        let checked = match received.resource {
            Resource::Destination(value) => Checked::Destination(Arc::new(value)),
            Resource::EndpointShard(value) => Checked::Shard(Arc::new(value)),
            Resource::RouteTable(value) => Checked::Table(compile(value)?),
            Resource::InboundPolicy(value) => Checked::Inbound(Arc::new(value)),
            Resource::TrustBundle(value) => Checked::Trust(Arc::new(value)),
            Resource::MeshSettings(value) => Checked::Settings(Arc::new(value)),
        };
        Ok((checked, received.aliases))
    };
    let resources = received
        .into_iter()
        .map(check)
        .collect::<Result<_, Rejected>>()?;
    Ok(Prepared { resources })
}

fn compile(table: RouteTable) -> Result<Table, Rejected> {
    let rejected = |reason: String| Rejected {
        name: format!("RouteTable {}", table.name),
        reason,
    };
    let http = HttpTable::compile(&table).map_err(|error| rejected(error.to_string()))?;
    let tcp = TcpTable::compile(&table).map_err(|error| rejected(error.to_string()))?;
    Ok(Table {
        http: Arc::new(http),
        tcp: Arc::new(tcp),
        source: Arc::new(table),
    })
}

/// Everything received, and what follows from it.
#[derive(Debug, Default)]
pub(super) struct Fold {
    number: u64,
    settings: Option<Arc<MeshSettings>>,
    inbound: Option<Arc<InboundPolicy>>,
    trust: Option<Arc<TrustBundle>>,
    /// What the application uses, by the text it uses.
    demanded: BTreeMap<Box<str>, Demanded>,
    /// `None`: the control plane says there is none.
    destinations: BTreeMap<DestinationName, Option<Arc<Destination>>>,
    shards: BTreeMap<ShardName, Arc<EndpointShard>>,
    tables: BTreeMap<DestinationName, Table>,
    /// Tables that serve; replaced by the received one when that is complete.
    in_force: BTreeMap<DestinationName, Table>,
    /// Targets that serve, kept while a destination's new shards are on their way.
    targets: BTreeMap<Backend, Kept>,
}

#[derive(Debug, Default)]
struct Demanded {
    resolved: Resolved,
    service: Option<Arc<Service>>,
    /// Times that [`Fold::forget_unused`] found no service: captured traffic asks for any address,
    /// so what is none is asked for anew from time to time instead of being kept.
    found_missing: u8,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Resolved {
    #[default]
    Unknown,
    Missing,
    Name(DestinationName),
}

/// A target and what it was made of, to see by pointer whether it is still true.
#[derive(Debug)]
struct Kept {
    target: Arc<Target>,
    destination: Option<Arc<Destination>>,
    shards: Vec<Arc<EndpointShard>>,
}

impl Fold {
    /// Notes that the application uses `authority`. False when it was known already, or when too
    /// many are: it then stays unknown.
    pub(super) fn demand(&mut self, authority: &Authority) -> bool {
        let text = authority.to_string().into_boxed_str();
        if self.demanded.contains_key(&text) || self.demanded.len() >= DEMANDED_MAX {
            return false;
        }
        self.demanded.insert(text, Demanded::default());
        true
    }

    /// Forgets what was last used before `before` (seconds since the process's start), and what was
    /// no service the last time either. Returns whether anything was forgotten.
    pub(super) fn forget_unused(&mut self, before: u32) -> bool {
        let count = self.demanded.len();
        self.demanded.retain(
            |_, demanded| match (&demanded.service, &demanded.resolved) {
                (Some(service), _) => {
                    service.used.load(std::sync::atomic::Ordering::Relaxed) >= before
                }
                (None, Resolved::Missing) => {
                    demanded.found_missing += 1;
                    demanded.found_missing < 2
                }
                (None, Resolved::Unknown | Resolved::Name(_)) => true,
            },
        );
        count != self.demanded.len()
    }

    /// The names that should be subscribed at this moment, by kind.
    #[must_use]
    pub(super) fn wanted(&self, kind: ResourceKind) -> BTreeSet<String> {
        match kind {
            ResourceKind::Destination => {
                let backends = self
                    .backends()
                    .map(|backend| backend.destination.to_string());
                self.demanded
                    .keys()
                    .map(|text| text.to_string())
                    .chain(backends)
                    .collect()
            }
            ResourceKind::RouteTable => self.demanded.keys().map(|text| text.to_string()).collect(),
            ResourceKind::EndpointShard => self
                .backends()
                .flat_map(|backend| self.shard_names(&backend.destination))
                .collect(),
            // These are subscribed once, by the client.
            ResourceKind::InboundPolicy
            | ResourceKind::TrustBundle
            | ResourceKind::MeshSettings => BTreeSet::new(),
        }
    }

    fn shard_names(&self, name: &DestinationName) -> Vec<String> {
        let Some(Some(destination)) = self.destinations.get(name) else {
            return Vec::new();
        };
        let shard = |index| {
            ShardName {
                destination: name.clone(),
                index,
            }
            .to_string()
        };
        (0..destination.shards).map(shard).collect()
    }

    /// Backends of the tables that serve and of those that wait.
    fn backends(&self) -> impl Iterator<Item = &Backend> {
        let tables = self.tables.values().chain(self.in_force.values());
        tables.flat_map(|table| table.source.backends())
    }

    /// Takes in a checked response.
    pub(super) fn apply(&mut self, prepared: Prepared) {
        for (checked, aliases) in prepared.resources {
            match checked {
                Checked::Destination(value) => {
                    self.resolve(&aliases, &value.name);
                    self.destinations.insert(value.name.clone(), Some(value));
                }
                Checked::Shard(value) => {
                    self.shards.insert(value.name.clone(), value);
                }
                Checked::Table(table) => {
                    self.resolve(&aliases, &table.source.name);
                    self.tables.insert(table.source.name.clone(), table);
                }
                Checked::Inbound(value) => self.inbound = Some(value),
                Checked::Trust(value) => self.trust = Some(value),
                Checked::Settings(value) => self.settings = Some(value),
            }
        }
    }

    fn resolve(&mut self, aliases: &[String], name: &DestinationName) {
        for alias in aliases {
            if let Some(demanded) = self.demanded.get_mut(alias.as_str()) {
                demanded.resolved = Resolved::Name(name.clone());
            }
        }
    }

    /// Takes in a removal: the name may be canonical or as it was subscribed.
    pub(super) fn remove(&mut self, kind: ResourceKind, name: &str) {
        match kind {
            ResourceKind::Destination => {
                if let Some(demanded) = self.demanded.get_mut(name) {
                    demanded.resolved = Resolved::Missing;
                } else if let Ok(name) = name.parse::<DestinationName>() {
                    for demanded in self.demanded.values_mut() {
                        if demanded.resolved == Resolved::Name(name.clone()) {
                            demanded.resolved = Resolved::Missing;
                        }
                    }
                    self.destinations.insert(name, None);
                }
            }
            ResourceKind::EndpointShard => {
                if let Ok(name) = name.parse::<ShardName>() {
                    self.shards.remove(&name);
                }
            }
            ResourceKind::RouteTable => {
                if let Ok(name) = name.parse::<DestinationName>() {
                    self.tables.remove(&name);
                    self.in_force.remove(&name);
                }
            }
            // The last policy, roots and settings stay in force: fail closed is not fail open.
            ResourceKind::InboundPolicy
            | ResourceKind::TrustBundle
            | ResourceKind::MeshSettings => {}
        }
    }

    /// Whether a resource is kept, so that its version may be claimed on a new stream.
    #[must_use]
    pub(super) fn holds(&self, kind: ResourceKind, name: &str) -> bool {
        if let Some(demanded) = self.demanded.get(name) {
            let Resolved::Name(name) = &demanded.resolved else {
                return false;
            };
            return self.holds(kind, &name.to_string());
        }
        match kind {
            ResourceKind::Destination => name
                .parse()
                .is_ok_and(|name: DestinationName| self.destinations.contains_key(&name)),
            ResourceKind::RouteTable => name
                .parse()
                .is_ok_and(|name: DestinationName| self.tables.contains_key(&name)),
            ResourceKind::EndpointShard => name
                .parse()
                .is_ok_and(|name: ShardName| self.shards.contains_key(&name)),
            ResourceKind::InboundPolicy
            | ResourceKind::TrustBundle
            | ResourceKind::MeshSettings => true,
        }
    }

    /// What the application uses and has a service for, and which destination that is.
    pub(super) fn used(&self) -> impl Iterator<Item = (&str, &DestinationName)> {
        self.demanded.iter().filter_map(|(text, demanded)| {
            match (&demanded.resolved, &demanded.service) {
                (Resolved::Name(name), Some(_)) => Some((&**text, name)),
                (Resolved::Name(_) | Resolved::Unknown | Resolved::Missing, _) => None,
            }
        })
    }

    /// Whether every table received is in force, with all that it names.
    #[must_use]
    pub(super) fn is_settled(&self) -> bool {
        let mut backends = self
            .tables
            .values()
            .flat_map(|table| table.source.backends());
        backends.all(|backend| self.is_complete(backend))
    }

    /// The roots, once they arrived.
    #[must_use]
    pub(super) fn trust(&self) -> Option<&Arc<TrustBundle>> {
        self.trust.as_ref()
    }

    /// Drops what nothing names any more, brings complete tables into force, and builds the next
    /// snapshot; `None` until the mesh settings arrived.
    pub(super) fn snapshot(&mut self) -> Option<Snapshot> {
        let settings = Arc::clone(self.settings.as_ref()?);
        self.collect_garbage();
        self.promote();
        self.refresh_targets();
        self.rebuild_services();
        self.number += 1;
        let lookups = self.demanded.iter().filter_map(|(text, demanded)| {
            let lookup = match (&demanded.service, &demanded.resolved) {
                (_, Resolved::Missing) => Lookup::Missing,
                (Some(service), _) => Lookup::Found(Arc::clone(service)),
                (None, Resolved::Unknown | Resolved::Name(_)) => return None,
            };
            Some((text.clone(), lookup))
        });
        Some(Snapshot {
            number: self.number,
            settings,
            inbound: self.inbound.clone(),
            services: lookups.collect(),
        })
    }

    fn collect_garbage(&mut self) {
        let roots: BTreeSet<DestinationName> = self
            .demanded
            .values()
            .filter_map(|demanded| match &demanded.resolved {
                Resolved::Name(name) => Some(name.clone()),
                Resolved::Unknown | Resolved::Missing => None,
            })
            .collect();
        self.tables.retain(|name, _| roots.contains(name));
        self.in_force.retain(|name, _| roots.contains(name));
        let backends: BTreeSet<Backend> = self.backends().cloned().collect();
        let named: BTreeSet<&DestinationName> = backends
            .iter()
            .map(|backend| &backend.destination)
            .chain(&roots)
            .collect();
        self.destinations.retain(|name, _| named.contains(name));
        self.shards
            .retain(|name, _| named.contains(&name.destination));
        self.targets.retain(|backend, _| backends.contains(backend));
    }

    /// A received table replaces the one in force when all that it names is there.
    fn promote(&mut self) {
        let ready: Vec<Table> = self
            .tables
            .values()
            .filter(|table| {
                table
                    .source
                    .backends()
                    .all(|backend| self.is_complete(backend))
            })
            .cloned()
            .collect();
        for table in ready {
            self.in_force.insert(table.source.name.clone(), table);
        }
    }

    fn is_complete(&self, backend: &Backend) -> bool {
        match self.destinations.get(&backend.destination) {
            None => false,
            Some(None) => true,
            Some(Some(destination)) => self.shards_of(destination).is_some(),
        }
    }

    fn shards_of(&self, destination: &Destination) -> Option<Vec<Arc<EndpointShard>>> {
        let shard = |index| {
            let name = ShardName {
                destination: destination.name.clone(),
                index,
            };
            self.shards.get(&name).cloned()
        };
        (0..destination.shards).map(shard).collect()
    }

    fn refresh_targets(&mut self) {
        let backends: BTreeSet<Backend> = self
            .in_force
            .values()
            .flat_map(|table| table.source.backends())
            .cloned()
            .collect();
        for backend in backends {
            let destination = self
                .destinations
                .get(&backend.destination)
                .cloned()
                .flatten();
            let shards = match &destination {
                Some(destination) => match self.shards_of(destination) {
                    Some(shards) => shards,
                    // New shards are on their way: the old endpoints serve.
                    None if self.targets.contains_key(&backend) => continue,
                    None => Vec::new(),
                },
                None => Vec::new(),
            };
            if self
                .targets
                .get(&backend)
                .is_some_and(|kept| kept.is(&destination, &shards))
            {
                continue;
            }
            let target = Arc::new(target(&backend, destination.as_deref(), &shards));
            self.targets.insert(
                backend,
                Kept {
                    target,
                    destination,
                    shards,
                },
            );
        }
    }

    fn rebuild_services(&mut self) {
        for demanded in self.demanded.values_mut() {
            let Resolved::Name(name) = &demanded.resolved else {
                if demanded.resolved == Resolved::Missing {
                    demanded.service = None;
                }
                continue;
            };
            let Some(Some(destination)) = self.destinations.get(name) else {
                continue;
            };
            let Some(table) = self.in_force.get(name) else {
                continue;
            };
            let targets = table.source.backends().filter_map(|backend| {
                let kept = self.targets.get(backend)?;
                Some((backend.clone(), Arc::clone(&kept.target)))
            });
            let next = Service {
                destination: Arc::clone(destination),
                http: Arc::clone(&table.http),
                tcp: Arc::clone(&table.tcp),
                targets: targets.collect(),
                used: AtomicU32::new(0),
            };
            if demanded
                .service
                .as_ref()
                .is_some_and(|service| service.is(&next))
            {
                continue;
            }
            if let Some(service) = &demanded.service {
                next.touch(service.used.load(std::sync::atomic::Ordering::Relaxed));
            }
            demanded.service = Some(Arc::new(next));
        }
    }
}

impl Kept {
    fn is(&self, destination: &Option<Arc<Destination>>, shards: &[Arc<EndpointShard>]) -> bool {
        let same = match (&self.destination, destination) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        same && self.shards.len() == shards.len()
            && self
                .shards
                .iter()
                .zip(shards)
                .all(|(old, new)| Arc::ptr_eq(old, new))
    }
}

/// The endpoints of a backend; none when its destination or subset does not exist.
fn target(
    backend: &Backend,
    destination: Option<&Destination>,
    shards: &[Arc<EndpointShard>],
) -> Target {
    let subset = destination
        .zip(backend.subset.as_ref())
        .and_then(|(destination, name)| {
            destination
                .subsets
                .iter()
                .find(|subset| subset.name == *name)
        });
    let policy = match (subset, destination) {
        (Some(subset), _) => subset.policy.clone(),
        (None, Some(destination)) => destination.policy.clone(),
        (None, None) => crate::snapshot::policy_of_nothing(),
    };
    let endpoints = shards.iter().flat_map(|shard| &shard.endpoints);
    let mut endpoints: Vec<_> = endpoints
        .filter(|endpoint| match &backend.subset {
            Some(name) => endpoint.subsets.contains(name),
            None => true,
        })
        .cloned()
        .collect();
    endpoints.sort_by_key(|endpoint| endpoint.address);
    endpoints.dedup_by_key(|endpoint| endpoint.address);
    Target::new(backend.clone(), policy, endpoints)
}

#[cfg(test)]
pub(super) mod tests;
