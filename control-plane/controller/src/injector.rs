//! Puts a sidecar into pods (DESIGN §2, §5): pure functions from a pod to a pod.
//!
//! [`inject`] decides by namespace and pod whether a sidecar belongs there, reads the pod's
//! annotations, and adds what a sidecar needs: the container itself, the one that captures traffic,
//! its volumes, its bootstrap, and the kubelet's probes turned to where the sidecar answers them.
//! [`uninject`] undoes it. [`patch`] is the difference of two pods as the API server takes it.
//!
//! The pod stays a JSON value all the way: fields that this version does not know pass unharmed.
//! What a pod's annotations say can be wrong: [`InjectError`] names the annotation and what to
//! write, and the pod is refused, because a sidecar with other settings than the ones asked for
//! would be found out too late.
//!
//! Invariants: `inject` of its own result changes nothing; `uninject(inject(pod)) == pod`, save for
//! empty lists and metadata.

mod annotation;
mod container;
mod decision;
mod file;
pub mod manifest;
mod patch;
mod pod;
mod probe;
mod scrape;
mod settings;
#[cfg(test)]
mod tests;
pub mod webhook;

use serde_json::{Map, Value};

pub use annotation::InjectError;
pub use decision::{Namespace, Skip};
pub use file::{SettingsError, SettingsFile};
pub use patch::patch;
pub use settings::{Capture, Placement, PullPolicy, Resources, Settings};

use annotation::Options;
use pod::{at_mut, list_mut, section};

/// Name of the sidecar's container, by which it is known.
pub const SIDECAR: &str = "outrigger-proxy";
/// Name of the init container that captures traffic.
pub const REDIRECT: &str = "outrigger-redirect";
/// Annotation that says what the injector did: `injected`, or `skipped: ` and why.
pub const STATUS: &str = "outrigger.dev/status";
/// Value of [`STATUS`] on a pod with a sidecar.
pub const INJECTED: &str = "injected";

/// Ports of a sidecar, as people's network policies know them (DESIGN §8).
pub mod port {
    /// Outbound capture.
    pub const OUTBOUND: u16 = 15001;
    /// Inbound capture.
    pub const INBOUND: u16 = 15006;
    /// Metrics and read-only admin.
    pub const ADMIN: u16 = 15020;
    /// Health, and the application's probes.
    pub const HEALTH: u16 = 15021;
}

/// User and group that a sidecar runs as; its traffic is not captured.
pub const USER: u32 = 1337;

/// What became of a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Injected {
    /// The pod, changed or as it was.
    pub pod: Value,
    /// Why it has no sidecar from here; `None`: it has one now.
    pub skipped: Option<Skip>,
    /// What its owner should look at: shown by `kubectl` when the pod's owner is applied.
    pub warnings: Vec<String>,
}

/// Decides whether `pod` (a Pod, or a pod template: `metadata` and `spec`) gets a sidecar, and puts
/// it in.
///
/// # Errors
/// When an annotation or label that speaks to the injector has a value that cannot be used.
pub fn inject(
    settings: &Settings,
    namespace: &Namespace<'_>,
    pod: &Value,
) -> Result<Injected, InjectError> {
    let mut changed = pod.clone();
    if let Some(skip) = decision::decide(settings, namespace, pod)? {
        if skip.is_worth_saying() {
            mark(&mut changed, &format!("skipped: {skip}"));
        }
        return Ok(Injected {
            pod: changed,
            skipped: Some(skip),
            warnings: Vec::new(),
        });
    }
    let (options, mut warnings) = Options::read(settings, pod)?;
    let probes = probe::turn(&mut changed, &options, &mut warnings);
    let scrape = scrape::merge(&mut changed, &mut warnings);
    let bootstrap = container::bootstrap(settings, &options, probes, scrape);
    container::add(&mut changed, settings, &options, &bootstrap);
    mark(&mut changed, INJECTED);
    Ok(Injected {
        pod: changed,
        skipped: None,
        warnings,
    })
}

/// Takes out what [`inject`] put in, and lists and metadata that are then empty. A pod without a
/// sidecar stays as it is, but for the note that says why it has none.
#[must_use]
pub fn uninject(pod: &Value) -> Value {
    let mut changed = pod.clone();
    probe::restore(&mut changed);
    scrape::restore(&mut changed);
    container::remove(&mut changed);
    if let Some(annotations) = at_mut(&mut changed, &["metadata", "annotations"]) {
        annotations.remove(STATUS);
        if annotations.is_empty() {
            section(&mut changed, &["metadata"]).remove("annotations");
        }
    }
    if at_mut(&mut changed, &["metadata"]).is_some_and(|metadata| metadata.is_empty()) {
        changed.as_object_mut().map(|pod| pod.remove("metadata"));
    }
    for list in ["initContainers", "volumes"] {
        if list_mut(&mut changed, list).is_some_and(|list| list.is_empty()) {
            section(&mut changed, &["spec"]).remove(list);
        }
    }
    changed
}

fn mark(pod: &mut Value, status: &str) {
    annotate(pod, STATUS, status.into());
}

fn annotate(pod: &mut Value, name: &str, value: String) {
    let annotations: &mut Map<String, Value> = section(pod, &["metadata", "annotations"]);
    annotations.insert(name.into(), value.into());
}
