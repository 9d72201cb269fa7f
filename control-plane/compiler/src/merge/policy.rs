//! Which policy a service port and its subsets have, as seen from a client's namespace.

use std::{collections::BTreeSet, sync::Arc};

use outrigger_model::{
    Hostname, Lifetime, Namespace, Origin, Port, Protocol, RequestsPerConnection, SubsetName,
    TrafficPolicy,
};

use crate::{
    Object,
    aliases::ServiceName,
    defaults::{BALANCER, Location, limits, outlier_off},
    index::Index,
    ir::{Groups, Labels, Policy, Pool, Settings, SubsetPolicy},
    istio::SUBSETS_MAX,
};

/// The policies of one host for clients of one namespace, merged.
#[derive(Debug, Default)]
pub(crate) struct Merged<'a> {
    /// Of the oldest object that has any.
    base: Option<(&'a Arc<Object>, &'a Settings)>,
    /// By name; of several with one name, the oldest object's.
    subsets: Vec<(&'a Arc<Object>, &'a SubsetPolicy)>,
}

/// Whose clients may see another policy than the rest: namespaces with a policy of their own, but
/// for the root namespace, whose policy is for all (as in Istio).
pub(crate) fn client_namespaces(index: &Index, host: &Hostname) -> BTreeSet<Namespace> {
    let mut namespaces = index.policy_namespaces(host);
    namespaces.remove(&index.options.root_namespace);
    namespaces
}

/// The objects that decide for clients of `client` (`None`: of any namespace without a policy of
/// its own).
pub(crate) fn deciding<'a>(
    index: &'a Index,
    host: &Hostname,
    service: &ServiceName,
    client: Option<&Namespace>,
) -> Vec<(&'a Arc<Object>, &'a Policy)> {
    let order = client
        .into_iter()
        .chain([&service.namespace, &index.options.root_namespace]);
    for namespace in order {
        let policies = index.policies_in(host, namespace);
        if !policies.is_empty() {
            return policies;
        }
    }
    Vec::new()
}

/// Merges the policies that [`deciding`] found.
pub(crate) fn merge<'a>(policies: &[(&'a Arc<Object>, &'a Policy)]) -> Merged<'a> {
    let mut merged = Merged::default();
    for (object, policy) in policies {
        if let (None, Some(settings)) = (merged.base, &policy.settings) {
            merged.base = Some((object, settings));
        }
        for subset in &policy.subsets {
            let is_new = merged.subset(&subset.name).is_none();
            if is_new && merged.subsets.len() < SUBSETS_MAX {
                merged.subsets.push((object, subset));
            }
        }
    }
    merged.subsets.sort_by(|a, b| a.1.name.cmp(&b.1.name));
    merged
}

impl<'a> Merged<'a> {
    fn subset(&self, name: &SubsetName) -> Option<&SubsetPolicy> {
        self.subsets
            .iter()
            .map(|(_, subset)| *subset)
            .find(|subset| subset.name == *name)
    }

    pub(crate) fn has_subset(&self, name: &SubsetName) -> bool {
        self.subset(name).is_some()
    }

    /// Names of the subsets, sorted, with the labels that they select.
    pub(crate) fn labels(&self) -> Vec<(SubsetName, &'a Labels)> {
        self.subsets
            .iter()
            .map(|(_, subset)| (subset.name.clone(), &subset.labels))
            .collect()
    }

    /// The policy of endpoints chosen without a subset.
    pub(crate) fn policy(
        &self,
        port: Port,
        protocol: Protocol,
        location: Location,
    ) -> TrafficPolicy {
        let chain: Vec<_> = self.base(port).into_iter().collect();
        traffic_policy(&chain, protocol, location)
    }

    /// The subsets, sorted by name, each with its complete policy.
    pub(crate) fn subsets(
        &self,
        port: Port,
        protocol: Protocol,
        location: Location,
    ) -> Vec<outrigger_model::Subset> {
        self.subsets
            .iter()
            .map(|(object, subset)| {
                let own = subset.settings.as_ref();
                let by_port = own.and_then(|own| at_port(own, port));
                let chain: Vec<(&Arc<Object>, &Groups)> = match (own, by_port) {
                    // A port's settings take the place of everything less exact.
                    (_, Some(groups)) => vec![(*object, groups)],
                    (Some(own), None) => std::iter::once((*object, &own.all))
                        .chain(self.base(port))
                        .collect(),
                    (None, None) => self.base(port).into_iter().collect(),
                };
                outrigger_model::Subset {
                    name: subset.name.clone(),
                    policy: traffic_policy(&chain, protocol, location),
                }
            })
            .collect()
    }

    fn base(&self, port: Port) -> Option<(&'a Arc<Object>, &'a Groups)> {
        let (object, settings) = self.base?;
        Some((object, at_port(settings, port).unwrap_or(&settings.all)))
    }
}

fn at_port(settings: &Settings, port: Port) -> Option<&Groups> {
    settings
        .ports
        .iter()
        .find(|(number, _)| *number == port)
        .map(|(_, groups)| groups)
}

/// Each group from the first in `chain` that has it, else the default.
fn traffic_policy(
    chain: &[(&Arc<Object>, &Groups)],
    protocol: Protocol,
    location: Location,
) -> TrafficPolicy {
    let mut limits = limits(protocol, location);
    let pool = chain.iter().find_map(|(_, groups)| groups.pool.as_ref());
    if let Some(pool) = pool {
        apply(&mut limits, &pool.value, protocol);
    }
    let balancer = chain
        .iter()
        .find_map(|(_, groups)| groups.balancer.as_ref());
    let outlier = chain.iter().find_map(|(_, groups)| groups.outlier.as_ref());
    let origin = chain
        .first()
        .map_or_else(Origin::default_behavior, |(object, groups)| {
            Origin::new(&format!("{} {}", object.key(), groups.path))
        });
    TrafficPolicy {
        origin,
        balancer: balancer.map_or(BALANCER, |balancer| balancer.value),
        limits,
        outlier: outlier.map_or_else(outlier_off, |outlier| outlier.value.clone()),
    }
}

fn apply(limits: &mut outrigger_model::ConnectionLimits, pool: &Pool, protocol: Protocol) {
    let set = |limit: &mut u32, value: Option<std::num::NonZeroU32>| {
        if let Some(value) = value {
            *limit = value.get();
        }
    };
    set(&mut limits.connections_max, pool.connections_max);
    set(&mut limits.pending_max, pool.pending_max);
    set(&mut limits.requests_max, pool.requests_max);
    set(&mut limits.retries_max, pool.retries_max);
    if let Some(count) = pool.requests_per_connection {
        limits.requests_per_connection = RequestsPerConnection::AtMost(count);
    }
    if let Some(timeout) = pool.connect_timeout {
        limits.connect_timeout = timeout;
    }
    if let Some(age) = pool.connection_age {
        limits.connection_age = Lifetime::AtMost(age);
    }
    let idle = match protocol {
        Protocol::Tcp => pool.idle_tcp,
        Protocol::Detect => pool.idle_http.or(pool.idle_tcp),
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => pool.idle_http,
    };
    if let Some(idle) = idle {
        limits.idle_timeout = idle;
    }
}
