//! What attached routes refer to: whether a parent takes a route, whether a backend exists and may
//! be named. Merging asks for each backend, the status for all of a route.

use outrigger_model::{DestinationName, Namespace, Port};

use super::{Attached, select};
use crate::{
    Code, Kind, Object,
    aliases::ServiceName,
    index::Index,
    ir::{AttachedRoutes, Parent, Reference, Targets},
    merge::targets::UNKNOWN_HOST,
    object::ServicePort,
    status::Reason,
};

/// Why a parent does not take a route; `None` if it does.
pub(crate) fn refusal(
    index: &Index,
    object: &Object,
    parent: &Parent,
    service: &ServiceName,
) -> Option<(Reason, String)> {
    let ports = service_ports(index, service);
    let Some(ports) = ports else {
        let message = format!("there is no service {service}");
        return Some((Reason::NoMatchingParent, message));
    };
    let mut on = ports
        .iter()
        .filter(|port| parent.reference.is_on(&port.name, port.port))
        .peekable();
    if on.peek().is_none() {
        let known: Vec<String> = ports.iter().map(|port| port.port.to_string()).collect();
        let message = format!(
            "service {service} has no port of that name and number: its ports are {}",
            known.join(", ")
        );
        return Some((Reason::NoMatchingParent, message));
    }
    let all = index.attached(service);
    let winners = on.map(|port| {
        let selection = select(&all, service, port, object.namespace());
        let is_shadowed = |attached: &Attached<'_>| attached.0.key() == object.key();
        let winner = selection.deciding.first().map(|(winner, _)| winner.key());
        winner
            .filter(|_| selection.shadowed.iter().any(is_shadowed))
            .cloned()
    });
    let winners: Option<Vec<_>> = winners.collect();
    let by = winners?.into_iter().next()?;
    let message = format!("{by} decides for these ports: HTTPRoutes and GRPCRoutes are not merged");
    Some((Reason::Conflicted, message))
}

/// The ports of a Kubernetes Service; `None` if there is none of that name.
fn service_ports<'a>(index: &'a Index, service: &ServiceName) -> Option<&'a [ServicePort]> {
    let claims = index.claims(service);
    let claim = claims
        .iter()
        .find(|claim| claim.object.key().kind == Kind::Service)?;
    Some(&claim.service.ports)
}

/// Why a backend cannot be used.
pub(super) struct Unresolved {
    pub(super) reason: Reason,
    pub(super) code: Code,
    /// The field that is to blame.
    pub(super) key: &'static str,
    pub(super) message: String,
}

/// The destination of a backend.
///
/// # Errors
/// When it does not exist or may not be referred to.
pub(super) fn resolve(
    index: &Index,
    object: &Object,
    service: &ServiceName,
    port: Port,
) -> Result<DestinationName, Unresolved> {
    // Permission first: whether something exists elsewhere is nobody's business. A route may send
    // to its own parents: its clients call them as it is.
    let parents = object.attached().map_or(&[][..], |routes| &routes.parents);
    let is_parent = parents
        .iter()
        .any(|parent| parent.service.as_ref() == Some(service));
    if !is_parent && !index.permits(object, service) {
        return Err(Unresolved {
            reason: Reason::RefNotPermitted,
            code: Code::NotPermitted,
            key: "namespace",
            message: format!(
                "no ReferenceGrant in namespace {} lets {}s of namespace {} refer to service {}",
                service.namespace,
                object.key().kind,
                object.namespace().map_or("", Namespace::as_str),
                service.service
            ),
        });
    }
    let missing = |code, key, message| Unresolved {
        reason: Reason::BackendNotFound,
        code,
        key,
        message,
    };
    let Some(ports) = service_ports(index, service) else {
        let host = index.full_host(service);
        let host = host.map_or_else(|| service.to_string(), |host| host.to_string());
        let message = format!("{UNKNOWN_HOST}{host}");
        return Err(missing(Code::UnknownHost, "name", message));
    };
    if ports.iter().all(|own| own.port != port) {
        let known: Vec<String> = ports.iter().map(|port| port.port.to_string()).collect();
        let message = format!(
            "service {service} has no port {port}: its ports are {}",
            known.join(", ")
        );
        return Err(missing(Code::UnknownPort, "port", message));
    }
    Ok(service.port(port))
}

/// The first backend that is named wrongly, and how many more there are; `None` if all can be used.
pub(crate) fn unresolved(
    index: &Index,
    object: &Object,
    routes: &AttachedRoutes,
) -> Option<(Reason, String)> {
    let targets = routes
        .rules
        .iter()
        .flat_map(|rule| match &rule.route.targets {
            Targets::Forward(targets) => targets.as_slice(),
            Targets::Redirect(_) | Targets::Invalid(_) => &[],
        });
    let mut found = targets.filter_map(|target| match &target.to {
        Reference::Service { service, port } => {
            let unresolved = resolve(index, object, service, *port).err()?;
            let message = format!("{}.{}: {}", target.path, unresolved.key, unresolved.message);
            Some((unresolved.reason, message))
        }
        Reference::Invalid {
            reason: Reason::InvalidKind,
            message,
        } => Some((Reason::InvalidKind, message.to_string())),
        Reference::Invalid {
            reason: Reason::BackendNotFound,
            message,
        } if target.path.ends_with(']') => Some((Reason::BackendNotFound, message.to_string())),
        Reference::Invalid { .. } | Reference::Host { .. } => None,
    });
    let (reason, message) = found.next()?;
    let more = found.count();
    let more = if more == 0 {
        String::new()
    } else {
        format!("; and {more} more")
    };
    Some((reason, format!("{message}{more}")))
}
