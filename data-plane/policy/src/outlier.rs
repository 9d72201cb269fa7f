//! Outlier detection: endpoints that fail again and again get no traffic for a while.
//!
//! Each endpoint is a small state machine ([`EndpointHealth`], one transition function); the
//! [`Detector`] of its cluster holds the policy and the bound on how many may be out at once. Both
//! have one owner, who calls one method at a time.
//!
//! ```text
//!            threshold reached, bound allows
//!  Healthy ────────────────────────────────► Ejected ◄───────────┐
//!     ▲                                         │ time over,      │ it failed (longer),
//!     │ it succeeded                            ▼ a request comes │ or said nothing (due at once)
//!     └────────────────────────────────────── Probing ────────────┘
//! ```
//! An endpoint comes back by a live probe: once its time is over it gets one request; until that
//! succeeds it gets no second, and counts as ejected. There is no timer: what has become due shows
//! in [`Detector::admits`].
//!
//! `max_ejection_percent` is a bound, as Istio documents it: a share that is not a whole endpoint
//! ejects none (50 % of one, 10 % of nine). Envoy does so since its flag
//! `check_mep_on_first_eject`; before, it always allowed one.
//!
//! A deliberate deviation from Envoy: an ejection ends when its time is over rather than at the
//! next sweep. The n of ejection time `base × n` falls by one for each whole `interval` since the
//! endpoint's return.
//!
//! Cost: `admits` is a comparison for a healthy endpoint, `on_end` a few for a success.

mod standing;

use std::time::{Duration, Instant};

use outrigger_model::{EjectionThreshold, OutlierDetection};

pub use standing::Standing;

use crate::outcome::Verdict;

/// Health of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointHealth {
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Takes traffic. Failures in a row of each kind.
    Healthy {
        server_errors: u32,
        gateway_errors: u32,
        past: Past,
    },
    /// Takes none until then; afterwards one probe. `times` ejections in a row, at least 1.
    Ejected { until: Instant, times: u32 },
    /// One request is out to see whether it works again.
    Probing { since: Instant, times: u32 },
}

/// What a healthy endpoint has behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Past {
    Clean,
    /// Returned then, after so many ejections in a row.
    Ejected {
        returned: Instant,
        times: u32,
    },
}

/// As what an attempt was sent. Kept by the attempt and handed back at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Ordinary traffic.
    Regular,
    /// The one request that decides whether the endpoint returns.
    Probe,
}

/// What has happened to an endpoint, for metrics and log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// It gets no traffic for this long; it is the `times`-th ejection in a row.
    Ejected {
        /// Length.
        duration: Duration,
        /// From 1.
        times: u32,
    },
    /// It is back in full.
    Returned,
    /// It would have been ejected, but as many are out as may be.
    Withheld,
}

enum Event {
    /// It is chosen for a request.
    Started,
    /// A request to it ended.
    Ended(Role, Verdict),
}

impl EndpointHealth {
    /// A new endpoint: healthy.
    #[must_use]
    pub fn new() -> Self {
        let state = State::Healthy {
            server_errors: 0,
            gateway_errors: 0,
            past: Past::Clean,
        };
        Self { state }
    }

    /// Whether it is ejected or not yet fully back.
    #[must_use]
    pub fn is_out(&self) -> bool {
        match self.state {
            State::Healthy { .. } => false,
            State::Ejected { .. } | State::Probing { .. } => true,
        }
    }

    /// Whether it is healthy without a failure since the last success: then a success changes
    /// nothing.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        match self.state {
            State::Healthy {
                server_errors,
                gateway_errors,
                past: _,
            } => server_errors == 0 && gateway_errors == 0,
            State::Ejected { .. } | State::Probing { .. } => false,
        }
    }
}

impl Default for EndpointHealth {
    fn default() -> Self {
        Self::new()
    }
}

/// Policy and bound of one cluster.
#[derive(Debug)]
pub struct Detector {
    policy: OutlierDetection,
    endpoints: usize,
    out: usize,
}

impl Detector {
    /// For a cluster of so many endpoints, all healthy.
    #[must_use]
    pub fn new(policy: OutlierDetection, endpoints: usize) -> Self {
        Self {
            policy,
            endpoints,
            out: 0,
        }
    }

    /// The cluster's endpoints changed. `kept` are all that it has now, with the health they had
    /// (new ones: [`EndpointHealth::new`]).
    pub fn endpoints_changed<'a>(&mut self, kept: impl IntoIterator<Item = &'a EndpointHealth>) {
        self.endpoints = 0;
        self.out = 0;
        for health in kept {
            self.endpoints += 1;
            self.out += usize::from(health.is_out());
        }
    }

    /// The policy changed. Ejections that run keep their length; once detection is off, everybody
    /// is admitted.
    pub fn set_policy(&mut self, policy: OutlierDetection) {
        self.policy = policy;
    }

    /// Endpoints ejected or not yet fully back.
    #[must_use]
    pub fn out(&self) -> usize {
        self.out
    }

    /// Whether so few are healthy that ejection is disregarded (`min_health_percent`).
    #[must_use]
    pub fn panicking(&self) -> bool {
        let healthy = self.endpoints.saturating_sub(self.out);
        healthy * 100 < self.endpoints * usize::from(self.policy.min_health_percent.get())
    }

    /// Whether the endpoint may be picked now.
    #[must_use]
    pub fn admits(&self, health: &EndpointHealth, now: Instant) -> bool {
        match health.state {
            State::Healthy { .. } => true,
            State::Ejected { .. } | State::Probing { .. } => {
                self.probe_due(health, now) || self.is_off() || self.panicking()
            }
        }
    }

    /// The endpoint was picked for an attempt, whose end must be told to [`on_end`](Self::on_end)
    /// with the role returned here.
    pub fn on_start(&self, health: &mut EndpointHealth, now: Instant) -> Role {
        if !health.is_out() {
            return Role::Regular;
        }
        let role = if self.probe_due(health, now) {
            Role::Probe
        } else {
            Role::Regular
        };
        if role == Role::Probe {
            let (state, _) = self.step(health.state, Event::Started, now);
            health.state = state;
        }
        role
    }

    /// An attempt to the endpoint ended. What is known at the response head should be told then: a
    /// stream that lasts for hours would keep its endpoint half-returned.
    pub fn on_end(
        &mut self,
        health: &mut EndpointHealth,
        role: Role,
        verdict: Verdict,
        now: Instant,
    ) -> Option<Action> {
        let was_out = health.is_out();
        let (state, action) = self.step(health.state, Event::Ended(role, verdict), now);
        health.state = state;
        match (was_out, health.is_out()) {
            (false, true) => self.out += 1,
            (true, false) => self.out = self.out.saturating_sub(1),
            (false, false) | (true, true) => {}
        }
        action
    }

    /// The transition function: the only place where states change.
    fn step(&self, state: State, event: Event, now: Instant) -> (State, Option<Action>) {
        match (state, event) {
            (State::Ejected { times, .. } | State::Probing { times, .. }, Event::Started) => {
                (State::Probing { since: now, times }, None)
            }
            (State::Healthy { .. }, Event::Started) => (state, None),

            (_, Event::Ended(Role::Regular, Verdict::Neutral)) => (state, None),
            (State::Healthy { .. }, Event::Ended(_, verdict)) => self.count(state, verdict, now),
            // Left over from before the ejection, or sent in panic: the probe alone decides.
            (State::Ejected { .. } | State::Probing { .. }, Event::Ended(Role::Regular, _)) => {
                (state, None)
            }
            // A probe that was given up as lost, and another has failed meanwhile.
            (State::Ejected { .. }, Event::Ended(Role::Probe, _)) => (state, None),
            (State::Probing { times, .. }, Event::Ended(Role::Probe, verdict)) => {
                if verdict == Verdict::Neutral {
                    return (State::Ejected { until: now, times }, None);
                }
                if self.is_failure(verdict) {
                    return self.eject(times.saturating_add(1), now);
                }
                let past = Past::Ejected {
                    returned: now,
                    times,
                };
                let returned = State::Healthy {
                    server_errors: 0,
                    gateway_errors: 0,
                    past,
                };
                (returned, Some(Action::Returned))
            }
        }
    }

    /// A healthy endpoint's attempt ended.
    fn count(&self, state: State, verdict: Verdict, now: Instant) -> (State, Option<Action>) {
        let State::Healthy {
            server_errors,
            gateway_errors,
            past,
        } = state
        else {
            return (state, None);
        };
        let (server_errors, gateway_errors) = match verdict {
            Verdict::Success => (0, 0),
            Verdict::ServerError => (server_errors.saturating_add(1), 0),
            Verdict::GatewayError => (
                server_errors.saturating_add(1),
                gateway_errors.saturating_add(1),
            ),
            Verdict::Neutral => (server_errors, gateway_errors),
        };
        let counted = State::Healthy {
            server_errors,
            gateway_errors,
            past,
        };
        let reached = is_reached(self.policy.consecutive_5xx, server_errors)
            || is_reached(self.policy.consecutive_gateway, gateway_errors);
        if !reached || verdict == Verdict::Neutral {
            return (counted, None);
        }
        if !self.may_eject() {
            return (counted, Some(Action::Withheld));
        }
        self.eject(self.times_so_far(past, now).saturating_add(1), now)
    }

    fn eject(&self, times: u32, now: Instant) -> (State, Option<Action>) {
        let base = self.policy.base_ejection;
        let longest = self.policy.max_ejection.max(base);
        let duration = base.saturating_mul(times).min(longest);
        // Centuries, where the clock cannot say them, are as good as any later end.
        let until = now
            .checked_add(duration)
            .unwrap_or(now + Duration::from_secs(1 << 32));
        let ejected = State::Ejected { until, times };
        (ejected, Some(Action::Ejected { duration, times }))
    }

    /// Only while the share of those that are out stays within the percentage.
    fn may_eject(&self) -> bool {
        let percent = usize::from(self.policy.max_ejection_percent.get());
        (self.out + 1) * 100 <= self.endpoints * percent
    }

    /// Ejections in a row that still count: one less for each interval in good health.
    fn times_so_far(&self, past: Past, now: Instant) -> u32 {
        match past {
            Past::Clean => 0,
            Past::Ejected { returned, times } => {
                let healthy = now.saturating_duration_since(returned);
                let intervals = healthy.as_nanos() / self.policy.interval.as_nanos().max(1);
                times.saturating_sub(u32::try_from(intervals).unwrap_or(u32::MAX))
            }
        }
    }

    /// Whether a probe may start. One without an answer for `base_ejection` is taken as lost.
    fn probe_due(&self, health: &EndpointHealth, now: Instant) -> bool {
        match health.state {
            State::Healthy { .. } => false,
            State::Ejected { until, .. } => now >= until,
            State::Probing { since, .. } => {
                now.saturating_duration_since(since) >= self.policy.base_ejection
            }
        }
    }

    /// Whether a probe with this verdict has failed: by a kind of failure that is watched.
    fn is_failure(&self, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Success | Verdict::Neutral => false,
            Verdict::ServerError => self.policy.consecutive_5xx != EjectionThreshold::Never,
            Verdict::GatewayError => !self.is_off(),
        }
    }

    fn is_off(&self) -> bool {
        self.policy.consecutive_5xx == EjectionThreshold::Never
            && self.policy.consecutive_gateway == EjectionThreshold::Never
    }
}

/// Whether so many failures in a row are enough.
fn is_reached(threshold: EjectionThreshold, failures: u32) -> bool {
    match threshold {
        EjectionThreshold::Never => false,
        EjectionThreshold::After(least) => failures >= least.get(),
    }
}

#[cfg(test)]
mod tests;
