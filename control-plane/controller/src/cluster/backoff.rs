//! The pause before the next try: doubled with each failure, spread evenly below that, so that
//! replicas which failed together do not come back together.

use std::time::Duration;

/// Longest first pause.
const FIRST: Duration = Duration::from_millis(250);
/// Longest pause: an API server that is back is noticed within this.
pub(crate) const LONGEST: Duration = Duration::from_secs(20);

/// See the module.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    /// The pause after one more failure: half to all of what is due.
    pub(crate) fn fail(&mut self) -> Duration {
        let due = self.next;
        self.next = (due * 2).min(LONGEST);
        due.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// It worked.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..20).map(|_| backoff.fail()).collect();
        assert!(pauses[0] <= FIRST && pauses[0] >= FIRST / 2);
        assert!(pauses.iter().all(|pause| *pause <= LONGEST));
        assert!(pauses[10..].iter().all(|pause| *pause >= LONGEST / 2));
        backoff.reset();
        assert!(backoff.fail() <= FIRST);
    }
}
