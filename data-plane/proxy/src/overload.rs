//! What the process does when its memory fills (DEF-21): a level that the control thread sets and
//! workers read, one relaxed load on the request path.
//!
//! The decision is [`outrigger_policy::overload`]'s; [`watch`] feeds it from [`Reader`] every
//! 250 ms. What each level means stands where it is done: the worker's `tend` (idle time, end of
//! connections), the request paths (503), the accept loops (none taken).

mod memory;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use outrigger_policy::overload::{Level, Memory};
use tokio::{sync::watch, time::sleep};

pub(crate) use memory::Reader;

use crate::{reason::Reason, reason::Refusal, telemetry::Telemetry, worker::SharedLimits};

/// How often memory is looked at.
const INTERVAL: Duration = Duration::from_millis(250);
/// How often a limit is looked for where there is none.
const INTERVAL_UNLIMITED: Duration = Duration::from_secs(10);

/// The level in force. One writer; any number of readers in all threads.
#[derive(Debug)]
pub struct Overload {
    level: AtomicU8,
    changed: watch::Sender<Level>,
    /// Rounds in which the largest exchange is reset.
    rounds: watch::Sender<u64>,
    /// Most that an exchange of each worker holds. Locked in those rounds alone.
    largest: Mutex<Vec<usize>>,
}

/// A worker's place among the others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place(usize);

impl Default for Overload {
    fn default() -> Self {
        Self {
            level: AtomicU8::new(Level::Normal.number()),
            changed: watch::channel(Level::Normal).0,
            rounds: watch::channel(0).0,
            largest: Mutex::default(),
        }
    }
}

impl Overload {
    /// The level in force.
    #[must_use]
    pub fn level(&self) -> Level {
        Level::from_number(self.level.load(Ordering::Relaxed))
    }

    /// Puts a level in force, and tells who waits for one.
    pub fn set(&self, level: Level) {
        self.level.store(level.number(), Ordering::Relaxed);
        self.changed.send_replace(level);
    }

    /// Whether a new request or connection may begin.
    ///
    /// # Errors
    /// `Overloaded`, from 95 % of the memory.
    pub fn admit(&self) -> Result<(), Refusal> {
        if self.level.load(Ordering::Relaxed) < Level::Refuse.number() {
            return Ok(());
        }
        Err(Refusal::new(Reason::Overloaded).detail("the sidecar is short of memory"))
    }

    /// Follows the level.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Level> {
        self.changed.subscribe()
    }

    /// Memory is at 95 % or more: workers reset what holds the most.
    pub fn shed(&self) {
        self.rounds.send_modify(|rounds| *rounds += 1);
    }

    /// Follows the rounds of [`Self::shed`].
    #[must_use]
    pub fn rounds(&self) -> watch::Receiver<u64> {
        self.rounds.subscribe()
    }

    /// One more worker.
    pub(crate) fn join(&self) -> Place {
        let mut largest = self.largest.lock().unwrap_or_else(PoisonError::into_inner);
        largest.push(0);
        Place(largest.len() - 1)
    }

    /// Whether no other worker's largest exchange holds more than so many bytes, as far as they
    /// have told in this round or the last.
    pub(crate) fn is_largest(&self, place: Place, bytes: usize) -> bool {
        let mut largest = self.largest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = largest.get_mut(place.0) {
            *own = bytes;
        }
        largest.iter().all(|other| *other <= bytes)
    }

    /// Completes while connections may be accepted. Cancel safe: yes.
    pub async fn accepting(&self) {
        if self.level() >= Level::StopAccepting {
            self.reach(|level| level < Level::StopAccepting).await;
        }
    }

    /// Completes while no connection may be accepted. Cancel safe: yes.
    pub async fn stopped(&self) {
        self.reach(|level| level >= Level::StopAccepting).await;
    }

    async fn reach(&self, wanted: impl Fn(Level) -> bool) {
        // The sender is ours: it does not end while we wait.
        drop(self.follow().wait_for(|level| wanted(*level)).await);
    }
}

/// Sets the level by what `read` says, for ever. Cancel safe: yes, drop it to stop.
pub(crate) async fn watch(
    limits: Arc<SharedLimits>,
    telemetry: Telemetry,
    mut read: impl FnMut() -> Option<Memory>,
) {
    let mut level = Level::Normal;
    loop {
        let memory = read();
        let next = memory.map_or(Level::Normal, |memory| level.after(memory));
        telemetry.memory_limit(memory.map_or(0, |memory| memory.limit));
        if next != level {
            let Memory { used, limit } = memory.unwrap_or(Memory { used: 0, limit: 0 });
            if next > level {
                tracing::warn!(%level, %next, used, limit, "memory fills: giving up more");
            } else {
                tracing::info!(%level, %next, used, limit, "memory is free again");
            }
            level = next;
            telemetry.overload(level);
            limits.overload.set(level);
        }
        if memory.is_some_and(|memory| memory.is_at_least(Level::Refuse.enters_at())) {
            limits.overload.shed();
        }
        let pause = memory.map_or(INTERVAL_UNLIMITED, |_| INTERVAL);
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use outrigger_model::SpiffeId;
    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::telemetry::{Identity, IstioMetrics};

    fn telemetry() -> Telemetry {
        let spiffe: SpiffeId = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
        let own = Identity {
            workload: "shop/web".parse().unwrap(),
            spiffe,
        };
        Telemetry::new(own, IstioMetrics::Hidden, std::io::sink()).unwrap()
    }

    /// Readings of one after the other, in points of a hundred; what the level was after each.
    async fn run(shares: &'static [Option<u64>]) -> (Vec<Level>, Telemetry) {
        run_with(&SharedLimits::new(10), shares).await
    }

    async fn run_with(
        limits: &Arc<SharedLimits>,
        shares: &'static [Option<u64>],
    ) -> (Vec<Level>, Telemetry) {
        let (limits, telemetry) = (Arc::clone(limits), telemetry());
        let (seen, told) = (Rc::new(std::cell::RefCell::default()), telemetry.clone());
        let (turn, levels) = (Cell::new(0), Rc::clone(&seen));
        let watched = Arc::clone(&limits);
        let reading = move || {
            let turns: &std::cell::RefCell<Vec<Level>> = &levels;
            turns.borrow_mut().push(watched.overload.level());
            let share = shares.get(turn.get()).or(shares.last()).copied()?;
            turn.set(turn.get() + 1);
            share.map(|used| Memory { used, limit: 100 })
        };
        let enough = INTERVAL * u32::try_from(shares.len()).unwrap() + INTERVAL / 2;
        drop(timeout(enough, watch(limits, told, reading)).await);
        let levels = seen.borrow().clone();
        (levels, telemetry)
    }

    #[tokio::test(start_paused = true)]
    async fn every_reading_counts_a_quarter_of_a_second_later() {
        let begun = Instant::now();
        let shares = &[Some(50), Some(86), Some(96), Some(99), Some(93), Some(10)];
        let (levels, telemetry) = run(shares).await;
        let expected = [
            Level::Normal,
            Level::Normal,
            Level::ShorterIdle,
            Level::Refuse,
            Level::StopAccepting,
            Level::Refuse,
            Level::Normal,
        ];
        assert_eq!(levels, expected);
        assert_eq!(begun.elapsed(), INTERVAL * 6 + INTERVAL / 2);
        let page = telemetry.page();
        assert!(page.contains("outrigger_overload_level 0\n"), "{page}");
        assert!(page.contains("outrigger_memory_limit_bytes 100\n"));
    }

    /// Not at 93 %, though the level still stands then.
    #[tokio::test(start_paused = true)]
    async fn the_largest_goes_while_memory_is_at_95_percent() {
        let limits = SharedLimits::new(10);
        let rounds = limits.overload.rounds();
        run_with(&limits, &[Some(94), Some(95), Some(93), Some(99), Some(50)]).await;
        assert_eq!(*rounds.borrow(), 2);
    }

    #[test]
    fn the_largest_of_all_workers_goes() {
        let overload = Overload::default();
        let (one, two) = (overload.join(), overload.join());
        assert!(overload.is_largest(one, 70_000));
        assert!(!overload.is_largest(two, 60_000));
        assert!(overload.is_largest(one, 60_000));
        assert!(overload.is_largest(two, 80_000));
        assert!(!overload.is_largest(one, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_is_given_up_and_it_is_looked_for_seldom() {
        let (levels, telemetry) = run(&[None, Some(99), Some(99)]).await;
        assert_eq!(levels, [Level::Normal], "one look in ten seconds");
        assert!(
            telemetry
                .page()
                .contains("outrigger_memory_limit_bytes 0\n")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_told() {
        let overload = Overload::default();
        overload.accepting().await;
        assert!(overload.admit().is_ok());
        let raised = async {
            overload.set(Level::StopAccepting);
            overload.set(Level::Normal);
        };
        let far = Duration::from_secs(60);
        assert!(timeout(far, overload.stopped()).await.is_err());
        overload.set(Level::StopAccepting);
        overload.stopped().await;
        assert_eq!(overload.admit().unwrap_err().reason, Reason::Overloaded);
        let ((), ()) = tokio::join!(overload.accepting(), raised);
    }
}
