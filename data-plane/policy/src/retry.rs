//! Whether a failed attempt is tried again, and after which pause.
//!
//! Asked once per failed attempt, before anything of a response has been passed on. The order of
//! the checks is the order of what a user wants to know: was it an outcome that is retried, was it
//! allowed for the method, were attempts left, could the body be sent again, was there time, was
//! there budget. The budget comes last, so that only retries that run are charged.

use std::time::{Duration, Instant};

use outrigger_model::{RetryConditions, RetryPolicy};

use crate::{
    admission::Permit,
    backoff,
    budget::{Budget, BudgetRefusal},
    deadline::{Deadline, Remaining},
    outcome::{AttemptOutcome, RetrySafety},
};

/// Whether sending a request twice has the effect of sending it once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Idempotency {
    /// Yes.
    Idempotent,
    /// No, or not known.
    Unsafe,
}

impl Idempotency {
    /// RFC 9110 §9.2.2: PUT, DELETE and the safe methods. Methods are case-sensitive.
    #[must_use]
    pub fn of_method(method: &str) -> Self {
        match method {
            "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE" => Self::Idempotent,
            _ => Self::Unsafe,
        }
    }
}

/// Whether the request's body can be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Replay {
    /// There is none, or all of it that has been read is still in the replay buffer.
    Possible,
    /// More has gone out than the buffer holds.
    TooLarge,
}

/// One failed attempt, as the retry loop sees it.
#[derive(Debug, Clone, Copy)]
pub struct Failed<'a> {
    /// The rule's policy.
    pub policy: &'a RetryPolicy,
    /// Of the request's method.
    pub idempotency: Idempotency,
    /// What the attempt came to.
    pub outcome: AttemptOutcome,
    /// Retries made so far: 0 after the first try.
    pub retries: u8,
    /// Whether the body can be sent again.
    pub body: Replay,
    /// Deadline of the whole request.
    pub deadline: Deadline,
}

/// What follows a failed attempt.
#[derive(Debug)]
pub enum Decision {
    /// Try again after the pause. The permit is held until the retry has ended.
    Retry {
        /// Pause, shorter than the time left.
        pause: Duration,
        /// The retry's place among the running ones.
        permit: Permit,
    },
    /// The outcome is final.
    GiveUp(GiveUp),
}

/// Why an outcome is final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GiveUp {
    /// The policy does not retry it (successes included).
    NotRetried,
    /// The policy retries it, but not for this method.
    NotIdempotent,
    /// All retries are used.
    AttemptsExhausted,
    /// The body cannot be sent again.
    BodyTooLarge,
    /// The deadline would pass during the pause.
    DeadlineNear,
    /// The retry budget is used up.
    BudgetExhausted,
    /// `retries_max` retries are running.
    TooManyRunning,
}

impl GiveUp {
    /// Stable short name, for logs and metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotRetried => "not-retried",
            Self::NotIdempotent => "not-idempotent",
            Self::AttemptsExhausted => "retries-exhausted",
            Self::BodyTooLarge => "body-too-large",
            Self::DeadlineNear => "deadline-near",
            Self::BudgetExhausted => "budget-exhausted",
            Self::TooManyRunning => "retries-full",
        }
    }
}

/// Decides what follows a failed attempt.
pub fn decide(
    failed: &Failed<'_>,
    budget: &mut Budget,
    now: Instant,
    rng: &mut fastrand::Rng,
) -> Decision {
    let pause = match check(failed, now, rng) {
        Ok(pause) => pause,
        Err(reason) => return Decision::GiveUp(reason),
    };
    match budget.try_retry(failed.policy.budget, now) {
        Ok(permit) => Decision::Retry { pause, permit },
        Err(BudgetRefusal::Exhausted) => Decision::GiveUp(GiveUp::BudgetExhausted),
        Err(BudgetRefusal::TooManyRunning) => Decision::GiveUp(GiveUp::TooManyRunning),
    }
}

/// Everything but the budget; the pause if it may be retried.
fn check(failed: &Failed<'_>, now: Instant, rng: &mut fastrand::Rng) -> Result<Duration, GiveUp> {
    let policy = failed.policy;
    if failed.outcome.retry_safety() == RetrySafety::Never {
        return Err(GiveUp::NotRetried);
    }
    if !covers(&policy.on, failed.outcome) {
        if !covers(&policy.on_idempotent, failed.outcome) {
            return Err(GiveUp::NotRetried);
        }
        match failed.idempotency {
            Idempotency::Idempotent => {}
            Idempotency::Unsafe => return Err(GiveUp::NotIdempotent),
        }
    }
    if failed.retries >= policy.attempts {
        return Err(GiveUp::AttemptsExhausted);
    }
    match failed.body {
        Replay::Possible => {}
        Replay::TooLarge => return Err(GiveUp::BodyTooLarge),
    }
    let pause = backoff::pause(&policy.backoff, u32::from(failed.retries) + 1, rng);
    match failed.deadline.remaining(now) {
        Remaining::For(left) if left <= pause => Err(GiveUp::DeadlineNear),
        Remaining::For(_) | Remaining::Unlimited => Ok(pause),
    }
}

/// Whether the conditions name this outcome. As in Envoy, `5xx`, `gateway-error` and `reset`
/// include every way of getting no answer: connect failure, refused stream, reset; a per-try
/// timeout is part of the first two. gRPC codes are only what their own condition names, since
/// their HTTP status is 200.
#[must_use]
pub fn covers(on: &RetryConditions, outcome: AttemptOutcome) -> bool {
    match outcome {
        AttemptOutcome::Response { status } => {
            (on.any_5xx && (500..=599).contains(&status))
                || (on.gateway_error && (502..=504).contains(&status))
                || (on.retriable_4xx && status == 409)
                || on.statuses.contains(&status)
        }
        AttemptOutcome::Grpc { code } => code != 0 && on.grpc_statuses.contains(&code),
        AttemptOutcome::ConnectFailed | AttemptOutcome::HandshakeFailed => {
            on.connect_failure || no_answer(on)
        }
        AttemptOutcome::RefusedStream => on.refused_stream || no_answer(on),
        AttemptOutcome::ResetBeforeHead | AttemptOutcome::InvalidResponse => no_answer(on),
        AttemptOutcome::PerTryTimeout => on.per_try_timeout || on.any_5xx || on.gateway_error,
        AttemptOutcome::ResetAfterHead
        | AttemptOutcome::OverallTimeout
        | AttemptOutcome::HeldBack
        | AttemptOutcome::DownstreamGone => false,
    }
}

fn no_answer(on: &RetryConditions) -> bool {
    on.any_5xx || on.gateway_error || on.reset
}

#[cfg(test)]
mod tests;
