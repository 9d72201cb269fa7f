//! What a control plane tells whoever runs it.

use std::sync::Arc;

use outrigger_compiler::{Diagnostic, ObjectKey};
use outrigger_model::WorkloadName;

use crate::source::FieldChange;

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// An edit was compiled and handed to the sidecars that use what it changed. Sent when all of
    /// them have it, or after three seconds.
    Config {
        /// The object.
        object: ObjectKey,
        /// What happened to it.
        change: ObjectChange,
        /// Sidecars that have it.
        sidecars: usize,
        /// Sidecars that use something of what it changed.
        of: usize,
    },
    /// Something to say about the objects that was not said before.
    Diagnostic(Diagnostic),
    /// A sidecar refused what it was sent and works on with what it had.
    Rejected {
        /// Which.
        sidecar: WorkloadName,
        /// What it was sent.
        resource: String,
        /// In its words.
        reason: Arc<str>,
    },
}

/// What happened to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectChange {
    /// It is new.
    Added,
    /// These fields differ.
    Changed(Vec<FieldChange>),
    /// It is gone.
    Removed,
}
