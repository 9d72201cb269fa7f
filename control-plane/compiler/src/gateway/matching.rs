//! The matches of a rule, each with its rank.

use std::{collections::BTreeSet, sync::Arc};

use outrigger_model::{
    HeaderMatch, HeaderTest, HttpMatch, MethodMatch, PathMatch, QueryMatch, TextMatch,
};

use super::ENTRIES_MAX;
use crate::{
    Node,
    ir::{HttpAlternative, Rank, Validity},
    istio::{Reader, bound, is_token, items},
    schema::{join, regex_error},
};

/// A match and how exact it is.
pub(super) struct Ranked {
    pub(super) alternative: HttpAlternative,
    pub(super) rank: Rank,
}

const EXACT: usize = 3;
/// Where expressions stand is left to implementations.
const REGEX: usize = 2;
const PREFIX: usize = 1;

fn any() -> HttpMatch {
    HttpMatch {
        path: PathMatch::Any,
        method: MethodMatch::Any,
        headers: Vec::new(),
        query: Vec::new(),
    }
}

fn ranked(reader: &Reader, condition: HttpMatch, path: &Arc<str>, rank: Rank) -> Ranked {
    let alternative = HttpAlternative {
        path: Arc::clone(path),
        port: None,
        condition,
        validity: reader
            .invalid(path)
            .map_or(Validity::Valid, Validity::Invalid),
    };
    Ranked { alternative, rank }
}

/// The match of a rule that names none.
pub(super) fn everything(path: &Arc<str>, _: &Node) -> Ranked {
    Ranked {
        alternative: HttpAlternative {
            path: Arc::clone(path),
            port: None,
            condition: any(),
            validity: Validity::Valid,
        },
        rank: [PREFIX, 1, 0, 0, 0],
    }
}

/// Reads a match of an HTTPRoute: the path's kind, its length, method, headers, query parameters
/// are compared in this order.
pub(super) fn http(reader: &mut Reader, node: &Node, path: &Arc<str>) -> Ranked {
    let mut condition = any();
    let (kind, length) = match node.get("path") {
        Some(value) => {
            let (kind, length, test) = http_path(reader, value, &join(path, "path"));
            condition.path = test;
            (kind, length)
        }
        None => (PREFIX, 1),
    };
    condition.headers = headers(reader, node, path);
    condition.query = query(reader, node, path);
    if let Some(method) = node.get("method").and_then(Node::text) {
        condition.method = MethodMatch::Text(TextMatch::Exact(method.to_owned()));
    }
    let has_method = usize::from(condition.method != MethodMatch::Any);
    let counts = (condition.headers.len(), condition.query.len());
    let rank = [kind, length, has_method, counts.0, counts.1];
    ranked(reader, condition, path, rank)
}

/// What the CRD refuses in a path, beside what is no path at all.
const NEVER_IN_PATHS: [&str; 6] = ["//", "/./", "/../", "%2f", "%2F", "#"];

fn http_path(reader: &mut Reader, node: &Node, path: &str) -> (usize, usize, PathMatch) {
    let text = |key: &str| node.get(key).and_then(Node::text);
    let value = text("value").unwrap_or("/");
    let kind = text("type").unwrap_or("PathPrefix");
    let found = if kind == "RegularExpression" {
        regex_error(value)
    } else {
        path_error(value)
    };
    if let Some(message) = found {
        let at = join(path, "value");
        reader.refuse(&at, node, message);
        return (PREFIX, 1, PathMatch::Any);
    }
    let length = value.chars().count();
    match kind {
        "Exact" => (EXACT, length, PathMatch::Exact(value.to_owned())),
        "RegularExpression" => (REGEX, length, PathMatch::Regex(value.to_owned())),
        _ => {
            let prefix = value.trim_end_matches('/');
            let test = match prefix {
                "" => PathMatch::Any,
                prefix => PathMatch::Elements(prefix.to_owned()),
            };
            (PREFIX, prefix.chars().count().max(1), test)
        }
    }
}

/// Characters of a path, as in the CRD.
const PATH_CHARS_MAX: usize = 1_024;

fn path_error(value: &str) -> Option<String> {
    if value.len() > PATH_CHARS_MAX {
        return Some(format!(
            "the path is longer than {PATH_CHARS_MAX} characters"
        ));
    }
    if !value.starts_with('/') {
        return Some(format!(
            "{value:?} is no path: write one that starts with /"
        ));
    }
    let is_wrong = |part: &&&str| value.contains(**part);
    if let Some(part) = NEVER_IN_PATHS.iter().find(is_wrong) {
        return Some(format!("{value:?} is no path to match: it contains {part}"));
    }
    let is_odd = |byte: u8| !byte.is_ascii_graphic() || b"?\"<>[]\\^`{|}".contains(&byte);
    let ends_in_dots = value.ends_with("/.") || value.ends_with("/..");
    (ends_in_dots || value.bytes().any(is_odd)).then(|| {
        format!(
            "{value:?} is no path: write letters, digits, percent-encoding and -._~!$&'()*+,;=:@/"
        )
    })
}

/// Reads a match of a GRPCRoute: characters of service and method, then headers are compared.
pub(super) fn grpc(reader: &mut Reader, node: &Node, path: &Arc<str>) -> Ranked {
    let mut condition = any();
    let mut lengths = (0, 0);
    if let Some(method) = node.get("method") {
        let (test, service, method) = grpc_method(reader, method, &join(path, "method"));
        condition.path = test;
        lengths = (service, method);
    }
    condition.headers = headers(reader, node, path);
    let rank = [lengths.0, lengths.1, condition.headers.len(), 0, 0];
    ranked(reader, condition, path, rank)
}

/// The path of a gRPC request is `/service/method` (gRPC over HTTP/2, "Requests").
fn grpc_method(reader: &mut Reader, node: &Node, path: &str) -> (PathMatch, usize, usize) {
    let text = |key: &str| node.get(key).and_then(Node::text).unwrap_or_default();
    let (service, method) = (text("service"), text("method"));
    let lengths = (service.chars().count(), method.chars().count());
    let mut refuse = |key: &str, message: String| {
        let at = join(path, key);
        reader.refuse(&at, node, message);
    };
    if service.is_empty() && method.is_empty() {
        refuse("service", "write service, method, or both".to_owned());
        return (PathMatch::Any, 0, 0);
    }
    let is_regex = text("type") == "RegularExpression";
    for (key, value) in [("service", service), ("method", method)] {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
        let error = if is_regex {
            regex_error(value)
        } else if !value.bytes().all(is_name) {
            Some(format!("{value:?} is no name of a gRPC {key}"))
        } else {
            None
        };
        if let Some(message) = error {
            refuse(key, message);
            return (PathMatch::Any, lengths.0, lengths.1);
        }
    }
    let part = |text: &str| match text {
        "" => "[^/]+".to_owned(),
        text if is_regex => format!("(?:{text})"),
        text => text.replace('.', "\\."),
    };
    let test = if !is_regex && method.is_empty() {
        PathMatch::Elements(format!("/{service}"))
    } else if !is_regex && !service.is_empty() {
        PathMatch::Exact(format!("/{service}/{method}"))
    } else {
        let pattern = format!("/{}/{}", part(service), part(method));
        if let Some(message) = regex_error(&pattern) {
            refuse("service", message);
            return (PathMatch::Any, lengths.0, lengths.1);
        }
        PathMatch::Regex(pattern)
    };
    (test, lengths.0, lengths.1)
}

/// Of several entries for one name, in whatever case, the first counts.
fn headers(reader: &mut Reader, node: &Node, path: &str) -> Vec<HeaderMatch> {
    let mut headers = Vec::new();
    let mut seen = BTreeSet::new();
    bound(reader, node, path, "headers", ENTRIES_MAX);
    for item in items(node, path, "headers") {
        let Some((name, value)) = named_value(reader, item.value, &item.path) else {
            continue;
        };
        let name = name.to_ascii_lowercase();
        if name.is_empty() || !name.bytes().all(is_token) {
            let at = join(&item.path, "name");
            let message = format!("{name:?} is no header name");
            reader.refuse(&at, item.value, message);
            continue;
        }
        if seen.insert(name.clone()) {
            let test = HeaderTest::Value(value);
            headers.push(HeaderMatch { name, test });
        }
    }
    headers.sort_by(|a, b| a.name.cmp(&b.name));
    headers
}

/// Of several entries for one name the first counts.
fn query(reader: &mut Reader, node: &Node, path: &str) -> Vec<QueryMatch> {
    let mut query = Vec::new();
    let mut seen = BTreeSet::new();
    bound(reader, node, path, "queryParams", ENTRIES_MAX);
    for item in items(node, path, "queryParams") {
        let Some((name, value)) = named_value(reader, item.value, &item.path) else {
            continue;
        };
        if seen.insert(name) {
            let name = name.to_owned();
            query.push(QueryMatch { name, value });
        }
    }
    query.sort_by(|a, b| a.name.cmp(&b.name));
    query
}

fn named_value<'a>(
    reader: &mut Reader,
    node: &'a Node,
    path: &str,
) -> Option<(&'a str, TextMatch)> {
    let text = |key: &str| node.get(key).and_then(Node::text);
    let (name, value) = (text("name")?, text("value")?);
    if text("type") != Some("RegularExpression") {
        return Some((name, TextMatch::Exact(value.to_owned())));
    }
    if let Some(message) = regex_error(value) {
        let at = join(path, "value");
        reader.refuse(&at, node, message);
        return None;
    }
    Some((name, TextMatch::Regex(value.to_owned())))
}
