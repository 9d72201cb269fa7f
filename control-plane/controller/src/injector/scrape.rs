//! The annotations by which Prometheus finds pods (`prometheus.io/scrape`, `port`, `path`,
//! `scheme`): they lead to the sidecar, which serves the application's own page with its own, so
//! that scraping works while the application's port takes only mutual TLS.

use serde_json::{Value, json};

use super::{
    annotate,
    pod::{annotation, at_mut},
    port,
};

/// Annotation that keeps those that were there.
pub(super) const ORIGINAL: &str = "outrigger.dev/original-scrape";

const SCRAPE: &str = "prometheus.io/scrape";
const PORT: &str = "prometheus.io/port";
const PATH: &str = "prometheus.io/path";
const SCHEME: &str = "prometheus.io/scheme";
const NAMES: [&str; 4] = [SCRAPE, PORT, PATH, SCHEME];

/// Turns the annotations; the result is where the application's own page is.
pub(super) fn merge(pod: &mut Value, warnings: &mut Vec<String>) -> Option<Value> {
    let text = |name| annotation(pod, name);
    if text(SCRAPE) == Some("false") {
        return None;
    }
    let own = match (text(SCRAPE), text(PORT)) {
        (Some("true"), Some(written)) => {
            let Some(number) = written.parse::<u16>().ok().filter(|port| *port != 0) else {
                warnings.push(format!(
                    "annotation {PORT} of the pod is {written:?}, which is no port: the application's metrics are not merged"
                ));
                return None;
            };
            if text(SCHEME) == Some("https") {
                warnings.push(format!(
                    "annotation {SCHEME} of the pod is https: the application's metrics are not merged, and Prometheus has to reach port {number} by itself"
                ));
                return None;
            }
            let path = text(PATH).unwrap_or("/metrics").replace('$', "$$");
            Some(json!({"port": number, "path": path}))
        }
        // Without a port, Prometheus' usual rules take each port that the pod declares: nothing
        // tells which of them is meant.
        (Some("true"), None) => {
            warnings.push(format!(
                "the pod has annotation {SCRAPE} and no {PORT}: the application's metrics are not merged with the sidecar's"
            ));
            None
        }
        _ => None,
    };
    let kept: serde_json::Map<String, Value> = NAMES
        .into_iter()
        .filter_map(|name| Some((name.into(), text(name)?.into())))
        .collect();
    annotate(pod, ORIGINAL, Value::from(kept).to_string());
    annotate(pod, SCRAPE, "true".into());
    annotate(pod, PORT, port::ADMIN.to_string());
    annotate(pod, PATH, "/metrics".into());
    if let Some(annotations) = at_mut(pod, &["metadata", "annotations"]) {
        annotations.remove(SCHEME);
    }
    own
}

/// Puts the annotations back.
pub(super) fn restore(pod: &mut Value) {
    let kept = annotation(pod, ORIGINAL).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let Some(Value::Object(kept)) = kept else {
        return;
    };
    if let Some(annotations) = at_mut(pod, &["metadata", "annotations"]) {
        for name in NAMES {
            annotations.remove(name);
        }
        annotations.remove(ORIGINAL);
        annotations.extend(kept);
    }
}
