//! Pauses between attempts to reach the control plane: exponential, with full jitter, reset on
//! success (STYLE §5; DEF-34: a mesh that reconnects must not do so at once).

use std::time::Duration;

/// First pause's ceiling.
const BASE: Duration = Duration::from_millis(200);
/// Longest pause's ceiling.
const MAX: Duration = Duration::from_secs(30);

/// State of one reconnecting task.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after one more failure.
    pub(super) fn next(&mut self) -> Duration {
        let ceiling = BASE.saturating_mul(1 << self.failures.min(16)).min(MAX);
        self.failures = self.failures.saturating_add(1);
        // Never zero: a control plane that refuses at once must not spin us.
        ceiling.mul_f64(0.1 + 0.9 * fastrand::f64())
    }

    /// The pause after one more failure, where the control plane said when to come again: not
    /// before, and not all at once then.
    pub(super) fn next_after(&mut self, asked: Option<Duration>) -> Duration {
        let own = self.next();
        asked.map_or(own, |asked| asked.min(MAX) + own)
    }

    /// It worked.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_again() {
        let mut backoff = Backoff::default();
        for _ in 0..100 {
            let pause = backoff.next();
            assert!(pause >= BASE / 10 && pause <= MAX, "{pause:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= BASE);
    }

    #[test]
    fn what_the_control_plane_asks_for_comes_on_top_and_has_a_bound() {
        let mut backoff = Backoff::default();
        let asked = Duration::from_millis(1_040);
        let pause = backoff.next_after(Some(asked));
        assert!(pause > asked && pause <= asked + BASE, "{pause:?}");
        let pause = backoff.next_after(Some(Duration::MAX));
        assert!(pause <= MAX + 2 * BASE, "{pause:?}");
        assert!(Backoff::default().next_after(None) <= BASE);
    }
}
