//! How fast one stream is sent changes: the first after quiet at once, further ones spaced by what
//! they cost (DESIGN §4).
//!
//! The cost of a change is seen from any of its streams: when it concerns 10,000 sidecars, each
//! session waits for its turn among them, and that wait is the measure. A gap of four times the
//! wait leaves at least three quarters of the time to other work. Waiting for the sidecar itself is
//! not counted.

use std::time::Duration;

use tokio::time::Instant;

/// Shortest gap: some 200 responses a second and stream at most.
const GAP_MIN: Duration = Duration::from_millis(5);
/// Longest gap (DEF-35: 1 s).
const GAP_MAX: Duration = Duration::from_secs(1);
/// Gap for each unit of waiting.
const GAP_FACTOR: u32 = 4;

#[derive(Debug, Default)]
pub(super) struct Pace {
    not_before: Option<Instant>,
}

impl Pace {
    /// When changes that wait may go; `None`: at once.
    pub(super) fn delay(&self, urgent: bool, now: Instant) -> Option<Instant> {
        self.not_before.filter(|until| !urgent && *until > now)
    }

    /// Changes go now, that could have gone at `due`.
    pub(super) fn sends(&mut self, due: Instant, now: Instant) {
        let due = self.not_before.map_or(due, |until| until.max(due));
        let waited = now.saturating_duration_since(due);
        let gap = (waited * GAP_FACTOR).clamp(GAP_MIN, GAP_MAX);
        self.not_before = Some(now + gap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn at_once_after_quiet_then_spaced_by_the_wait() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.delay(false, start), None, "leading edge");
        pace.sends(start, start);
        assert_eq!(pace.delay(false, start), Some(start + GAP_MIN));
        assert_eq!(pace.delay(true, start), None, "removals go ahead");
        assert_eq!(pace.delay(false, start + GAP_MIN), None);
        pace.sends(start + 100 * MS, start + 150 * MS);
        let now = start + 150 * MS;
        assert_eq!(
            pace.delay(false, now),
            Some(now + 200 * MS),
            "four times the wait"
        );
        pace.sends(now, now + Duration::from_secs(60));
        let now = now + Duration::from_secs(60);
        assert_eq!(pace.delay(false, now), Some(now + GAP_MAX));
    }
}
