//! The index by what stands behind services in a cluster: Pods, Nodes, Namespaces.

use std::sync::Arc;

use outrigger_model::{Hostname, Locality, MtlsMode, Namespace};

use super::{Index, Keys, slice_service};
use crate::{
    Kind, Object, ObjectKey,
    aliases::ServiceName,
    object::{Pod, Spec},
};

impl Index {
    /// Services of which a slice names this Pod.
    pub(crate) fn services_of_pod(
        &self,
        namespace: &Namespace,
        pod: &Hostname,
    ) -> Vec<ServiceName> {
        let slices = self.slices_of_pod.get(&(namespace.clone(), pod.clone()));
        self.services_of_slices(slices)
    }

    /// Services of which a slice names this Node.
    pub(crate) fn services_of_node(&self, node: &Hostname) -> Vec<ServiceName> {
        self.services_of_slices(self.slices_of_node.get(node))
    }

    fn services_of_slices(&self, slices: Option<&Keys>) -> Vec<ServiceName> {
        self.keys(slices)
            .filter_map(|object| {
                let Spec::EndpointSlice(slice) = object.spec() else {
                    return None;
                };
                slice_service(object.namespace()?, slice)
            })
            .collect()
    }

    /// WorkloadEntries and Pods of a namespace.
    pub(crate) fn residents(&self, namespace: &Namespace) -> impl Iterator<Item = &Arc<ObjectKey>> {
        self.residents.get(namespace).into_iter().flatten()
    }

    /// A Pod by its name.
    pub(crate) fn pod(&self, namespace: &Namespace, name: &Hostname) -> Option<&Pod> {
        self.named(Kind::Pod, Some(namespace), name)?.pod()
    }

    /// Where a Node is; nowhere if it is not known.
    pub(crate) fn locality(&self, node: &Hostname) -> Locality {
        let node = self.named(Kind::Node, None, node);
        match node.map(|node| node.spec()) {
            Some(Spec::Node(locality)) => locality.clone(),
            Some(_) | None => Locality::default(),
        }
    }

    /// Whether workloads of a namespace take plain text.
    pub(crate) fn mtls(&self, namespace: &Namespace) -> MtlsMode {
        let name = Hostname::parse(namespace.as_str()).ok();
        let object = name.and_then(|name| self.named(Kind::Namespace, None, &name));
        match object.map(|object| object.spec()) {
            Some(Spec::Namespace(mode)) => *mode,
            Some(_) | None => MtlsMode::Strict,
        }
    }

    fn named(
        &self,
        kind: Kind,
        namespace: Option<&Namespace>,
        name: &Hostname,
    ) -> Option<&Arc<Object>> {
        self.get(&ObjectKey {
            kind,
            namespace: namespace.cloned(),
            name: name.clone(),
        })
    }
}
