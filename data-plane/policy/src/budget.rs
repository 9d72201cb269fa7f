//! Retry budget of one destination: how much load retries may add (DESIGN §5, DEF-20).
//!
//! Two allowances add up: a floor of `min_per_second` in any second, so that a quiet client can
//! retry at all, and `percent` of the requests of the last ten seconds. A retry uses the floor
//! first. At every grant, for any pattern of calls:
//! - retries from the floor in the second before are at most `min_per_second`;
//! - retries from the share in the ten seconds before are at most that percent of the requests in
//!   them;
//! - retries in flight are at most `retries_max` (a [`Gate`] that all workers share).
//!
//! Time runs in slots. Where a window cuts a slot, its retries count and its requests do not, so
//! rounding only ever makes the budget smaller, by at most one slot. State is one worker's; with
//! several workers each has the floor.
//!
//! Cost: a request is one addition (and, once a slot, a few stores); a retry sums 21 slots.

use std::time::{Duration, Instant};

use outrigger_model::RetryBudget;

use crate::admission::{Gate, Permit};

/// Slots of the share: ten of a second fill the window, one more for the slot it cuts.
const SHARE_SLOTS: usize = 11;
const SHARE_SLOT: Duration = Duration::from_secs(1);
/// Slots of the floor: ten of 100 ms fill the second, one more for the slot it cuts.
const FLOOR_SLOTS: usize = 11;
const FLOOR_SLOT: Duration = Duration::from_millis(100);

/// Recent requests and retries of one destination, seen by one worker.
#[derive(Debug)]
pub struct Budget {
    requests: Window<SHARE_SLOTS>,
    share: Window<SHARE_SLOTS>,
    floor: Window<FLOOR_SLOTS>,
    running: Gate,
}

/// Why a retry is not paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BudgetRefusal {
    /// Floor and share are used up.
    Exhausted,
    /// `retries_max` retries are running.
    TooManyRunning,
}

impl Budget {
    /// An empty history. `running` bounds concurrent retries: the destination's
    /// [`Admission::retries`](crate::admission::Admission::retries).
    #[must_use]
    pub fn new(running: Gate, now: Instant) -> Self {
        Self {
            requests: Window::new(SHARE_SLOT, now),
            share: Window::new(SHARE_SLOT, now),
            floor: Window::new(FLOOR_SLOT, now),
            running,
        }
    }

    /// Replaces the bound on running retries after a change of limits.
    pub fn set_running(&mut self, running: Gate) {
        self.running = running;
    }

    /// A request (not a retry) was admitted.
    pub fn on_request(&mut self, now: Instant) {
        self.requests.add(now);
    }

    /// Pays for one retry under the rule's budget. The permit is held until the retry has ended.
    ///
    /// # Errors
    /// When the retry must not run; nothing is used up then.
    pub fn try_retry(
        &mut self,
        budget: RetryBudget,
        now: Instant,
    ) -> Result<Permit, BudgetRefusal> {
        let permit = self
            .running
            .try_enter()
            .map_err(|_| BudgetRefusal::TooManyRunning)?;
        self.floor.advance(now);
        if self.floor.sum_covering() < u64::from(budget.min_per_second) {
            self.floor.add(now);
            return Ok(permit);
        }
        self.requests.advance(now);
        self.share.advance(now);
        // percent × requests / 100, without rounding up.
        let allowed = u64::from(budget.percent.get()) * self.requests.sum_within() / 100;
        if self.share.sum_covering() < allowed {
            self.share.add(now);
            return Ok(permit);
        }
        Err(BudgetRefusal::Exhausted)
    }
}

/// Counts in `N` slots of time, the current one included: `N - 1` slots are the window's length.
#[derive(Debug)]
struct Window<const N: usize> {
    slots: [u32; N],
    current: usize,
    /// Start of the current slot.
    started: Instant,
    slot: Duration,
}

impl<const N: usize> Window<N> {
    fn new(slot: Duration, now: Instant) -> Self {
        Self {
            slots: [0; N],
            current: 0,
            started: now,
            slot,
        }
    }

    /// Moves to the slot of `now`. An instant before the current slot counts in it.
    fn advance(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.started);
        if elapsed < self.slot {
            return;
        }
        let passed = elapsed.as_nanos() / self.slot.as_nanos();
        match usize::try_from(passed) {
            Ok(steps) if steps < N => {
                for _ in 0..steps {
                    self.current = (self.current + 1) % N;
                    self.slots[self.current] = 0;
                    self.started += self.slot;
                }
            }
            _ => {
                self.slots = [0; N];
                self.started = now;
            }
        }
    }

    fn add(&mut self, now: Instant) {
        self.advance(now);
        self.slots[self.current] = self.slots[self.current].saturating_add(1);
    }

    /// Everything in the window and perhaps a little before.
    fn sum_covering(&self) -> u64 {
        self.slots.iter().map(|&count| u64::from(count)).sum()
    }

    /// Only what is surely in the window.
    fn sum_within(&self) -> u64 {
        self.sum_covering() - u64::from(self.slots[(self.current + 1) % N])
    }
}

#[cfg(test)]
mod tests;
