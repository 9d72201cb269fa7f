//! Ending in order (STYLE §5): stop accepting, let work end, cut what is left at the deadline.
//!
//! One [`Drain`] for the process. Listeners stop at [`Drain::begun`]; engines see it too and end
//! their connections after the exchange at hand (`connection: close`, GOAWAY); at
//! [`Drain::cut`] every connection task is dropped.

use tokio_util::sync::CancellationToken;

/// Signals of a drain; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    begun: CancellationToken,
    cut: CancellationToken,
}

impl Drain {
    /// A token that is cancelled when the drain begins, for one worker.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.begun.child_token()
    }

    /// A drain of one connection, that begins with `begun`.
    #[must_use]
    pub fn of_connection(begun: &CancellationToken) -> Self {
        Self {
            begun: begun.clone(),
            cut: CancellationToken::new(),
        }
    }

    /// Starts it: nothing new is accepted.
    pub fn begin(&self) {
        self.begun.cancel();
    }

    /// Ends it: what is still at work is dropped.
    pub fn force(&self) {
        self.begun.cancel();
        self.cut.cancel();
    }

    /// Whether it has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Completes when the drain begins. Cancel safe: yes.
    pub async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// Completes when time is up. Cancel safe: yes.
    pub async fn cut(&self) {
        self.cut.cancelled().await;
    }
}
