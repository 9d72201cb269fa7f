//! What is kept of an object when it arrives: a pod of 10 kB becomes some hundred bytes before
//! anything else sees it.
//!
//! Of Pods and Nodes, of which there are many and which change all the time, a list of fields is
//! kept; of all others everything but bookkeeping. Annotations that others write for themselves,
//! some of them at every change, are dropped everywhere; so is what the API server fills in where a
//! Service says nothing, for nobody wrote it.

use std::sync::Arc;

use outrigger_compiler::{Kind, Node, Object, Provenance, read};
use serde_json::{Map, Value, value::RawValue};

/// Which fields of a mapping are kept.
enum Keep {
    /// The value as it is.
    All,
    /// These fields of a mapping, or of each mapping of a list.
    Fields(&'static [(&'static str, Self)]),
    /// Keys that begin so.
    Prefixes(&'static [&'static str]),
}

const POD: Keep = Keep::Fields(&[
    ("metadata", POD_METADATA),
    (
        "spec",
        Keep::Fields(&[
            ("serviceAccountName", Keep::All),
            ("nodeName", Keep::All),
            ("containers", CONTAINER),
            ("initContainers", CONTAINER),
        ]),
    ),
    (
        "status",
        Keep::Fields(&[
            ("phase", Keep::All),
            ("podIP", Keep::All),
            ("podIPs", Keep::All),
        ]),
    ),
]);

const POD_METADATA: Keep = Keep::Fields(&[
    ("name", Keep::All),
    ("namespace", Keep::All),
    ("uid", Keep::All),
    ("creationTimestamp", Keep::All),
    ("labels", Keep::All),
    (
        "annotations",
        // Ours, and those of Istio's injector, which may be honoured.
        Keep::Prefixes(&[
            "outrigger.dev/",
            "sidecar.istio.io/",
            "traffic.sidecar.istio.io/",
        ]),
    ),
]);

const CONTAINER: Keep = Keep::Fields(&[("name", Keep::All), ("ports", Keep::All)]);

const NODE: Keep = Keep::Fields(&[(
    "metadata",
    Keep::Fields(&[
        ("name", Keep::All),
        ("uid", Keep::All),
        ("creationTimestamp", Keep::All),
        (
            "labels",
            Keep::Prefixes(&["topology.kubernetes.io/", "topology.istio.io/"]),
        ),
    ]),
)]);

/// Annotations that say nothing: copies of the object, times of changes.
const NOISE: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    "endpoints.kubernetes.io/last-change-trigger-time",
    "control-plane.alpha.kubernetes.io/leader",
];

/// Fields of `metadata` that nobody here reads.
const BOOKKEEPING: &[&str] = &[
    "managedFields",
    "resourceVersion",
    "selfLink",
    "ownerReferences",
    "finalizers",
];

/// Fields of a Service that the API server fills in, with the value that says nothing.
const FILLED_IN: &[(&str, &str)] = &[
    ("sessionAffinity", "None"),
    ("internalTrafficPolicy", "Cluster"),
];

/// Reads an object of `kind`; `None`, and a line in the log, if it makes no sense.
pub(super) fn read_object(kind: Kind, api_version: &str, raw: &RawValue) -> Option<Arc<Object>> {
    let value: Value = match serde_json::from_str(raw.get()) {
        Ok(value) => value,
        Err(error) => {
            tracing::warn!(%kind, %error, "an object cannot be read and is left out");
            return None;
        }
    };
    let mut value = trim(kind, value);
    let uid = value.pointer("/metadata/uid").and_then(Value::as_str);
    let uid = uid.unwrap_or_default().into();
    if let Value::Object(fields) = &mut value {
        // Items of a list do not say what they are.
        fields.insert("apiVersion".to_owned(), api_version.into());
        fields.insert("kind".to_owned(), kind.as_str().into());
    }
    let reading = read(&Node::from_json(&value), &Provenance::Api { uid });
    for diagnostic in &reading.diagnostics {
        tracing::warn!(%kind, %diagnostic, "an object cannot be read and is left out");
    }
    reading.objects.into_iter().next().map(Arc::new)
}

fn trim(kind: Kind, value: Value) -> Value {
    match kind {
        Kind::Pod => keep(&POD, value),
        Kind::Node => keep(&NODE, value),
        Kind::Service => unfill(strip(value)),
        _ => strip(value),
    }
}

fn keep(what: &Keep, value: Value) -> Value {
    match (what, value) {
        (Keep::Fields(fields), Value::Object(mut written)) => {
            let kept = fields.iter().filter_map(|(name, inner)| {
                let value = written.remove(*name)?;
                Some(((*name).to_owned(), keep(inner, value)))
            });
            Value::Object(kept.collect())
        }
        (Keep::Fields(_), Value::Array(items)) => {
            Value::Array(items.into_iter().map(|item| keep(what, item)).collect())
        }
        (Keep::Prefixes(prefixes), Value::Object(written)) => {
            let wanted = |key: &str| prefixes.iter().any(|prefix| key.starts_with(prefix));
            Value::Object(written.into_iter().filter(|(key, _)| wanted(key)).collect())
        }
        (Keep::All | Keep::Fields(_) | Keep::Prefixes(_), value) => value,
    }
}

fn strip(mut value: Value) -> Value {
    let Value::Object(fields) = &mut value else {
        return value;
    };
    fields.remove("status");
    if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
        remove(metadata, BOOKKEEPING);
        if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
            remove(annotations, NOISE);
        }
    }
    value
}

fn unfill(mut value: Value) -> Value {
    if let Some(Value::Object(spec)) = value.get_mut("spec") {
        spec.retain(|name, value| {
            let filled = |(field, default): &(&str, &str)| name == field && *value == **default;
            !FILLED_IN.iter().any(filled)
        });
    }
    value
}

fn remove(from: &mut Map<String, Value>, keys: &[&str]) {
    for key in keys {
        from.remove(*key);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_pod_little_is_left() {
        let pod = json!({
            "metadata": {"name": "a", "namespace": "b", "uid": "u", "resourceVersion": "7",
                "labels": {"app": "a"}, "managedFields": [{"manager": "kubelet"}],
                "annotations": {"outrigger.dev/status": "injected", "cni.example/status": "long"}},
            "spec": {"serviceAccountName": "s", "volumes": [{"name": "v"}],
                "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}], "env": []}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [{"ready": true}]},
        });
        let expected = json!({
            "metadata": {"name": "a", "namespace": "b", "uid": "u", "labels": {"app": "a"},
                "annotations": {"outrigger.dev/status": "injected"}},
            "spec": {"serviceAccountName": "s",
                "containers": [{"name": "c", "ports": [{"containerPort": 80}]}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1"},
        });
        assert_eq!(trim(Kind::Pod, pod), expected);
    }

    #[test]
    fn what_the_api_server_fills_in_is_no_news() {
        let service = |affinity: &str| {
            let service = json!({
                "metadata": {"name": "a", "namespace": "b", "uid": "u"},
                "spec": {"ports": [{"port": 80}], "sessionAffinity": affinity,
                    "internalTrafficPolicy": "Cluster"},
            });
            let raw = RawValue::from_string(service.to_string()).unwrap();
            read_object(Kind::Service, "v1", &raw).unwrap()
        };
        assert_eq!(service("None").diagnostics(), []);
        assert_eq!(service("ClientIP").diagnostics().len(), 1);
    }

    #[test]
    fn what_changes_by_itself_changes_nothing() {
        let read = |kind: Kind, version: &str, value: Value| {
            let raw = RawValue::from_string(value.to_string()).unwrap();
            read_object(kind, version, &raw).unwrap()
        };
        let slice = |version: &str, time: &str| {
            json!({
                "metadata": {"name": "a", "namespace": "b", "uid": "u", "resourceVersion": version,
                    "labels": {"kubernetes.io/service-name": "a"},
                    "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": time}},
                "addressType": "IPv4", "ports": [], "endpoints": [],
            })
        };
        let kind = Kind::EndpointSlice;
        let first = read(kind, "discovery.k8s.io/v1", slice("1", "now"));
        assert_eq!(first, read(kind, "discovery.k8s.io/v1", slice("2", "then")));
        assert_eq!(first.diagnostics(), []);
        let node = |version: &str, heartbeat: &str| {
            json!({
                "metadata": {"name": "n", "uid": "u", "resourceVersion": version,
                    "labels": {"topology.kubernetes.io/zone": "z", "x": version}},
                "status": {"conditions": [{"lastHeartbeatTime": heartbeat}]},
            })
        };
        let first = read(Kind::Node, "v1", node("1", "now"));
        assert_eq!(first, read(Kind::Node, "v1", node("2", "then")));
    }
}
