//! Bounds of one destination: requests and retries in flight. (Connections and those who wait for
//! one are bounded by the proxy's pool, which owns them.)
//!
//! With the retry budget, the only state of this crate that spans workers: a limit holds for the
//! sidecar, not for each of its threads. A [`Gate`] is one counter on a cache line of its own;
//! taking a place is one compare-and-swap loop, so that the limit is exact and never passed for a
//! moment. Places are guards: a request whose future is dropped gives its places back. Nothing
//! waits here.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use outrigger_model::ConnectionLimits;

/// The gates of one destination. Clones share the counters.
#[derive(Debug, Clone)]
pub struct Admission {
    /// Requests in flight.
    pub requests: Gate,
    /// Retries in flight.
    pub retries: Gate,
}

impl Admission {
    /// Empty gates with these limits.
    #[must_use]
    pub fn new(limits: &ConnectionLimits) -> Self {
        Self {
            requests: Gate::new(limits.requests_max, Refusal::Requests),
            retries: Gate::new(limits.retries_max, Refusal::Retries),
        }
    }

    /// The same counters under new limits, for a changed policy. What is in flight stays counted;
    /// above a lower limit nothing new enters until enough has left.
    #[must_use]
    pub fn with_limits(&self, limits: &ConnectionLimits) -> Self {
        Self {
            requests: self.requests.with_limit(limits.requests_max),
            retries: self.retries.with_limit(limits.retries_max),
        }
    }
}

/// Which limit refused. The request is answered 503.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{}", self.as_str())]
pub enum Refusal {
    /// `http.http2MaxRequests`.
    Requests,
    /// `http.maxRetries`.
    Retries,
}

impl Refusal {
    /// Stable short reason, for `x-outrigger-reason`, log and metric.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests-full",
            Self::Retries => "retries-full",
        }
    }
}

/// A counter with a limit. Clones share the counter.
#[derive(Debug, Clone)]
pub struct Gate {
    count: Arc<Count>,
    limit: u32,
    refusal: Refusal,
}

/// Alone on its cache line (two, for processors that fetch lines in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
struct Count(AtomicU32);

impl Gate {
    /// An empty gate.
    #[must_use]
    pub fn new(limit: u32, refusal: Refusal) -> Self {
        Self {
            count: Arc::default(),
            limit,
            refusal,
        }
    }

    /// The same counter under another limit.
    #[must_use]
    pub fn with_limit(&self, limit: u32) -> Self {
        Self {
            limit,
            ..self.clone()
        }
    }

    /// A place, if one is free.
    ///
    /// # Errors
    /// The gate's refusal when as many places are taken as the limit allows.
    pub fn try_enter(&self) -> Result<Permit, Refusal> {
        // Relaxed: the counter guards no other memory; its own changes are in one total order.
        self.count
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count < self.limit).then(|| count + 1)
            })
            .map(|_| Permit {
                count: Arc::clone(&self.count),
            })
            .map_err(|_| self.refusal)
    }

    /// Places taken now.
    #[must_use]
    pub fn taken(&self) -> u32 {
        self.count.0.load(Ordering::Relaxed)
    }

    /// The limit.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit
    }
}

/// A place; given back when dropped.
#[derive(Debug)]
#[must_use = "a place is given back when its permit is dropped"]
pub struct Permit {
    count: Arc<Count>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.count.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn admits_up_to_the_limit_and_again_after_release() {
        let gate = Gate::new(2, Refusal::Requests);
        let one = gate.try_enter().unwrap();
        let other_worker = gate.clone();
        let _two = other_worker.try_enter().unwrap();
        assert_eq!(gate.try_enter().unwrap_err(), Refusal::Requests);
        drop(one);
        assert_eq!(gate.taken(), 1);
        assert!(gate.try_enter().is_ok());
        assert!(Gate::new(0, Refusal::Requests).try_enter().is_err());
    }

    #[test]
    fn a_lower_limit_keeps_what_is_in_flight() {
        let gate = Gate::new(3, Refusal::Requests);
        let mut held: Vec<_> = (0..3).map(|_| gate.try_enter().unwrap()).collect();
        let lower = gate.with_limit(2);
        assert!(lower.try_enter().is_err());
        held.pop();
        assert!(lower.try_enter().is_err());
        held.pop();
        assert!(lower.try_enter().is_ok());
    }

    /// All threads hold what they got until everybody has tried: the places given out are exactly
    /// the limit, and all come back.
    #[test]
    fn exact_across_threads() {
        let (threads, tries, limit) = (4, 50_usize, 101_u32);
        let gate = Gate::new(limit, Refusal::Retries);
        let tried = Barrier::new(threads);
        let granted: usize = std::thread::scope(|scope| {
            let run = || {
                let held: Vec<_> = (0..tries).filter_map(|_| gate.try_enter().ok()).collect();
                tried.wait();
                held.len()
            };
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
            running
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(u32::try_from(granted).unwrap(), limit);
        assert_eq!(gate.taken(), 0);
    }
}
