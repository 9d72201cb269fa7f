//! The compiler: stored objects in, resources for sidecars out (DESIGN §2).
//!
//! Pure and total: what it makes depends on the present objects alone, a bad object harms only
//! itself, and nothing that somebody wrote is ignored in silence.
//!
//! 1. A source fills [`Node`]s from text and calls [`read`] for typed [`Object`]s (`document`,
//!    `schema`, `object`).
//! 2. A front end translates routes and policies to the intermediate representation (`istio` and
//!    `gateway` to `ir`), which `index` keeps with everything else.
//! 3. [`Compiler::apply`] merges and compiles what a change touches (`merge`, `service`,
//!    `workload`) to [`Resources`], diagnostics and the ledger.

#![warn(clippy::wildcard_enum_match_arm)]

mod aliases;
mod compiled;
mod compiler;
mod defaults;
mod diagnostic;
pub mod document;
mod duration;
mod endpoints;
mod gateway;
mod index;
mod ir;
mod istio;
mod ledger;
mod merge;
mod object;
mod options;
mod schema;
mod service;
mod shard;
mod status;
mod workload;

pub use aliases::Aliases;
pub use compiled::{Resources, Variants, Workload};
pub use compiler::{Change, Compiler, Update};
pub use diagnostic::{Code, Diagnostic, Severity};
pub use document::{Node, Position, Provenance, Source};
pub use ledger::{FieldState, LedgerEntry};
pub use object::{
    Kind, Metadata, NotUsed, Object, ObjectKey, PodIdentity, Reading, WorkloadAddress, read,
};
pub use options::{Membership, Options};
pub use status::{
    CONTROLLER_NAME, Condition, ConditionKind, FieldSummary, ObjectStatus, ParentReference,
    ParentStatus, Reason,
};
