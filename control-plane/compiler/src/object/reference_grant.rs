//! ReferenceGrant: which objects of other namespaces may refer to objects of its own.

use outrigger_model::{Hostname, Namespace};

use super::Kind;
use crate::Node;

/// What a namespace allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    from: Vec<(Kind, Namespace)>,
    to: Vec<ServiceGrant>,
}

/// Which services.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ServiceGrant {
    All,
    Named(Hostname),
}

impl Grant {
    /// Whether a route of this kind and namespace may send to a service.
    pub(crate) fn allows(&self, kind: Kind, namespace: &Namespace, service: &Hostname) -> bool {
        let is_from = self
            .from
            .iter()
            .any(|(from, within)| *from == kind && within == namespace);
        is_from
            && self.to.iter().any(|to| match to {
                ServiceGrant::All => true,
                ServiceGrant::Named(name) => name == service,
            })
    }
}

/// Reads a ReferenceGrant. Entries for other kinds than routes and services grant nothing here.
pub(super) fn read(object: &Node) -> Grant {
    let empty = Node::map(object.position, []);
    let spec = object.get("spec").unwrap_or(&empty);
    let items = |key: &str| spec.get(key).map(Node::items).unwrap_or_default();
    let from = items("from").iter().filter_map(|node| {
        let text = |key: &str| node.get(key).and_then(Node::text);
        let kind = [Kind::HttpRoute, Kind::GrpcRoute]
            .into_iter()
            .find(|kind| {
                text("kind") == Some(kind.as_str()) && text("group") == Some(kind.group())
            })?;
        Some((kind, Namespace::parse(text("namespace")?).ok()?))
    });
    let to = items("to").iter().filter_map(|node| {
        let text = |key: &str| node.get(key).and_then(Node::text);
        if text("group") != Some("") || text("kind") != Some(Kind::Service.as_str()) {
            return None;
        }
        // An empty name is no name, as the API's own types have it.
        match text("name") {
            None | Some("") => Some(ServiceGrant::All),
            Some(name) => Hostname::parse(name).ok().map(ServiceGrant::Named),
        }
    });
    Grant {
        from: from.collect(),
        to: to.collect(),
    }
}
