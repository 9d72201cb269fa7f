//! Clients that open streams to reset them (DEF-07): h2 bounds what it has not handed over;
//! this counts the rest, for each connection.

use std::{cell::Cell, time::Duration};

use tokio::time::Instant;

const WINDOW: Duration = Duration::from_secs(10);
/// A client that cancels fewer than this in a window is never cut off.
const RESETS_MAX: u32 = 100;

/// Streams and resets of one connection in the present window.
#[derive(Debug)]
pub(super) struct Resets {
    began: Cell<Instant>,
    opened: Cell<u32>,
    reset: Cell<u32>,
}

impl Resets {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            began: Cell::new(now),
            opened: Cell::new(0),
            reset: Cell::new(0),
        }
    }

    /// A stream was opened.
    pub(super) fn note_opened(&self, now: Instant) {
        if now.duration_since(self.began.get()) > WINDOW {
            self.began.set(now);
            self.opened.set(0);
            self.reset.set(0);
        }
        self.opened.set(self.opened.get().saturating_add(1));
    }

    /// A stream was reset by the client.
    pub(super) fn note_reset(&self) {
        self.reset.set(self.reset.get().saturating_add(1));
    }

    /// Whether most of many streams were reset.
    pub(super) fn is_abuse(&self) -> bool {
        let reset = self.reset.get();
        reset > RESETS_MAX && reset > self.opened.get() / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (opened, reset) → abuse?
    fn check(opened: u32, reset: u32, expected: bool) {
        let now = Instant::now();
        let resets = Resets::new(now);
        (0..opened).for_each(|_| resets.note_opened(now));
        (0..reset).for_each(|_| resets.note_reset());
        assert_eq!(resets.is_abuse(), expected, "{reset} of {opened}");
    }

    #[test]
    fn many_and_most_must_be_reset() {
        check(100, 100, false);
        check(101, 101, true);
        check(1000, 101, false);
        check(1000, 500, false);
        check(1000, 501, true);
    }

    #[test]
    fn a_new_window_forgets() {
        let now = Instant::now();
        let resets = Resets::new(now);
        (0..200).for_each(|_| {
            resets.note_opened(now);
            resets.note_reset();
        });
        assert!(resets.is_abuse());
        resets.note_opened(now + WINDOW + Duration::from_millis(1));
        assert!(!resets.is_abuse());
    }
}
