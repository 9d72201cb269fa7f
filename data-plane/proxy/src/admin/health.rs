//! `/config`'s `health`: how endpoints are, and the load and latency that each worker sees. So each is
//! asked; one that does not answer in time is named, not waited for.

use std::{collections::BTreeMap, time::Duration};

use outrigger_policy::outlier::Standing;
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use crate::{cluster::EndpointReport, listeners::Command, worker::Health};

/// Endpoints that a worker tells of; unhealthy ones come first.
const ENDPOINTS_MAX: usize = 1_000;
/// A worker answers between two polls of its tasks.
const PATIENCE: Duration = Duration::from_millis(500);

/// Asks every worker. Cancel safe: yes.
pub(super) async fn shown(workers: &[mpsc::Sender<Command>]) -> Value {
    let asked: Vec<_> = workers.iter().map(ask).collect();
    let deadline = Instant::now() + PATIENCE;
    let mut backends: BTreeMap<String, BTreeMap<String, Vec<Value>>> = BTreeMap::new();
    let mut silent = Vec::new();
    let (mut ejected, mut left_out) = (0_usize, 0_usize);
    for (index, answer) in asked.into_iter().enumerate() {
        let Ok(Ok(health)) = timeout_at(deadline, answer).await else {
            silent.push(index);
            continue;
        };
        left_out += health.left_out;
        for (backend, report) in health.endpoints {
            let endpoints = backends.entry(backend.to_string()).or_default();
            let views = endpoints.entry(report.address.to_string()).or_default();
            // Health is one for all workers, load is each worker's own.
            ejected += usize::from(views.is_empty() && !report.is_healthy());
            views.push(endpoint(index, &report));
        }
    }
    json!({
        "workers": workers.len(),
        "workers_without_answer": silent,
        "ejected": ejected,
        "left_out": left_out,
        "backends": backends,
    })
}

/// The answer's place; one that never comes when the worker takes no orders.
fn ask(worker: &mpsc::Sender<Command>) -> oneshot::Receiver<Health> {
    let (to, answer) = oneshot::channel();
    let report = Command::Report {
        most: ENDPOINTS_MAX,
        to,
    };
    // Not sent, it is dropped with its sender: the receiver sees that at once.
    drop(worker.try_send(report));
    answer
}

fn endpoint(worker: usize, report: &EndpointReport) -> Value {
    let latency = report.latency.map(|seconds| (seconds * 1e6).round() / 1e3);
    let mut shown = json!({
        "worker": worker,
        "outstanding": report.outstanding,
        "latency_ms": latency,
    });
    let more = match report.standing {
        Standing::Healthy {
            server_errors,
            gateway_errors,
        } => json!({
            "state": "healthy",
            "server_errors_in_a_row": server_errors,
            "gateway_errors_in_a_row": gateway_errors,
        }),
        Standing::Ejected { left, times } => json!({
            "state": "ejected",
            "ejected_for_ms": millis(left),
            "ejections_in_a_row": times,
        }),
        Standing::Probing { elapsed, times } => json!({
            "state": "probing",
            "probing_since_ms": millis(elapsed),
            "ejections_in_a_row": times,
        }),
    };
    if let (Some(shown), Value::Object(more)) = (shown.as_object_mut(), more) {
        shown.extend(more);
    }
    shown
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
