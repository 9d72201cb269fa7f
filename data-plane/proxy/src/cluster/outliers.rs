//! Health of a backend's endpoints: one truth for all workers of the sidecar.
//!
//! So that five consecutive failures are five, whichever workers they came through, the machine of
//! `outrigger_policy::outlier` stands once, under a lock. A request that succeeds at an endpoint
//! without trouble does not meet it: beside each endpoint's health lies a [`Mark`], written under
//! the lock and read without it. Quiet: a success changes nothing. Not out: it may be picked. The
//! lock is taken for what fails, for the first success after that, and by picks while an endpoint
//! is out.
//!
//! A success that reads `Quiet` counts as if it came before a failure that is told at the same
//! moment. Membership follows the newest target that any worker has met; an older one joins what
//! is there, and what is no longer there is healthy for it and judged by nobody.
//!
//! Cost: an attempt without trouble is two loads and two comparisons, 105 instructions by callgrind
//! with its loop around it (the machine itself, unshared: 174).

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU8, Ordering},
    },
    time::Instant,
};

use outrigger_model::{OutlierDetection, Peer};
use outrigger_policy::{
    outcome::Verdict,
    outlier::{Action, Detector, EndpointHealth, Role, Standing},
};

use crate::snapshot::Target;

/// Health of one backend's endpoints.
#[derive(Debug)]
pub(super) struct Outliers {
    ledger: Mutex<Ledger>,
    /// Endpoints out; written under the lock.
    out: Arc<AtomicI64>,
}

#[derive(Debug)]
struct Ledger {
    /// Of the target that the entries are from.
    serial: u64,
    detector: Detector,
    /// Sorted by address.
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    address: SocketAddr,
    peer: Peer,
    health: EndpointHealth,
    mark: Arc<Mark>,
}

/// What is known of an endpoint without the lock.
#[derive(Debug, Default)]
pub(super) struct Mark(AtomicU8);

/// Healthy, no failure since the last success.
const QUIET: u8 = 0;
/// Healthy so far.
const FAILING: u8 = 1;
/// Ejected, or probed.
const OUT: u8 = 2;

impl Mark {
    fn get(&self) -> u8 {
        self.0.load(Ordering::Acquire)
    }

    fn set(&self, health: &EndpointHealth) {
        let state = match (health.is_quiet(), health.is_out()) {
            (true, _) => QUIET,
            (false, false) => FAILING,
            (false, true) => OUT,
        };
        self.0.store(state, Ordering::Release);
    }
}

impl Outliers {
    /// Without endpoints; [`Self::join`] brings them.
    #[must_use]
    pub(super) fn new(policy: OutlierDetection) -> Self {
        Self {
            ledger: Mutex::new(Ledger {
                serial: 0,
                detector: Detector::new(policy, 0),
                entries: Vec::new(),
            }),
            out: Arc::default(),
        }
    }

    /// A worker takes over `target`: the marks of its endpoints, in their order. Policy and
    /// endpoints are brought up to date where it is newer than what is known.
    #[must_use]
    pub(super) fn join(&self, target: &Target) -> Vec<Arc<Mark>> {
        let mut ledger = self.lock();
        if target.serial() > ledger.serial {
            ledger.follow(target);
            self.publish(&ledger);
        }
        let marks = target.endpoints.iter().map(|endpoint| {
            let known = ledger.entry(endpoint.address);
            let same = known.filter(|entry| entry.peer == endpoint.peer);
            same.map_or_else(Arc::default, |entry| Arc::clone(&entry.mark))
        });
        marks.collect()
    }

    /// How many are out, for whoever shows it.
    #[must_use]
    pub(super) fn out(&self) -> &Arc<AtomicI64> {
        &self.out
    }

    /// For a pick: `None` while nobody is out, and everybody may be picked.
    #[must_use]
    pub(super) fn look(&self) -> Option<Look<'_>> {
        (self.out.load(Ordering::Acquire) > 0).then(|| Look(self.lock()))
    }

    /// An attempt to an endpoint ended. Returns what follows from it for the endpoint.
    pub(super) fn judge(
        &self,
        (address, mark): (SocketAddr, &Arc<Mark>),
        role: Role,
        verdict: Verdict,
        now: Instant,
    ) -> Option<Action> {
        match (role, verdict) {
            (Role::Regular, Verdict::Neutral) => return None,
            (Role::Regular, Verdict::Success) if mark.get() == QUIET => return None,
            (Role::Regular | Role::Probe, _) => {}
        }
        let mut ledger = self.lock();
        let Ledger {
            detector, entries, ..
        } = &mut *ledger;
        let entry = find(entries, address, mark)?;
        let action = detector.on_end(&mut entry.health, role, verdict, now);
        entry.mark.set(&entry.health);
        self.publish(&ledger);
        action
    }

    /// How each of these endpoints is.
    #[must_use]
    pub(super) fn standings<'a>(
        &self,
        of: impl Iterator<Item = (SocketAddr, &'a Arc<Mark>)>,
        now: Instant,
    ) -> Vec<Standing> {
        let mut ledger = self.lock();
        let standing = |(address, mark)| {
            let known = find(&mut ledger.entries, address, mark);
            known.map_or_else(
                || EndpointHealth::new().standing(now),
                |entry| entry.health.standing(now),
            )
        };
        of.map(standing).collect()
    }

    fn publish(&self, ledger: &Ledger) {
        let out = i64::try_from(ledger.detector.out()).unwrap_or(i64::MAX);
        self.out.store(out, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pick while endpoints are out: nobody else picks or judges meanwhile, so that one of them gets
/// one probe.
#[derive(Debug)]
pub(super) struct Look<'a>(MutexGuard<'a, Ledger>);

impl Look<'_> {
    /// Whether the endpoint may be picked.
    #[must_use]
    pub(super) fn admits(&self, address: SocketAddr, mark: &Arc<Mark>, now: Instant) -> bool {
        if mark.get() != OUT {
            return true;
        }
        let known = self.0.entry(address);
        let known = known.filter(|entry| Arc::ptr_eq(&entry.mark, mark));
        known.is_none_or(|entry| self.0.detector.admits(&entry.health, now))
    }

    /// The endpoint was picked.
    pub(super) fn start(&mut self, address: SocketAddr, mark: &Arc<Mark>, now: Instant) -> Role {
        let Ledger {
            detector, entries, ..
        } = &mut *self.0;
        find(entries, address, mark).map_or(Role::Regular, |entry| {
            detector.on_start(&mut entry.health, now)
        })
    }
}

impl Ledger {
    fn entry(&self, address: SocketAddr) -> Option<&Entry> {
        let index = self
            .entries
            .binary_search_by_key(&address, |entry| entry.address);
        self.entries.get(index.ok()?)
    }

    /// An endpoint that stays (same address, same peer) keeps its health.
    fn follow(&mut self, target: &Target) {
        self.serial = target.serial();
        self.detector.set_policy(target.policy.outlier.clone());
        let mut old = std::mem::take(&mut self.entries).into_iter().peekable();
        let entries = target.endpoints.iter().map(|endpoint| {
            while old
                .next_if(|entry| entry.address < endpoint.address)
                .is_some()
            {}
            let same =
                |entry: &Entry| (entry.address, &entry.peer) == (endpoint.address, &endpoint.peer);
            old.next_if(same).unwrap_or_else(|| Entry {
                address: endpoint.address,
                peer: endpoint.peer.clone(),
                health: EndpointHealth::new(),
                mark: Arc::default(),
            })
        });
        self.entries = entries.collect();
        self.detector
            .endpoints_changed(self.entries.iter().map(|entry| &entry.health));
    }
}

/// The entry that this mark belongs to: an endpoint that was removed and added again is another.
fn find<'a>(
    entries: &'a mut [Entry],
    address: SocketAddr,
    mark: &Arc<Mark>,
) -> Option<&'a mut Entry> {
    let index = entries.binary_search_by_key(&address, |entry| entry.address);
    let entry = entries.get_mut(index.ok()?)?;
    Arc::ptr_eq(&entry.mark, mark).then_some(entry)
}

#[cfg(test)]
mod tests;
