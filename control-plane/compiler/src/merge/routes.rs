//! The rules of one service port, from all routes for its host.
//!
//! Objects take their turn by age, rules keep their order within an object. A rule without
//! conditions ends an object's rules; where several objects route one host, the oldest such
//! rule goes behind the conditional rules of all of them, so that a younger object is not dead
//! just because an older one has a default.

use std::sync::Arc;

use outrigger_model::{
    Backend, Filters, HttpAction, HttpBackend, HttpMatch, HttpRule, MethodMatch, Origin, PathMatch,
    Port, RetryPolicy, SubsetName, TcpRule, Timeout, Weight, WeightedBackend,
};

use super::{attached::redirect, targets::Resolver};
use crate::{
    Object, ObjectKey, defaults,
    ir::{HttpRoute, Routes, Target, Targets, TcpRoute, Validity},
    ledger::{Effects, FieldState},
};

/// Where merging puts what it makes.
#[derive(Debug)]
pub(crate) struct Merge<'a> {
    pub(crate) resolver: Resolver<'a>,
    /// The destination that is addressed.
    pub(crate) own: Backend,
    /// What becomes of each rule.
    pub(crate) effects: &'a mut Effects,
}

impl Merge<'_> {
    /// The HTTP rules.
    pub(crate) fn http(&mut self, routes: &[(&Arc<Object>, &Routes)]) -> Vec<HttpRule> {
        let port = self.resolver.port;
        let mut conditional = Sequence::default();
        let mut last: Option<(Arc<ObjectKey>, Vec<HttpRule>)> = None;
        let mut is_routed = false;
        for (object, routes) in routes {
            let mut ended = false;
            for route in &routes.http {
                let Some(form) = HttpForm::on(route, port) else {
                    self.dead(object, &route.path, NEVER);
                    continue;
                };
                if form.is_elsewhere {
                    self.dead(object, &route.path, "the service has no such port");
                    continue;
                }
                is_routed = true;
                if ended {
                    self.dead(object, &route.path, "a rule before it takes every request");
                    continue;
                }
                if form.is_catch_all() {
                    ended = true;
                    match &last {
                        Some((by, _)) => self.shadowed(object, &route.path, by),
                        None => {
                            self.active(object, &route.path);
                            let rules = self.http_rules(object, route, &form);
                            last = Some((Arc::clone(object.shared_key()), rules));
                        }
                    }
                    continue;
                }
                match conditional.covers(&form) {
                    Some(by) if by == object.shared_key() => {
                        self.dead(object, &route.path, "rules before it take all it matches");
                    }
                    Some(by) => {
                        let by = Arc::clone(by);
                        self.shadowed(object, &route.path, &by);
                    }
                    None => {
                        self.active(object, &route.path);
                        let rules = self.http_rules(object, route, &form);
                        conditional.add(object, form, rules);
                    }
                }
            }
        }
        if !is_routed {
            return vec![self.http_default()];
        }
        let last = last.into_iter().flat_map(|(_, rules)| rules);
        conditional.rules.into_iter().chain(last).collect()
    }

    fn http_default(&self) -> HttpRule {
        HttpRule {
            origin: Origin::default_behavior(),
            matches: Vec::new(),
            action: HttpAction::Forward(vec![self.own_backend().into()]),
            filters: Filters::default(),
            timeout: Timeout::Disabled,
            retry: defaults::retry(),
        }
    }

    fn own_backend(&self) -> WeightedBackend {
        WeightedBackend {
            weight: Weight::ONE,
            backend: self.own.clone(),
        }
    }

    /// The rule, and one that answers 500 for those of its matches that are invalid.
    fn http_rules(
        &mut self,
        object: &Arc<Object>,
        route: &HttpRoute,
        form: &HttpForm<'_>,
    ) -> Vec<HttpRule> {
        let origin = Origin::new(&format!("{} {}", object.key(), route.path));
        let rule = |matches: Vec<HttpMatch>, action: HttpAction, retry: RetryPolicy| HttpRule {
            origin: origin.clone(),
            matches,
            action,
            filters: route.filters.clone(),
            timeout: route.timeout,
            retry,
        };
        let mut rules = Vec::new();
        if form.invalid.is_empty() || !form.valid.is_empty() {
            let action = self.action(object, &route.targets);
            let matches = form.valid.iter().map(|valid| (*valid).clone()).collect();
            rules.push(rule(matches, action, route.retry.clone()));
        }
        if let Some((_, reason)) = form.invalid.first() {
            let invalid = form.invalid.iter();
            let matches = invalid.map(|(condition, _)| (*condition).clone()).collect();
            let reason = Origin::new(&format!("{} {reason}", object.key()));
            rules.push(rule(
                matches,
                HttpAction::Invalid { reason },
                route.retry.clone(),
            ));
        }
        rules
    }

    fn action(&mut self, object: &Arc<Object>, targets: &Targets) -> HttpAction {
        let targets = match targets {
            Targets::Forward(targets) => targets,
            Targets::Redirect(redirection) => {
                let redirect = redirect(redirection, self.resolver.port);
                return HttpAction::Redirect(redirect);
            }
            Targets::Invalid(reason) => {
                let reason = Origin::new(&format!("{} {reason}", object.key()));
                return HttpAction::Invalid { reason };
            }
        };
        match self.backends(object, targets) {
            Ok(backends) => {
                let share = |(backend, filters): (WeightedBackend, Filters)| HttpBackend {
                    filters,
                    ..HttpBackend::from(backend)
                };
                HttpAction::Forward(backends.into_iter().map(share).collect())
            }
            Err(reason) => HttpAction::Invalid {
                reason: Origin::new(&format!("{} {reason}", object.key())),
            },
        }
    }

    /// The backends, those that do not exist included: their share fails. `Err` if none exists.
    fn backends(
        &mut self,
        object: &Arc<Object>,
        targets: &[Target],
    ) -> Result<Vec<(WeightedBackend, Filters)>, String> {
        let mut backends = Vec::new();
        let mut reason = None;
        let mut is_alive = false;
        for target in targets {
            let Some(resolved) = self.resolver.resolve(object, target) else {
                continue;
            };
            match resolved.missing {
                Some(missing) => {
                    reason.get_or_insert_with(|| format!("{}: {missing}", target.path));
                }
                None => is_alive |= target.weight.get() > 0,
            }
            backends.push((resolved.backend, target.filters.clone()));
        }
        if is_alive {
            return Ok(backends);
        }
        Err(reason.unwrap_or_else(|| "no backend exists".to_owned()))
    }

    /// The TCP rules.
    pub(crate) fn tcp(&mut self, routes: &[(&Arc<Object>, &Routes)]) -> Vec<TcpRule> {
        let mut rules: Vec<TcpRule> = Vec::new();
        let mut by: Option<Arc<ObjectKey>> = None;
        for (object, routes) in routes {
            for route in &routes.tcp {
                match (tcp_applies(route, self.resolver.port), &by) {
                    (false, _) => self.dead(object, &route.path, NEVER),
                    (true, Some(by)) if by == object.shared_key() => {
                        self.dead(
                            object,
                            &route.path,
                            "a rule before it takes all connections",
                        );
                    }
                    (true, Some(by)) => {
                        let by = Arc::clone(by);
                        self.shadowed(object, &route.path, &by);
                    }
                    (true, None) => {
                        self.active(object, &route.path);
                        rules.push(self.tcp_rule(object, route));
                        by = Some(Arc::clone(object.shared_key()));
                    }
                }
            }
        }
        if rules.is_empty() {
            rules.push(TcpRule {
                origin: Origin::default_behavior(),
                backends: vec![self.own_backend()],
            });
        }
        rules
    }

    fn tcp_rule(&mut self, object: &Arc<Object>, route: &TcpRoute) -> TcpRule {
        let backends = match &route.targets {
            Targets::Forward(targets) => self.backends(object, targets).ok(),
            Targets::Redirect(_) | Targets::Invalid(_) => None,
        };
        let backends = backends.map(|all| all.into_iter().map(|(backend, _)| backend).collect());
        TcpRule {
            origin: Origin::new(&format!("{} {}", object.key(), route.path)),
            backends: backends.unwrap_or_else(|| vec![self.nowhere()]),
        }
    }

    /// An invalid TCP rule has no answer to give: its connections go to a subset that holds no
    /// endpoint, and fail.
    fn nowhere(&self) -> WeightedBackend {
        let subset = SubsetName::parse(INVALID_SUBSET).ok();
        WeightedBackend {
            weight: Weight::ONE,
            backend: Backend {
                destination: self.own.destination.clone(),
                subset,
            },
        }
    }

    pub(super) fn active(&mut self, object: &Arc<Object>, path: &str) {
        self.effects.add(object, path, FieldState::Active);
    }

    pub(super) fn dead(&mut self, object: &Arc<Object>, path: &str, reason: &str) {
        let reason = reason.into();
        self.effects
            .add(object, path, FieldState::Unreachable { reason });
    }

    pub(super) fn shadowed(&mut self, object: &Arc<Object>, path: &str, by: &Arc<ObjectKey>) {
        let by = ObjectKey::clone(by);
        self.effects.add(object, path, FieldState::Shadowed { by });
    }
}

pub(super) const NEVER: &str = "none of its matches can apply";

/// The subset of an invalid TCP rule; the leading `!` keeps it apart from what people write.
const INVALID_SUBSET: &str = "!invalid";

/// An HTTP rule on one port.
struct HttpForm<'a> {
    valid: Vec<&'a HttpMatch>,
    invalid: Vec<(&'a HttpMatch, &'a str)>,
    /// The rule has no conditions at all.
    is_open: bool,
    /// All its matches are for other ports.
    is_elsewhere: bool,
}

impl<'a> HttpForm<'a> {
    /// `None` if no match of the rule can apply on any port.
    fn on(route: &'a HttpRoute, port: Port) -> Option<Self> {
        let mut form = Self {
            valid: Vec::new(),
            invalid: Vec::new(),
            is_open: route.alternatives.is_empty(),
            is_elsewhere: false,
        };
        let mut is_never = !form.is_open;
        for alternative in &route.alternatives {
            let is_here = alternative.port.is_none_or(|wanted| wanted == port);
            is_never &= alternative.validity == Validity::Never;
            match &alternative.validity {
                Validity::Never => {}
                Validity::Valid if is_here => form.valid.push(&alternative.condition),
                Validity::Invalid(reason) if is_here => {
                    form.invalid.push((&alternative.condition, reason));
                }
                Validity::Valid | Validity::Invalid(_) => {}
            }
        }
        form.is_elsewhere = !form.is_open && form.valid.is_empty() && form.invalid.is_empty();
        (!is_never).then_some(form)
    }

    fn is_catch_all(&self) -> bool {
        self.is_open || self.conditions().any(takes_all)
    }

    fn conditions(&self) -> impl Iterator<Item = &'a HttpMatch> {
        let invalid = self.invalid.iter().map(|(condition, _)| *condition);
        self.valid.iter().copied().chain(invalid)
    }
}

fn takes_all(condition: &HttpMatch) -> bool {
    let any_path = match &condition.path {
        PathMatch::Any => true,
        PathMatch::Prefix(text) => text == "/" || text.is_empty(),
        PathMatch::Regex(text) => text == ".*" || text == "/.*",
        PathMatch::Exact(_) | PathMatch::Elements(_) => false,
    };
    any_path
        && condition.method == MethodMatch::Any
        && condition.headers.is_empty()
        && condition.query.is_empty()
}

/// Conditional rules so far, and what they take.
#[derive(Default)]
struct Sequence {
    rules: Vec<HttpRule>,
    taken: Vec<(HttpMatch, Arc<ObjectKey>)>,
}

impl Sequence {
    /// The object of the rules that take all a rule matches, by the same conditions.
    fn covers(&self, form: &HttpForm<'_>) -> Option<&Arc<ObjectKey>> {
        let mut by = None;
        for condition in form.conditions() {
            let (_, object) = self.taken.iter().find(|(taken, _)| taken == condition)?;
            by = Some(object);
        }
        by
    }

    fn add(&mut self, object: &Arc<Object>, form: HttpForm<'_>, rules: Vec<HttpRule>) {
        for condition in form.conditions() {
            let key = Arc::clone(object.shared_key());
            self.taken.push((condition.clone(), key));
        }
        self.rules.extend(rules);
    }
}

fn tcp_applies(route: &TcpRoute, port: Port) -> bool {
    route.alternatives.is_empty()
        || route.alternatives.iter().any(|alternative| {
            alternative.validity != Validity::Never
                && alternative.port.is_none_or(|wanted| wanted == port)
        })
}
