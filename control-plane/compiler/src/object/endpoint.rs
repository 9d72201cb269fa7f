//! An endpoint as Istio writes it: a WorkloadEntry's `spec`, an item of ServiceEntry's `endpoints`.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use outrigger_model::{Locality, Namespace, Port, ServiceAccount, SpiffeId, TrustDomain, Weight};

use super::text_map;
use crate::{Code, Node, Severity, ir::Labels, istio::Reader, schema::join};

/// Says, as in Istio, that a sidecar answers at the endpoint (value `istio`).
pub(crate) const TLS_MODE_LABEL: &str = "security.istio.io/tlsMode";

/// One address of an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadAddress {
    /// Where it runs; `None` if the object names none, or one that cannot be used. Whoever
    /// assigns addresses to workloads sets it before the object is compiled.
    pub address: Option<IpAddr>,
    /// Ports by the name of the service's port (or, for a named target port, by that name).
    pub ports: BTreeMap<Arc<str>, Port>,
    /// Labels, by which services and subsets select it.
    pub labels: Labels,
    /// Share of load.
    pub weight: Weight,
    /// Where it runs.
    pub locality: Locality,
    /// Service account, `default` if the object names none.
    pub service_account: ServiceAccount,
}

impl WorkloadAddress {
    /// What the label for sidecars says: `Some(true)` for `istio`, `Some(false)` for any other value.
    pub(crate) fn tls_mode(&self) -> Option<bool> {
        self.labels
            .get(TLS_MODE_LABEL)
            .map(|value| value.as_ref() == "istio")
    }

    /// The identity that its sidecar proves.
    pub(crate) fn identity(&self, trust_domain: &TrustDomain, namespace: &Namespace) -> SpiffeId {
        SpiffeId {
            trust_domain: trust_domain.clone(),
            namespace: namespace.clone(),
            service_account: self.service_account.clone(),
        }
    }
}

/// Reads an endpoint.
pub(super) fn read(reader: &mut Reader, node: &Node, path: &str) -> WorkloadAddress {
    let text = |key: &str| {
        node.get(key)
            .and_then(|value| Some((value, value.text()?)))
            .filter(|(_, text)| !text.is_empty())
    };
    let address = text("address").and_then(|(value, text)| {
        let parsed = text.parse().ok();
        if parsed.is_none() {
            let message = format!(
                "{text:?} is no IP address: host names and Unix sockets are not supported yet"
            );
            let at = join(path, "address");
            reader.find(Severity::Error, Code::Unsupported, &at, value, message);
        }
        parsed
    });
    let service_account = text("serviceAccount").and_then(|(value, text)| {
        let error = match ServiceAccount::parse(text) {
            Ok(account) => return Some(account),
            Err(error) => error.to_string(),
        };
        let at = join(path, "serviceAccount");
        reader.refuse(&at, value, error);
        None
    });
    WorkloadAddress {
        address,
        ports: ports(node),
        labels: node.get("labels").map(text_map).unwrap_or_default(),
        weight: weight(node),
        locality: text("locality").map_or_else(Locality::default, |(_, text)| locality(text)),
        service_account: service_account.unwrap_or_else(default_account),
    }
}

fn ports(node: &Node) -> BTreeMap<Arc<str>, Port> {
    let entries = node.get("ports").map(Node::entries).unwrap_or_default();
    entries
        .iter()
        .filter_map(|entry| {
            let port = Port::new(entry.value.integer()?).ok()?;
            Some((entry.key.as_str().into(), port))
        })
        .collect()
}

/// Istio: no weight, or 0, is 1.
fn weight(node: &Node) -> Weight {
    let written = node.get("weight").and_then(Node::integer);
    written
        .filter(|weight| *weight > 0)
        .and_then(|weight| Weight::new(weight).ok())
        .unwrap_or(Weight::ONE)
}

/// `region/zone/subzone`, from the left.
pub(super) fn locality(text: &str) -> Locality {
    let mut parts = text.splitn(3, '/');
    let mut next = || parts.next().unwrap_or_default().into();
    Locality {
        region: next(),
        zone: next(),
        subzone: next(),
    }
}

pub(super) fn default_account() -> ServiceAccount {
    ServiceAccount::parse("default").expect("default is a valid name")
}
