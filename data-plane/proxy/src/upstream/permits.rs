//! A count of connections, and of those who wait for one, that spans workers: `used` does not exceed
//! `max` but for first connections ([`Permits::acquire_beyond`]), and a permit that is dropped
//! wakes one waiter.
//!
//! Idle connections belong to the worker that parked them. So that they do not starve the others,
//! who begins to wait rings a bell that all workers hear: each then gives up idle connections of
//! the target that is short.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tokio::sync::{Notify, watch};

/// How many there may be, and are.
#[derive(Debug)]
pub struct Permits {
    used: AtomicU32,
    max: AtomicU32,
    /// Who waits, in all workers.
    waiting: AtomicU32,
    freed: Notify,
    bell: Bell,
}

/// Rung when somebody begins to wait; heard by every worker. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Bell(Arc<watch::Sender<()>>);

impl Bell {
    /// Hears what is rung from now on.
    #[must_use]
    pub fn listen(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}

/// A place in line; given up on drop.
#[derive(Debug)]
pub struct Waiting(Arc<Permits>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The right to one connection; freed on drop.
#[derive(Debug)]
pub struct Permit(Arc<Permits>);

impl Permits {
    /// A count bounded by `max`, of one worker alone.
    #[must_use]
    pub fn new(max: u32) -> Arc<Self> {
        Self::shared(max, Bell::default())
    }

    /// A count bounded by `max` that spans the workers who hear `bell`.
    #[must_use]
    pub fn shared(max: u32, bell: Bell) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicU32::new(0),
            max: AtomicU32::new(max),
            waiting: AtomicU32::new(0),
            freed: Notify::new(),
            bell,
        })
    }

    /// Changes the bound; permits above it run out by themselves.
    pub fn set_max(&self, max: u32) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// One permit, if there is room.
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        count_below(&self.used, self.max.load(Ordering::Relaxed)).then(|| Permit(Arc::clone(self)))
    }

    /// A permit whether there is room or not.
    pub(crate) fn acquire_beyond(self: &Arc<Self>) -> Permit {
        self.used.fetch_add(1, Ordering::AcqRel);
        Permit(Arc::clone(self))
    }

    /// A place in line, when fewer than `max` wait.
    pub(crate) fn begin_wait(self: &Arc<Self>, max: u32) -> Option<Waiting> {
        if !count_below(&self.waiting, max) {
            return None;
        }
        self.bell.0.send_replace(());
        Some(Waiting(Arc::clone(self)))
    }

    /// Who waits, in all workers.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether somebody waits and nothing is free: an idle connection is worth more closed.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.waiting() > 0 && self.used() >= self.max.load(Ordering::Relaxed)
    }

    /// Permits in use.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    /// Completes when a permit may have been freed, in any worker. Cancel safe: yes.
    pub(crate) fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }
}

/// Adds one to `count` when it is below `max`.
fn count_below(count: &AtomicU32, max: u32) -> bool {
    count
        .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |count| {
            if count < max {
                count.checked_add(1)
            } else {
                None
            }
        })
        .is_ok()
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::AcqRel);
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_never_exceed_the_bound() {
        let permits = Permits::new(3);
        let peak = AtomicU32::new(0);
        let held = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        if let Some(permit) = permits.try_acquire() {
                            let now = held.fetch_add(1, Ordering::SeqCst) + 1;
                            peak.fetch_max(now, Ordering::SeqCst);
                            held.fetch_sub(1, Ordering::SeqCst);
                            drop(permit);
                        }
                    }
                });
            }
        });
        assert!(peak.load(Ordering::SeqCst) <= 3);
        assert_eq!(permits.used(), 0);
    }
}
