//! One workload compiled: its InboundPolicy, and what runs it needs to know. A WorkloadEntry is one,
//! and a Pod that has a sidecar.

use std::{collections::BTreeMap, sync::Arc};

use outrigger_model::{
    InboundPolicy, InboundPort, Namespace, Port, Protocol, Resource, ResourceName, WorkloadName,
};

use crate::{
    Object,
    compiled::{Variants, Workload},
    endpoints,
    index::Index,
    object::by_name,
};

/// What a WorkloadEntry or a Pod was compiled to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Compiled {
    pub(crate) workload: Arc<Workload>,
    pub(crate) name: ResourceName,
    pub(crate) policy: Variants<Resource>,
}

/// Whether a Pod with a sidecar has the name of a WorkloadEntry: whoever may write the one must not
/// decide over the policy of the other.
fn has_pod(index: &Index, namespace: &Namespace, object: &Object) -> bool {
    let pod = index.pod(namespace, &object.key().name);
    pod.is_some_and(|pod| pod.is_meshed && !pod.is_over)
}

/// Compiles a WorkloadEntry or a Pod; `None` for any other object and a Pod without a sidecar.
pub(crate) fn compile(index: &Index, object: &Object) -> Option<Compiled> {
    let entry = object.instance()?;
    let pod = object.pod();
    if pod.is_some_and(|pod| !pod.is_meshed || pod.is_over) {
        return None;
    }
    let namespace = object.namespace()?;
    if pod.is_none() && has_pod(index, namespace, object) {
        return None;
    }
    let mut ports: BTreeMap<Port, Protocol> = BTreeMap::new();
    for service in index.selecting(namespace, entry) {
        for claim in index.claims(&service) {
            for port in &claim.service.ports {
                let target = match pod {
                    Some(_) => endpoints::target_of_pod(entry, port),
                    None => endpoints::target(entry, port),
                };
                let Some(number) = target else {
                    continue;
                };
                // Of services that disagree, the first that declares something counts.
                let protocol = ports.entry(number).or_insert(port.protocol);
                if *protocol == Protocol::Detect {
                    *protocol = port.protocol;
                }
            }
        }
    }
    for (name, number) in &entry.ports {
        let protocol = by_name(name).unwrap_or(Protocol::Detect);
        ports.entry(*number).or_insert(protocol);
    }
    let name = WorkloadName {
        namespace: namespace.clone(),
        name: object.key().name.clone(),
    };
    let identity = entry.identity(&index.options.settings.trust_domain, namespace);
    let mtls = index.mtls(namespace);
    let policy = InboundPolicy {
        name: name.clone(),
        identity: identity.clone(),
        default_mtls: mtls,
        ports: ports
            .iter()
            .map(|(port, protocol)| InboundPort {
                port: *port,
                protocol: *protocol,
                mtls,
            })
            .collect(),
    };
    Some(Compiled {
        workload: Arc::new(Workload {
            name: name.clone(),
            identity,
            address: entry.address,
            ports: ports.into_keys().collect(),
            labels: entry.labels.clone(),
            annotations: object.metadata().annotations.clone(),
        }),
        name: ResourceName::InboundPolicy(name),
        policy: Variants::new(Resource::InboundPolicy(policy)),
    })
}
