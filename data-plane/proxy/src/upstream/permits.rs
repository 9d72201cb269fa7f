//! A count of connections that spans workers: `used` never exceeds `max`, and a permit that is
//! dropped wakes one waiter.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tokio::sync::Notify;

/// How many there may be, and are.
#[derive(Debug)]
pub struct Permits {
    used: AtomicU32,
    max: AtomicU32,
    freed: Notify,
}

/// The right to one connection; freed on drop.
#[derive(Debug)]
pub struct Permit(Arc<Permits>);

impl Permits {
    /// A count bounded by `max`.
    #[must_use]
    pub fn new(max: u32) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicU32::new(0),
            max: AtomicU32::new(max),
            freed: Notify::new(),
        })
    }

    /// Changes the bound; permits above it run out by themselves.
    pub fn set_max(&self, max: u32) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// One permit, if there is room.
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let max = self.max.load(Ordering::Relaxed);
        self.used
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |used| {
                if used < max {
                    used.checked_add(1)
                } else {
                    None
                }
            })
            .ok()
            .map(|_| Permit(Arc::clone(self)))
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
