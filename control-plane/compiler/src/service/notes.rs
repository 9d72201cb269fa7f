//! What became of the routes and policies of a service: notes for the ledger, and warnings about
//! what lost or can never apply.

use std::{collections::BTreeMap, sync::Arc};

use super::{Compiled, Unit};
use crate::{
    Code, Kind, Object, ObjectKey, Severity, index::Index, ledger::FieldState,
    merge::attached::Attached,
};

/// Whether attached routes decide for every port, whoever calls.
#[derive(Default)]
pub(super) struct Coverage {
    /// The first that decides for a port.
    by: Option<ObjectKey>,
    /// There is a port for which none does.
    has_gap: bool,
}

impl Coverage {
    pub(super) fn add(&mut self, deciding: Option<&Attached<'_>>) {
        match deciding {
            None => self.has_gap = true,
            Some((object, _)) => {
                self.by.get_or_insert_with(|| object.key().clone());
            }
        }
    }
}

impl Unit<'_> {
    /// What became of the routes as a whole; of each rule, merging says.
    pub(super) fn note_routes(&mut self) {
        let winner = self.coverage.by.as_ref().filter(|_| !self.coverage.has_gap);
        for (object, routes) in &self.routes {
            let state = match winner {
                Some(by) if routes.tcp.is_empty() => FieldState::Shadowed { by: by.clone() },
                Some(_) | None => FieldState::Active,
            };
            self.out.effects.add(object, "", state);
            for dead in &routes.dead {
                let reason = dead.value.into();
                let state = FieldState::Unreachable { reason };
                self.out.effects.add(object, &dead.path, state);
            }
        }
        if let Some((winner, _)) = self.routes.first() {
            let by = ObjectKey::clone(winner.shared_key());
            for object in self.index.shadowed_routes(self.host) {
                let state = FieldState::Shadowed { by: by.clone() };
                self.out.effects.add(object, "", state);
            }
        }
    }

    /// What became of every policy for the host, in whatever namespace.
    pub(super) fn note_policies(&mut self) {
        for namespace in self.index.policy_namespaces(self.host) {
            let policies = self.index.policies_in(self.host, &namespace);
            let mut base: Option<&Arc<Object>> = None;
            let mut subsets = BTreeMap::new();
            for (object, policy) in &policies {
                self.out.effects.add(object, "", FieldState::Active);
                match (base, &policy.settings) {
                    (None, Some(_)) => base = Some(object),
                    (Some(base), Some(_)) => self.out.shadow(object, "spec.trafficPolicy", base),
                    (_, None) => {}
                }
                for subset in &policy.subsets {
                    match subsets.get(&subset.name) {
                        None => drop(subsets.insert(&subset.name, *object)),
                        Some(by) => self.out.shadow(object, &subset.path, by),
                    }
                }
            }
            let Some((winner, _)) = policies.first() else {
                continue;
            };
            for object in self.index.shadowed_policies(self.host, &namespace) {
                let by = ObjectKey::clone(winner.shared_key());
                self.out
                    .effects
                    .add(object, "", FieldState::Shadowed { by });
            }
        }
    }
}

impl Compiled {
    pub(super) fn shadow(&mut self, object: &Object, path: &str, by: &Object) {
        let by = by.key().clone();
        self.effects.add(object, path, FieldState::Shadowed { by });
    }

    /// Says of every rule or field that lost, or can never apply, that it does.
    pub(super) fn diagnose_effects(&mut self, index: &Index) {
        let mut found = Vec::new();
        for (key, paths) in self.effects.iter() {
            let Some(object) = index.get(key) else {
                continue;
            };
            for (path, state) in paths {
                let (code, message) = match state {
                    FieldState::Shadowed { by } => (
                        Code::Shadowed,
                        format!("{by} decides instead: {}", why_first(by.kind)),
                    ),
                    FieldState::Unreachable { reason } => (
                        Code::Unreachable,
                        format!("it never takes effect: {reason}"),
                    ),
                    FieldState::Active
                    | FieldState::Unsupported
                    | FieldState::Invalid
                    | FieldState::Unknown => continue,
                };
                // A wildcard is made to be overridden; and what was said when the object was
                // read need not be said again.
                let is_said = object.diagnostics().iter().any(|said| said.path == *path);
                if path.is_empty() || is_said {
                    continue;
                }
                found.push(object.diagnose(Severity::Warning, code, path, message));
            }
        }
        self.diagnostics.extend(found);
    }
}

/// Why an object decides rather than another.
fn why_first(kind: Kind) -> &'static str {
    match kind {
        Kind::GrpcRoute => {
            "a GRPCRoute goes before HTTPRoutes and VirtualServices, and an older one first"
        }
        Kind::HttpRoute => "an HTTPRoute goes before VirtualServices, and an older one first",
        Kind::Namespace
        | Kind::Node
        | Kind::Pod
        | Kind::ServiceAccount
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::WorkloadEntry
        | Kind::ServiceEntry
        | Kind::VirtualService
        | Kind::DestinationRule
        | Kind::ReferenceGrant => "it is older or more exact",
    }
}
