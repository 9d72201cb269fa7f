//! The index by host: which routes and policies are for a host, which services a host means.

use std::{collections::BTreeSet, sync::Arc};

use outrigger_model::{Hostname, Namespace};

use super::{Index, Keys};
use crate::{
    Object, ObjectKey,
    aliases::ServiceName,
    ir::{Host, Policy, Routes},
};

impl Index {
    /// Routes for a host: those that name it most exactly, oldest first.
    pub(crate) fn routes(&self, host: &Hostname) -> Vec<(&Arc<Object>, &Routes)> {
        let keys = forms(host).find_map(|form| self.routes.get(&form));
        let mut routes: Vec<_> = self
            .keys(keys)
            .filter_map(|object| Some((object, object.routes()?)))
            .collect();
        routes.sort_by_key(|(object, _)| object.age());
        routes
    }

    /// Routes whose wildcard fits a host that others name more exactly.
    pub(crate) fn shadowed_routes(&self, host: &Hostname) -> Vec<&Arc<Object>> {
        let mut levels = forms(host).filter_map(|form| self.routes.get(&form));
        let winners = levels.next();
        let won = |key: &Arc<ObjectKey>| winners.is_some_and(|winners| winners.contains(key));
        let losers: Keys = levels.flatten().filter(|key| !won(key)).cloned().collect();
        losers
            .iter()
            .filter_map(|key| self.objects.get(key))
            .collect()
    }

    /// Policy for a host in one namespace: those that name it most exactly, oldest first.
    pub(crate) fn policies_in(
        &self,
        host: &Hostname,
        namespace: &Namespace,
    ) -> Vec<(&Arc<Object>, &Policy)> {
        let keys = forms(host).find_map(|form| self.policies.get(&form)?.get(namespace));
        let mut policies: Vec<_> = self
            .keys(keys)
            .filter_map(|object| Some((object, object.policy()?)))
            .collect();
        policies.sort_by_key(|(object, _)| object.age());
        policies
    }

    /// Policies of a namespace whose wildcard fits a host that others there name more exactly.
    pub(crate) fn shadowed_policies(
        &self,
        host: &Hostname,
        namespace: &Namespace,
    ) -> Vec<&Arc<Object>> {
        let levels = forms(host).filter_map(|form| self.policies.get(&form)?.get(namespace));
        let losers: Vec<_> = levels.skip(1).flatten().collect();
        losers
            .into_iter()
            .filter_map(|key| self.objects.get(key))
            .collect()
    }

    /// Namespaces with a policy for a host.
    pub(crate) fn policy_namespaces(&self, host: &Hostname) -> BTreeSet<Namespace> {
        forms(host)
            .filter_map(|form| self.policies.get(&form))
            .flat_map(|by_namespace| by_namespace.keys().cloned())
            .collect()
    }

    /// Hosts of a route, completed.
    pub(crate) fn route_hosts(&self, object: &Object, routes: &Routes) -> BTreeSet<Host> {
        routes
            .hosts
            .iter()
            .map(|host| self.complete(object, &host.value))
            .collect()
    }

    /// Host of a policy, completed.
    pub(crate) fn policy_host(&self, object: &Object, policy: &Policy) -> Host {
        self.complete(object, &policy.host.value)
    }

    /// A host as an object of a namespace means it.
    pub(crate) fn complete(&self, object: &Object, host: &Host) -> Host {
        let root = &self.options.root_namespace;
        let namespace = object.namespace().unwrap_or(root);
        host.complete(namespace, &self.options.settings.cluster_domain)
    }

    /// Services that a host means.
    pub(crate) fn matching(&self, host: &Host) -> Vec<ServiceName> {
        match host {
            Host::Short(_) => Vec::new(),
            Host::Full(host) => self.aliases.all(host).cloned().collect(),
            Host::Suffix(suffix) => self
                .aliases
                .hosts()
                .filter(|host| host.as_str().ends_with(suffix.as_ref()))
                .flat_map(|host| self.aliases.all(host).cloned())
                .collect(),
            Host::Any => self.services().cloned().collect(),
        }
    }
}

/// The forms under which a host may be named, the most exact first.
fn forms(host: &Hostname) -> impl Iterator<Item = Host> {
    let text = host.as_str();
    let suffixes = text
        .match_indices('.')
        .filter_map(move |(at, _)| Some(Host::Suffix(text.get(at..)?.into())));
    std::iter::once(Host::Full(host.clone()))
        .chain(suffixes)
        .chain(std::iter::once(Host::Any))
}
