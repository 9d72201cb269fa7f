//! The backends of a rule.

use std::sync::Arc;

use outrigger_model::{Filters, Hostname, Namespace, PathText, Port, Weight};

use super::{
    ENTRIES_MAX,
    filter::{self, Place},
};
use crate::{
    Code, Kind, Node, ObjectKey, Severity,
    aliases::ServiceName,
    ir::{Reference, RuleProblem, Target, Targets},
    istio::{Reader, bound, items, number},
    schema::join,
    status::Reason,
};

/// What reading a rule's backends needs to know.
pub(super) struct Backends<'a> {
    /// The route.
    pub(super) key: &'a ObjectKey,
    /// What `ReplacePrefixMatch` replaces.
    pub(super) prefix: Option<PathText>,
}

impl Backends<'_> {
    /// Reads `backendRefs`. A rule that sends to nothing answers 500.
    pub(super) fn read(
        &self,
        reader: &mut Reader,
        node: &Node,
        path: &str,
        problems: &mut Vec<RuleProblem>,
    ) -> Targets {
        let at = join(path, "backendRefs");
        bound(reader, node, path, "backendRefs", ENTRIES_MAX);
        let count = node.get("backendRefs").map_or(0, |list| list.items().len());
        if count > ENTRIES_MAX {
            let message: Arc<str> = format!("{at}: {count} backends are too many").into();
            let reason = Reason::UnsupportedValue;
            problems.push(RuleProblem {
                reason,
                message: Arc::clone(&message),
            });
            return Targets::Invalid(message);
        }
        let mut targets: Vec<Target> = items(node, path, "backendRefs")
            .map(|item| self.target(reader, item.value, &item.path, problems))
            .collect();
        if targets.iter().all(|target| target.weight.get() == 0) {
            let message = if targets.is_empty() {
                "the rule has no backendRefs, so it answers 500"
            } else {
                "all weights are 0, so the rule answers 500"
            };
            let whole = reader
                .invalid(&at)
                .unwrap_or_else(|| format!("{at}: {message}").into());
            let (severity, code) = (Severity::Warning, Code::Unreachable);
            reader.find(severity, code, &at, node, message);
            targets.push(Target {
                path: at.into(),
                to: invalid(Reason::BackendNotFound, &whole),
                weight: Weight::ONE,
                filters: Filters::default(),
            });
        }
        Targets::Forward(targets)
    }

    fn target(
        &self,
        reader: &mut Reader,
        node: &Node,
        path: &str,
        problems: &mut Vec<RuleProblem>,
    ) -> Target {
        let filters = filter::read(reader, node, path, Place::Backend, self.prefix.as_ref());
        let weight = number(node, "weight").and_then(|weight| Weight::new(weight).ok());
        let (to, filters) = match filters {
            Ok(read) => (self.reference(reader, node, path), read.filters),
            Err(problem) => {
                let to = invalid(problem.reason, &problem.message);
                problems.push(problem);
                (to, Filters::default())
            }
        };
        Target {
            path: path.into(),
            to,
            weight: weight.unwrap_or(Weight::ONE),
            filters,
        }
    }

    fn reference(&self, reader: &mut Reader, node: &Node, path: &str) -> Reference {
        let text = |key: &str| node.get(key).and_then(Node::text);
        let (group, kind) = (
            text("group").unwrap_or_default(),
            text("kind").unwrap_or(Kind::Service.as_str()),
        );
        if !group.is_empty() || kind != Kind::Service.as_str() {
            let group = if group.is_empty() { "core" } else { group };
            let message = format!("{kind} of group {group} is no backend: write a Service");
            let whole = format!("{path}: {message}");
            reader.find(Severity::Error, Code::Unsupported, path, node, message);
            return invalid(Reason::InvalidKind, &whole);
        }
        if node.get("port").is_none() {
            let at = join(path, "port");
            let message = "a Service needs the port that requests are sent to: write port";
            reader.find(Severity::Error, Code::MissingField, &at, node, message);
        }
        if let Some(reason) = reader.invalid(path) {
            return invalid(Reason::BackendNotFound, &reason);
        }
        let named = || {
            let namespace = match text("namespace") {
                None | Some("") => self.key.namespace.clone()?,
                Some(text) => Namespace::parse(text).ok()?,
            };
            let service = Hostname::parse(text("name")?).ok()?;
            let port = Port::new(node.get("port")?.integer()?).ok()?;
            Some((ServiceName { namespace, service }, port))
        };
        match named() {
            Some((service, port)) => Reference::Service { service, port },
            None => {
                let message = "namespace or name cannot be those of a service";
                reader.refuse(path, node, message);
                invalid(Reason::BackendNotFound, &format!("{path}: {message}"))
            }
        }
    }
}

fn invalid(reason: Reason, message: &str) -> Reference {
    let message = Arc::from(message);
    Reference::Invalid { reason, message }
}
