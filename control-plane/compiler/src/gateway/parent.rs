//! What a route is attached to.

use std::sync::Arc;

use outrigger_model::{Hostname, Port};

use crate::{
    Code, Kind, Node, ObjectKey, Severity,
    aliases::ServiceName,
    ir::Parent,
    istio::{Reader, items},
    status::{ParentReference, namespace_of},
};

/// Reads `parentRefs`.
pub(super) fn read(reader: &mut Reader, spec: &Node, key: &ObjectKey) -> Vec<Parent> {
    let parents: Vec<Parent> = items(spec, "spec", "parentRefs")
        .map(|item| parent(reader, item.value, item.path, key))
        .collect();
    if parents.is_empty() {
        let message = "without a parent the route applies to nothing: name a Service";
        let (severity, code) = (Severity::Warning, Code::MissingField);
        reader.find(severity, code, "spec.parentRefs", spec, message);
    }
    parents
}

fn parent(reader: &mut Reader, node: &Node, path: Arc<str>, key: &ObjectKey) -> Parent {
    let text = |key: &str| node.get(key).and_then(Node::text);
    let some = |key: &str| text(key).filter(|text| !text.is_empty()).map(Arc::from);
    let reference = ParentReference {
        group: text("group").unwrap_or(Kind::HttpRoute.group()).into(),
        kind: text("kind").unwrap_or("Gateway").into(),
        namespace: some("namespace"),
        name: text("name").unwrap_or_default().into(),
        section_name: some("sectionName"),
        port: node
            .get("port")
            .and_then(|port| Port::new(port.integer()?).ok()),
    };
    let mut service = None;
    if !reference.group.is_empty() || &*reference.kind != Kind::Service.as_str() {
        let message = format!(
            "a parent of kind {} is not supported yet: the route applies to parents of kind \
             Service and group \"\"",
            reference.kind
        );
        reader.find(Severity::Warning, Code::Unsupported, &path, node, message);
    } else if reader.invalid(&path).is_none() {
        service = service_of(&reference, key);
        if service.is_none() {
            let message = "namespace or name cannot be those of a service";
            reader.refuse(&path, node, message);
        }
    }
    Parent {
        path,
        reference,
        service,
    }
}

fn service_of(reference: &ParentReference, key: &ObjectKey) -> Option<ServiceName> {
    Some(ServiceName {
        namespace: namespace_of(reference, key.namespace.as_ref()?)?,
        service: Hostname::parse(&reference.name).ok()?,
    })
}
