//! How fast streams are let in (DEF-35): a new one costs a full answer, so a mesh that reconnects at
//! once, after a network split or a restart, must not take the control plane's whole time.
//!
//! 15 + 5 a core each second, and a second's worth at once. Who comes a little early waits up to a
//! second; who comes earlier than that is refused with a hint when to come again, so that nothing
//! piles up here. One instant is the whole state, behind a lock held for a comparison.

use std::{
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use tokio::time::Instant;

/// Admissions a second on a machine without cores, so to speak.
const BASE: u32 = 15;
/// Further ones for each core.
const PER_CORE: u32 = 5;
/// Admissions that may come at once, in time: those of one second.
const BURST: Duration = Duration::from_secs(1);
/// Longest wait of a stream that is let in.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Admissions of one control plane.
#[derive(Debug)]
pub(super) struct Admissions {
    /// Time between two.
    spacing: Duration,
    /// When all that were let in so far have had their time; `None`: nobody came yet.
    spent_until: Mutex<Option<Instant>>,
}

/// Streams a second that this machine lets in.
pub(super) fn of_this_machine() -> NonZeroU32 {
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
    let cores = u32::try_from(cores).unwrap_or(u32::MAX);
    let rate = PER_CORE.saturating_mul(cores).saturating_add(BASE);
    NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN)
}

impl Admissions {
    /// So many a second.
    pub(super) fn new(per_second: NonZeroU32) -> Self {
        Self {
            spacing: Duration::from_secs(1) / per_second.get(),
            spent_until: Mutex::new(None),
        }
    }

    /// How long a stream has to wait that comes now; at most [`WAIT_MAX`].
    ///
    /// # Errors
    /// Too many came before it: after how long it may come again.
    pub(super) fn admit(&self, now: Instant) -> Result<Duration, Duration> {
        let mut spent_until = self
            .spent_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let from = spent_until.map_or(now, |until| until.max(now));
        let until = from + self.spacing;
        let wait = until.duration_since(now).saturating_sub(BURST);
        if wait > WAIT_MAX {
            return Err(wait);
        }
        *spent_until = Some(until);
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(per_second: u32) -> Admissions {
        Admissions::new(NonZeroU32::new(per_second).unwrap())
    }

    #[test]
    fn a_second_at_once_a_second_in_line_the_rest_later() {
        let (admissions, start) = (rate(25), Instant::now());
        let waits: Vec<_> = (0..80).map(|_| admissions.admit(start)).collect();
        assert!(waits[..25].iter().all(|wait| *wait == Ok(Duration::ZERO)));
        assert_eq!(waits[25], Ok(Duration::from_millis(40)));
        assert_eq!(waits[49], Ok(Duration::from_secs(1)));
        assert_eq!(waits[50], Err(Duration::from_millis(1040)));
        assert_eq!(waits[79], waits[50], "who is refused takes no place");
        let later = start + Duration::from_millis(1040);
        assert_eq!(admissions.admit(later), Ok(Duration::ZERO));
        let rested = start + Duration::from_secs(60);
        assert_eq!(admissions.admit(rested), Ok(Duration::ZERO));
    }

    #[test]
    fn this_machine_lets_in_twenty_a_second_at_least() {
        assert!(of_this_machine().get() >= 20);
        assert_eq!(of_this_machine().get() % 5, 0);
    }

    proptest! {
        /// However they come: in any second no more get through than two seconds' worth.
        #[test]
        fn never_more_than_the_rate(gaps in proptest::collection::vec(0..200_u64, 1..300)) {
            let (admissions, mut now) = (rate(20), Instant::now());
            let mut through: Vec<Instant> = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                if let Ok(wait) = admissions.admit(now) {
                    prop_assert!(wait <= WAIT_MAX);
                    through.push(now + wait);
                }
            }
            through.sort();
            for (index, first) in through.iter().enumerate() {
                let end = *first + Duration::from_secs(1);
                let within = through[index..].iter().filter(|at| **at < end).count();
                prop_assert!(within <= 40, "{within}");
            }
        }
    }
}
