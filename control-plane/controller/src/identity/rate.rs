//! How often one workload may ask for a certificate: ten at once, then one a second.
//!
//! A sidecar asks every twelve hours, one with ten-second certificates every five seconds, and one
//! whose workload crashes in a loop a few times in a row. Whoever asks more often wants our CPU.
//!
//! The state is one instant per workload (a leaky bucket kept as its empty time), owned by the
//! service, behind a lock held for one look-up. At most [`WORKLOADS_MAX`] are remembered; when that
//! many asked within ten seconds, newcomers are admitted unmeasured rather than refused.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use outrigger_model::WorkloadName;

/// Time one certificate takes to drain from the bucket.
const INTERVAL: Duration = Duration::from_secs(1);
/// What the bucket holds, in time.
const BURST: Duration = Duration::from_secs(10);
/// Workloads remembered: some 100 bytes each.
const WORKLOADS_MAX: usize = 32_768;

#[derive(Debug, Default)]
pub(super) struct AskRate {
    /// When each workload's bucket is empty again.
    empty_at: Mutex<HashMap<WorkloadName, Instant>>,
}

impl AskRate {
    /// Whether this workload may have another certificate now.
    pub(super) fn admit(&self, workload: &WorkloadName, now: Instant) -> bool {
        let mut empty_at = self.empty_at.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = empty_at.get_mut(workload) {
            let filled = (*at).max(now) + INTERVAL;
            if filled.duration_since(now) > BURST {
                return false;
            }
            *at = filled;
            return true;
        }
        if empty_at.len() >= WORKLOADS_MAX {
            empty_at.retain(|_, at| *at > now);
        }
        if empty_at.len() < WORKLOADS_MAX {
            empty_at.insert(workload.clone(), now + INTERVAL);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(index: usize) -> WorkloadName {
        format!("shop/orders-{index}").parse().unwrap()
    }

    #[test]
    fn ten_at_once_then_one_a_second() {
        let (rate, start) = (AskRate::default(), Instant::now());
        let admitted = |at: Instant| (0..20).filter(|_| rate.admit(&workload(0), at)).count();
        assert_eq!(admitted(start), 10);
        assert_eq!(admitted(start + Duration::from_millis(999)), 0);
        assert_eq!(admitted(start + Duration::from_secs(3)), 3);
        assert!(rate.admit(&workload(1), start), "others are not concerned");
        assert_eq!(admitted(start + Duration::from_secs(100)), 10);
    }

    #[test]
    fn memory_is_bounded_and_nobody_new_is_refused() {
        let (rate, start) = (AskRate::default(), Instant::now());
        let known = |rate: &AskRate| rate.empty_at.lock().unwrap().len();
        for index in 0..WORKLOADS_MAX + 10 {
            assert!(rate.admit(&workload(index), start));
        }
        assert_eq!(known(&rate), WORKLOADS_MAX);
        assert!(rate.admit(
            &workload(WORKLOADS_MAX + 11),
            start + Duration::from_secs(2)
        ));
        assert_eq!(known(&rate), 1);
    }
}
