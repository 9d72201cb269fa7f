//! What is known of the cluster, and what became different since it was last asked. Pure.
//!
//! Invariants:
//! - A list replaces what is known of its kind by difference: what is in both and equal is not
//!   mentioned.
//! - Nothing is forgotten but what a list of its kind does not have, what the server says is
//!   deleted, and kinds that are no longer served.
//! - The same events again change nothing.

use std::{collections::BTreeMap, sync::Arc};

use outrigger_compiler::{Code, Diagnostic, Kind, Object, ObjectKey, Severity};

use crate::{
    cluster::watch::{Event, Item, Key, Trouble},
    source::{Change, Update},
};

/// One kind.
#[derive(Debug, Default)]
struct Held {
    /// Whether it was listed once.
    is_listed: bool,
    objects: BTreeMap<Key, Arc<Object>>,
    trouble: Option<Trouble>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Store {
    kinds: BTreeMap<Kind, Held>,
    pending: BTreeMap<ObjectKey, Change>,
}

impl Store {
    /// A kind is served; it counts for [`Self::is_listed`] from now on.
    pub(super) fn join(&mut self, kind: Kind) {
        self.kinds.entry(kind).or_default();
    }

    /// A kind is no longer served: there are no objects of it.
    pub(super) fn leave(&mut self, kind: Kind) {
        let held = self.kinds.remove(&kind).unwrap_or_default();
        for object in held.objects.into_values() {
            self.pending.insert(object.key().clone(), Change::Removed);
        }
    }

    /// Takes an event of a kind that is served.
    pub(super) fn take(&mut self, kind: Kind, event: Event<Arc<Object>>) {
        let Some(held) = self.kinds.get_mut(&kind) else {
            return;
        };
        match event {
            Event::Listed(items) => {
                held.is_listed = true;
                let mut gone = std::mem::take(&mut held.objects);
                for Item { key, value } in items {
                    let before = gone.remove(&key);
                    put(held, &mut self.pending, key, value, before);
                }
                for object in gone.into_values() {
                    self.pending.insert(object.key().clone(), Change::Removed);
                }
            }
            Event::Put(Item { key, value }) => {
                let before = held.objects.remove(&key);
                put(held, &mut self.pending, key, value, before);
            }
            Event::Deleted(key) => {
                if let Some(object) = held.objects.remove(&key) {
                    self.pending.insert(object.key().clone(), Change::Removed);
                }
            }
            Event::Trouble(trouble) => held.trouble = trouble,
        }
    }

    /// Whether every kind that is served was listed once.
    pub(super) fn is_listed(&self) -> bool {
        self.kinds.values().all(|held| held.is_listed)
    }

    /// Kinds that are served, with the number of their objects and what is in the way.
    pub(super) fn kinds(&self) -> impl Iterator<Item = (Kind, usize, Option<&Trouble>)> {
        let kinds = self.kinds.iter();
        kinds.map(|(kind, held)| (*kind, held.objects.len(), held.trouble.as_ref()))
    }

    /// Objects of a kind.
    pub(super) fn objects(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        let held = self.kinds.get(&kind);
        held.into_iter().flat_map(|held| held.objects.values())
    }

    /// What changed since the last call, and what is wrong now.
    pub(super) fn update(&mut self) -> Update {
        let troubles = self.kinds.iter().filter_map(|(kind, held)| {
            let trouble = held.trouble.as_ref()?;
            let (kept, message) = (held.objects.len(), &trouble.message);
            Some(Diagnostic {
                severity: Severity::Error,
                code: Code::InvalidObject,
                object: None,
                path: String::new(),
                position: None,
                message: format!("no news of {kind}s ({message}); the {kept} known stay in force"),
            })
        });
        Update {
            diagnostics: troubles.collect(),
            changes: std::mem::take(&mut self.pending).into_iter().collect(),
            manifests: Arc::default(),
        }
    }
}

/// Enters an object in place of what was there before.
fn put(
    held: &mut Held,
    pending: &mut BTreeMap<ObjectKey, Change>,
    key: Key,
    value: Arc<Object>,
    before: Option<Arc<Object>>,
) {
    match before {
        // Equal: the one that others hold, too, stays.
        Some(before) if before == value => drop(held.objects.insert(key, before)),
        before => {
            let change = match before {
                Some(_) => Change::Changed(Arc::clone(&value), Vec::new()),
                None => Change::Added(Arc::clone(&value)),
            };
            pending.insert(value.key().clone(), change);
            held.objects.insert(key, value);
        }
    }
}

#[cfg(test)]
mod tests;
