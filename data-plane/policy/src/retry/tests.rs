//! Which outcomes are retried, and why not.

use outrigger_model::{Backoff, Percent, Ratio, RetryBudget, Timeout};

use super::*;
use crate::{
    admission::{Gate, Refusal},
    test_clock::epoch,
};

use AttemptOutcome as O;

/// The mesh's default: unprocessed for any method, reset for idempotent ones.
fn policy() -> RetryPolicy {
    RetryPolicy {
        attempts: 2,
        per_try_timeout: Timeout::Disabled,
        on: RetryConditions {
            connect_failure: true,
            refused_stream: true,
            ..RetryConditions::default()
        },
        on_idempotent: RetryConditions {
            reset: true,
            ..RetryConditions::default()
        },
        backoff: Backoff {
            base: Duration::from_millis(20),
            max: Duration::from_millis(200),
            jitter: Ratio::ZERO,
        },
        budget: RetryBudget {
            percent: Percent::new(20).unwrap(),
            min_per_second: 10,
        },
    }
}

fn failed(policy: &RetryPolicy, outcome: O) -> Failed<'_> {
    Failed {
        policy,
        idempotency: Idempotency::Idempotent,
        outcome,
        retries: 0,
        body: Replay::Possible,
        deadline: Deadline::None,
    }
}

fn run(failed: &Failed<'_>, budget: &mut Budget) -> Result<u128, GiveUp> {
    let mut rng = fastrand::Rng::with_seed(7);
    match decide(failed, budget, epoch(), &mut rng) {
        Decision::Retry { pause, .. } => Ok(pause.as_millis()),
        Decision::GiveUp(reason) => Err(reason),
    }
}

#[track_caller]
fn check(failed: &Failed<'_>, expected: Result<u128, GiveUp>) {
    let mut budget = Budget::new(Gate::new(3, Refusal::Retries), epoch());
    assert_eq!(run(failed, &mut budget), expected, "{failed:?}");
}

#[test]
fn methods() {
    for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
        assert_eq!(Idempotency::of_method(method), Idempotency::Idempotent);
    }
    for method in ["POST", "PATCH", "CONNECT", "get", "PROPFIND", ""] {
        assert_eq!(Idempotency::of_method(method), Idempotency::Unsafe);
    }
}

#[test]
fn by_default_only_the_unprocessed_and_idempotent_resets() {
    let policy = policy();
    let check_both = |outcome, idempotent, not_idempotent| {
        let one = failed(&policy, outcome);
        check(&one, idempotent);
        let post = Failed {
            idempotency: Idempotency::Unsafe,
            ..one
        };
        check(&post, not_idempotent);
    };
    let never = Err(GiveUp::NotRetried);
    check_both(O::ConnectFailed, Ok(20), Ok(20));
    check_both(O::HandshakeFailed, Ok(20), Ok(20));
    check_both(O::RefusedStream, Ok(20), Ok(20));
    check_both(O::ResetBeforeHead, Ok(20), Err(GiveUp::NotIdempotent));
    check_both(O::InvalidResponse, Ok(20), Err(GiveUp::NotIdempotent));
    check_both(O::PerTryTimeout, never, never);
    check_both(O::Response { status: 503 }, never, never);
    check_both(O::Response { status: 200 }, never, never);
    check_both(O::Grpc { code: 14 }, never, never);
    check_both(O::ResetAfterHead, never, never);
    check_both(O::OverallTimeout, never, never);
    check_both(O::HeldBack, never, never);
    check_both(O::DownstreamGone, never, never);
}

#[test]
fn the_checks_come_in_order() {
    let policy = policy();
    let reset = failed(&policy, O::ResetBeforeHead);
    let spent = Failed {
        retries: 2,
        ..reset
    };
    check(
        &Failed {
            retries: 1,
            ..reset
        },
        Ok(40),
    );
    check(&spent, Err(GiveUp::AttemptsExhausted));
    let post = Failed {
        idempotency: Idempotency::Unsafe,
        ..spent
    };
    check(&post, Err(GiveUp::NotIdempotent));
    let large = Failed {
        body: Replay::TooLarge,
        ..reset
    };
    check(&large, Err(GiveUp::BodyTooLarge));
    let within = |ms| Failed {
        deadline: Deadline::At(epoch() + Duration::from_millis(ms)),
        ..reset
    };
    check(&within(20), Err(GiveUp::DeadlineNear));
    check(&within(21), Ok(20));
}

#[test]
fn only_retries_that_run_are_charged() {
    let mut policy = policy();
    policy.budget.min_per_second = 1;
    let reset = failed(&policy, O::ResetBeforeHead);
    let mut budget = Budget::new(Gate::new(1, Refusal::Retries), epoch());
    let spent = Failed {
        retries: 2,
        ..reset
    };
    for _ in 0..5 {
        assert_eq!(run(&spent, &mut budget), Err(GiveUp::AttemptsExhausted));
    }
    let mut rng = fastrand::Rng::with_seed(7);
    let held = decide(&reset, &mut budget, epoch(), &mut rng);
    assert!(matches!(held, Decision::Retry { .. }));
    assert_eq!(run(&reset, &mut budget), Err(GiveUp::TooManyRunning));
    drop(held);
    assert_eq!(run(&reset, &mut budget), Err(GiveUp::BudgetExhausted));
}

type Set = fn(&mut RetryConditions);

#[test]
fn conditions_cover_what_envoy_documents() {
    let (c500, c503, c409, c404) = (
        O::Response { status: 500 },
        O::Response { status: 503 },
        O::Response { status: 409 },
        O::Response { status: 404 },
    );
    let unanswered = [
        O::ConnectFailed,
        O::HandshakeFailed,
        O::RefusedStream,
        O::ResetBeforeHead,
        O::InvalidResponse,
    ];
    let with = |more: &[O]| [&unanswered, more].concat();
    let all = [
        &unanswered[..],
        &[c500, c503, c409, c404, O::Response { status: 200 }],
        &[
            O::Grpc { code: 0 },
            O::Grpc { code: 14 },
            O::Grpc { code: 8 },
        ],
        &[
            O::PerTryTimeout,
            O::OverallTimeout,
            O::ResetAfterHead,
            O::DownstreamGone,
        ],
    ]
    .concat();
    let check = |set: Set, expected: &[O]| {
        let mut on = RetryConditions::default();
        set(&mut on);
        for outcome in &all {
            let covered = covers(&on, *outcome);
            assert_eq!(covered, expected.contains(outcome), "{outcome:?} by {on:?}");
        }
    };
    check(|_| {}, &[]);
    check(
        |on| on.any_5xx = true,
        &with(&[c500, c503, O::PerTryTimeout]),
    );
    check(
        |on| on.gateway_error = true,
        &with(&[c503, O::PerTryTimeout]),
    );
    check(|on| on.reset = true, &unanswered);
    check(
        |on| on.connect_failure = true,
        &[O::ConnectFailed, O::HandshakeFailed],
    );
    check(|on| on.refused_stream = true, &[O::RefusedStream]);
    check(|on| on.retriable_4xx = true, &[c409]);
    check(|on| on.per_try_timeout = true, &[O::PerTryTimeout]);
    check(|on| on.statuses = [404, 500].into(), &[c404, c500]);
    check(
        |on| on.grpc_statuses = [0, 14].into(),
        &[O::Grpc { code: 14 }],
    );
}
