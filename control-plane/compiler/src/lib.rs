//! The compiler: stored objects in, resources for sidecars out (DESIGN §2).
//!
//! Pure and total: what it makes depends on the present objects alone, a bad object harms only
//! itself, and nothing that somebody wrote is ignored in silence.
//!
//! 1. A source fills [`Node`]s from text and calls [`read`] for typed [`Object`]s.

#![warn(clippy::wildcard_enum_match_arm)]

mod diagnostic;
pub mod document;
mod object;

pub use diagnostic::{Code, Diagnostic, Severity};
pub use document::{Node, Position, Provenance, Source};
pub use object::{Kind, Metadata, NotUsed, Object, ObjectKey, Reading, read};
