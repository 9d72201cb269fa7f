//! What an object's `status` says: a pure value, written by whoever has the API server.
//!
//! For routes of the Gateway API, conditions for each parent that is ours, as its documentation
//! defines them (`RouteParentStatus`); for Istio's kinds, what became of their fields, in short.
//! Equal objects give equal values: there is no time in them.

use std::{fmt, sync::Arc};

use outrigger_model::{Namespace, Port};

use crate::{FieldState, Kind, LedgerEntry, Object, ObjectKey, index::Index, merge::attached};

/// `controllerName` of every parent's status.
pub const CONTROLLER_NAME: &str = "outrigger.dev/mesh";

/// Longest message of a condition, in characters (the CRDs allow 32,768).
const MESSAGE_CHARS_MAX: usize = 1_024;

/// What to write into an object's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectStatus {
    /// HTTPRoute and GRPCRoute: one entry for each parent that is a Service, in the order written.
    /// Entries of other controllers are not ours to touch.
    Route(Vec<ParentStatus>),
    /// VirtualService and DestinationRule.
    Fields(FieldSummary),
}

/// `status.parents[]` of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentStatus {
    /// `parentRef`, as the route writes it.
    pub parent: ParentReference,
    /// `conditions`, in the order of [`ConditionKind`].
    pub conditions: Vec<Condition>,
}

impl ParentStatus {
    /// `controllerName`.
    #[must_use]
    pub fn controller_name(&self) -> &'static str {
        CONTROLLER_NAME
    }
}

/// A parent as a route names it, the defaults of group and kind filled in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParentReference {
    /// `group`.
    pub group: Arc<str>,
    /// `kind`.
    pub kind: Arc<str>,
    /// `namespace`, if it is written.
    pub namespace: Option<Arc<str>>,
    /// `name`.
    pub name: Arc<str>,
    /// `sectionName`: the name of a port.
    pub section_name: Option<Arc<str>>,
    /// `port`.
    pub port: Option<Port>,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// `type`.
    pub kind: ConditionKind,
    /// `status`: `True` or `False`.
    pub is_true: bool,
    /// `reason`.
    pub reason: Reason,
    /// `message`, for people.
    pub message: String,
    /// `observedGeneration`; 0 for objects from files.
    pub observed_generation: i64,
}

/// Types of conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConditionKind {
    /// The parent takes the route.
    Accepted,
    /// Every backend exists and may be referred to.
    ResolvedRefs,
    /// Some of the rules answer 500; absent where that is not so.
    PartiallyInvalid,
}

/// Reasons of conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// All is well.
    Accepted,
    /// All is well.
    ResolvedRefs,
    /// The parent, or a port of it, does not exist.
    NoMatchingParent,
    /// A GRPCRoute decides for the same ports: the two kinds are never merged.
    Conflicted,
    /// A value or filter that is not supported, or cannot be used.
    UnsupportedValue,
    /// Filters that exclude each other.
    IncompatibleFilters,
    /// A backend of another namespace that no ReferenceGrant allows.
    RefNotPermitted,
    /// A backend of a kind that is no backend.
    InvalidKind,
    /// A backend, or a port of it, that does not exist.
    BackendNotFound,
}

/// What became of an object's fields, in short. Paths are those of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSummary {
    /// How many fields have an effect.
    pub active: usize,
    /// Fields that another object decides, and which.
    pub shadowed: Vec<(String, ObjectKey)>,
    /// Fields that can have no effect, and why.
    pub unreachable: Vec<(String, Arc<str>)>,
    /// Fields that are not supported yet.
    pub unsupported: Vec<String>,
    /// Fields whose values cannot be used, and fields that do not exist.
    pub invalid: Vec<String>,
    /// `metadata.generation`; 0 for objects from files.
    pub observed_generation: i64,
}

impl fmt::Display for ConditionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::PartiallyInvalid => "PartiallyInvalid",
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::NoMatchingParent => "NoMatchingParent",
            Self::Conflicted => "Conflicted",
            Self::UnsupportedValue => "UnsupportedValue",
            Self::IncompatibleFilters => "IncompatibleFilters",
            Self::RefNotPermitted => "RefNotPermitted",
            Self::InvalidKind => "InvalidKind",
            Self::BackendNotFound => "BackendNotFound",
        })
    }
}

/// The status of an object; `None` for kinds whose status is not ours.
pub(crate) fn of(index: &Index, object: &Object, ledger: &[LedgerEntry]) -> Option<ObjectStatus> {
    match object.key().kind {
        Kind::HttpRoute | Kind::GrpcRoute => Some(ObjectStatus::Route(parents(index, object))),
        Kind::VirtualService | Kind::DestinationRule => {
            Some(ObjectStatus::Fields(summary(object, ledger)))
        }
        Kind::Namespace
        | Kind::Node
        | Kind::Pod
        | Kind::ServiceAccount
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::WorkloadEntry
        | Kind::ServiceEntry
        | Kind::ReferenceGrant => None,
    }
}

fn generation(object: &Object) -> i64 {
    object.metadata().generation.unwrap_or(0)
}

fn parents(index: &Index, object: &Object) -> Vec<ParentStatus> {
    let Some(routes) = object.attached() else {
        return Vec::new();
    };
    let condition = |kind, is_true, reason, message: String| Condition {
        kind,
        is_true,
        reason,
        message: message.chars().take(MESSAGE_CHARS_MAX).collect(),
        observed_generation: generation(object),
    };
    let resolved = match attached::unresolved(index, object, routes) {
        None => (
            true,
            Reason::ResolvedRefs,
            "every backend exists".to_owned(),
        ),
        Some((reason, message)) => (false, reason, message),
    };
    let problems: Vec<_> = routes
        .rules
        .iter()
        .filter_map(|rule| rule.problems.first())
        .collect();
    let ours = routes.parents.iter().filter_map(|parent| {
        let service = parent.service.as_ref()?;
        let (accepted, reason, message) = match attached::refusal(index, object, parent, service) {
            Some((reason, message)) => (false, reason, message),
            None => match problems.first() {
                Some(first) if problems.len() == routes.rules.len() => {
                    (false, first.reason, first.message.to_string())
                }
                Some(_) | None => (
                    true,
                    Reason::Accepted,
                    format!("the route applies to service {service}"),
                ),
            },
        };
        let mut conditions = vec![
            condition(ConditionKind::Accepted, accepted, reason, message),
            condition(
                ConditionKind::ResolvedRefs,
                resolved.0,
                resolved.1,
                resolved.2.clone(),
            ),
        ];
        if let (true, Some(first)) = (accepted, problems.first()) {
            let all: Vec<&str> = problems.iter().map(|problem| &*problem.message).collect();
            let message = format!("Dropped Rule(s), answered 500: {}", all.join("; "));
            let kind = ConditionKind::PartiallyInvalid;
            conditions.push(condition(kind, true, first.reason, message));
        }
        Some(ParentStatus {
            parent: parent.reference.clone(),
            conditions,
        })
    });
    ours.collect()
}

fn summary(object: &Object, ledger: &[LedgerEntry]) -> FieldSummary {
    let mut summary = FieldSummary {
        observed_generation: generation(object),
        ..FieldSummary::default()
    };
    let spec = ledger
        .iter()
        .filter(|entry| !entry.path.starts_with("metadata"));
    for entry in spec {
        let path = entry.path.clone();
        match &entry.state {
            FieldState::Active => summary.active += 1,
            FieldState::Shadowed { by } => summary.shadowed.push((path, by.clone())),
            FieldState::Unreachable { reason } => {
                summary.unreachable.push((path, Arc::clone(reason)));
            }
            FieldState::Unsupported => summary.unsupported.push(path),
            FieldState::Invalid | FieldState::Unknown => summary.invalid.push(path),
        }
    }
    summary
}

impl ParentReference {
    /// Whether it means a port of the service: every one if it names none.
    pub(crate) fn is_on(&self, name: &str, port: Port) -> bool {
        self.port.is_none_or(|own| own == port)
            && self.section_name.as_deref().is_none_or(|own| own == name)
    }
}

/// The namespace that a parent is in.
pub(crate) fn namespace_of(reference: &ParentReference, own: &Namespace) -> Option<Namespace> {
    match &reference.namespace {
        None => Some(own.clone()),
        Some(namespace) => Namespace::parse(namespace).ok(),
    }
}
