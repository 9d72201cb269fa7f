//! Objects as people write them, read into typed values: the compiler's input.
//!
//! [`read`] takes a document and gives the objects in it (one, or those of a `List`), the kinds
//! that are not used, and diagnostics. What is wrong inside an object stays inside it.

mod endpoint;
mod endpoint_slice;
mod key;
mod namespace;
mod node;
mod pod;
mod reading;
mod reference_grant;
mod service;
mod service_entry;

pub(crate) use endpoint::TLS_MODE_LABEL;
pub use endpoint::WorkloadAddress;
pub(crate) use endpoint_slice::{EndpointSlice, SliceEndpoint};
pub use key::{Kind, ObjectKey};
pub(crate) use pod::Pod;
pub use pod::PodIdentity;
pub use reading::{Metadata, NotUsed, Reading, read};
pub(crate) use reading::{position_in, text_map};
pub(crate) use reference_grant::Grant;
pub(crate) use service::{Service, ServicePort, TargetPort, by_name};
pub(crate) use service_entry::ServiceEntry;

use std::sync::Arc;

use outrigger_model::{Locality, MtlsMode, Namespace};

use crate::{
    Code, Diagnostic, Provenance, Severity, Source,
    ir::{AttachedRoutes, Policy, Routes},
    ledger::WrittenField,
};

/// One object: typed, with its field paths and what was wrong with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    key: Arc<ObjectKey>,
    metadata: Metadata,
    provenance: Provenance,
    spec: Spec,
    fields: Vec<WrittenField>,
    diagnostics: Vec<Diagnostic>,
}

/// What an object says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Spec {
    /// Nothing that is used (ServiceAccount), or nothing that can be.
    None,
    /// Whether workloads of the namespace take plain text.
    Namespace(MtlsMode),
    /// Where a node is.
    Node(Locality),
    Pod(Pod),
    Service(Service),
    EndpointSlice(EndpointSlice),
    WorkloadEntry(WorkloadAddress),
    ServiceEntry(ServiceEntry),
    Routes(Routes),
    Policy(Policy),
    Attached(AttachedRoutes),
    Grant(Grant),
}

impl Object {
    /// Kind, namespace and name.
    #[must_use]
    pub fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// Labels, annotations, age.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Where it comes from.
    #[must_use]
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// What is wrong with it, seen alone. What other objects have to do with it is in
    /// the compiler's diagnostics, which contain these too.
    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// The address, ports and labels of a WorkloadEntry.
    #[must_use]
    pub fn workload(&self) -> Option<&WorkloadAddress> {
        if let Spec::WorkloadEntry(workload) = &self.spec {
            return Some(workload);
        }
        None
    }

    /// Whom a Pod runs as, once it has an address or not.
    #[must_use]
    pub fn pod_identity(&self) -> Option<PodIdentity<'_>> {
        let Spec::Pod(pod) = &self.spec else {
            return None;
        };
        let Provenance::Api { uid } = &self.provenance else {
            return None;
        };
        Some(PodIdentity {
            uid,
            service_account: &pod.instance.service_account,
        })
    }

    /// A WorkloadEntry or a Pod as a running instance of an application.
    pub(crate) fn instance(&self) -> Option<&WorkloadAddress> {
        match &self.spec {
            Spec::WorkloadEntry(workload) => Some(workload),
            Spec::Pod(pod) => Some(&pod.instance),
            Spec::None
            | Spec::Namespace(_)
            | Spec::Node(_)
            | Spec::Service(_)
            | Spec::EndpointSlice(_)
            | Spec::ServiceEntry(_)
            | Spec::Routes(_)
            | Spec::Attached(_)
            | Spec::Grant(_)
            | Spec::Policy(_) => None,
        }
    }

    pub(crate) fn pod(&self) -> Option<&Pod> {
        if let Spec::Pod(pod) = &self.spec {
            return Some(pod);
        }
        None
    }

    pub(crate) fn routes(&self) -> Option<&Routes> {
        if let Spec::Routes(routes) = &self.spec {
            return Some(routes);
        }
        None
    }

    pub(crate) fn attached(&self) -> Option<&AttachedRoutes> {
        if let Spec::Attached(routes) = &self.spec {
            return Some(routes);
        }
        None
    }

    pub(crate) fn grant(&self) -> Option<&Grant> {
        if let Spec::Grant(grant) = &self.spec {
            return Some(grant);
        }
        None
    }

    pub(crate) fn policy(&self) -> Option<&Policy> {
        if let Spec::Policy(policy) = &self.spec {
            return Some(policy);
        }
        None
    }

    pub(crate) fn service_entry(&self) -> Option<&ServiceEntry> {
        if let Spec::ServiceEntry(entry) = &self.spec {
            return Some(entry);
        }
        None
    }

    /// What it says of a service: a Service, or each host of a ServiceEntry.
    pub(crate) fn service(&self) -> Option<&Service> {
        match &self.spec {
            Spec::Service(service) => Some(service),
            Spec::ServiceEntry(entry) => Some(&entry.service),
            Spec::None
            | Spec::Namespace(_)
            | Spec::Node(_)
            | Spec::Pod(_)
            | Spec::EndpointSlice(_)
            | Spec::WorkloadEntry(_)
            | Spec::Routes(_)
            | Spec::Policy(_)
            | Spec::Attached(_)
            | Spec::Grant(_) => None,
        }
    }

    pub(crate) fn shared_key(&self) -> &Arc<ObjectKey> {
        &self.key
    }

    pub(crate) fn spec(&self) -> &Spec {
        &self.spec
    }

    pub(crate) fn fields(&self) -> &[WrittenField] {
        &self.fields
    }

    /// Its namespace; every kind that is compiled has one.
    pub(crate) fn namespace(&self) -> Option<&Namespace> {
        self.key.namespace.as_ref()
    }

    /// What precedes what: the older object, then by namespace and name.
    pub(crate) fn age(&self) -> crate::aliases::Age {
        let created = self.metadata.created;
        (created.is_none(), created, Arc::clone(&self.key))
    }

    /// A diagnostic about one of its fields.
    pub(crate) fn diagnose(
        &self,
        severity: Severity,
        code: Code,
        path: &str,
        message: String,
    ) -> Diagnostic {
        Diagnostic {
            severity,
            code,
            object: Some(ObjectKey::clone(&self.key)),
            path: path.to_owned(),
            position: self.position_of(path),
            message,
        }
    }

    /// Where a field stands: that of the first field written at or below it.
    fn position_of(&self, path: &str) -> Option<Source> {
        let found = self
            .fields
            .iter()
            .find(|field| crate::schema::is_below(&field.path, path));
        position_in(
            &self.provenance,
            found.map_or(crate::Position::UNKNOWN, |field| field.position),
        )
    }
}
