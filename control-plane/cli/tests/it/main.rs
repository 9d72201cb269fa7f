//! The binary `outrigger`, as a person uses it: real processes, on addresses and ports of each
//! test's own.

#![expect(clippy::unwrap_used, reason = "these are tests")]

mod edits;
mod inject;
mod mesh;
mod mistakes;
mod outrigger;
mod up;
