//! What one exchange holds in buffers, and its end where that is the most (DEF-21, 95 %).
//!
//! Nobody counts while memory is free: an exchange is asked, tells at its next step, and may then be
//! told to end. On the request path this costs one comparison of wakers a step. The choice is
//! [`outrigger_policy::overload::to_reset`]'s, the rounds are the worker's
//! ([`Worker::shed`](crate::worker::Worker::shed)), the bytes are the engine's to count.

use std::{
    cell::Cell,
    fmt,
    task::{Context, Poll, Waker},
};

/// One exchange, or one opaque connection, as the worker sees it.
#[derive(Default)]
pub struct Hold {
    asked: Cell<bool>,
    told: Cell<Option<usize>>,
    reset: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Hold {
    /// Asks what it holds: [`Self::told`] after its next step.
    pub(crate) fn ask(&self) {
        self.told.set(None);
        self.asked.set(true);
        self.wake();
    }

    /// Bytes that it told since it was asked.
    pub(crate) fn told(&self) -> Option<usize> {
        self.told.get()
    }

    /// Tells it to end.
    pub(crate) fn reset(&self) {
        self.reset.set(true);
        self.wake();
    }

    /// To be polled at each step of the exchange; ready once it is to end. `bytes` is called only
    /// where somebody asked.
    pub(crate) fn poll(&self, cx: &Context<'_>, bytes: impl FnOnce() -> usize) -> Poll<()> {
        if self.reset.get() {
            return Poll::Ready(());
        }
        if self.asked.replace(false) {
            self.told.set(Some(bytes()));
        }
        let waker = match self.waker.take() {
            Some(waker) if waker.will_wake(cx.waker()) => waker,
            Some(_) | None => cx.waker().clone(),
        };
        self.waker.set(Some(waker));
        Poll::Pending
    }

    /// For the next exchange.
    pub(crate) fn clear(&self) {
        self.asked.set(false);
        self.told.set(None);
        self.reset.set(false);
        self.waker.set(None);
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold")
            .field("told", &self.told.get())
            .field("reset", &self.reset.get())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_only_when_asked_and_ends_when_told() {
        let cx = Context::from_waker(Waker::noop());
        let hold = Hold::default();
        let never = || -> usize { unreachable!("nobody asked") };
        assert!(hold.poll(&cx, never).is_pending());
        hold.ask();
        assert_eq!(hold.told(), None);
        assert!(hold.poll(&cx, || 5).is_pending());
        assert!(hold.poll(&cx, never).is_pending());
        assert_eq!(hold.told(), Some(5));
        hold.ask();
        assert_eq!(hold.told(), None, "what was true before is forgotten");
        hold.reset();
        assert!(hold.poll(&cx, never).is_ready());
        hold.clear();
        assert!(hold.poll(&cx, never).is_pending());
    }
}
