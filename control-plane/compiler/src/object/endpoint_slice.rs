//! EndpointSlice: endpoints that Kubernetes found for a Service.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use outrigger_model::{EndpointState, Hostname, Port};

use crate::{Code, Node, Severity, document::Value, istio::Reader};

/// The label that names the Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EndpointSlice {
    /// The Service, in the same namespace.
    pub(crate) service: Option<Hostname>,
    /// Port by the name of the service's port, empty if that has none.
    pub(crate) ports: BTreeMap<Arc<str>, Port>,
    /// Those that take, or still end, work.
    pub(crate) endpoints: Vec<SliceEndpoint>,
}

/// One address of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SliceEndpoint {
    pub(crate) address: IpAddr,
    pub(crate) state: EndpointState,
    /// `zone`; the node knows more.
    pub(crate) zone: Arc<str>,
    /// Where it runs.
    pub(crate) node: Option<Hostname>,
    /// The Pod that answers, in the slice's namespace.
    pub(crate) pod: Option<Hostname>,
}

/// Reads an EndpointSlice.
pub(super) fn read(reader: &mut Reader, object: &Node) -> EndpointSlice {
    let label = object
        .get("metadata")
        .and_then(|metadata| metadata.get("labels")?.get(SERVICE_LABEL)?.text());
    let service = label.and_then(|name| Hostname::parse(name).ok());
    if service.is_none() {
        reader.find(
            Severity::Warning,
            Code::MissingField,
            "metadata.labels",
            object,
            format!("the slice belongs to no service: label it {SERVICE_LABEL}"),
        );
    }
    let is_fqdn = object.get("addressType").and_then(Node::text) == Some("FQDN");
    if is_fqdn {
        let message = "address type FQDN is not supported: the endpoints are left out";
        reader.find(
            Severity::Warning,
            Code::Unsupported,
            "addressType",
            object,
            message,
        );
    }
    let mut endpoints = Vec::new();
    let items = object.get("endpoints").map(Node::items).unwrap_or_default();
    for (index, node) in items.iter().enumerate().filter(|_| !is_fqdn) {
        endpoints.extend(endpoint(reader, node, index));
    }
    EndpointSlice {
        service,
        ports: ports(object),
        endpoints,
    }
}

fn ports(object: &Node) -> BTreeMap<Arc<str>, Port> {
    let items = object.get("ports").map(Node::items).unwrap_or_default();
    items
        .iter()
        .filter(|node| {
            matches!(
                node.get("protocol").and_then(Node::text),
                None | Some("TCP")
            )
        })
        .filter_map(|node| {
            let name = node.get("name").and_then(Node::text).unwrap_or_default();
            Some((name.into(), Port::new(node.get("port")?.integer()?).ok()?))
        })
        .collect()
}

fn endpoint(reader: &mut Reader, node: &Node, index: usize) -> Option<SliceEndpoint> {
    // The addresses of one endpoint are interchangeable; the first is enough.
    let written = node.get("addresses")?.items().first()?;
    let text = written.text()?;
    let Ok(address) = text.parse() else {
        let path = format!("endpoints[{index}].addresses[0]");
        let message = format!("{text:?} is no IP address: the endpoint is left out");
        reader.refuse(&path, written, message);
        return None;
    };
    let zone = node.get("zone").and_then(Node::text).unwrap_or_default();
    Some(SliceEndpoint {
        address,
        state: state(node.get("conditions"))?,
        zone: zone.into(),
        node: name(node.get("nodeName")),
        pod: node
            .get("targetRef")
            .filter(|target| target.get("kind").and_then(Node::text) == Some("Pod"))
            .and_then(|target| name(target.get("name"))),
    })
}

fn name(node: Option<&Node>) -> Option<Hostname> {
    Hostname::parse(node?.text()?).ok()
}

/// discovery/v1 EndpointConditions: not written means ready, and serving as ready.
fn state(conditions: Option<&Node>) -> Option<EndpointState> {
    let condition = |key: &str| {
        if let Value::Bool(value) = conditions?.get(key)?.value {
            return Some(value);
        }
        None
    };
    let is_ready = condition("ready").unwrap_or(true);
    let is_serving = condition("serving").unwrap_or(is_ready);
    let is_terminating = condition("terminating").unwrap_or(false);
    if is_ready && !is_terminating {
        Some(EndpointState::Ready)
    } else if is_serving && is_terminating {
        Some(EndpointState::Draining)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions() {
        let check = |json: serde_json::Value, expected: Option<EndpointState>| {
            let node = Node::from_json(&json);
            assert_eq!(state(Some(&node)), expected, "{json}");
        };
        let json = |ready: Option<bool>, serving: Option<bool>, terminating: Option<bool>| serde_json::json!({"ready": ready, "serving": serving, "terminating": terminating});
        check(json(None, None, None), Some(EndpointState::Ready));
        check(
            json(Some(true), Some(true), Some(false)),
            Some(EndpointState::Ready),
        );
        check(json(Some(false), None, None), None);
        check(
            json(Some(false), Some(true), Some(true)),
            Some(EndpointState::Draining),
        );
        check(json(Some(false), Some(false), Some(true)), None);
        check(json(Some(false), Some(true), Some(false)), None);
        assert_eq!(state(None), Some(EndpointState::Ready));
    }
}
