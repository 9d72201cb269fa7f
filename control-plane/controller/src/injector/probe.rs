//! The kubelet's probes, turned to the sidecar.
//!
//! The kubelet is no member of the mesh: where a port takes only mutual TLS, its HTTP, TCP and gRPC
//! probes would fail, and a TCP probe of a captured port would always pass, because the sidecar
//! accepts. So the handler becomes an HTTP request to the sidecar's health port, which performs the
//! probe on the application; times and thresholds stay. A probe that runs a command stays as it is,
//! and so does one of a port that is not captured or of another host. The original is kept in an
//! annotation, for readers and for the way back.

use serde_json::{Map, Value, json};

use super::{
    annotate,
    annotation::Options,
    pod::{annotation, at, at_mut, containers, list_mut, name, text},
    port,
};

/// Annotation that keeps the original handlers: by container, then by probe.
pub(super) const ORIGINAL: &str = "outrigger.dev/original-probes";

/// Probes of a container, and the sidecar's word for each.
const PROBES: [(&str, &str); 3] = [
    ("livenessProbe", "livez"),
    ("readinessProbe", "readyz"),
    ("startupProbe", "startupz"),
];

/// Handlers of a probe.
const HANDLERS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

/// Turns the probes of `pod`; the result is what the sidecar has to know of them.
pub(super) fn turn(pod: &mut Value, options: &Options, warnings: &mut Vec<String>) -> Vec<Value> {
    let mut found = Vec::new();
    let mut original = Map::new();
    if !options.turns_probes {
        return found;
    }
    for list in ["initContainers", "containers"] {
        for container in list_mut(pod, list).into_iter().flatten() {
            let kept = turn_container(container, options, &mut found, warnings);
            if !kept.is_empty() {
                original.insert(name(container).into(), kept.into());
            }
        }
    }
    if !original.is_empty() {
        annotate(pod, ORIGINAL, Value::from(original).to_string());
    }
    found
}

/// Turns the probes of one container; the result holds their handlers as they were.
fn turn_container(
    container: &mut Value,
    options: &Options,
    found: &mut Vec<Value>,
    warnings: &mut Vec<String>,
) -> Map<String, Value> {
    let mut original = Map::new();
    let named = name(container).to_owned();
    for (kind, word) in PROBES {
        let Some((handler, port)) = handler(container, kind, &named, warnings) else {
            continue;
        };
        if options
            .skip_inbound_ports
            .iter()
            .any(|skipped| skipped.get() == port)
        {
            continue;
        }
        let Some(probe) = at_mut(container, &[kind]) else {
            continue;
        };
        let Some(as_it_was) = probe.remove(handler) else {
            continue;
        };
        let path = format!("{named}/{word}");
        let timeout = probe
            .get("timeoutSeconds")
            .and_then(Value::as_u64)
            .unwrap_or(1);
        found.push(described(&path, handler, port, &as_it_was, timeout));
        original.insert(kind.into(), json!({handler: as_it_was}));
        let turned = json!({"path": format!("/app-health/{path}"), "port": port::HEALTH});
        probe.insert("httpGet".into(), turned);
    }
    original
}

/// The handler of a probe that goes to a port of this pod, and that port.
fn handler(
    container: &Value,
    kind: &str,
    named: &str,
    warnings: &mut Vec<String>,
) -> Option<(&'static str, u16)> {
    let probe = container.get(kind)?;
    let handler = HANDLERS
        .into_iter()
        .find(|handler| probe.get(handler).is_some())?;
    let wanted = probe.get(handler)?;
    if text(wanted, &["host"]).is_some_and(|host| !host.is_empty()) {
        return None;
    }
    let port = wanted.get("port")?;
    let number = match port.as_str() {
        Some(name) if name.bytes().any(|byte| !byte.is_ascii_digit()) => {
            named_port(container, name)
        }
        Some(digits) => digits.parse().ok(),
        None => port.as_u64().and_then(|port| u16::try_from(port).ok()),
    };
    if number.is_none() {
        warnings.push(format!(
            "{kind} of container {named} names port {port}, which the container does not have: it is left as it is"
        ));
    }
    Some((handler, number?))
}

fn named_port(container: &Value, wanted: &str) -> Option<u16> {
    let ports = container.get("ports")?.as_array()?;
    let port = ports.iter().find(|port| name(port) == wanted)?;
    u16::try_from(port.get("containerPort")?.as_u64()?).ok()
}

/// A probe as the sidecar's bootstrap describes it.
fn described(path: &str, handler: &str, port: u16, original: &Value, timeout: u64) -> Value {
    let text = |name: &str, default: &str| {
        escaped(
            original
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or(default),
        )
    };
    let (how, what) = match handler {
        "httpGet" => {
            let header = |header: &Value| {
                let part =
                    |name| escaped(header.get(name).and_then(Value::as_str).unwrap_or_default());
                json!({"name": part("name"), "value": part("value")})
            };
            let headers = original.get("httpHeaders").and_then(Value::as_array);
            let headers: Vec<Value> = headers.into_iter().flatten().map(header).collect();
            let what = json!({
                "port": port,
                "path": text("path", "/"),
                "scheme": text("scheme", "HTTP"),
                "headers": headers,
            });
            ("http", what)
        }
        "grpc" => (
            "grpc",
            json!({"port": port, "service": text("service", "")}),
        ),
        _ => ("tcp", json!({"port": port})),
    };
    json!({"name": path, how: what, "timeout_seconds": timeout})
}

/// Kubernetes expands `$(NAME)` in values of environment variables, and reads `$$` as `$`.
fn escaped(text: &str) -> String {
    text.replace('$', "$$")
}

/// Puts the original handlers back.
pub(super) fn restore(pod: &mut Value) {
    let kept = annotation(pod, ORIGINAL).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let Some(kept) = kept else {
        return;
    };
    let names: Vec<String> = containers(pod)
        .map(|container| name(container).to_owned())
        .collect();
    for named in names {
        for (kind, _) in PROBES {
            let Some(original) = at(&kept, &[&named, kind]).and_then(Value::as_object) else {
                continue;
            };
            let of_name = ["initContainers", "containers"]
                .into_iter()
                .find_map(|list| {
                    let index = pod
                        .get("spec")?
                        .get(list)?
                        .as_array()?
                        .iter()
                        .position(|container| name(container) == named)?;
                    Some((list, index))
                });
            let Some((list, index)) = of_name else {
                continue;
            };
            let container = list_mut(pod, list).and_then(|list| list.get_mut(index));
            if let Some(probe) = container.and_then(|container| at_mut(container, &[kind])) {
                probe.remove("httpGet");
                probe.extend(original.clone());
            }
        }
    }
    if let Some(annotations) = at_mut(pod, &["metadata", "annotations"]) {
        annotations.remove(ORIGINAL);
    }
}
