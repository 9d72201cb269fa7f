//! Service: ports, selector, virtual addresses.

use std::{net::IpAddr, sync::Arc};

use outrigger_model::{Port, Protocol};

use super::text_map;
use crate::{Code, Node, Severity, ir::Labels, istio::Reader};

/// A Kubernetes Service, or what a ServiceEntry says of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    /// Labels that pick endpoints; empty picks none.
    pub(crate) selector: Labels,
    /// Virtual addresses.
    pub(crate) vips: Vec<IpAddr>,
    /// Whether IPv6 is the first of its families; its endpoints of the other one are the same again.
    pub(crate) is_v6_first: Option<bool>,
    /// Ports, each number once.
    pub(crate) ports: Vec<ServicePort>,
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServicePort {
    /// Path of the port in its object.
    pub(crate) path: Arc<str>,
    /// Name, empty if it has none.
    pub(crate) name: Arc<str>,
    /// Number.
    pub(crate) port: Port,
    /// Port of the endpoints.
    pub(crate) target: TargetPort,
    /// What it speaks.
    pub(crate) protocol: Protocol,
}

/// Which port of an endpoint a service port leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TargetPort {
    /// The same number.
    Same,
    /// This number.
    Number(Port),
    /// The endpoint's port of this name.
    Name(Arc<str>),
}

/// Reads a Service.
pub(super) fn read(reader: &mut Reader, object: &Node) -> Service {
    let empty = Node::map(object.position, []);
    let spec = object.get("spec").unwrap_or(&empty);
    if let Some(kind) = spec
        .get("type")
        .filter(|kind| kind.text() == Some("ExternalName"))
    {
        let message = "ExternalName is not supported yet: the service has no endpoints";
        reader.find(
            Severity::Warning,
            Code::Unsupported,
            "spec.type",
            kind,
            message,
        );
    }
    let ports = spec.get("ports").map(Node::items).unwrap_or_default();
    let mut read: Vec<ServicePort> = Vec::new();
    for (index, node) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let Some(port) = port(reader, node, &path) else {
            continue;
        };
        if read.iter().any(|other| other.port == port.port) {
            let message = format!("port {} is there already: the first counts", port.port);
            reader.refuse(&path, node, message);
            continue;
        }
        read.push(port);
    }
    let vips = vips(reader, spec);
    let families = spec.get("ipFamilies").map(Node::items).unwrap_or_default();
    let family = families.first().and_then(Node::text);
    Service {
        selector: spec.get("selector").map(text_map).unwrap_or_default(),
        is_v6_first: family
            .map(|family| family == "IPv6")
            .or_else(|| vips.first().map(IpAddr::is_ipv6)),
        vips,
        ports: read,
    }
}

fn vips(reader: &mut Reader, spec: &Node) -> Vec<IpAddr> {
    let several = spec.get("clusterIPs").map(Node::items).unwrap_or_default();
    let mut vips = Vec::new();
    for node in spec.get("clusterIP").into_iter().chain(several) {
        match node.text() {
            None | Some("" | "None") => {}
            Some(text) => match text.parse() {
                Ok(vip) if vips.contains(&vip) => {}
                Ok(vip) => vips.push(vip),
                Err(_) => {
                    let message = format!("{text:?} is no IP address: write one, or None");
                    reader.refuse("spec.clusterIP", node, message);
                }
            },
        }
    }
    vips
}

fn port(reader: &mut Reader, node: &Node, path: &str) -> Option<ServicePort> {
    let text = |key: &str| node.get(key).and_then(Node::text);
    let number = Port::new(node.get("port")?.integer()?).ok()?;
    if let Some(transport @ ("UDP" | "SCTP")) = text("protocol") {
        let message = format!("{transport} is not supported yet: the port is left out");
        reader.find(Severity::Warning, Code::Unsupported, path, node, message);
        return None;
    }
    let name = text("name").unwrap_or_default();
    let target = match node.get("targetPort") {
        None => TargetPort::Same,
        Some(target) => match (target.integer(), target.text()) {
            (Some(number), _) => Port::new(number).map_or(TargetPort::Same, TargetPort::Number),
            (None, Some(name)) => TargetPort::Name(name.into()),
            (None, None) => TargetPort::Same,
        },
    };
    Some(ServicePort {
        path: path.into(),
        name: name.into(),
        port: number,
        target,
        protocol: text("appProtocol")
            .and_then(declared)
            .or_else(|| by_name(name))
            .unwrap_or(Protocol::Detect),
    })
}

/// The protocol that a port name's prefix declares: `http`, `http-web`, `grpc-api`.
pub(crate) fn by_name(name: &str) -> Option<Protocol> {
    let lower = name.to_ascii_lowercase();
    if lower == "grpc-web" || lower.starts_with("grpc-web-") {
        return Some(Protocol::Http);
    }
    declared(lower.split('-').next().unwrap_or_default())
}

/// The protocol of this name, as Istio and Kubernetes name them; `None` if it is none of theirs,
/// and the port is looked into.
pub(super) fn declared(name: &str) -> Option<Protocol> {
    Some(match name.to_ascii_lowercase().as_str() {
        // gRPC-Web is plain HTTP to a proxy: its refusals are no trailers.
        "http" | "http1" | "grpc-web" | "kubernetes.io/ws" => Protocol::Http,
        "http2" | "kubernetes.io/h2c" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "tcp" | "tls" | "https" | "hbone" | "mongo" | "mysql" | "redis" | "postgres"
        | "postgresql" | "kafka" | "kubernetes.io/wss" => Protocol::Tcp,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_by_port_name() {
        let check = |name: &str, protocol: Option<Protocol>| {
            assert_eq!(by_name(name), protocol, "{name}");
        };
        check("http", Some(Protocol::Http));
        check("http-web", Some(Protocol::Http));
        check("HTTP-web", Some(Protocol::Http));
        check("httpx", None);
        check("http2-api", Some(Protocol::Http2));
        check("grpc", Some(Protocol::Grpc));
        check("grpc-web", Some(Protocol::Http));
        check("grpc-web-api", Some(Protocol::Http));
        check("grpc-website", Some(Protocol::Grpc));
        check("https", Some(Protocol::Tcp));
        check("redis-cache", Some(Protocol::Tcp));
        check("web", None);
        check("", None);
    }
}
