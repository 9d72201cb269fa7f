//! Whole meshes of real processes, proved by counting what really reaches the applications.
//!
//! Each test writes its own manifests, on ports and addresses of its own, so that tests run side by
//! side. Nothing sleeps to settle: tests wait for events, counts and metrics, with a deadline.

mod bed;
mod change;
mod client;
mod load;
mod orders;
mod processes;
mod products;
mod restart;
mod security;
mod streams;

use std::{
    thread,
    time::{Duration, Instant},
};

/// Nothing takes longer than a fraction of this on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition that nobody announces is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until something is, that only shows when one looks.
fn eventually(what: &str, is: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < deadline, "{what}: not in {PATIENCE:?}");
        thread::park_timeout(LOOK_EVERY);
    }
}
