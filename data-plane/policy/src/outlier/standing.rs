//! An endpoint's health, as people look at it: no decision depends on it.

use std::time::{Duration, Instant};

use super::{EndpointHealth, State};

/// An endpoint's health, as people look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It takes traffic; failures in a row so far.
    Healthy {
        /// Answers of 500 and above, gateway errors included.
        server_errors: u32,
        /// Connection failures, timeouts, 502 to 504.
        gateway_errors: u32,
    },
    /// It takes none for so much longer; zero: the next request is its probe.
    Ejected {
        /// Rest of its time.
        left: Duration,
        /// Ejections in a row.
        times: u32,
    },
    /// One request is out to see whether it works again.
    Probing {
        /// Since then.
        elapsed: Duration,
        /// Ejections in a row.
        times: u32,
    },
}

impl EndpointHealth {
    /// Its state, as people look at it.
    #[must_use]
    pub fn standing(&self, now: Instant) -> Standing {
        match self.state {
            State::Healthy {
                server_errors,
                gateway_errors,
                past: _,
            } => Standing::Healthy {
                server_errors,
                gateway_errors,
            },
            State::Ejected { until, times } => Standing::Ejected {
                left: until.saturating_duration_since(now),
                times,
            },
            State::Probing { since, times } => Standing::Probing {
                elapsed: now.saturating_duration_since(since),
                times,
            },
        }
    }
}
