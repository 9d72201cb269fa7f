//! VirtualService to routes.

use std::sync::Arc;

use outrigger_model::{Filters, Port, RetryPolicy, SubsetName, Timeout, Weight};

use super::{
    Reader, condition, host,
    reader::{items, number, time},
    retry,
};
use crate::{
    Code, Node, Severity,
    ir::{
        Host, HttpAlternative, HttpRoute, Reference, Routes, Scope, Sourced, Target, Targets,
        TcpRoute, Validity,
    },
    schema::join,
};

/// The gateway name that stands for all sidecars.
pub(super) const MESH: &str = "mesh";
/// Actions of Istio that are no route.
const OTHER_ACTIONS: [&str; 3] = ["redirect", "directResponse", "delegate"];
/// Reads a VirtualService.
pub(crate) fn read(reader: &mut Reader, object: &Node) -> Routes {
    let empty = Node::map(object.position, []);
    let spec = object.get("spec").unwrap_or(&empty);
    let defaults = defaults(reader, spec);
    let http: Vec<HttpRoute> = items(spec, "spec", "http")
        .map(|rule| http_route(reader, rule.value, &rule.path, &defaults))
        .collect();
    let tcp = items(spec, "spec", "tcp")
        .map(|rule| tcp_route(reader, rule.value, &rule.path))
        .collect();
    let mut dead = dead_defaults(spec, &defaults);
    dead.extend(dead_matches(&http));
    Routes {
        hosts: hosts(reader, spec),
        scope: scope(reader, spec),
        dead,
        http,
        tcp,
    }
}

/// `timeout` and `retries` directly under `spec`: an extension.
struct Defaults {
    timeout: Option<Timeout>,
    retry: Option<RetryPolicy>,
}

fn defaults(reader: &mut Reader, spec: &Node) -> Defaults {
    for key in ["timeout", "retries"] {
        if let Some(node) = spec.get(key) {
            reader.find(
                Severity::Warning,
                Code::Misplaced,
                &join("spec", key),
                node,
                format!(
                    "{key} belongs in each rule, spec.http[].{key}; here it applies to every \
                     http rule that has none of its own, which other meshes do not do"
                ),
            );
        }
    }
    Defaults {
        timeout: timeout(spec),
        retry: spec
            .get("retries")
            .map(|node| retry::read(reader, node, "spec.retries")),
    }
}

/// Misplaced defaults that every rule overrides.
fn dead_defaults(spec: &Node, defaults: &Defaults) -> Vec<Sourced<&'static str>> {
    let rules = spec.get("http").map(Node::items).unwrap_or_default();
    let is_dead = |key: &str| rules.iter().all(|rule| rule.get(key).is_some());
    [
        ("timeout", defaults.timeout.is_some()),
        ("retries", defaults.retry.is_some()),
    ]
    .into_iter()
    .filter(|(key, is_set)| *is_set && is_dead(key))
    .map(|(key, _)| Sourced {
        value: "every http rule has its own",
        path: join("spec", key).into(),
    })
    .collect()
}

/// Matches that never apply, beside others that may.
fn dead_matches(http: &[HttpRoute]) -> impl Iterator<Item = Sourced<&'static str>> {
    let alternatives = http.iter().flat_map(|route| &route.alternatives);
    alternatives
        .filter(|alternative| alternative.validity == Validity::Never)
        .map(|alternative| Sourced {
            value: "one of its conditions is not supported yet",
            path: Arc::clone(&alternative.path),
        })
}

fn timeout(node: &Node) -> Option<Timeout> {
    let value = time(node, "timeout")?;
    Some(if value.is_zero() {
        Timeout::Disabled
    } else {
        Timeout::After(value)
    })
}

fn hosts(reader: &mut Reader, spec: &Node) -> Vec<Sourced<Host>> {
    let mut hosts = Vec::new();
    for item in items(spec, "spec", "hosts") {
        let Some(text) = item.value.text() else {
            continue;
        };
        match host::parse(text) {
            Ok(value) => hosts.push(Sourced {
                value,
                path: item.path,
            }),
            Err(error) => reader.refuse(&item.path, item.value, error.to_string()),
        }
    }
    hosts
}

fn scope(reader: &mut Reader, spec: &Node) -> Scope {
    let Some(gateways) = spec.get("gateways").filter(|list| !list.items().is_empty()) else {
        return Scope::Mesh;
    };
    let has_mesh = gateways
        .items()
        .iter()
        .any(|item| item.text() == Some(MESH));
    if !has_mesh {
        reader.find(
            Severity::Warning,
            Code::Unsupported,
            "spec.gateways",
            gateways,
            "gateways are not supported yet: the object applies to no sidecar unless the list \
             contains mesh",
        );
        return Scope::Gateways;
    }
    for item in items(spec, "spec", "gateways") {
        if let Some(name) = item.value.text().filter(|name| *name != MESH) {
            reader.find(
                Severity::Warning,
                Code::Unsupported,
                &item.path,
                item.value,
                format!("gateways are not supported yet: {name} does not get these routes"),
            );
        }
    }
    Scope::Mesh
}

fn http_route(reader: &mut Reader, node: &Node, path: &Arc<str>, defaults: &Defaults) -> HttpRoute {
    let match_path = join(path, "match");
    let alternatives: Vec<HttpAlternative> = items(node, path, "match")
        .map(|item| condition::http(reader, item.value, &item.path))
        .collect();
    let targets = match reader.invalid(&match_path) {
        // Not even a list: nothing tells what the rule is for.
        Some(reason) if alternatives.is_empty() => Targets::Invalid(reason),
        Some(_) | None => targets(reader, node, path),
    };
    let retry = match node.get("retries") {
        Some(retries) => retry::read(reader, retries, &join(path, "retries")),
        None => defaults.retry.clone().unwrap_or_else(retry::default_policy),
    };
    let timeout = match node.get("timeout") {
        Some(_) => timeout(node),
        None => defaults.timeout,
    };
    HttpRoute {
        path: Arc::clone(path),
        alternatives,
        targets,
        filters: Filters::default(),
        timeout: timeout.unwrap_or(Timeout::Disabled),
        retry,
    }
}

fn tcp_route(reader: &mut Reader, node: &Node, path: &Arc<str>) -> TcpRoute {
    let alternatives = items(node, path, "match")
        .map(|item| condition::tcp(reader, item.value, &item.path))
        .collect();
    TcpRoute {
        path: Arc::clone(path),
        alternatives,
        targets: targets(reader, node, path),
    }
}

fn targets(reader: &mut Reader, node: &Node, path: &str) -> Targets {
    let at = join(path, "route");
    let route = node.get("route").map(Node::items).unwrap_or_default();
    if let Some(action) = OTHER_ACTIONS.iter().find(|key| node.get(key).is_some()) {
        let message = format!("the rule answers 500, because {action} is not supported yet");
        return refuse(reader, Code::Unsupported, &at, node, message);
    }
    if route.is_empty() && reader.invalid(&at).is_none() {
        let message = "the rule has no route: write route with at least one destination";
        return refuse(reader, Code::MissingField, &at, node, message.to_owned());
    }
    let is_only = route.len() == 1;
    let mut targets = Vec::new();
    for item in items(node, path, "route") {
        targets.extend(target(reader, item.value, &item.path, is_only));
    }
    if let Some(reason) = reader.invalid(&at) {
        return Targets::Invalid(reason);
    }
    if targets.iter().all(|target| target.weight.get() == 0) {
        let message = "all weights are 0: write a weight above 0".to_owned();
        return refuse(reader, Code::InvalidValue, &at, node, message);
    }
    Targets::Forward(targets)
}

fn refuse(reader: &mut Reader, code: Code, path: &str, node: &Node, message: String) -> Targets {
    let reason = format!("{path}: {message}").into();
    reader.find(Severity::Error, code, path, node, message);
    Targets::Invalid(reason)
}

fn target(reader: &mut Reader, node: &Node, path: &str, is_only: bool) -> Option<Target> {
    let at = join(path, "destination");
    let destination = node.get("destination")?;
    let mut refuse = |key: &str, message: String| {
        let value = destination.get(key).unwrap_or(destination);
        let at = join(&at, key);
        reader.refuse(&at, value, message);
    };
    let host = match host::parse(destination.get("host")?.text()?) {
        Ok(host @ (Host::Short(_) | Host::Full(_))) => host,
        Ok(Host::Suffix(_) | Host::Any) => {
            refuse(
                "host",
                "a destination is one service: write its name, not a wildcard".to_owned(),
            );
            return None;
        }
        Err(error) => {
            refuse("host", error.to_string());
            return None;
        }
    };
    let subset = match destination.get("subset").and_then(Node::text) {
        None | Some("") => None,
        Some(text) => match SubsetName::parse(text) {
            Ok(subset) => Some(subset),
            Err(error) => {
                refuse("subset", error.to_string());
                return None;
            }
        },
    };
    // Istio: a single destination takes all, of several one without weight takes nothing.
    let weight = match number(node, "weight") {
        None | Some(0) if is_only => Weight::ONE,
        Some(weight) => Weight::new(weight).ok()?,
        None => Weight::new(0).ok()?,
    };
    Some(Target {
        path: at.into(),
        to: Reference::Host {
            host,
            port: destination
                .get("port")
                .and_then(|port| Port::new(port.get("number")?.integer()?).ok()),
            subset,
        },
        weight,
        filters: Filters::default(),
    })
}
