//! The rules of one service port, from the Gateway API's routes that are attached to it.
//!
//! Matches are ranked one by one over all routes, the most exact first; of equal ones the older
//! route's, then by `namespace/name`, then in the order written. Which routes there are to rank
//! depends on the client: those of its own namespace for a service elsewhere (consumer routes) go
//! before the service's own (producer routes), and GRPCRoutes go before HTTPRoutes, which they
//! are never merged with.

use std::{cmp::Reverse, collections::BTreeSet, sync::Arc};

use outrigger_model::{
    DestinationName, HttpAction, HttpBackend, HttpRule, HttpTarget, Namespace, Origin, Port,
    Redirect, Scheme,
};

use super::routes::{Merge, NEVER};
use crate::{
    Code, Kind, Object, Severity,
    aliases::ServiceName,
    gateway::takes_all,
    index::Index,
    ir::{
        AttachedRoutes, AttachedRule, HttpAlternative, Parent, Rank, Redirection, Reference,
        Routes, Target, Targets, Validity,
    },
    ledger::FieldState,
    merge::targets::UNKNOWN_HOST,
    object::ServicePort,
    status::Reason,
};

/// Rules of one table, the most that a sidecar takes; what goes beyond is unreachable.
const RULES_MAX: usize = 4_096;

/// A route and what it says.
pub(crate) type Attached<'a> = (&'a Arc<Object>, &'a AttachedRoutes);

/// Routes for a port, seen from a client: those that decide, and those that lose to them.
#[derive(Debug, Default)]
pub(crate) struct Selection<'a> {
    pub(crate) deciding: Vec<Attached<'a>>,
    /// HTTPRoutes beside GRPCRoutes.
    pub(crate) shadowed: Vec<Attached<'a>>,
}

/// Which of `routes` (all that are attached to a service, in their order) count for a port and a
/// client's namespace (`None`: any that has no routes of its own).
pub(crate) fn select<'a>(
    routes: &[Attached<'a>],
    service: &ServiceName,
    port: &ServicePort,
    client: Option<&Namespace>,
) -> Selection<'a> {
    let of = |namespace: Option<&Namespace>| -> Vec<Attached<'a>> {
        let is_on = |attached: &&Attached<'a>| {
            namespace.is_some()
                && attached.0.namespace() == namespace
                && is_attached(attached.1, service, port)
        };
        routes.iter().filter(is_on).copied().collect()
    };
    let mut chosen = of(client);
    if chosen.is_empty() {
        chosen = of(Some(&service.namespace));
    }
    let is_grpc = |attached: &Attached<'a>| attached.0.key().kind == Kind::GrpcRoute;
    if chosen.iter().any(is_grpc) {
        let (deciding, shadowed) = chosen.into_iter().partition(is_grpc);
        return Selection { deciding, shadowed };
    }
    Selection {
        deciding: chosen,
        shadowed: Vec::new(),
    }
}

fn is_attached(routes: &AttachedRoutes, service: &ServiceName, port: &ServicePort) -> bool {
    routes.parents.iter().any(|parent| {
        parent.service.as_ref() == Some(service) && parent.reference.is_on(&port.name, port.port)
    })
}

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
struct Unresolved {
    reason: Reason,
    code: Code,
    /// The field that is to blame.
    key: &'static str,
    message: String,
}

fn resolve(
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

/// One match in its place.
struct Ranked<'a> {
    object: &'a Arc<Object>,
    rule: &'a AttachedRule,
    alternative: &'a HttpAlternative,
    rank: Rank,
    /// Of the route, its rule and its match.
    place: (usize, usize, usize),
}

impl Merge<'_> {
    /// The HTTP rules of attached routes.
    pub(crate) fn attached(&mut self, routes: &[Attached<'_>]) -> Vec<HttpRule> {
        let mut ranked = ranked(routes);
        ranked.sort_by_key(|one| (Reverse(one.rank), one.place));
        for (object, _) in routes {
            self.active(object, "");
        }
        let mut rules: Vec<HttpRule> = Vec::new();
        let mut taken: Vec<(&HttpAlternative, &Arc<Object>)> = Vec::new();
        for one in ranked {
            let path = &one.alternative.path;
            if one.alternative.validity != Validity::Valid {
                self.dead(one.object, path, NEVER);
                continue;
            }
            let is_same = |(other, _): &&(&HttpAlternative, &Arc<Object>)| {
                other.condition == one.alternative.condition
            };
            if let Some((_, by)) = taken.iter().find(is_same) {
                if by.key() == one.object.key() {
                    self.dead(
                        one.object,
                        path,
                        "a match before it takes all that it matches",
                    );
                } else {
                    self.shadowed(one.object, path, by.shared_key());
                }
                continue;
            }
            if rules.len() >= RULES_MAX {
                self.dead(one.object, path, "the service has too many routes");
                continue;
            }
            taken.push((one.alternative, one.object));
            self.active(one.object, path);
            self.active(one.object, &one.rule.route.path);
            rules.push(self.attached_rule(&one));
        }
        rules
    }

    fn attached_rule(&mut self, one: &Ranked<'_>) -> HttpRule {
        let route = &one.rule.route;
        let condition = &one.alternative.condition;
        HttpRule {
            origin: Origin::new(&format!("{} {}", one.object.key(), route.path)),
            matches: if takes_all(condition) {
                Vec::new()
            } else {
                vec![condition.clone()]
            },
            action: self.attached_action(one.object, &route.targets),
            filters: route.filters.clone(),
            timeout: route.timeout,
            retry: route.retry.clone(),
        }
    }

    fn attached_action(&mut self, object: &Arc<Object>, targets: &Targets) -> HttpAction {
        match targets {
            Targets::Forward(targets) => {
                let shares = targets.iter().map(|target| HttpBackend {
                    weight: target.weight,
                    target: self.attached_target(object, target),
                    filters: target.filters.clone(),
                });
                HttpAction::Forward(shares.collect())
            }
            Targets::Redirect(redirection) => {
                HttpAction::Redirect(redirect(redirection, self.resolver.port))
            }
            Targets::Invalid(reason) => HttpAction::Invalid {
                reason: Origin::new(&format!("{} {reason}", object.key())),
            },
        }
    }

    fn attached_target(&mut self, object: &Arc<Object>, target: &Target) -> HttpTarget {
        let invalid = |message: &str| HttpTarget::Invalid {
            reason: Origin::new(&format!("{} {message}", object.key())),
        };
        let (service, port) = match &target.to {
            Reference::Service { service, port } => (service, *port),
            Reference::Invalid { message, .. } => return invalid(message),
            // The front end of attached routes names services.
            Reference::Host { .. } => return invalid(&target.path),
        };
        let resolver = &mut self.resolver;
        resolver
            .references
            .extend(resolver.index.full_host(service));
        if object.namespace() != Some(&service.namespace) {
            resolver.grants.insert(service.namespace.clone());
        }
        match resolve(resolver.index, object, service, port) {
            Ok(destination) => HttpTarget::Backend(outrigger_model::Backend {
                destination,
                subset: None,
            }),
            Err(unresolved) => {
                let path = format!("{}.{}", target.path, unresolved.key);
                let (severity, code) = (Severity::Error, unresolved.code);
                let reason = invalid(&format!("{path}: {}", unresolved.message));
                let found = object.diagnose(severity, code, &path, unresolved.message);
                resolver.diagnostics.insert(found);
                reason
            }
        }
    }

    /// Notes that attached routes decide instead of VirtualServices.
    pub(crate) fn shadow_http(&mut self, routes: &[(&Arc<Object>, &Routes)], by: &Arc<Object>) {
        for (object, routes) in routes {
            for route in &routes.http {
                self.shadowed(object, &route.path, by.shared_key());
            }
        }
    }

    /// Notes that GRPCRoutes decide instead of HTTPRoutes.
    pub(crate) fn shadow_attached(&mut self, routes: &[Attached<'_>], by: &Arc<Object>) {
        for (object, routes) in routes {
            let state = FieldState::Shadowed {
                by: by.key().clone(),
            };
            self.effects.add(object, "", state);
            for rule in &routes.rules {
                self.shadowed(object, &rule.route.path, by.shared_key());
            }
        }
    }
}

fn ranked<'a>(routes: &[Attached<'a>]) -> Vec<Ranked<'a>> {
    let mut ranked = Vec::new();
    for (order, (object, routes)) in routes.iter().enumerate() {
        for (number, rule) in routes.rules.iter().enumerate() {
            let alternatives = rule.route.alternatives.iter().zip(&rule.ranks);
            for (at, (alternative, rank)) in alternatives.enumerate() {
                ranked.push(Ranked {
                    object,
                    rule,
                    alternative,
                    rank: *rank,
                    place: (order, number, at),
                });
            }
        }
    }
    ranked
}

/// Scheme and port that the redirect leaves open follow from the port that was addressed.
pub(super) fn redirect(redirection: &Redirection, addressed: Port) -> Redirect {
    let own = |number: u16| Port::new(number).unwrap_or(addressed);
    let port = match (redirection.port, redirection.scheme) {
        (Some(port), _) => port,
        (None, Some(Scheme::Http)) => own(80),
        (None, Some(Scheme::Https)) => own(443),
        (None, None) => addressed,
    };
    Redirect {
        scheme: redirection.scheme.unwrap_or(Scheme::Http),
        host: redirection.host.clone(),
        port,
        path: redirection.path.clone(),
        status: redirection.status,
    }
}

/// What precedes what among attached routes: the older, then by `namespace/name` as text.
pub(crate) fn age(object: &Object) -> impl Ord + use<> {
    let created = object.metadata().created;
    let namespace = object.namespace().map(Namespace::to_string);
    let name = format!("{}/{}", namespace.unwrap_or_default(), object.key().name);
    (created.is_none(), created, name, object.key().kind)
}

/// Namespaces whose clients may see other routes than the rest: those of consumer routes.
pub(crate) fn client_namespaces(
    routes: &[Attached<'_>],
    service: &ServiceName,
) -> BTreeSet<Namespace> {
    let namespaces = routes.iter().filter_map(|(object, _)| object.namespace());
    namespaces
        .filter(|namespace| **namespace != service.namespace)
        .cloned()
        .collect()
}
