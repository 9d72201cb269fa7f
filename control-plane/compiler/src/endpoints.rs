//! The endpoints of a service port: from the workloads its selector picks, from EndpointSlices,
//! from a ServiceEntry's own list.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use outrigger_model::{
    Endpoint, EndpointState, Locality, Namespace, Peer, Port, SubsetName, Weight,
};

use crate::{
    Code, Diagnostic, Object, Severity,
    aliases::ServiceName,
    index::{Claim, Index, carries},
    ir::Labels,
    object::{
        Service, ServicePort, SliceEndpoint, Spec, TLS_MODE_LABEL, TargetPort, WorkloadAddress,
    },
    options::Membership,
};

/// An endpoint before its subsets are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    weight: Weight,
    locality: Locality,
    peer: Peer,
    state: EndpointState,
    labels: Labels,
}

/// The endpoints of one service port, by address.
pub(crate) type Candidates = BTreeMap<SocketAddr, Candidate>;

/// Finds the endpoints of a port. Of two with one address, a workload goes before a slice.
pub(crate) fn of_port(
    index: &Index,
    name: &ServiceName,
    claim: &Claim<'_>,
    port: &ServicePort,
    direct: &mut BTreeSet<SocketAddr>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Candidates {
    let mut found = Candidates::new();
    for (object, workload) in index.selected(&name.namespace, &claim.service.selector) {
        let at = resolve(object, "spec", workload, port, diagnostics);
        if let Some(at) = at {
            let is_meshed = has_sidecar(index, object, workload, diagnostics);
            let candidate = candidate(index, &name.namespace, workload, is_meshed);
            enter(&mut found, at, candidate);
        }
    }
    if let Spec::ServiceEntry(entry) = claim.object.spec() {
        for endpoint in &entry.endpoints {
            let (path, workload) = (&endpoint.path, &endpoint.value);
            if let Some(at) = resolve(claim.object, path, workload, port, diagnostics) {
                // Nobody starts a sidecar for an address in a list: its owner says if one is there.
                let is_meshed = workload.tls_mode() == Some(true) && !entry.is_external;
                let candidate = candidate(index, &name.namespace, workload, is_meshed);
                enter(&mut found, at, candidate);
            }
        }
        return found;
    }
    let mut sliced = Candidates::new();
    for object in index.slices(name) {
        let Spec::EndpointSlice(slice) = object.spec() else {
            continue;
        };
        let Some(number) = slice.ports.get(&port.name) else {
            continue;
        };
        for endpoint in &slice.endpoints {
            let Some(candidate) = of_slice(index, object, endpoint, diagnostics) else {
                continue;
            };
            let at = SocketAddr::new(endpoint.address, number.get());
            direct.insert(at);
            enter(&mut sliced, at, candidate);
        }
    }
    for (at, candidate) in one_family(sliced, claim.service) {
        enter(&mut found, at, candidate);
    }
    found
}

/// An address of a slice: its Pod says who answers there. One whose Pod is not known is left out
/// until it is, for it may be meshed and must then get no plain text.
fn of_slice(
    index: &Index,
    object: &Object,
    endpoint: &SliceEndpoint,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Candidate> {
    let mut peer = Peer::Plain;
    let mut labels = Labels::new();
    if let Some(name) = &endpoint.pod {
        let namespace = object.namespace()?;
        let pod = index.pod(namespace, name);
        let Some(pod) = pod.filter(|pod| pod.addresses.contains(&endpoint.address)) else {
            let message = format!(
                "no Pod {name} has address {}: the endpoint is left out",
                endpoint.address
            );
            let (severity, code) = (Severity::Warning, Code::Endpoint);
            diagnostics.push(object.diagnose(severity, code, "endpoints", message));
            return None;
        };
        if pod.is_meshed {
            let trust_domain = &index.options.settings.trust_domain;
            peer = Peer::Meshed(pod.instance.identity(trust_domain, namespace));
        }
        labels.clone_from(&pod.instance.labels);
    }
    let node = endpoint.node.as_ref();
    let mut locality = node.map_or_else(Locality::default, |node| index.locality(node));
    if !endpoint.zone.is_empty() {
        locality.zone = Arc::clone(&endpoint.zone);
    }
    Some(Candidate {
        weight: Weight::ONE,
        locality,
        peer,
        state: endpoint.state,
        labels,
    })
}

/// A pod of a dual-stack service is in a slice of each family: those of the service's first
/// family, if there are any, or it would count twice.
fn one_family(mut sliced: Candidates, service: &Service) -> Candidates {
    if let Some(is_v6) = service.is_v6_first
        && sliced.keys().any(|at| at.is_ipv6() == is_v6)
    {
        sliced.retain(|at, _| at.is_ipv6() == is_v6);
    }
    sliced
}

fn enter(found: &mut Candidates, at: SocketAddr, candidate: Candidate) {
    if let Entry::Vacant(entry) = found.entry(at) {
        entry.insert(candidate);
    }
}

/// Whether a WorkloadEntry has a sidecar.
fn has_sidecar(
    index: &Index,
    object: &Object,
    workload: &WorkloadAddress,
    diagnostics: &mut Vec<Diagnostic>,
) -> bool {
    match index.options.membership {
        Membership::Labelled => workload.tls_mode() == Some(true),
        Membership::All => {
            if workload.tls_mode() == Some(false) {
                let message = format!(
                    "{TLS_MODE_LABEL} has no effect: every WorkloadEntry has a sidecar here, and \
                     it takes mutual TLS alone; remove the label"
                );
                let (severity, code) = (Severity::Warning, Code::Endpoint);
                diagnostics.push(object.diagnose(severity, code, "spec.labels", message));
            }
            true
        }
    }
}

fn candidate(
    index: &Index,
    namespace: &Namespace,
    workload: &WorkloadAddress,
    is_meshed: bool,
) -> Candidate {
    let peer = if is_meshed {
        Peer::Meshed(workload.identity(&index.options.settings.trust_domain, namespace))
    } else {
        Peer::Plain
    };
    Candidate {
        weight: workload.weight,
        locality: workload.locality.clone(),
        peer,
        state: EndpointState::Ready,
        labels: workload.labels.clone(),
    }
}

/// Where a workload takes a service port's traffic, with a diagnostic if nowhere.
fn resolve(
    object: &Object,
    path: &str,
    workload: &WorkloadAddress,
    port: &ServicePort,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<SocketAddr> {
    let address: Option<IpAddr> = workload.address;
    let Some(address) = address else {
        let message = "the endpoint has no IP address and is left out: write address".to_owned();
        diagnostics.push(object.diagnose(Severity::Warning, Code::Endpoint, path, message));
        return None;
    };
    if let Some(number) = target(workload, port) {
        return Some(SocketAddr::new(address, number.get()));
    }
    let message = format!(
        "the endpoint has no port named {}, which service port {} leads to: it is left out",
        match &port.target {
            TargetPort::Name(name) => name,
            TargetPort::Same | TargetPort::Number(_) => &port.name,
        },
        port.port
    );
    diagnostics.push(object.diagnose(Severity::Warning, Code::Endpoint, path, message));
    None
}

/// Istio, WorkloadEntry `ports`: the service port's name in the map, else the target port by name
/// or number, else the same number.
pub(crate) fn target(workload: &WorkloadAddress, port: &ServicePort) -> Option<Port> {
    if let Some(number) = workload.ports.get(&port.name) {
        return Some(*number);
    }
    match &port.target {
        TargetPort::Name(name) => workload.ports.get(name).copied(),
        TargetPort::Number(number) => Some(*number),
        TargetPort::Same => Some(port.port),
    }
}

/// Where a Pod takes a service port's traffic (Service `targetPort`).
pub(crate) fn target_of_pod(pod: &WorkloadAddress, port: &ServicePort) -> Option<Port> {
    match &port.target {
        TargetPort::Name(name) => pod.ports.get(name).copied(),
        TargetPort::Number(number) => Some(*number),
        TargetPort::Same => Some(port.port),
    }
}

/// The endpoint with the subsets that hold it, by their labels.
pub(crate) fn complete(
    at: SocketAddr,
    candidate: &Candidate,
    subsets: &[(SubsetName, &Labels)],
) -> Endpoint {
    Endpoint {
        address: at,
        weight: candidate.weight,
        locality: candidate.locality.clone(),
        peer: candidate.peer.clone(),
        state: candidate.state,
        subsets: subsets
            .iter()
            .filter(|(_, labels)| carries(&candidate.labels, labels))
            .map(|(name, _)| name.clone())
            .collect(),
    }
}
