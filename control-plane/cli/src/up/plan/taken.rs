//! What one workload has, another cannot: addresses, and ports of 127.0.0.1. In the order in which
//! they are planned.

use std::{collections::BTreeMap, net::Ipv4Addr};

use outrigger_model::{Port, WorkloadName};

use super::{ADMIN_PORT, FORWARD_PROXY_PORT, WorkloadPlan};

/// See the module.
#[derive(Default)]
pub(super) struct Taken {
    addresses: BTreeMap<Ipv4Addr, WorkloadName>,
    ports: BTreeMap<Port, WorkloadName>,
    /// Ports that workloads name, also of those that come later: they go before such that only a
    /// service gives.
    named: BTreeMap<Port, WorkloadName>,
}

impl Taken {
    /// Takes note of what a workload names.
    pub(super) fn note(&mut self, workload: &WorkloadPlan) {
        for port in &workload.awaited {
            let named = self.named.entry(*port);
            named.or_insert_with(|| workload.name.clone());
        }
    }

    /// Takes ports from a workload that only services give it, and that it cannot have.
    pub(super) fn leave_out(&self, workload: &mut WorkloadPlan) -> Vec<String> {
        let mut said = Vec::new();
        let (awaited, name) = (&workload.awaited, &workload.name);
        workload.ports.retain(|port| {
            let named = self.named.get(port).filter(|other| *other != name);
            let owner = match self.ports.get(port).or(named) {
                Some(other) => other.to_string(),
                None if is_reserved(*port) => "the sidecar".to_owned(),
                None => return true,
            };
            if !awaited.contains(port) {
                said.push(format!(
                    "a service leads to its port {port}, which it does not name and {owner} has: nobody answers there; name the service's port in spec.ports"
                ));
            }
            awaited.contains(port)
        });
        said
    }

    pub(super) fn take(&mut self, workload: &WorkloadPlan) -> Result<(), String> {
        if let Some(other) = self.addresses.get(&workload.address) {
            return Err(format!(
                "its address {} is that of {other}: give each workload an address of its own in 127.0.0.0/8, or none",
                workload.address
            ));
        }
        for port in &workload.ports {
            if let Some(other) = self.ports.get(port) {
                return Err(format!(
                    "its application's port {port} on 127.0.0.1 is that of {other}: give it another"
                ));
            }
        }
        let ports = workload.ports.iter();
        self.ports
            .extend(ports.map(|port| (*port, workload.name.clone())));
        self.addresses
            .insert(workload.address, workload.name.clone());
        Ok(())
    }
}

/// Whether it is one of the sidecar's own.
pub(super) fn is_reserved(port: Port) -> bool {
    [FORWARD_PROXY_PORT, ADMIN_PORT].contains(&port.get())
}
