//! The rules of one service port, from the Gateway API's routes that are attached to it.
//!
//! Matches are ranked one by one over all routes, the most exact first; of equal ones the older
//! route's, then by `namespace/name`, then in the order written. Which routes there are to rank
//! depends on the client: those of its own namespace for a service elsewhere (consumer routes) go
//! before the service's own (producer routes), and GRPCRoutes go before HTTPRoutes, which they
//! are never merged with.
//!
//! Longer than most, because precedence over routes, namespaces and kinds is one order, and readers
//! have to see all of it.

mod reference;

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use outrigger_model::{
    HttpAction, HttpBackend, HttpMatch, HttpRule, HttpTarget, Namespace, Origin, Port, Redirect,
    Scheme,
};

pub(crate) use reference::{refusal, unresolved};

use reference::resolve;

use super::routes::{Merge, NEVER};
use crate::{
    Kind, Object, Severity,
    aliases::ServiceName,
    gateway::takes_all,
    ir::{
        AttachedRoutes, AttachedRule, HttpAlternative, Rank, Redirection, Reference, Routes,
        Target, Targets, Validity,
    },
    ledger::FieldState,
    object::ServicePort,
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
        for (object, routes) in routes {
            self.active(object, "");
            for dead in &routes.dead {
                self.dead(object, &dead.path, dead.value);
            }
        }
        let mut rules: Vec<HttpRule> = Vec::new();
        let mut taken: HashMap<&HttpMatch, &Arc<Object>> = HashMap::new();
        for one in ranked {
            let path = &one.alternative.path;
            if one.alternative.validity != Validity::Valid {
                self.dead(one.object, path, NEVER);
                continue;
            }
            if let Some(by) = taken.get(&one.alternative.condition) {
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
            taken.insert(&one.alternative.condition, one.object);
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
