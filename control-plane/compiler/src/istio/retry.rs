//! HTTPRetry: how often, and after what.

use std::time::Duration;

use outrigger_model::{Backoff, Ratio, RetryConditions, RetryPolicy, Timeout};

use super::{
    Reader,
    reader::{number, time},
};
use crate::{
    Code, Node, Severity,
    defaults::{RETRY_BACKOFF_BASE, retry_budget},
    schema::{join, nearest},
};

/// Retries after the first try where `retries` is not written.
const ATTEMPTS_DEFAULT: u8 = 2;

/// A rule without `retries`: Istio's documented default.
pub(super) fn default_policy() -> RetryPolicy {
    policy(ATTEMPTS_DEFAULT, default_conditions(), RETRY_BACKOFF_BASE)
}

/// `connect-failure,refused-stream,unavailable,cancelled`.
fn default_conditions() -> RetryConditions {
    RetryConditions {
        connect_failure: true,
        refused_stream: true,
        grpc_statuses: [1, 14].into(),
        ..RetryConditions::default()
    }
}

fn policy(attempts: u8, on: RetryConditions, base: Duration) -> RetryPolicy {
    RetryPolicy {
        attempts,
        per_try_timeout: Timeout::Disabled,
        on,
        on_idempotent: RetryConditions::default(),
        backoff: Backoff {
            base,
            // Envoy's rule: ten times the base.
            max: base.saturating_mul(10),
            jitter: Ratio::ONE,
        },
        budget: retry_budget(),
    }
}

/// Reads `retries`.
pub(super) fn read(reader: &mut Reader, node: &Node, path: &str) -> RetryPolicy {
    let attempts = match node.get("attempts") {
        // Invalid: found by the schema.
        Some(_) => number(node, "attempts")
            .and_then(|attempts| u8::try_from(attempts).ok())
            .unwrap_or(ATTEMPTS_DEFAULT),
        None => {
            reader.find(
                Severity::Warning,
                Code::MissingField,
                &join(path, "attempts"),
                node,
                "without attempts nothing is retried, as in Istio: write for example attempts: 2",
            );
            0
        }
    };
    let conditions = match node.get("retryOn").and_then(Node::text) {
        Some(text) => {
            let at = join(path, "retryOn");
            conditions(reader, node.get("retryOn").unwrap_or(node), &at, text)
        }
        None => default_conditions(),
    };
    let base = time(node, "backoff").unwrap_or(RETRY_BACKOFF_BASE);
    let mut policy = policy(attempts, conditions, base);
    if let Some(timeout) = time(node, "perTryTimeout").filter(|timeout| !timeout.is_zero()) {
        policy.per_try_timeout = Timeout::After(timeout);
        if attempts > 0 {
            // A try that ran out of time may have been processed: only what may be repeated
            // safely is, unless retryOn asks for more.
            policy.on_idempotent.per_try_timeout = true;
            let on = &mut policy.on;
            on.per_try_timeout = on.any_5xx || on.gateway_error || on.reset;
        }
    }
    policy
}

const NAMES: [&str; 12] = [
    "5xx",
    "gateway-error",
    "reset",
    "connect-failure",
    "refused-stream",
    "retriable-4xx",
    "retriable-status-codes",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

/// Conditions that Envoy has and we do not yet.
const NAMES_LATER: [&str; 4] = [
    "reset-before-request",
    "envoy-ratelimited",
    "retriable-headers",
    "http3-post-connect-failure",
];

/// What `retryOn` says; the default if nothing of it can be used.
fn conditions(reader: &mut Reader, node: &Node, path: &str, text: &str) -> RetryConditions {
    let mut on = RetryConditions::default();
    for name in text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
    {
        if add(&mut on, name) {
            continue;
        }
        if NAMES_LATER.contains(&name) {
            let message = format!("condition {name} is not supported yet");
            reader.find(Severity::Warning, Code::Unsupported, path, node, message);
            continue;
        }
        let message = match nearest(name, NAMES) {
            Some(near) => format!("there is no condition {name:?}: did you mean {near}?"),
            None => format!(
                "there is no condition {name:?}: write {} or a status such as 503",
                NAMES.join(", ")
            ),
        };
        reader.refuse(path, node, message);
    }
    if on.is_empty() && text != "retriable-status-codes" {
        return default_conditions();
    }
    on
}

/// Adds one condition; false if there is none of that name.
fn add(on: &mut RetryConditions, name: &str) -> bool {
    match name {
        "5xx" => on.any_5xx = true,
        "gateway-error" => on.gateway_error = true,
        "reset" => on.reset = true,
        "connect-failure" => on.connect_failure = true,
        "refused-stream" => on.refused_stream = true,
        "retriable-4xx" => on.retriable_4xx = true,
        // The statuses themselves stand beside it.
        "retriable-status-codes" => {}
        "cancelled" => drop(on.grpc_statuses.insert(1)),
        "deadline-exceeded" => drop(on.grpc_statuses.insert(4)),
        "resource-exhausted" => drop(on.grpc_statuses.insert(8)),
        "internal" => drop(on.grpc_statuses.insert(13)),
        "unavailable" => drop(on.grpc_statuses.insert(14)),
        number => match number.parse::<u16>() {
            Ok(status) if (100..=599).contains(&status) => drop(on.statuses.insert(status)),
            Ok(_) | Err(_) => return false,
        },
    }
    true
}
