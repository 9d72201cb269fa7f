//! The decisions of the data plane: which rule, backend and endpoint a request takes, what an
//! attempt's outcome means, whether it is tried again, who is ejected, who is admitted.
//!
//! Pure: no I/O, clock, runtime or global randomness. `now` and a seeded generator come in as
//! arguments, so that every decision can be replayed in a test. State is plain `&mut` and belongs
//! to one worker; only [`admission`] counts across workers, with atomics. Nothing here allocates
//! per request, except where several header fields of one name must be joined to be matched.
//!
//! In the order of the request path (DESIGN §5): [`route`] and [`split`] choose a backend,
//! [`filter`] says what changes on the way to it, [`deadline`] starts, [`admission`] bounds,
//! [`balance`] picks an endpoint among those that [`outlier`] admits, [`outcome`] classes what came
//! of it, [`retry`] (with [`backoff`] and [`budget`]) decides what follows. Beside the path,
//! [`overload`] says what a process that runs out of memory gives up.

#![warn(clippy::wildcard_enum_match_arm)]

pub mod admission;
pub mod backoff;
pub mod balance;
pub mod budget;
pub mod deadline;
pub mod filter;
pub mod outcome;
pub mod outlier;
pub mod overload;
pub mod path;
pub mod request;
pub mod retry;
pub mod route;
pub mod split;

pub use request::RequestView;

#[cfg(test)]
mod test_clock {
    use std::{sync::LazyLock, time::Instant};

    /// The instant that tests count from. Nothing depends on when it is.
    pub(crate) fn epoch() -> Instant {
        #[expect(
            clippy::disallowed_methods,
            reason = "there is no other way to make an Instant; every later one is this plus a duration"
        )]
        static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
        *EPOCH
    }
}
