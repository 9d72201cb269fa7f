//! The Gateway API front end: HTTPRoute and GRPCRoute to the intermediate representation.
//!
//! Follows the field documentation of Gateway API 1.7 for routes whose parents are Services (the
//! mesh). Works on documents that `schema` has walked. A match that cannot be used never applies; a
//! rule whose filters or backends cannot be used answers 500; each says so in the route's status.

mod backend;
mod filter;
mod matching;
mod parent;

use std::sync::Arc;

use outrigger_model::{
    Backoff, HttpMatch, PathMatch, PathText, Ratio, RetryConditions, RetryPolicy, Timeout,
};

use crate::{
    Node, ObjectKey, defaults,
    ir::{
        AttachedRoutes, AttachedRule, HttpAlternative, HttpRoute, Parent, RuleProblem, Sourced,
        Targets, Validity,
    },
    istio::{Reader, items, number, time},
    schema::join,
    status::Reason,
};

/// Entries of `headers`, `queryParams`, `backendRefs`, and of what a filter sets, adds or removes,
/// the most that the CRDs take.
const ENTRIES_MAX: usize = 16;

/// Reads one match of a rule.
type ReadMatch = fn(&mut Reader, &Node, &Arc<str>) -> matching::Ranked;

/// Reads an HTTPRoute.
pub(crate) fn read_http(reader: &mut Reader, object: &Node, key: &ObjectKey) -> AttachedRoutes {
    let empty = Node::map(object.position, []);
    let spec = object.get("spec").unwrap_or(&empty);
    let mut rules: Vec<_> = items(spec, "spec", "rules")
        .map(|item| rule(reader, item.value, &item.path, key, matching::http))
        .collect();
    if rules.is_empty() {
        // The CRD's default: one rule for every request. It has no backend.
        let path = "spec.rules".into();
        rules.push(rule(reader, &empty, &path, key, matching::http));
    }
    let parents = parent::read(reader, spec, key);
    AttachedRoutes {
        dead: dead(spec, &parents),
        parents,
        rules,
    }
}

/// Reads a GRPCRoute.
pub(crate) fn read_grpc(reader: &mut Reader, object: &Node, key: &ObjectKey) -> AttachedRoutes {
    let empty = Node::map(object.position, []);
    let spec = object.get("spec").unwrap_or(&empty);
    let rules = items(spec, "spec", "rules")
        .map(|item| rule(reader, item.value, &item.path, key, matching::grpc))
        .collect();
    let parents = parent::read(reader, spec, key);
    AttachedRoutes {
        dead: dead(spec, &parents),
        parents,
        rules,
    }
}

/// `hostnames`, unless there is a parent that may be a gateway.
fn dead(spec: &Node, parents: &[Parent]) -> Vec<Sourced<&'static str>> {
    let is_for_mesh = parents.iter().all(|parent| parent.service.is_some());
    let hostnames = spec.get("hostnames").filter(|_| is_for_mesh);
    let dead = hostnames.map(|_| Sourced {
        value: "parents of kind Service are addressed as themselves, whatever host names say",
        path: "spec.hostnames".into(),
    });
    dead.into_iter().collect()
}

fn rule(
    reader: &mut Reader,
    node: &Node,
    path: &Arc<str>,
    key: &ObjectKey,
    read_match: ReadMatch,
) -> AttachedRule {
    let mut matches: Vec<matching::Ranked> = items(node, path, "matches")
        .map(|item| read_match(reader, item.value, &item.path))
        .collect();
    let match_path = join(path, "matches");
    if matches.is_empty() {
        matches.push(matching::everything(path, node));
        if let Some(reason) = reader.invalid(&match_path) {
            // Not even a list: nothing tells what the rule is for.
            matches[0].alternative.validity = Validity::Invalid(reason);
        }
    }
    let mut problems: Vec<RuleProblem> = matches
        .iter_mut()
        .filter_map(|one| drop_invalid(&mut one.alternative))
        .collect();
    let prefix = sole_prefix(&matches);
    let filters = filter::read(reader, node, path, filter::Place::Rule, prefix.as_ref());
    let (filters, redirect) = match filters {
        Ok(read) => (Ok(read.filters), read.redirect),
        Err(problem) => (Err(problem), None),
    };
    let backends = backend::Backends { key, prefix };
    let targets = match (&filters, redirect) {
        (Err(problem), _) => Targets::Invalid(Arc::clone(&problem.message)),
        (Ok(_), Some(redirect)) => Targets::Redirect(redirect),
        (Ok(_), None) => backends.read(reader, node, path, &mut problems),
    };
    let filters = filters.unwrap_or_else(|problem| {
        problems.push(problem);
        Default::default()
    });
    let (ranks, alternatives) = matches
        .into_iter()
        .map(|one| (one.rank, one.alternative))
        .unzip();
    let route = HttpRoute {
        path: Arc::clone(path),
        alternatives,
        targets,
        filters,
        timeout: timeout(node, "request"),
        retry: retry(reader, node, path),
    };
    AttachedRule {
        route,
        ranks,
        problems,
    }
}

/// A match that cannot be used never applies, so that it takes nothing from other rules.
fn drop_invalid(alternative: &mut HttpAlternative) -> Option<RuleProblem> {
    let Validity::Invalid(reason) = &alternative.validity else {
        return None;
    };
    let message = Arc::clone(reason);
    alternative.validity = Validity::Never;
    Some(RuleProblem {
        reason: Reason::UnsupportedValue,
        message,
    })
}

/// The prefix that `ReplacePrefixMatch` replaces: that of the rule's only match.
fn sole_prefix(matches: &[matching::Ranked]) -> Option<PathText> {
    let [only] = matches else { return None };
    match &only.alternative.condition.path {
        PathMatch::Any => Some(PathText::default()),
        PathMatch::Elements(prefix) => PathText::parse(prefix).ok(),
        PathMatch::Exact(_) | PathMatch::Prefix(_) | PathMatch::Regex(_) => None,
    }
}

fn timeout(node: &Node, key: &str) -> Timeout {
    let timeouts = node.get("timeouts");
    match timeouts.and_then(|timeouts| time(timeouts, key)) {
        Some(value) if !value.is_zero() => Timeout::After(value),
        Some(_) | None => Timeout::Disabled,
    }
}

/// `retry`, and `timeouts.backendRequest` for each try.
fn retry(reader: &mut Reader, node: &Node, path: &str) -> RetryPolicy {
    let mut policy = defaults::retry();
    if let Some(retry) = node.get("retry") {
        let codes = retry.get("codes").map(Node::items).unwrap_or_default();
        let base = time(retry, "backoff").filter(|base| !base.is_zero());
        let base = base.unwrap_or(defaults::RETRY_BACKOFF_BASE);
        policy = RetryPolicy {
            attempts: number(retry, "attempts")
                .and_then(|attempts| u8::try_from(attempts).ok())
                .unwrap_or(1),
            on: RetryConditions {
                connect_failure: true,
                refused_stream: true,
                statuses: codes
                    .iter()
                    .filter_map(|code| u16::try_from(code.integer()?).ok())
                    .collect(),
                ..RetryConditions::default()
            },
            on_idempotent: RetryConditions::default(),
            backoff: Backoff {
                base,
                max: base.saturating_mul(10),
                jitter: Ratio::ONE,
            },
            ..policy
        };
        // A try that ran out of time may have been processed: only what may be repeated safely is.
        policy.on_idempotent.per_try_timeout = true;
    }
    policy.per_try_timeout = timeout(node, "backendRequest");
    if let (Timeout::After(whole), Timeout::After(each)) =
        (timeout(node, "request"), policy.per_try_timeout)
        && each > whole
    {
        let at = join(&join(path, "timeouts"), "backendRequest");
        let value = node.get("timeouts").unwrap_or(node);
        let message = "it is longer than request, which ends the tries: write at most as much";
        reader.refuse(&at, value, message);
        policy.per_try_timeout = Timeout::Disabled;
    }
    policy
}

/// Whether a condition holds for every request.
pub(crate) fn takes_all(condition: &HttpMatch) -> bool {
    condition.path == PathMatch::Any
        && condition.method == outrigger_model::MethodMatch::Any
        && condition.headers.is_empty()
        && condition.query.is_empty()
}
