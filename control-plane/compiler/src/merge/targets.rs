//! From a backend as a route names it to a destination: which service, which port, which subset.

use std::collections::BTreeSet;

use outrigger_model::{
    Backend, DestinationName, Hostname, Namespace, Port, SubsetName, WeightedBackend,
};

use super::policy;
use crate::{
    Code, Diagnostic, Object, Severity,
    aliases::ServiceName,
    index::Index,
    ir::{Host, Reference, Target},
};

/// How a diagnostic about an unknown host begins; the host follows. What it may have been meant to
/// be is added where diagnostics are read, for it depends on all services.
pub(crate) const UNKNOWN_HOST: &str = "no service has host ";

/// Resolves backends for clients of one namespace.
#[derive(Debug)]
pub(crate) struct Resolver<'a> {
    pub(crate) index: &'a Index,
    /// Clients' namespace, `None` for all that have no policy of their own.
    pub(crate) client: Option<&'a Namespace>,
    /// The port that was addressed: the port of a backend that names none and has several.
    pub(crate) port: Port,
    /// Where to put what is wrong.
    pub(crate) diagnostics: &'a mut BTreeSet<Diagnostic>,
    /// Every host that a backend names: when it changes, so may the routes.
    pub(crate) references: &'a mut BTreeSet<Hostname>,
    /// Every namespace whose ReferenceGrants were asked: when they change, so may the routes.
    pub(crate) grants: &'a mut BTreeSet<Namespace>,
}

/// What a backend was resolved to.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) backend: WeightedBackend,
    /// Why it does not exist; its share of the traffic fails.
    pub(crate) missing: Option<String>,
}

impl Resolver<'_> {
    /// Resolves a backend; `None` if nothing at all can be named for it.
    pub(crate) fn resolve(&mut self, object: &Object, target: &Target) -> Option<Resolved> {
        let index = self.index;
        let Reference::Host { host, port, subset } = &target.to else {
            return None;
        };
        let host = match index.complete(object, host) {
            Host::Full(host) | Host::Short(host) => host,
            Host::Suffix(_) | Host::Any => return None,
        };
        self.references.insert(host.clone());
        let namespace = object.namespace()?;
        let Some(name) = index.aliases.find(&host, namespace) else {
            let message = format!("{UNKNOWN_HOST}{host}");
            self.note(object, Code::UnknownHost, target, "host", &message);
            let destination = self.unknown(&host, namespace, *port);
            return Some(weighted(target, destination, subset, Some(message)));
        };
        let ports = index.aliases.ports(name);
        let port = match (port, ports) {
            (Some(port), _) => *port,
            (None, [only]) => *only,
            (None, _) => self.port,
        };
        let mut missing = None;
        if !ports.contains(&port) {
            let known: Vec<_> = ports.iter().map(ToString::to_string).collect();
            let message = format!(
                "service {host} has no port {port}: its ports are {}",
                known.join(", ")
            );
            self.note(object, Code::UnknownPort, target, "port", &message);
            missing = Some(message);
        } else if let Some(subset) = subset
            && let Some(message) = self.missing_subset(&host, name, subset)
        {
            self.note(object, Code::UnknownSubset, target, "subset", &message);
            missing = Some(message);
        }
        Some(weighted(target, name.port(port), subset, missing))
    }

    fn missing_subset(
        &self,
        host: &Hostname,
        name: &ServiceName,
        subset: &SubsetName,
    ) -> Option<String> {
        let policies = policy::deciding(self.index, host, name, self.client);
        let merged = policy::merge(&policies);
        if merged.has_subset(subset) {
            return None;
        }
        let labels = merged.labels();
        let names: Vec<&str> = labels.iter().map(|(name, _)| name.as_str()).collect();
        let whose = self.client.map_or_else(String::new, |client| {
            format!(", for clients in namespace {client}")
        });
        let known = if names.is_empty() {
            String::new()
        } else {
            format!(": there are {}", names.join(", "))
        };
        Some(format!(
            "no DestinationRule for {host}{whose} defines subset {subset}{known}"
        ))
    }

    fn note(&mut self, object: &Object, code: Code, target: &Target, key: &str, message: &str) {
        let path = format!("{}.{key}", target.path);
        let diagnostic = object.diagnose(Severity::Error, code, &path, message.to_owned());
        self.diagnostics.insert(diagnostic);
    }

    /// The name under which a destination that does not exist is asked for.
    fn unknown(
        &self,
        host: &Hostname,
        namespace: &Namespace,
        port: Option<Port>,
    ) -> DestinationName {
        let domain = format!(".svc.{}", self.index.options.settings.cluster_domain);
        let service = host
            .as_str()
            .strip_suffix(&domain)
            .and_then(|short| short.rsplit_once('.'))
            .and_then(|(service, namespace)| {
                Some(ServiceName {
                    namespace: Namespace::parse(namespace).ok()?,
                    service: Hostname::parse(service).ok()?,
                })
            })
            .unwrap_or_else(|| ServiceName {
                namespace: namespace.clone(),
                service: host.clone(),
            });
        service.port(port.unwrap_or(self.port))
    }
}

fn weighted(
    target: &Target,
    destination: DestinationName,
    subset: &Option<SubsetName>,
    missing: Option<String>,
) -> Resolved {
    Resolved {
        backend: WeightedBackend {
            weight: target.weight,
            backend: Backend {
                destination,
                subset: subset.clone(),
            },
        },
        missing,
    }
}
