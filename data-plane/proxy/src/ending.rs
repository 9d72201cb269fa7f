//! How one accepted connection is told to end in order: after the exchange at hand, with
//! `connection: close` or GOAWAY, as in a drain.
//!
//! Who tells it: the drain; its peer's certificate at its end; a process short of memory (DEF-21).
//! Opaque and upgraded connections are one exchange as a whole, so they end by themselves.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use outrigger_policy::overload::Level;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::hold::Hold;

/// How long a connection may idle once memory fills (DEF-21, 85 %).
pub const IDLE_SHORT: Duration = Duration::from_secs(10);

/// One connection's end.
#[derive(Debug)]
pub struct Ending {
    signal: CancellationToken,
    at_work: Cell<u32>,
    idle_since: Cell<Instant>,
    expires: Cell<Option<Instant>>,
    exchanges: RefCell<Exchanges>,
}

/// What is known of the exchanges under way: as many places as there were at once, each used again.
#[derive(Debug, Default)]
struct Exchanges {
    places: Vec<Rc<Hold>>,
    free: Vec<usize>,
}

/// An exchange under way; over when dropped.
#[derive(Debug)]
pub struct Work {
    ending: Rc<Ending>,
    place: usize,
    hold: Rc<Hold>,
}

impl Ending {
    /// Of a connection that ends with `drain` at the latest, without exchanges so far.
    #[must_use]
    pub fn new(drain: &CancellationToken) -> Rc<Self> {
        Rc::new(Self {
            signal: drain.child_token(),
            at_work: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            expires: Cell::new(None),
            exchanges: RefCell::default(),
        })
    }

    /// Cancelled when the connection is to end.
    #[must_use]
    pub fn signal(&self) -> &CancellationToken {
        &self.signal
    }

    /// When what its peer proved is true no longer.
    pub fn expires_at(&self, at: Option<Instant>) {
        self.expires.set(at);
    }

    /// An exchange begins.
    #[must_use]
    pub fn work(self: &Rc<Self>) -> Work {
        self.at_work.set(self.at_work.get().saturating_add(1));
        let Exchanges { places, free } = &mut *self.exchanges.borrow_mut();
        let known = free.pop();
        let known = known.and_then(|place| Some((place, Rc::clone(places.get(place)?))));
        let (place, hold) = known.unwrap_or_else(|| {
            let hold = Rc::new(Hold::default());
            places.push(Rc::clone(&hold));
            (places.len() - 1, hold)
        });
        Work {
            ending: Rc::clone(self),
            place,
            hold,
        }
    }

    /// Each exchange that was ever under way; those over hold nothing, and tell nothing.
    pub(crate) fn holds(&self) -> Vec<Rc<Hold>> {
        self.exchanges.borrow().places.clone()
    }

    /// Tells it to end, if it is time.
    pub fn tend(&self, now: Instant, level: Level) {
        let expired = self.expires.get().is_some_and(|at| at <= now);
        let idle = self.at_work.get() == 0
            && now.saturating_duration_since(self.idle_since.get()) >= IDLE_SHORT;
        let spare = match level {
            Level::Normal => false,
            Level::ShorterIdle => idle,
            Level::EndConnections | Level::Refuse | Level::StopAccepting => true,
        };
        if expired || spare {
            self.signal.cancel();
        }
    }
}

impl Work {
    /// What the exchange is asked for and told to, for want of memory.
    #[must_use]
    pub fn hold(&self) -> &Rc<Hold> {
        &self.hold
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let ending = &self.ending;
        self.hold.clear();
        ending.exchanges.borrow_mut().free.push(self.place);
        ending.at_work.set(ending.at_work.get().saturating_sub(1));
        ending.idle_since.set(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After so many seconds at this level: is it told to end?
    #[track_caller]
    fn check(ending: &Rc<Ending>, seconds: u64, level: Level, expected: bool) {
        ending.tend(Instant::now() + Duration::from_secs(seconds), level);
        assert_eq!(
            ending.signal().is_cancelled(),
            expected,
            "{seconds} s {level}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_used_again() {
        let ending = Ending::new(&CancellationToken::new());
        let work: Vec<_> = (0..3).map(|_| ending.work()).collect();
        assert_eq!(ending.holds().len(), 3);
        work[1].hold().reset();
        drop(work);
        let _work: Vec<_> = (0..3).map(|_| ending.work()).collect();
        assert_eq!(ending.holds().len(), 3);
        let cx = std::task::Context::from_waker(std::task::Waker::noop());
        for hold in ending.holds() {
            assert!(hold.poll(&cx, || 0).is_pending());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_a_connection() {
        let drain = CancellationToken::new();
        let ending = Ending::new(&drain);
        check(&ending, 3_000, Level::Normal, false);
        check(&ending, 9, Level::ShorterIdle, false);
        let work = ending.work();
        check(&ending, 3_000, Level::ShorterIdle, false);
        drop(work);
        check(&ending, 10, Level::ShorterIdle, true);
        for level in [Level::EndConnections, Level::Refuse, Level::StopAccepting] {
            let ending = Ending::new(&drain);
            let _work = ending.work();
            check(&ending, 0, level, true);
        }
        let ending = Ending::new(&drain);
        ending.expires_at(Some(Instant::now() + Duration::from_secs(60)));
        check(&ending, 59, Level::Normal, false);
        check(&ending, 60, Level::Normal, true);
        let ending = Ending::new(&drain);
        drain.cancel();
        check(&ending, 0, Level::Normal, true);
    }
}
