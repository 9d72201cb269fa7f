//! From a document to objects: which kind, which key, and what to say if neither is there.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use outrigger_model::{Hostname, Namespace};

use super::{
    Kind, Object, ObjectKey, Spec, endpoint, endpoint_slice, namespace, node as node_object, pod,
    reference_grant, service, service_entry,
};
use crate::{
    Code, Diagnostic, Node, Provenance, Severity, Source, document::Value, gateway, istio,
    istio::Reader, schema,
};

/// What was found in a document.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// Objects that can be used, each with its own diagnostics inside.
    pub objects: Vec<Object>,
    /// Objects of kinds that are not used, in order.
    pub not_used: Vec<NotUsed>,
    /// What could not be read as an object at all.
    pub diagnostics: Vec<Diagnostic>,
}

/// An object of a kind that is not used. Sources list each kind once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NotUsed {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// Where it is.
    pub provenance: Provenance,
}

impl NotUsed {
    /// What to say about it.
    #[must_use]
    pub fn diagnostic(&self) -> Diagnostic {
        let known = Kind::ALL
            .into_iter()
            .find(|known| known.as_str() == self.kind);
        let message = match known {
            Some(kind) => format!(
                "{} of {} is not used: its versions are {}",
                self.kind,
                self.api_version,
                kind.versions().join(", ")
            ),
            None => format!("{} {} is not used", self.api_version, self.kind),
        };
        Diagnostic {
            severity: Severity::Info,
            code: Code::NotUsed,
            object: None,
            path: String::new(),
            position: match &self.provenance {
                Provenance::File(source) => Some(source.clone()),
                Provenance::Api { .. } => None,
            },
            message,
        }
    }
}

/// The parts of `metadata` that matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// `labels`.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// `annotations`.
    pub annotations: BTreeMap<Arc<str>, Arc<str>>,
    /// `creationTimestamp`; objects from files have none.
    pub created: Option<Timestamp>,
    /// `generation`: grows with each change of the spec; objects from files have none.
    pub generation: Option<i64>,
}

/// Reads a document: one object, or a `List` of them. An empty document holds nothing.
#[must_use]
pub fn read(node: &Node, provenance: &Provenance) -> Reading {
    let mut reading = Reading::default();
    read_into(node, provenance, &mut reading);
    reading
}

fn read_into(node: &Node, provenance: &Provenance, reading: &mut Reading) {
    if node.value == Value::Null {
        return;
    }
    let place = place_of(node, provenance);
    if let Err((path, message)) = read_one(node, &place, reading) {
        let at = node.get(path).map_or(node.position, |found| found.position);
        reading.diagnostics.push(Diagnostic {
            severity: Severity::Error,
            code: Code::InvalidObject,
            object: None,
            path: path.to_owned(),
            position: position_in(&place, at),
            message,
        });
    }
}

/// The provenance of an object whose document, or list item, is `node`.
fn place_of(node: &Node, provenance: &Provenance) -> Provenance {
    match provenance {
        Provenance::File(source) if node.position.is_known() => Provenance::File(Source {
            position: node.position,
            ..source.clone()
        }),
        Provenance::File(_) | Provenance::Api { .. } => provenance.clone(),
    }
}

/// A place inside an object.
pub(crate) fn position_in(provenance: &Provenance, at: crate::Position) -> Option<Source> {
    match provenance {
        Provenance::File(source) if at.is_known() => Some(Source {
            position: at,
            ..source.clone()
        }),
        Provenance::File(source) => Some(source.clone()),
        Provenance::Api { .. } => None,
    }
}

fn read_one(
    node: &Node,
    provenance: &Provenance,
    reading: &mut Reading,
) -> Result<(), (&'static str, String)> {
    if !matches!(node.value, Value::Map(_)) {
        let found = node.describe();
        return Err((
            "",
            format!("an object is a mapping with apiVersion and kind, not {found}"),
        ));
    }
    let text = |key: &'static str, example: &str| {
        node.get(key)
            .and_then(Node::text)
            .ok_or_else(|| (key, format!("the object has no {key}: write {example}")))
    };
    let api_version = text("apiVersion", "for example apiVersion: v1")?;
    let kind_name = text("kind", "for example kind: Service")?;
    if kind_name == "List" && api_version == "v1" {
        for item in node.get("items").map(Node::items).unwrap_or_default() {
            read_into(item, provenance, reading);
        }
        return Ok(());
    }
    let Some(kind) = Kind::find(api_version, kind_name) else {
        reading.not_used.push(NotUsed {
            api_version: api_version.to_owned(),
            kind: kind_name.to_owned(),
            provenance: provenance.clone(),
        });
        return Ok(());
    };
    let key = read_key(node, kind)?;
    reading.objects.push(object(node, key, provenance));
    Ok(())
}

fn object(node: &Node, key: ObjectKey, provenance: &Provenance) -> Object {
    let key = Arc::new(key);
    let mut reader = Reader {
        checked: schema::check(node, schema::of(key.kind)),
    };
    let empty = Node::map(node.position, []);
    let spec = match key.kind {
        Kind::ServiceAccount => Spec::None,
        Kind::Namespace => Spec::Namespace(namespace::read(&mut reader, node)),
        Kind::Node => Spec::Node(node_object::read(node)),
        Kind::Pod => Spec::Pod(pod::read(&mut reader, node)),
        Kind::Service => Spec::Service(service::read(&mut reader, node)),
        Kind::EndpointSlice => Spec::EndpointSlice(endpoint_slice::read(&mut reader, node)),
        Kind::WorkloadEntry => {
            let spec = node.get("spec").unwrap_or(&empty);
            Spec::WorkloadEntry(endpoint::read(&mut reader, spec, "spec"))
        }
        Kind::ServiceEntry => Spec::ServiceEntry(service_entry::read(&mut reader, node)),
        Kind::VirtualService => Spec::Routes(istio::read_routes(&mut reader, node)),
        Kind::DestinationRule => {
            istio::read_policy(&mut reader, node).map_or(Spec::None, Spec::Policy)
        }
        Kind::HttpRoute => Spec::Attached(gateway::read_http(&mut reader, node, &key)),
        Kind::GrpcRoute => Spec::Attached(gateway::read_grpc(&mut reader, node, &key)),
        Kind::ReferenceGrant => Spec::Grant(reference_grant::read(node)),
    };
    let Reader { mut checked } = reader;
    checked.mark_invalid();
    let diagnostics = checked.findings.into_iter().map(|finding| Diagnostic {
        severity: finding.severity,
        code: finding.code,
        object: Some(ObjectKey::clone(&key)),
        path: finding.path,
        position: position_in(provenance, finding.position),
        message: finding.message,
    });
    Object {
        diagnostics: diagnostics.collect(),
        metadata: read_metadata(node),
        provenance: provenance.clone(),
        fields: checked.fields,
        spec,
        key,
    }
}

fn read_key(node: &Node, kind: Kind) -> Result<ObjectKey, (&'static str, String)> {
    let metadata = node.get("metadata");
    let field = |name: &str| metadata.and_then(|metadata| metadata.get(name));
    let invalid = |error: outrigger_model::InvalidValue| ("metadata", error.to_string());
    let written = match field("name") {
        Some(node) => node.text().ok_or_else(|| {
            let found = node.describe();
            let message = format!("metadata.name of a {kind} is {found}: put the name in quotes");
            ("metadata", message)
        })?,
        None => {
            let message = format!("{kind} has no metadata.name: every object needs a name");
            return Err(("metadata", message));
        }
    };
    let name = Hostname::parse(written).map_err(invalid)?;
    if name.as_str() != written {
        return Err((
            "metadata",
            format!("metadata.name {written:?} is not valid: write {name:?}"),
        ));
    }
    let namespace = match field("namespace").and_then(Node::text) {
        _ if !kind.is_namespaced() => None,
        Some(namespace) => Some(Namespace::parse(namespace).map_err(invalid)?),
        None => Some(Namespace::parse("default").map_err(invalid)?),
    };
    Ok(ObjectKey {
        kind,
        namespace,
        name,
    })
}

fn read_metadata(node: &Node) -> Metadata {
    let Some(metadata) = node.get("metadata") else {
        return Metadata::default();
    };
    let map = |key| metadata.get(key).map(text_map).unwrap_or_default();
    Metadata {
        labels: map("labels"),
        annotations: map("annotations"),
        created: metadata
            .get("creationTimestamp")
            .and_then(Node::text)
            .and_then(|text| text.parse().ok()),
        generation: metadata.get("generation").and_then(Node::integer),
    }
}

/// A mapping of text to text; other values are left out (the schema reports them).
pub(crate) fn text_map(node: &Node) -> BTreeMap<Arc<str>, Arc<str>> {
    node.entries()
        .iter()
        .filter_map(|entry| Some((entry.key.as_str().into(), entry.value.text()?.into())))
        .collect()
}
