//! What a worker knows of one endpoint's load: weight, requests outstanding, latency estimate.
//!
//! The estimate is a peak-sensitive moving average: a slower answer raises it at once, faster ones
//! lower it over [`DECAY`], and it fades while nothing is heard, so that an endpoint that was slow
//! is tried again. A failure doubles it, or it would reward an endpoint for failing fast.

use std::time::{Duration, Instant};

use outrigger_model::Weight;

use crate::outcome::{AttemptOutcome, Verdict};

/// Time constant of the moving average: what was seen so long ago counts 1/e.
const DECAY: Duration = Duration::from_secs(10);
/// A failure counts as at least this slow.
const FAILURE_MIN: Duration = Duration::from_millis(10);
/// No failure raises an estimate above this: about the longest that people wait.
const FAILURE_MAX: Duration = Duration::from_secs(5);
/// The second draw must be a fifth cheaper: less is noise, and requests that come one by one would
/// all go to whichever endpoint happened to be faster by a microsecond.
const CLEARLY_CHEAPER: f64 = 0.8;

/// Load of one endpoint, as one worker sees it.
#[derive(Debug, Clone)]
pub struct EndpointLoad {
    weight: u32,
    outstanding: u32,
    estimate: Estimate,
}

#[derive(Debug, Clone, Copy)]
enum Estimate {
    /// Nothing was heard yet.
    Unknown,
    Known {
        seconds: f64,
        updated: Instant,
    },
}

impl EndpointLoad {
    /// A new endpoint. Until its first answer it is compared by what is outstanding alone: it
    /// gets a fair share at once, and no flood.
    #[must_use]
    pub fn new(weight: Weight) -> Self {
        Self {
            weight: weight.get(),
            outstanding: 0,
            estimate: Estimate::Unknown,
        }
    }

    /// Changes the weight; call [`Balancer::endpoints_changed`](super::Balancer) after it.
    pub fn set_weight(&mut self, weight: Weight) {
        self.weight = weight.get();
    }

    /// Share of load relative to the others.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// Attempts in flight.
    #[must_use]
    pub fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// An attempt starts. Each start is followed by one [`on_end`](Self::on_end).
    pub fn on_start(&mut self) {
        self.outstanding = self.outstanding.saturating_add(1);
    }

    /// An attempt ended; `latency` is the time to its response head, or to its failure.
    pub fn on_end(&mut self, latency: Duration, outcome: AttemptOutcome, now: Instant) {
        self.outstanding = self.outstanding.saturating_sub(1);
        let latency = latency.as_secs_f64();
        let current = self.estimated_seconds(now);
        match outcome.verdict() {
            Verdict::Success => self.observe(latency, now),
            Verdict::ServerError | Verdict::GatewayError => {
                let doubled = current.unwrap_or(0.0) * 2.0;
                let penalty = doubled.clamp(FAILURE_MIN.as_secs_f64(), FAILURE_MAX.as_secs_f64());
                self.observe(latency.max(penalty), now);
            }
            // Not an answer; but it was at least this slow.
            Verdict::Neutral if current.is_some_and(|current| latency > current) => {
                self.observe(latency, now);
            }
            Verdict::Neutral => {}
        }
    }

    /// The latency estimate now, in seconds; `None` before the first answer.
    #[must_use]
    pub fn estimated_seconds(&self, now: Instant) -> Option<f64> {
        match self.estimate {
            Estimate::Unknown => None,
            Estimate::Known { seconds, updated } => Some(seconds * faded(updated, now)),
        }
    }

    fn observe(&mut self, latency: f64, now: Instant) {
        let seconds = match self.estimate {
            Estimate::Known { seconds, updated } if latency < seconds => {
                let old = faded(updated, now);
                seconds * old + latency * (1.0 - old)
            }
            Estimate::Known { .. } | Estimate::Unknown => latency,
        };
        self.estimate = Estimate::Known {
            seconds,
            updated: now,
        };
    }

    /// Whether it has less outstanding for its weight.
    pub(super) fn has_fewer_outstanding_than(&self, other: &Self) -> bool {
        let scaled = |one: &Self, weight: u32| u64::from(one.outstanding) * u64::from(weight);
        scaled(self, other.weight) < scaled(other, self.weight)
    }

    /// Whether a request is expected to be clearly faster here than at `other`.
    pub(super) fn is_cheaper_than(&self, other: &Self, weight_max: u32, now: Instant) -> bool {
        match (self.estimated_seconds(now), other.estimated_seconds(now)) {
            (Some(here), Some(there)) => {
                here * self.queue(weight_max) < there * other.queue(weight_max) * CLEARLY_CHEAPER
            }
            (None, _) | (_, None) => self.has_fewer_outstanding_than(other),
        }
    }

    /// How many would be served at once with one more, counted in the heaviest endpoint's terms.
    fn queue(&self, weight_max: u32) -> f64 {
        let share = f64::from(self.weight.max(1)) / f64::from(weight_max);
        1.0 + f64::from(self.outstanding) / share
    }
}

/// What is left, from 1 to 0, of something seen at `updated`.
fn faded(updated: Instant, now: Instant) -> f64 {
    let age = now.saturating_duration_since(updated);
    (-age.as_secs_f64() / DECAY.as_secs_f64()).exp()
}
