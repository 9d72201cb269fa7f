//! One workload compiled: its InboundPolicy, and what runs it needs to know.

use std::{collections::BTreeMap, sync::Arc};

use outrigger_model::{
    InboundPolicy, InboundPort, MtlsMode, Port, Protocol, Resource, ResourceName, WorkloadName,
};

use crate::{
    Object,
    compiled::{Variants, Workload},
    endpoints,
    index::Index,
    object::by_name,
};

/// What a WorkloadEntry was compiled to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Compiled {
    pub(crate) workload: Arc<Workload>,
    pub(crate) name: ResourceName,
    pub(crate) policy: Variants<Resource>,
}

/// Compiles a WorkloadEntry; `None` for any other object.
pub(crate) fn compile(index: &Index, object: &Object) -> Option<Compiled> {
    let entry = object.workload()?;
    let namespace = object.namespace()?;
    let mut ports: BTreeMap<Port, Protocol> = BTreeMap::new();
    for service in index.selecting(namespace, entry) {
        for claim in index.claims(&service) {
            for port in &claim.service.ports {
                let Some(number) = endpoints::target(entry, port) else {
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
    let policy = InboundPolicy {
        name: name.clone(),
        identity: identity.clone(),
        default_mtls: MtlsMode::Strict,
        ports: ports
            .iter()
            .map(|(port, protocol)| InboundPort {
                port: *port,
                protocol: *protocol,
                mtls: MtlsMode::Strict,
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
