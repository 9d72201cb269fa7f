//! Retries of an HTTP rule.

use std::collections::BTreeSet;

use outrigger_model::{Backoff, RetryBudget, RetryConditions, RetryPolicy};

use super::super::{
    bound,
    field::{Result, ascending, list, message, narrow, percent, ratio},
    limit::STATUSES_MAX,
    wire,
};

pub(super) fn encode(policy: &RetryPolicy) -> wire::RetryPolicy {
    wire::RetryPolicy {
        attempts: policy.attempts.into(),
        per_try_timeout: bound::timeout(policy.per_try_timeout),
        on: Some(encode_conditions(&policy.on)),
        on_idempotent: Some(encode_conditions(&policy.on_idempotent)),
        backoff: Some(wire::Backoff {
            base: bound::duration(policy.backoff.base),
            max: bound::duration(policy.backoff.max),
            jitter_ppm: policy.backoff.jitter.parts_per_million(),
        }),
        budget: Some(wire::RetryBudget {
            percent: policy.budget.percent.get().into(),
            min_per_second: policy.budget.min_per_second,
        }),
    }
}

pub(super) fn decode(policy: &wire::RetryPolicy) -> Result<RetryPolicy> {
    Ok(RetryPolicy {
        attempts: narrow("attempts", policy.attempts, u8::MAX)?,
        per_try_timeout: bound::read_timeout("per_try_timeout", policy.per_try_timeout.as_ref())?,
        on: message("on", policy.on.as_ref(), decode_conditions)?,
        on_idempotent: message(
            "on_idempotent",
            policy.on_idempotent.as_ref(),
            decode_conditions,
        )?,
        backoff: message("backoff", policy.backoff.as_ref(), |backoff| {
            Ok(Backoff {
                base: bound::read_duration("base", backoff.base.as_ref())?,
                max: bound::read_duration("max", backoff.max.as_ref())?,
                jitter: ratio("jitter_ppm", backoff.jitter_ppm)?,
            })
        })?,
        budget: message("budget", policy.budget.as_ref(), |budget| {
            Ok(RetryBudget {
                percent: percent("percent", budget.percent)?,
                min_per_second: budget.min_per_second,
            })
        })?,
    })
}

fn encode_conditions(conditions: &RetryConditions) -> wire::RetryConditions {
    let RetryConditions {
        any_5xx,
        gateway_error,
        reset,
        connect_failure,
        refused_stream,
        retriable_4xx,
        per_try_timeout,
        ref statuses,
        ref grpc_statuses,
    } = *conditions;
    wire::RetryConditions {
        any_5xx,
        gateway_error,
        reset,
        connect_failure,
        refused_stream,
        retriable_4xx,
        per_try_timeout,
        statuses: statuses.iter().map(|status| (*status).into()).collect(),
        grpc_statuses: grpc_statuses.iter().map(|code| (*code).into()).collect(),
    }
}

fn decode_conditions(conditions: &wire::RetryConditions) -> Result<RetryConditions> {
    Ok(RetryConditions {
        any_5xx: conditions.any_5xx,
        gateway_error: conditions.gateway_error,
        reset: conditions.reset,
        connect_failure: conditions.connect_failure,
        refused_stream: conditions.refused_stream,
        retriable_4xx: conditions.retriable_4xx,
        per_try_timeout: conditions.per_try_timeout,
        statuses: set("statuses", &conditions.statuses, u16::MAX)?,
        grpc_statuses: set("grpc_statuses", &conditions.grpc_statuses, u8::MAX)?,
    })
}

fn set<T>(field: &str, values: &[u32], max: T) -> Result<BTreeSet<T>>
where
    T: TryFrom<u32> + Into<u64> + Ord + Copy,
{
    let values = list(field, values, STATUSES_MAX, |value| narrow("", *value, max))?;
    ascending(field, &values, |value| value)?;
    Ok(values.into_iter().collect())
}
