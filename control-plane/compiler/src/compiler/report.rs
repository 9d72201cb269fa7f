//! What the compiler has to say: diagnostics, the ledger, statuses. All are functions of what it
//! keeps, made when asked for.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_model::Hostname;

use super::Compiler;
use crate::{
    Code, Diagnostic, Object, ObjectKey, ObjectStatus, Reason, Severity,
    ir::{AttachedRoutes, Host},
    ledger::{self, FieldState, LedgerEntry, Notes},
    merge::{attached, targets::UNKNOWN_HOST},
    object::Spec,
    schema::nearest,
    status,
};

impl Compiler {
    /// Everything there is to say about the objects, errors first. Walks all of them: for when
    /// something changed, not for each request.
    #[must_use]
    pub fn diagnostics(&self) -> BTreeSet<Diagnostic> {
        let mut all = BTreeSet::new();
        for object in self.index.objects() {
            all.extend(object.diagnostics().iter().cloned());
            self.unmatched(object, &mut all);
        }
        let compiled = self.services.values();
        for diagnostic in compiled.flat_map(|service| &service.diagnostics) {
            all.insert(self.with_hint(diagnostic.clone()));
        }
        all
    }

    /// Says of routes and policies whose host no service has that they are for nothing.
    fn unmatched(&self, object: &Object, all: &mut BTreeSet<Diagnostic>) {
        let hosts = match object.spec() {
            Spec::Routes(routes) => routes.hosts.iter().collect(),
            Spec::Policy(policy) => vec![&policy.host],
            Spec::Attached(routes) => return self.detached(object, routes, all),
            Spec::None
            | Spec::Namespace(_)
            | Spec::Node(_)
            | Spec::Pod(_)
            | Spec::Grant(_)
            | Spec::Service(_)
            | Spec::EndpointSlice(_)
            | Spec::WorkloadEntry(_)
            | Spec::ServiceEntry(_) => return,
        };
        for host in hosts {
            let full = self.index.complete(object, &host.value);
            if self.index.matching(&full).is_empty() {
                let text = match &full {
                    Host::Short(host) | Host::Full(host) => host.to_string(),
                    Host::Suffix(suffix) => format!("*{suffix}"),
                    Host::Any => "*".to_owned(),
                };
                let message = format!("{UNKNOWN_HOST}{text}");
                let (severity, code) = (Severity::Warning, Code::UnknownHost);
                let diagnostic = object.diagnose(severity, code, &host.path, message);
                all.insert(self.with_hint(diagnostic));
            }
        }
    }

    /// Says of routes which of their parents do not take them.
    fn detached(&self, object: &Object, routes: &AttachedRoutes, all: &mut BTreeSet<Diagnostic>) {
        for parent in &routes.parents {
            let refusal = parent
                .service
                .as_ref()
                .and_then(|service| attached::refusal(&self.index, object, parent, service));
            // That a GRPCRoute decides instead is said of each rule.
            if let Some((Reason::NoMatchingParent, message)) = refusal {
                let (severity, code) = (Severity::Warning, Code::UnknownHost);
                all.insert(object.diagnose(severity, code, &parent.path, message));
            }
        }
    }

    fn with_hint(&self, mut diagnostic: Diagnostic) -> Diagnostic {
        if diagnostic.code == Code::UnknownHost
            && let Some(host) = diagnostic.message.strip_prefix(UNKNOWN_HOST)
        {
            let mut known: Vec<_> = self.index.aliases.hosts().map(Hostname::as_str).collect();
            known.sort_unstable();
            if let Some(near) = nearest(host, known) {
                diagnostic.message = format!("{}: did you mean {near}?", diagnostic.message);
            }
        }
        diagnostic
    }

    /// What became of every field of every object.
    #[must_use]
    pub fn ledger(&self) -> BTreeMap<ObjectKey, Vec<LedgerEntry>> {
        let mut notes = Notes::new();
        for service in self.services.values() {
            for (key, paths) in service.effects.iter() {
                notes.entry(key).or_default().push(paths);
            }
        }
        let objects = self.index.objects();
        objects
            .map(|object| {
                let entries = ledger::of_object(object, &notes, &unused(object));
                (object.key().clone(), entries)
            })
            .collect()
    }

    /// What to write into the `status` of each object that has one of ours. Walks all objects, as
    /// [`Self::diagnostics`] does; equal objects give equal statuses.
    #[must_use]
    pub fn statuses(&self) -> BTreeMap<ObjectKey, ObjectStatus> {
        let ledger = self.ledger();
        let of = |(key, entries): (&ObjectKey, &Vec<LedgerEntry>)| {
            let object = self.index.get(key)?;
            Some((key.clone(), status::of(&self.index, object, entries)?))
        };
        ledger.iter().filter_map(of).collect()
    }
}

/// What holds for a field of which no service made anything.
fn unused(object: &Object) -> FieldState {
    let unreachable = |reason: &str| FieldState::Unreachable {
        reason: reason.into(),
    };
    match object.spec() {
        Spec::Routes(routes) if routes.scope == crate::ir::Scope::Gateways => {
            unreachable("it is for gateways only")
        }
        Spec::Routes(_) | Spec::Policy(_) => unreachable("no service has its host"),
        Spec::Attached(_) => unreachable("no service that exists is its parent"),
        Spec::ServiceEntry(_) => unreachable("it defines no host that can be used"),
        Spec::EndpointSlice(_) => unreachable("its service does not exist"),
        Spec::None
        | Spec::Namespace(_)
        | Spec::Node(_)
        | Spec::Pod(_)
        | Spec::Service(_)
        | Spec::WorkloadEntry(_)
        | Spec::Grant(_) => FieldState::Active,
    }
}
