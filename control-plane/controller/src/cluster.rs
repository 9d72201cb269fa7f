//! The Kubernetes API server, as everything here asks it: with a deadline, a bound on what is
//! read, and errors that say what to do.
//!
//! - [`Api`]: one call; `body` what comes back, `backoff` the pause before the next try.
//! - `watch`: every object of one kind, followed for ever.
//! - [`lease`]: which replica has the duties that one alone may have.
//! - [`root`]: the mesh's root in a Secret, and its certificate in every namespace.
//! - [`owner`]: whose end is the end of what is made here.
//! - [`webhook`]: what the API server trusts when it calls webhooks.
//!
//! Invariants: no call waits longer than [`CALL_TIMEOUT`]; nothing of an answer is believed beyond
//! its type; tokens and keys are in no error and no log.

mod api;
mod backoff;
mod body;
#[cfg(test)]
pub(crate) mod fake;
pub mod lease;
pub mod owner;
pub mod root;
pub(crate) mod watch;
pub mod webhook;

pub use api::{Api, ApiError, CALL_TIMEOUT, ConnectError};
pub(crate) use backoff::Backoff;
