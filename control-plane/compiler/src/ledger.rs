//! The ledger: what became of every field that somebody wrote (DESIGN §2).
//!
//! An object's fields are listed when it is read; services then say what they made of it. A
//! field counts as active if it is so for at least one service.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{Object, ObjectKey, Position, schema::is_below};

/// A field as it was written, before anything is known of other objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WrittenField {
    /// `spec.http[0].timeout`.
    pub(crate) path: Box<str>,
    /// Where.
    pub(crate) position: Position,
    /// What the schema makes of it.
    pub(crate) state: Written,
}

/// What the schema makes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// It is used.
    Used,
    /// It is not supported yet.
    Unsupported,
    /// There is no such field.
    Unknown,
    /// Its value cannot be used: the default is in force, or the rule answers 500.
    Invalid,
}

/// One field of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    /// `spec.http[0].timeout`. Labels and lists of many endpoints are one entry.
    pub path: String,
    /// Line and column, where the object came from a file.
    pub position: Position,
    /// What became of it.
    pub state: FieldState,
}

/// What became of a field. Ordered from the best.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum FieldState {
    /// It has an effect.
    Active,
    /// Another object decides instead.
    Shadowed {
        /// Which.
        by: ObjectKey,
    },
    /// It can never have an effect as things are.
    Unreachable {
        /// Why.
        reason: Arc<str>,
    },
    /// It is not supported yet.
    Unsupported,
    /// Its value cannot be used: the default is in force, or its rule answers 500.
    Invalid,
    /// There is no such field.
    Unknown,
}

/// What one service made of the objects that concern it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Effects {
    by_object: BTreeMap<Arc<ObjectKey>, BTreeMap<String, FieldState>>,
}

impl Effects {
    /// Notes what became of a field and of all below it; the best of several notes counts.
    pub(crate) fn add(&mut self, object: &Object, path: &str, state: FieldState) {
        let paths = self
            .by_object
            .entry(Arc::clone(object.shared_key()))
            .or_default();
        match paths.get_mut(path) {
            Some(present) if *present <= state => {}
            Some(present) => *present = state,
            None => {
                paths.insert(path.to_owned(), state);
            }
        }
    }

    /// All notes.
    pub(crate) fn iter(
        &self,
    ) -> impl Iterator<Item = (&Arc<ObjectKey>, &BTreeMap<String, FieldState>)> {
        self.by_object.iter()
    }

    /// What became of a field: the note on the longest path that holds it.
    fn state_of(paths: &BTreeMap<String, FieldState>, path: &str) -> Option<FieldState> {
        paths
            .iter()
            .filter(|(prefix, _)| is_below(path, prefix))
            .max_by_key(|(prefix, _)| prefix.len())
            .map(|(_, state)| state.clone())
    }
}

/// Notes of all services, by object.
pub(crate) type Notes<'a> = HashMap<&'a ObjectKey, Vec<&'a BTreeMap<String, FieldState>>>;

/// The ledger of one object, `none` being what holds if no service made anything of it.
pub(crate) fn of_object(object: &Object, notes: &Notes<'_>, none: &FieldState) -> Vec<LedgerEntry> {
    let notes = notes.get(object.key()).map_or(&[][..], Vec::as_slice);
    object
        .fields()
        .iter()
        .map(|field| LedgerEntry {
            path: field.path.to_string(),
            position: field.position,
            state: match field.state {
                Written::Unsupported => FieldState::Unsupported,
                Written::Unknown => FieldState::Unknown,
                Written::Invalid => FieldState::Invalid,
                Written::Used if field.path.starts_with("metadata") => FieldState::Active,
                Written::Used => notes
                    .iter()
                    .filter_map(|paths| Effects::state_of(paths, &field.path))
                    .min()
                    .unwrap_or_else(|| none.clone()),
            },
        })
        .collect()
}
