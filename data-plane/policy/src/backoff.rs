//! Pause before a retry: exponential, capped, partly random.
//!
//! The random share keeps sidecars that failed together from trying again together.

use std::time::Duration;

use outrigger_model::Backoff;

/// Pause before retry number `retry` (the first is 1): `base × 2^(retry-1)`, at most `max`, of
/// which the share `jitter` is drawn uniformly. Never longer than `max`.
pub fn pause(backoff: &Backoff, retry: u32, rng: &mut fastrand::Rng) -> Duration {
    let doublings = retry.saturating_sub(1).min(31);
    let full = backoff.base.saturating_mul(1 << doublings).min(backoff.max);
    let random_share = backoff.jitter.as_f64() * (1.0 - rng.f64());
    full.saturating_sub(full.mul_f64(random_share))
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_model::Ratio;
    use proptest::prelude::*;

    fn backoff(base_ms: u64, max_ms: u64, jitter_ppm: u32) -> Backoff {
        Backoff {
            base: Duration::from_millis(base_ms),
            max: Duration::from_millis(max_ms),
            jitter: Ratio::from_parts_per_million(jitter_ppm).unwrap(),
        }
    }

    #[test]
    fn doubles_up_to_the_cap() {
        let mut rng = fastrand::Rng::with_seed(1);
        let backoff = backoff(25, 250, 0);
        let pauses: Vec<_> = (1..=6)
            .map(|retry| pause(&backoff, retry, &mut rng).as_millis())
            .collect();
        assert_eq!(pauses, [25, 50, 100, 200, 250, 250]);
    }

    proptest! {
        #[test]
        fn stays_in_its_band(
            base in 0..100_000_u64, max in 0..1_000_000_u64, jitter in 0..=1_000_000_u32,
            retry in 0..=u32::MAX, seed: u64,
        ) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let full = pause(&backoff(base, max, 0), retry, &mut rng);
            let drawn = pause(&backoff(base, max, jitter), retry, &mut rng);
            let floor = full.mul_f64(1.0 - f64::from(jitter) / 1e6);
            prop_assert!(drawn <= full && full <= Duration::from_millis(max));
            prop_assert!(drawn + Duration::from_nanos(1_000) >= floor);
        }
    }
}
