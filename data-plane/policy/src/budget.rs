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
//! rounding only ever makes the budget smaller, by at most one slot.
//!
//! It is one budget for the sidecar ([`SharedBudget`]), however many workers spend it: retries, which
//! are rare, are paid for under a lock; requests are counted by each worker in a [`Tally`] of its
//! own, which a retry adds up, so that a request meets no other worker.
//!
//! Cost: a request is one load and one store; a retry sums 22 slots and 11 more for each worker.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use outrigger_model::RetryBudget;

use crate::admission::{Gate, Permit};

/// Slots of the share: ten of a second fill the window, one more for the slot it cuts.
const SHARE_SLOTS: usize = 11;
const SHARE_SLOT: Duration = Duration::from_secs(1);
/// Slots of the floor: ten of 100 ms fill the second, one more for the slot it cuts.
const FLOOR_SLOTS: usize = 11;
const FLOOR_SLOT: Duration = Duration::from_millis(100);

/// What the workers of a sidecar spend together on retries to one destination.
#[derive(Debug)]
pub struct SharedBudget {
    /// From where slots are counted.
    epoch: Instant,
    spent: Mutex<Spent>,
}

#[derive(Debug)]
struct Spent {
    share: Window<SHARE_SLOTS>,
    floor: Window<FLOOR_SLOTS>,
    /// Requests of each worker.
    tallies: Vec<Weak<Tally>>,
}

/// One worker's requests of the last seconds: in each slot the second in the upper half and the
/// count in the lower, so that both are read at once. Written by that worker alone.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Tally([AtomicU64; SHARE_SLOTS]);

/// One worker's access to a budget.
#[derive(Debug)]
pub struct Budget {
    shared: Arc<SharedBudget>,
    tally: Arc<Tally>,
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

impl SharedBudget {
    /// An empty history.
    #[must_use]
    pub fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self {
            epoch: now,
            spent: Mutex::new(Spent {
                share: Window::new(SHARE_SLOT, now),
                floor: Window::new(FLOOR_SLOT, now),
                tallies: Vec::new(),
            }),
        })
    }

    /// Access for one more worker. `running` bounds concurrent retries: the destination's
    /// [`Admission::retries`](crate::admission::Admission::retries).
    #[must_use]
    pub fn join(self: &Arc<Self>, running: Gate) -> Budget {
        let tally = Arc::new(Tally::default());
        let mut spent = self.lock();
        spent.tallies.retain(|tally| tally.strong_count() > 0);
        spent.tallies.push(Arc::downgrade(&tally));
        drop(spent);
        Budget {
            shared: Arc::clone(self),
            tally,
            running,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Spent> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_secs()
    }
}

impl Spent {
    /// Pays, unless floor and share are used up.
    fn pay(&mut self, budget: RetryBudget, second: u64, now: Instant) -> bool {
        self.floor.advance(now);
        if self.floor.sum_covering() < u64::from(budget.min_per_second) {
            self.floor.add(now);
            return true;
        }
        self.share.advance(now);
        let requests = self.tallies.iter().filter_map(Weak::upgrade);
        let requests: u64 = requests.map(|tally| tally.sum_within(second)).sum();
        // percent × requests / 100, without rounding up.
        let allowed = u64::from(budget.percent.get()) * requests / 100;
        let paid = self.share.sum_covering() < allowed;
        if paid {
            self.share.add(now);
        }
        paid
    }
}

impl Tally {
    const COUNT: u64 = 0xffff_ffff;

    fn slot(&self, second: u64) -> Option<&AtomicU64> {
        let index = usize::try_from(second).unwrap_or_default() % SHARE_SLOTS;
        self.0.get(index)
    }

    fn add(&self, second: u64) {
        let Some(slot) = self.slot(second) else {
            return;
        };
        let known = slot.load(Ordering::Relaxed);
        let count = if known >> 32 == second {
            (known & Self::COUNT).saturating_add(1).min(Self::COUNT)
        } else {
            1
        };
        slot.store(second << 32 | count, Ordering::Relaxed);
    }

    /// Only what is surely in the window that ends in this second.
    fn sum_within(&self, second: u64) -> u64 {
        let known = self.0.iter().map(|slot| slot.load(Ordering::Relaxed));
        // The current second and the nine before.
        let within = known.filter(|slot| (slot >> 32) + 10 > second);
        within.map(|slot| slot & Self::COUNT).sum()
    }
}

impl Budget {
    /// A budget that one worker spends alone.
    #[must_use]
    pub fn new(running: Gate, now: Instant) -> Self {
        SharedBudget::new(now).join(running)
    }

    /// Replaces the bound on running retries after a change of limits.
    pub fn set_running(&mut self, running: Gate) {
        self.running = running;
    }

    /// A request (not a retry) was admitted.
    pub fn on_request(&mut self, now: Instant) {
        self.tally.add(self.shared.second(now));
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
        let second = self.shared.second(now);
        let paid = self.shared.lock().pay(budget, second, now);
        paid.then_some(permit).ok_or(BudgetRefusal::Exhausted)
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
}

#[cfg(test)]
mod tests;
