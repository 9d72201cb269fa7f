//! Which objects are in force, from the files as they are and as they last parsed. Pure.
//!
//! Invariants:
//! - A file that does not parse keeps the objects of its last good text until it parses again, or
//!   is gone. So does one that cannot be read, or in a folder that cannot.
//! - Of two objects with one key the first by path, then by place in the file, is in force; the
//!   other is reported with both places and comes into force when the first goes.
//! - What [`Store::update`] returns is exactly the difference to what it returned before.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use outrigger_compiler::{
    Code, Diagnostic, Node, NotUsed, Object, ObjectKey, Position, Provenance, Severity, Source,
    read,
};

use super::{
    difference::{FieldChange, difference},
    folder::{Content, Scan},
    manifest::parse,
};

/// One object as it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Which object.
    pub key: ObjectKey,
    /// File, line and column of its first line.
    pub provenance: Provenance,
    /// The whole object as a tree. A [`Transform`] may rewrite it.
    pub node: Node,
}

/// Rewrites objects before they are read, all those in force at once: `outrigger up` gives
/// addresses to workloads that name none.
///
/// It must depend on nothing but what it is given and what it gave before, and leave keys alone.
pub trait Transform: Send {
    /// Rewrites `manifests`, sorted by key; what it cannot do goes into the diagnostics.
    fn transform(&mut self, manifests: &mut [Manifest]) -> Vec<Diagnostic>;
}

/// What became of an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// It is new.
    Added(Arc<Object>),
    /// It differs in these fields; none when it only stands elsewhere now, or the source does not
    /// tell them.
    Changed(Arc<Object>, Vec<FieldChange>),
    /// It is gone.
    Removed,
}

/// All that changed since the last look.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Update {
    /// Objects by key.
    pub changes: Vec<(ObjectKey, Change)>,
    /// Everything in force, sorted by key; the Kubernetes source has none.
    pub manifests: Arc<[Manifest]>,
    /// Present problems of the source itself: unreadable files, broken text, duplicates, kinds
    /// that are not used (each once). Problems inside objects are the compiler's.
    pub diagnostics: Vec<Diagnostic>,
}

/// A file's last good content.
#[derive(Debug, Default)]
struct File {
    content: Option<Content>,
    manifests: Vec<Manifest>,
    not_used: Vec<NotUsed>,
    diagnostics: Vec<Diagnostic>,
    broken: Option<Diagnostic>,
}

/// All files, and what is in force.
#[derive(Default)]
pub(super) struct Store {
    files: BTreeMap<Arc<str>, File>,
    in_force: Arc<[Manifest]>,
    objects: BTreeMap<ObjectKey, Arc<Object>>,
}

impl Store {
    /// Takes the files as they are now.
    pub(super) fn update(&mut self, scan: Scan, transform: Option<&mut dyn Transform>) -> Update {
        self.files
            .retain(|path, _| scan.files.contains_key(path) || scan.is_hidden(path));
        for (path, content) in scan.files {
            self.files
                .entry(Arc::clone(&path))
                .or_default()
                .take(&path, content);
        }
        let (mut manifests, mut diagnostics) = self.resolve();
        diagnostics.extend(scan.problems.into_iter().map(|problem| note(None, problem)));
        if let Some(transform) = transform {
            diagnostics.extend(transform.transform(&mut manifests));
        }
        let manifests: Arc<[Manifest]> = manifests.into();
        let changes = self.changes_to(&manifests);
        self.in_force = Arc::clone(&manifests);
        Update {
            changes,
            manifests,
            diagnostics,
        }
    }

    /// What is in force, sorted by key.
    pub(super) fn in_force(&self) -> Arc<[Manifest]> {
        Arc::clone(&self.in_force)
    }

    /// Of each key the first manifest, and what to say about files and the others.
    fn resolve(&self) -> (Vec<Manifest>, Vec<Diagnostic>) {
        let mut winners: BTreeMap<&ObjectKey, &Manifest> = BTreeMap::new();
        let mut diagnostics = Vec::new();
        let mut unused = BTreeSet::new();
        for file in self.files.values() {
            diagnostics.extend(file.broken.clone());
            diagnostics.extend(file.diagnostics.iter().cloned());
            for manifest in &file.manifests {
                match winners.entry(&manifest.key) {
                    std::collections::btree_map::Entry::Vacant(place) => {
                        place.insert(manifest);
                    }
                    std::collections::btree_map::Entry::Occupied(first) => {
                        diagnostics.push(duplicate(manifest, first.get()));
                    }
                }
            }
            for not_used in &file.not_used {
                if unused.insert((&not_used.api_version, &not_used.kind)) {
                    diagnostics.push(not_used.diagnostic());
                }
            }
        }
        let manifests = winners.into_values().cloned().collect();
        (manifests, diagnostics)
    }

    fn changes_to(&mut self, manifests: &[Manifest]) -> Vec<(ObjectKey, Change)> {
        let before: BTreeMap<&ObjectKey, &Manifest> = self
            .in_force
            .iter()
            .map(|manifest| (&manifest.key, manifest))
            .collect();
        let mut changes = Vec::new();
        let mut objects = BTreeMap::new();
        for manifest in manifests {
            let key = &manifest.key;
            let old = before.get(key);
            if let Some(object) = self.objects.remove(key)
                && old.is_some_and(|old| *old == manifest)
            {
                objects.insert(key.clone(), object);
                continue;
            }
            let reading = read(&manifest.node, &manifest.provenance);
            let Some(object) = reading.objects.into_iter().next().map(Arc::new) else {
                // A transform made it unreadable: as if it were gone.
                changes.extend(old.map(|_| (key.clone(), Change::Removed)));
                continue;
            };
            let change = match old {
                Some(old) => {
                    Change::Changed(Arc::clone(&object), difference(&old.node, &manifest.node))
                }
                None => Change::Added(Arc::clone(&object)),
            };
            objects.insert(key.clone(), object);
            changes.push((key.clone(), change));
        }
        let gone = std::mem::replace(&mut self.objects, objects);
        let gone = gone
            .into_keys()
            .filter(|key| !self.objects.contains_key(key));
        let mut all: Vec<_> = gone.map(|key| (key, Change::Removed)).collect();
        all.extend(changes);
        all
    }
}

impl File {
    /// Takes a file's present content; what it held stays if this does not parse.
    fn take(&mut self, path: &Arc<str>, content: Content) {
        if self.content.as_ref() == Some(&content) {
            return;
        }
        let parsed = match &content {
            Ok(text) => {
                parse(text).map_err(|error| broken(path, error.position, &error.reason, self))
            }
            Err(reason) => Err(broken(path, Position::UNKNOWN, reason, self)),
        };
        match parsed {
            Ok(objects) => {
                *self = Self::default();
                for (document, node) in objects {
                    self.add(path, document, node);
                }
            }
            Err(diagnostic) => self.broken = Some(diagnostic),
        }
        self.content = Some(content);
    }

    fn add(&mut self, path: &Arc<str>, document: u32, node: Node) {
        let provenance = Provenance::File(Source {
            file: Arc::clone(path),
            document,
            position: node.position,
        });
        let reading = read(&node, &provenance);
        self.not_used.extend(reading.not_used);
        self.diagnostics.extend(reading.diagnostics);
        // A `List` was taken apart before: what is left is one object at most.
        for object in reading.objects.into_iter().take(1) {
            self.manifests.push(Manifest {
                key: object.key().clone(),
                provenance: object.provenance().clone(),
                node: node.clone(),
            });
        }
    }
}

fn broken(path: &Arc<str>, position: Position, reason: &str, file: &File) -> Diagnostic {
    let kept = match file.manifests.len() {
        0 => "nothing in it is used until it parses".to_owned(),
        1 => "the object it held before stays in force until it parses".to_owned(),
        count => format!("the {count} objects it held before stay in force until it parses"),
    };
    let source = Source {
        file: Arc::clone(path),
        document: 0,
        position,
    };
    note(Some(source), format!("{reason}; {kept}"))
}

fn duplicate(manifest: &Manifest, first: &Manifest) -> Diagnostic {
    let message = format!(
        "it is also in {}, which stays in force: remove one of the two",
        first.provenance
    );
    Diagnostic {
        object: Some(manifest.key.clone()),
        ..note(place(&manifest.provenance), message)
    }
}

fn place(provenance: &Provenance) -> Option<Source> {
    match provenance {
        Provenance::File(source) => Some(source.clone()),
        Provenance::Api { .. } => None,
    }
}

fn note(position: Option<Source>, message: String) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        code: Code::InvalidObject,
        object: None,
        path: String::new(),
        position,
        message,
    }
}

#[cfg(test)]
mod tests;
