//! ServiceEntry: hosts that Kubernetes does not know, with static endpoints.

use std::sync::Arc;

use outrigger_model::{Hostname, Port, Protocol};

use super::{
    endpoint::{self, WorkloadAddress},
    service::{Service, ServicePort, TargetPort, by_name, declared},
    text_map,
};
use crate::{Code, Node, Severity, ir::Sourced, istio::Reader, schema::join};

/// A ServiceEntry with static endpoints.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServiceEntry {
    /// Full names, each a service of its own.
    pub(crate) hosts: Vec<Sourced<Hostname>>,
    /// Ports, addresses and selector, the same for each host.
    pub(crate) service: Service,
    /// Endpoints written in the object, with their paths.
    pub(crate) endpoints: Vec<Sourced<WorkloadAddress>>,
    /// `location: MESH_EXTERNAL`, also the default.
    pub(crate) is_external: bool,
}

/// Reads a ServiceEntry; without static resolution it has no hosts, and says so.
pub(super) fn read(reader: &mut Reader, object: &Node) -> ServiceEntry {
    let empty = Node::map(object.position, []);
    let spec = object.get("spec").unwrap_or(&empty);
    let resolution = spec.get("resolution").and_then(Node::text);
    let is_static = resolution == Some("STATIC");
    if !is_static {
        let message = format!(
            "resolution {} is not supported yet, and the hosts stay unknown: write STATIC and \
             the endpoints",
            resolution.unwrap_or("NONE (the default)")
        );
        let at = spec.get("resolution").unwrap_or(spec);
        reader.find(
            Severity::Error,
            Code::Unsupported,
            "spec.resolution",
            at,
            message,
        );
    }
    let endpoints = list(spec, "endpoints")
        .map(|(index, node)| {
            let path: Arc<str> = format!("spec.endpoints[{index}]").into();
            let value = endpoint::read(reader, node, &path);
            Sourced { value, path }
        })
        .collect();
    let selector = spec
        .get("workloadSelector")
        .and_then(|node| node.get("labels"));
    ServiceEntry {
        hosts: if is_static {
            hosts(reader, spec)
        } else {
            Vec::new()
        },
        service: Service {
            selector: selector.map(text_map).unwrap_or_default(),
            is_v6_first: None,
            vips: vips(reader, spec),
            ports: ports(reader, spec),
        },
        endpoints,
        is_external: spec.get("location").and_then(Node::text) != Some("MESH_INTERNAL"),
    }
}

fn list<'a>(spec: &'a Node, key: &str) -> impl Iterator<Item = (usize, &'a Node)> {
    spec.get(key)
        .map(Node::items)
        .unwrap_or_default()
        .iter()
        .enumerate()
}

fn hosts(reader: &mut Reader, spec: &Node) -> Vec<Sourced<Hostname>> {
    let mut hosts: Vec<Sourced<Hostname>> = Vec::new();
    for (index, node) in list(spec, "hosts") {
        let path = format!("spec.hosts[{index}]");
        let Some(text) = node.text() else { continue };
        if text.starts_with('*') {
            let message = "wildcard hosts are not supported yet: write the full name";
            reader.find(Severity::Error, Code::Unsupported, &path, node, message);
            continue;
        }
        match Hostname::parse(text) {
            Ok(value) if hosts.iter().any(|other| other.value == value) => {}
            Ok(value) => hosts.push(Sourced {
                value,
                path: path.into(),
            }),
            Err(error) => {
                let message = error.to_string();
                reader.refuse(&path, node, message);
            }
        }
    }
    hosts
}

fn vips(reader: &mut Reader, spec: &Node) -> Vec<std::net::IpAddr> {
    let mut vips = Vec::new();
    for (index, node) in list(spec, "addresses") {
        let Some(text) = node.text() else { continue };
        match text.parse() {
            Ok(vip) if vips.contains(&vip) => {}
            Ok(vip) => vips.push(vip),
            Err(_) => {
                let path = format!("spec.addresses[{index}]");
                let message = format!(
                    "{text:?} is no single IP address: address ranges are not supported yet"
                );
                reader.find(Severity::Error, Code::Unsupported, &path, node, message);
            }
        }
    }
    vips
}

fn ports(reader: &mut Reader, spec: &Node) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> = Vec::new();
    for (index, node) in list(spec, "ports") {
        let path = format!("spec.ports[{index}]");
        let number = |key: &str| {
            node.get(key)
                .and_then(|node| Port::new(node.integer()?).ok())
        };
        let Some(port) = number("number") else {
            continue;
        };
        if ports.iter().any(|other| other.port == port) {
            let message = format!("port {port} is there already: the first counts");
            reader.refuse(&path, node, message);
            continue;
        }
        let name = node.get("name").and_then(Node::text).unwrap_or_default();
        let protocol = match node.get("protocol").and_then(Node::text) {
            None | Some("") => by_name(name),
            Some(text) if text.eq_ignore_ascii_case("UDP") => {
                let message = "UDP is not supported yet: the port is left out";
                reader.find(Severity::Warning, Code::Unsupported, &path, node, message);
                continue;
            }
            Some(text) => {
                let protocol = declared(text);
                if protocol.is_none() {
                    let message = format!(
                        "protocol {text:?} is not known: write HTTP, HTTP2, GRPC, TLS or TCP; \
                         until then it is found from the traffic"
                    );
                    let at = join(&path, "protocol");
                    reader.find(Severity::Warning, Code::InvalidValue, &at, node, message);
                }
                protocol
            }
        };
        ports.push(ServicePort {
            path: path.into(),
            name: name.into(),
            port,
            target: number("targetPort").map_or(TargetPort::Same, TargetPort::Number),
            protocol: protocol.unwrap_or(Protocol::Detect),
        });
    }
    ports
}
