//! Gives each workload an address of its own on this machine, in 127.0.0.0/8.
//!
//! A WorkloadEntry may name one there; 127.0.0.1 belongs to the applications. Every other workload
//! gets the first free address of 127.1.0.1 to 127.1.255.254, in the order of names, and keeps it
//! for as long as this process lives, edits notwithstanding. The address is written into the
//! object before it is compiled, so that clients are led to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use outrigger_compiler::{
    Code, Diagnostic, Kind, Node, ObjectKey, Provenance, Severity,
    document::{Entry, Value},
};
use outrigger_controller::source::{Manifest, Transform};

/// Which workload got which address. Bounded by the folder's objects and the range.
#[derive(Debug, Default)]
pub(crate) struct AddressBook(BTreeMap<ObjectKey, Ipv4Addr>);

impl Transform for AddressBook {
    fn transform(&mut self, manifests: &mut [Manifest]) -> Vec<Diagnostic> {
        let mut diagnostics = Vec::new();
        let workloads = |manifest: &&mut Manifest| manifest.key.kind == Kind::WorkloadEntry;
        let named: BTreeSet<Ipv4Addr> = manifests
            .iter()
            .filter_map(|manifest| own_address(&manifest.node))
            .collect();
        let mut taken = named.clone();
        taken.extend(self.0.values());
        for manifest in manifests.iter_mut().filter(workloads) {
            if let Some(own) = own_address(&manifest.node) {
                self.0.insert(manifest.key.clone(), own);
                continue;
            }
            // What it was given may be what another entry names by now.
            let given = self.0.get(&manifest.key).copied();
            let given = given.filter(|address| !named.contains(address));
            let address = given.or_else(|| range().find(|address| !taken.contains(address)));
            let Some(address) = address else {
                diagnostics.push(note(
                    manifest,
                    "all 65,000 addresses of 127.1.0.0/16 are taken",
                ));
                continue;
            };
            taken.insert(address);
            self.0.insert(manifest.key.clone(), address);
            if let Some(written) = written_address(&manifest.node)
                && written != "127.0.0.1"
            {
                let message = format!(
                    "spec.address {written} is not in 127.0.0.0/8: its sidecar on this machine has {address}"
                );
                diagnostics.push(note(manifest, &message));
            }
            set_address(&mut manifest.node, address);
        }
        diagnostics
    }
}

fn range() -> impl Iterator<Item = Ipv4Addr> {
    (0..=255).flat_map(|third| (1..=254).map(move |fourth| Ipv4Addr::new(127, 1, third, fourth)))
}

fn written_address(node: &Node) -> Option<&str> {
    let address = node.get("spec")?.get("address")?.text()?;
    (!address.is_empty()).then_some(address)
}

/// The address that the entry names, if its sidecar can have it.
fn own_address(node: &Node) -> Option<Ipv4Addr> {
    match written_address(node)?.parse().ok()? {
        IpAddr::V4(address) if address.is_loopback() && address != Ipv4Addr::LOCALHOST => {
            Some(address)
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

fn set_address(node: &mut Node, address: Ipv4Addr) {
    let position = node.position;
    let Value::Map(object) = &mut node.value else {
        return;
    };
    if !object.iter().any(|entry| entry.key == "spec") {
        object.push(Entry {
            key: "spec".to_owned(),
            position,
            value: Node::map(position, []),
        });
    }
    let spec = object.iter_mut().find(|entry| entry.key == "spec");
    let Some(spec) = spec.map(|entry| &mut entry.value) else {
        return;
    };
    if spec.value == Value::Null {
        spec.value = Value::Map(Vec::new());
    }
    if let Value::Map(entries) = &mut spec.value {
        let value = Value::Text(address.to_string());
        match entries.iter_mut().find(|entry| entry.key == "address") {
            Some(entry) => entry.value.value = value,
            None => entries.push(Entry {
                key: "address".to_owned(),
                position: spec.position,
                value: Node::new(spec.position, value),
            }),
        }
    }
}

fn note(manifest: &Manifest, message: &str) -> Diagnostic {
    Diagnostic {
        severity: Severity::Warning,
        code: Code::Endpoint,
        object: Some(manifest.key.clone()),
        path: "spec.address".to_owned(),
        position: match &manifest.provenance {
            Provenance::File(source) => Some(source.clone()),
            Provenance::Api { .. } => None,
        },
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use outrigger_model::{Hostname, Namespace};

    use super::*;

    fn entry(name: &str, address: &str) -> Manifest {
        let spec = match address {
            "" => serde_json::json!(null),
            address => serde_json::json!({"address": address}),
        };
        Manifest {
            key: ObjectKey {
                kind: Kind::WorkloadEntry,
                namespace: Some(Namespace::parse("shop").unwrap()),
                name: Hostname::parse(name).unwrap(),
            },
            provenance: Provenance::Api { uid: "1".into() },
            node: Node::from_json(&serde_json::json!({"kind": "WorkloadEntry", "spec": spec})),
        }
    }

    #[test]
    fn addresses_are_given_and_stay() {
        let mut book = AddressBook::default();
        let mut check = |entries: &[(&str, &str)], expected: &[&str], said: usize| {
            let mut manifests: Vec<_> = entries
                .iter()
                .map(|(name, address)| entry(name, address))
                .collect();
            let diagnostics = book.transform(&mut manifests);
            let given: Vec<_> = manifests
                .iter()
                .map(|manifest| written_address(&manifest.node).unwrap())
                .collect();
            assert_eq!(given, expected);
            assert_eq!(diagnostics.len(), said, "{diagnostics:?}");
        };
        check(
            &[("b", ""), ("c", "127.0.0.1")],
            &["127.1.0.1", "127.1.0.2"],
            0,
        );
        check(
            &[("a", ""), ("b", ""), ("c", "")],
            &["127.1.0.3", "127.1.0.1", "127.1.0.2"],
            0,
        );
        check(
            &[
                ("d", "127.1.0.4"),
                ("e", ""),
                ("f", "10.0.0.1"),
                ("g", "::1"),
            ],
            &["127.1.0.4", "127.1.0.5", "127.1.0.6", "127.1.0.7"],
            2,
        );
        check(&[("c", "")], &["127.1.0.2"], 0);
        check(
            &[("c", ""), ("h", "127.1.0.2")],
            &["127.1.0.8", "127.1.0.2"],
            0,
        );
    }
}
