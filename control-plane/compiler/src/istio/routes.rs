//! VirtualService to routes.

use std::sync::Arc;

use outrigger_model::{
    HeaderMatch, HeaderTest, HttpMatch, MethodMatch, PathMatch, Port, RetryPolicy, SubsetName,
    TextMatch, Timeout, Weight,
};

use super::{
    Reader, host,
    reader::{items, number, time},
    retry,
    string_match::{self, StringMatch},
};
use crate::{
    Code, Node, Severity,
    ir::{
        Host, HttpAlternative, HttpRoute, Routes, Scope, Sourced, Target, Targets, TcpAlternative,
        TcpRoute, Validity,
    },
    schema::join,
};

/// The gateway name that stands for all sidecars.
const MESH: &str = "mesh";
/// Actions of Istio that are no route.
const OTHER_ACTIONS: [&str; 3] = ["redirect", "directResponse", "delegate"];
/// Conditions of Istio that are not supported yet: a match that has one never matches.
const HTTP_CONDITIONS_LATER: [&str; 7] = [
    "authority",
    "scheme",
    "queryParams",
    "withoutHeaders",
    "ignoreUriCase",
    "sourceLabels",
    "sourceNamespace",
];
const TCP_CONDITIONS_LATER: [&str; 4] = [
    "destinationSubnets",
    "sourceLabels",
    "sourceNamespace",
    "sourceSubnet",
];

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
            Err(error) => reader.find(
                Severity::Error,
                Code::InvalidValue,
                &item.path,
                item.value,
                error.to_string(),
            ),
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

/// Whether a match is for sidecars too.
fn is_for_mesh(node: &Node) -> bool {
    let gateways = node.get("gateways").map(Node::items).unwrap_or_default();
    gateways.is_empty() || gateways.iter().any(|item| item.text() == Some(MESH))
}

fn http_route(reader: &mut Reader, node: &Node, path: &Arc<str>, defaults: &Defaults) -> HttpRoute {
    let match_path = join(path, "match");
    let alternatives: Vec<HttpAlternative> = items(node, path, "match")
        .map(|item| http_alternative(reader, item.value, &item.path))
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
        timeout: timeout.unwrap_or(Timeout::Disabled),
        retry,
    }
}

fn http_alternative(reader: &mut Reader, node: &Node, path: &Arc<str>) -> HttpAlternative {
    let part = |key: &str| node.get(key).map(|value| (value, join(path, key)));
    let mut condition = HttpMatch {
        path: PathMatch::Any,
        method: MethodMatch::Any,
        headers: Vec::new(),
    };
    if let Some((value, at)) = part("uri") {
        condition.path = match string_match::read(reader, value, &at) {
            StringMatch::Empty => PathMatch::Any,
            StringMatch::Text(TextMatch::Exact(text)) => PathMatch::Exact(text),
            StringMatch::Text(TextMatch::Prefix(text)) => PathMatch::Prefix(text),
            StringMatch::Text(TextMatch::Regex(text)) => PathMatch::Regex(text),
        };
    }
    if let Some((value, at)) = part("method") {
        condition.method = match string_match::read(reader, value, &at) {
            StringMatch::Empty => MethodMatch::Any,
            StringMatch::Text(text) => MethodMatch::Text(text),
        };
    }
    if let Some((value, at)) = part("headers") {
        condition.headers = headers(reader, value, &at);
    }
    HttpAlternative {
        path: Arc::clone(path),
        port: port(node),
        condition,
        validity: validity(reader, node, path, &HTTP_CONDITIONS_LATER),
    }
}

fn headers(reader: &mut Reader, node: &Node, path: &str) -> Vec<HeaderMatch> {
    let mut headers = Vec::new();
    for entry in node.entries() {
        let at = join(path, &entry.key);
        let name = entry.key.to_ascii_lowercase();
        if matches!(name.as_str(), "uri" | "scheme" | "method" | "authority") {
            let message = format!("as in Istio, {name} here has no effect: write match.{name}");
            reader.find(
                Severity::Warning,
                Code::Unsupported,
                &at,
                &entry.value,
                message,
            );
            continue;
        }
        if name.is_empty() || !name.bytes().all(is_token) {
            let message = format!("{:?} is no header name", entry.key);
            reader.find(
                Severity::Error,
                Code::InvalidValue,
                &at,
                &entry.value,
                message,
            );
            continue;
        }
        let test = match string_match::read(reader, &entry.value, &at) {
            StringMatch::Empty => HeaderTest::Present,
            StringMatch::Text(text) => HeaderTest::Value(text),
        };
        headers.push(HeaderMatch { name, test });
    }
    headers.sort_by(|a, b| a.name.cmp(&b.name));
    headers
}

/// RFC 9110 §5.6.2 `tchar`.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether a match can be used: a condition that cannot be checked never widens it.
fn validity(reader: &mut Reader, node: &Node, path: &str, later: &[&str]) -> Validity {
    if !is_for_mesh(node) {
        let gateways = node.get("gateways").unwrap_or(node);
        reader.find(
            Severity::Warning,
            Code::Unsupported,
            &join(path, "gateways"),
            gateways,
            "gateways are not supported yet: this match applies to no sidecar unless the list \
             contains mesh",
        );
        return Validity::Never;
    }
    if let Some(reason) = reader.invalid(path) {
        return Validity::Invalid(reason);
    }
    let condition = later.iter().find(|key| node.get(key).is_some());
    let Some(key) = condition else {
        return Validity::Valid;
    };
    reader.find(
        Severity::Error,
        Code::Unsupported,
        path,
        node,
        format!("this match never applies, because its condition {key} is not supported yet"),
    );
    Validity::Never
}

fn tcp_route(reader: &mut Reader, node: &Node, path: &Arc<str>) -> TcpRoute {
    let alternatives = items(node, path, "match")
        .map(|item| TcpAlternative {
            port: port(item.value),
            validity: validity(reader, item.value, &item.path, &TCP_CONDITIONS_LATER),
        })
        .collect();
    TcpRoute {
        path: Arc::clone(path),
        alternatives,
        targets: targets(reader, node, path),
    }
}

fn port(node: &Node) -> Option<Port> {
    Port::new(node.get("port")?.integer()?).ok()
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
        reader.find(Severity::Error, Code::InvalidValue, &at, value, message);
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
        host,
        port: destination
            .get("port")
            .and_then(|port| Port::new(port.get("number")?.integer()?).ok()),
        subset,
        weight,
    })
}
