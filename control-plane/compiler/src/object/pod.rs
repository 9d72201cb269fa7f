//! Pod: one instance of an application, and whether a sidecar stands beside it.
//!
//! Where requests go is the business of EndpointSlices; a Pod says who answers there, under which
//! labels, and what its own sidecar listens to.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use outrigger_model::{Hostname, Locality, Port, ServiceAccount, Weight};

use super::{WorkloadAddress, endpoint::default_account, text_map};
use crate::{Node, istio::Reader};

/// Set to `injected` on pods that were given a sidecar.
const STATUS_ANNOTATION: &str = "outrigger.dev/status";
/// Name of the sidecar's container, native or not.
const SIDECAR: &str = "outrigger-proxy";

/// A Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    /// First address, ports by the names of containers' ports, labels, service account.
    pub(crate) instance: WorkloadAddress,
    /// All addresses: one of each family.
    pub(crate) addresses: Vec<IpAddr>,
    /// Where it runs, once it is scheduled.
    pub(crate) node: Option<Hostname>,
    /// Whether a sidecar stands beside it, so that nothing but mutual TLS is spoken to it.
    pub(crate) is_meshed: bool,
    /// Succeeded or failed: its address may belong to another by now.
    pub(crate) is_over: bool,
}

/// Whom a Pod runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodIdentity<'a> {
    /// `metadata.uid`.
    pub uid: &'a str,
    /// `spec.serviceAccountName`.
    pub service_account: &'a ServiceAccount,
}

/// Reads a Pod.
pub(super) fn read(reader: &mut Reader, object: &Node) -> Pod {
    let empty = Node::map(object.position, []);
    let part = |key: &str| object.get(key).unwrap_or(&empty);
    let (metadata, spec, status) = (part("metadata"), part("spec"), part("status"));
    let addresses = addresses(status);
    let containers = || {
        let of = |key: &str| spec.get(key).map(Node::items).unwrap_or_default().iter();
        of("containers").chain(of("initContainers"))
    };
    let is_injected = metadata
        .get("annotations")
        .and_then(|all| all.get(STATUS_ANNOTATION)?.text())
        == Some("injected");
    let text = |key: &str| spec.get(key).and_then(Node::text);
    let service_account = text("serviceAccountName").filter(|name| !name.is_empty());
    let service_account = service_account.map(ServiceAccount::parse).transpose();
    let service_account = service_account.unwrap_or_else(|error| {
        let (path, message) = ("spec.serviceAccountName", error.to_string());
        reader.refuse(path, spec, message);
        None
    });
    Pod {
        instance: WorkloadAddress {
            address: addresses.first().copied(),
            ports: ports(containers()),
            labels: metadata.get("labels").map(text_map).unwrap_or_default(),
            weight: Weight::ONE,
            locality: Locality::default(),
            service_account: service_account.unwrap_or_else(default_account),
        },
        addresses,
        node: text("nodeName").and_then(|name| Hostname::parse(name).ok()),
        is_meshed: is_injected || containers().any(|one| name_of(one) == Some(SIDECAR)),
        is_over: matches!(
            status.get("phase").and_then(Node::text),
            Some("Succeeded" | "Failed")
        ),
    }
}

fn name_of(container: &Node) -> Option<&str> {
    container.get("name")?.text()
}

/// `status.podIPs`, or `status.podIP` alone.
fn addresses(status: &Node) -> Vec<IpAddr> {
    let several = status.get("podIPs").map(Node::items).unwrap_or_default();
    let several = several.iter().filter_map(|item| item.get("ip"));
    let mut addresses: Vec<IpAddr> = Vec::new();
    for node in status.get("podIP").into_iter().chain(several) {
        if let Some(Ok(address)) = node.text().map(str::parse)
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    addresses
}

/// TCP ports of containers: by name, or by number where they have none of their own. The
/// sidecar's are not the application's.
fn ports<'a>(containers: impl Iterator<Item = &'a Node>) -> BTreeMap<Arc<str>, Port> {
    let mut found: BTreeMap<Arc<str>, Port> = BTreeMap::new();
    let of = |container: &'a Node| container.get("ports").map(Node::items).unwrap_or_default();
    let own = containers.filter(|container| name_of(container) != Some(SIDECAR));
    for port in own.flat_map(of) {
        let text = |key: &str| port.get(key).and_then(Node::text);
        let number = port.get("containerPort").and_then(Node::integer);
        let (Some(Ok(number)), None | Some("TCP")) = (number.map(Port::new), text("protocol"))
        else {
            continue;
        };
        let name = text("name").filter(|name| !found.contains_key(*name));
        let name = name.map_or_else(|| number.to_string(), str::to_owned);
        found.insert(name.into(), number);
    }
    found
}
