//! One timer a connection for all the waits of the engine.
//!
//! Deadlines move forward with every byte, so the timer is not moved with them: it fires when it
//! was armed to, looks whether the deadline has passed, and arms itself anew. Only an earlier
//! deadline costs a re-arm. A request that keeps moving costs the timer wheel nothing.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// A deadline that may move.
#[derive(Debug, Default)]
pub(super) struct Watch {
    deadline: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Watch {
    /// Sets the deadline, whatever it was before.
    pub(super) fn set(&mut self, after: Duration) {
        let deadline = Instant::now().checked_add(after);
        self.deadline = deadline;
        if let (Some(timer), Some(deadline)) = (&mut self.timer, deadline)
            && deadline < timer.deadline()
        {
            timer.as_mut().reset(deadline);
        }
    }

    /// Ready once the deadline has passed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}
