//! What the local mesh consists of, from the manifests: one sidecar for each WorkloadEntry, its
//! addresses, its application. Pure. Which ports an application has, the compiler says: those that
//! clients are led to.
//!
//! Ports stay where they are under edits: [`OutboundPorts`] remembers which service port got which
//! number, and a new service gets a number that no other had before.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
};

use outrigger_compiler::{Kind, Node, ObjectKey, Workload};
use outrigger_controller::{controller::InForce, source::Manifest};
use outrigger_model::{Hostname, Namespace, Port, ServiceAccount, WorkloadName};

mod taken;

use taken::{Taken, is_reserved};

/// Names the command that `up` starts for a workload.
pub(crate) const EXEC_ANNOTATION: &str = "outrigger.dev/exec";
/// Takes absolute-form requests, on the workload's address.
pub(crate) const FORWARD_PROXY_PORT: u16 = 15_001;
/// Metrics, health and admin, on the workload's address.
pub(crate) const ADMIN_PORT: u16 = 15_020;
/// First port of the outbound listeners, on the workload's address.
pub(crate) const OUTBOUND_FIRST: u16 = 20_001;
/// Last one: below the ports that the system gives to clients (32,768 and up).
pub(crate) const OUTBOUND_LAST: u16 = 32_000;

/// One workload with its sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WorkloadPlan {
    /// Namespace and name.
    pub(crate) name: WorkloadName,
    /// Part of its identity.
    pub(crate) service_account: ServiceAccount,
    /// The sidecar's own address.
    pub(crate) address: Ipv4Addr,
    /// The application's ports on 127.0.0.1, and the sidecar's inbound ports.
    pub(crate) ports: BTreeSet<Port>,
    /// Those of them that the application has opened when it is ready: the ones that the entry
    /// names, or all.
    pub(crate) awaited: BTreeSet<Port>,
    /// Outbound listener of each service port, by `host:port`.
    pub(crate) outbound: BTreeMap<String, SocketAddr>,
    /// The command to start, split into words; none: somebody else runs the application.
    pub(crate) exec: Option<Vec<String>>,
    /// Environment of the command, as Kubernetes sets it for services.
    pub(crate) environment: BTreeMap<String, String>,
}

impl WorkloadPlan {
    /// Where the sidecar takes traffic for one of the application's ports.
    pub(crate) fn inbound(&self) -> impl Iterator<Item = SocketAddr> {
        self.ports.iter().map(|port| self.at(port.get()))
    }

    /// The forward proxy.
    pub(crate) fn forward_proxy(&self) -> SocketAddr {
        self.at(FORWARD_PROXY_PORT)
    }

    /// The admin address.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.at(ADMIN_PORT)
    }

    /// Whether a running sidecar and application can become `next` with new listeners alone.
    pub(crate) fn differs_in_listeners_alone(&self, next: &Self) -> bool {
        self.service_account == next.service_account
            && self.address == next.address
            && self.exec == next.exec
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.address, port))
    }
}

/// Something that keeps a workload out of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub(crate) struct Problem {
    /// File, line and column.
    pub(crate) place: String,
    /// What is wrong and what to do.
    pub(crate) message: String,
}

impl Problem {
    fn of(manifest: &Manifest, message: &str) -> Self {
        Self {
            place: manifest.provenance.to_string(),
            message: format!("{}: {message}", manifest.key),
        }
    }
}

/// The workloads that can run, and why others cannot.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) workloads: BTreeMap<WorkloadName, WorkloadPlan>,
    pub(crate) problems: Vec<Problem>,
    /// What keeps nothing out of the mesh.
    pub(crate) warnings: Vec<Problem>,
    /// Workloads that are not understood: one that runs already runs on as it was.
    pub(crate) unclear: BTreeSet<ObjectKey>,
}

/// Which port of every workload's address leads to which service port.
#[derive(Debug, Default)]
pub(crate) struct OutboundPorts(BTreeMap<String, u16>);

impl OutboundPorts {
    /// Numbers for these destinations, `host:port`; those numbered before keep theirs, unless an
    /// application has it by now. What finds no number any more, with 12,000 others, is left out.
    fn assign(
        &mut self,
        destinations: &BTreeSet<String>,
        of_applications: &BTreeSet<u16>,
    ) -> BTreeMap<String, u16> {
        self.0.retain(|_, port| !of_applications.contains(port));
        for destination in destinations {
            if !self.0.contains_key(destination) {
                let highest = self.0.values().max();
                let next = highest.map_or(OUTBOUND_FIRST, |highest| highest + 1);
                let is_free = |port: &u16| !of_applications.contains(port);
                let next = (next..=OUTBOUND_LAST).find(is_free);
                let free = if next.is_some() {
                    next
                } else {
                    // All were given once: take one of a service that is gone.
                    self.0.retain(|known, _| destinations.contains(known));
                    let taken: BTreeSet<u16> = self.0.values().copied().collect();
                    (OUTBOUND_FIRST..=OUTBOUND_LAST)
                        .find(|port| is_free(port) && !taken.contains(port))
                };
                self.0.extend(free.map(|port| (destination.clone(), port)));
            }
        }
        let numbered = self.0.iter();
        numbered
            .filter(|(known, _)| destinations.contains(*known))
            .map(|(known, port)| (known.clone(), *port))
            .collect()
    }
}

/// A service's ports, in the order written.
#[derive(Debug)]
struct Service<'a> {
    namespace: Option<&'a Namespace>,
    name: &'a str,
    hosts: Vec<String>,
    ports: Vec<ServicePort<'a>>,
}

#[derive(Debug)]
struct ServicePort<'a> {
    name: &'a str,
    port: Port,
}

/// Plans the mesh. Addresses were given by [`super::address::AddressBook`] before.
pub(crate) fn plan(
    in_force: &InForce,
    cluster_domain: &Hostname,
    ports: &mut OutboundPorts,
) -> Plan {
    let manifests = &in_force.manifests;
    let services: Vec<_> = manifests
        .iter()
        .filter_map(|manifest| service(manifest, cluster_domain))
        .collect();
    let destinations = services.iter().flat_map(|service| {
        let ports = service.ports.iter();
        ports.flat_map(|port| {
            let hosts = service.hosts.iter();
            hosts.map(move |host| format!("{host}:{}", port.port))
        })
    });
    let compiled = in_force.workloads.iter();
    let of_applications = compiled.flat_map(|workload| &workload.ports);
    let of_applications = of_applications.map(|port| port.get()).collect();
    let outbound = ports.assign(&destinations.collect(), &of_applications);
    let compiled = in_force.workloads.iter();
    let compiled: BTreeMap<_, _> = compiled
        .map(|workload| (&workload.name, workload.as_ref()))
        .collect();
    let mut plan = Plan::default();
    let mut taken = Taken::default();
    let mut workloads = Vec::new();
    let entries = manifests.iter();
    for manifest in entries.filter(|manifest| manifest.key.kind == Kind::WorkloadEntry) {
        match workload(manifest, &services, &outbound, &compiled) {
            Ok(workload) => {
                taken.note(&workload);
                workloads.push((manifest, workload));
            }
            Err(message) => {
                plan.problems.push(Problem::of(manifest, &message));
                plan.unclear.insert(manifest.key.clone());
            }
        }
    }
    for (manifest, mut workload) in workloads {
        let left_out = taken.leave_out(&mut workload);
        let left_out = left_out.iter();
        plan.warnings
            .extend(left_out.map(|message| Problem::of(manifest, message)));
        match taken.take(&workload) {
            Ok(()) => {
                plan.workloads.insert(workload.name.clone(), workload);
            }
            Err(message) => plan.problems.push(Problem::of(manifest, &message)),
        }
    }
    plan
}

fn workload(
    manifest: &Manifest,
    services: &[Service<'_>],
    outbound: &BTreeMap<String, u16>,
    compiled: &BTreeMap<&WorkloadName, &Workload>,
) -> Result<WorkloadPlan, String> {
    let spec = manifest.node.get("spec");
    let field = |name: &str| spec.and_then(|spec| spec.get(name));
    let namespace = manifest.key.namespace.clone();
    let namespace = namespace.ok_or("a WorkloadEntry has a namespace")?;
    let name: WorkloadName = format!("{namespace}/{}", manifest.key.name)
        .parse()
        .map_err(|error: outrigger_model::InvalidValue| error.to_string())?;
    let address: Ipv4Addr = field("address")
        .and_then(Node::text)
        .and_then(|text| text.parse().ok())
        .ok_or("it has no address in 127.0.0.0/8")?;
    let account = field("serviceAccount").and_then(Node::text);
    let service_account =
        ServiceAccount::parse(account.unwrap_or("default")).map_err(|error| error.to_string())?;
    let named: BTreeSet<Port> = field("ports")
        .map(Node::entries)
        .unwrap_or_default()
        .iter()
        .filter_map(|entry| Port::new(entry.value.integer()?).ok())
        .collect();
    let compiled = compiled.get(&name);
    let ports: BTreeSet<Port> = compiled
        .iter()
        .flat_map(|one| &one.ports)
        .copied()
        .collect();
    let awaited = if named.is_empty() {
        ports.clone()
    } else {
        named
    };
    if let Some(reserved) = awaited.iter().find(|port| is_reserved(**port)) {
        return Err(format!(
            "port {reserved} is the sidecar's own: give the application another"
        ));
    }
    let outbound: BTreeMap<_, _> = outbound
        .iter()
        .map(|(destination, port)| (destination.clone(), SocketAddr::from((address, *port))))
        .collect();
    Ok(WorkloadPlan {
        environment: environment(&namespace, services, &outbound),
        exec: exec(&manifest.node)?,
        name,
        service_account,
        address,
        ports,
        awaited,
        outbound,
    })
}

fn exec(node: &Node) -> Result<Option<Vec<String>>, String> {
    let annotations = node
        .get("metadata")
        .and_then(|metadata| metadata.get("annotations"));
    let Some(command) = annotations.and_then(|annotations| annotations.get(EXEC_ANNOTATION)) else {
        return Ok(None);
    };
    let words = command.text().and_then(shlex::split).unwrap_or_default();
    if words.is_empty() {
        return Err(format!(
            "annotation {EXEC_ANNOTATION} holds no command: write a program and its arguments, quotes closed"
        ));
    }
    Ok(Some(words))
}

/// As Kubernetes sets it for the services of a pod's namespace: host and first port, and each
/// named port.
fn environment(
    namespace: &Namespace,
    services: &[Service<'_>],
    outbound: &BTreeMap<String, SocketAddr>,
) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::new();
    let own = services
        .iter()
        .filter(|service| service.namespace == Some(namespace));
    for service in own {
        let prefix = variable(service.name);
        let listener = |port: Port| {
            let host = service.hosts.first()?;
            outbound.get(&format!("{host}:{port}"))
        };
        for (index, port) in service.ports.iter().enumerate() {
            let Some(listener) = listener(port.port) else {
                continue;
            };
            let number = listener.port().to_string();
            if index == 0 {
                environment.insert(format!("{prefix}_SERVICE_HOST"), listener.ip().to_string());
                environment.insert(format!("{prefix}_SERVICE_PORT"), number.clone());
            }
            if !port.name.is_empty() {
                let name = variable(port.name);
                environment.insert(format!("{prefix}_SERVICE_PORT_{name}"), number);
            }
        }
    }
    environment
}

fn variable(name: &str) -> String {
    name.to_ascii_uppercase().replace(['-', '.'], "_")
}

fn service<'a>(manifest: &'a Manifest, cluster_domain: &Hostname) -> Option<Service<'a>> {
    let namespace = manifest.key.namespace.as_ref()?;
    let name = manifest.key.name.as_str();
    let spec = manifest.node.get("spec")?;
    let ports = spec.get("ports").map(Node::items).unwrap_or_default();
    match manifest.key.kind {
        Kind::Service => Some(Service {
            namespace: Some(namespace),
            name,
            hosts: vec![format!("{name}.{namespace}.svc.{cluster_domain}")],
            ports: ports.iter().filter_map(|node| port(node, "port")).collect(),
        }),
        Kind::ServiceEntry => Some(Service {
            namespace: None,
            name,
            hosts: spec
                .get("hosts")
                .map(Node::items)
                .unwrap_or_default()
                .iter()
                .filter_map(Node::text)
                .filter(|host| !host.contains('*'))
                .map(str::to_ascii_lowercase)
                .collect(),
            ports: ports
                .iter()
                .filter_map(|node| port(node, "number"))
                .collect(),
        }),
        Kind::Namespace
        | Kind::ServiceAccount
        | Kind::Node
        | Kind::Pod
        | Kind::EndpointSlice
        | Kind::WorkloadEntry
        | Kind::VirtualService
        | Kind::DestinationRule
        | Kind::HttpRoute
        | Kind::GrpcRoute
        | Kind::ReferenceGrant => None,
    }
}

/// A port of a service; its number is called `port` in a Service, `number` in a ServiceEntry.
fn port<'a>(node: &'a Node, key: &str) -> Option<ServicePort<'a>> {
    let text = |key: &str| node.get(key).and_then(Node::text);
    if text("protocol").is_some_and(|protocol| protocol.eq_ignore_ascii_case("udp")) {
        return None;
    }
    Some(ServicePort {
        name: text("name").unwrap_or_default(),
        port: Port::new(node.get(key)?.integer()?).ok()?,
    })
}

#[cfg(test)]
mod tests;
