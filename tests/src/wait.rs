//! Waiting for what nobody announces: it is looked at again and again, until a deadline.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;

/// Nothing that a test waits for takes longer than a fraction of this on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `is` says so, for at most `patience`; `what` is for the message when it does not.
///
/// # Errors
/// When the time is over, and those of `is` at once.
pub fn wait_until(
    what: &str,
    patience: Duration,
    mut is: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    while !is()? {
        ensure!(Instant::now() < deadline, "{what}: not in {patience:?}");
        thread::park_timeout(LOOK_EVERY);
    }
    Ok(())
}

/// [`wait_until`] for tests, within [`PATIENCE`].
///
/// # Panics
/// When the time is over.
#[track_caller]
pub fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let held = wait_until(what, PATIENCE, || Ok(is()));
    assert!(held.is_ok(), "{what}: not in {PATIENCE:?}");
}
