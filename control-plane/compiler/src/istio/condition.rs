//! The matches of a VirtualService's rules.

use std::sync::Arc;

use outrigger_model::{
    HeaderMatch, HeaderTest, HttpMatch, MethodMatch, PathMatch, Port, TextMatch,
};

use super::{
    Reader,
    routes::MESH,
    string_match::{self, StringMatch},
};
use crate::{
    Code, Node, Severity,
    ir::{HttpAlternative, TcpAlternative, Validity},
    schema::join,
};

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

/// Whether a match is for sidecars too.
fn is_for_mesh(node: &Node) -> bool {
    let gateways = node.get("gateways").map(Node::items).unwrap_or_default();
    gateways.is_empty() || gateways.iter().any(|item| item.text() == Some(MESH))
}

/// Reads one match of an HTTP rule.
pub(super) fn http(reader: &mut Reader, node: &Node, path: &Arc<str>) -> HttpAlternative {
    let part = |key: &str| node.get(key).map(|value| (value, join(path, key)));
    let mut condition = HttpMatch {
        path: PathMatch::Any,
        method: MethodMatch::Any,
        headers: Vec::new(),
        query: Vec::new(),
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
    let mut validity = validity(reader, node, path, &HTTP_CONDITIONS_LATER);
    if let (Validity::Invalid(_), Some(regex)) = (&validity, broken_regex(reader, node, path)) {
        // What it was to match nobody knows: not more than what it certainly begins with, and
        // nothing where that would be every request.
        let is_alone = condition.method == MethodMatch::Any && condition.headers.is_empty();
        match literal_prefix(regex) {
            Some(prefix) => condition.path = PathMatch::Prefix(prefix.to_owned()),
            None if is_alone => {
                reader.refuse(
                    path,
                    node,
                    "this match never applies: which paths its regex is for cannot be told",
                );
                validity = Validity::Never;
            }
            None => {}
        }
    }
    HttpAlternative {
        path: Arc::clone(path),
        port: port(node),
        condition,
        validity,
    }
}

/// The `uri.regex` of a match, if it is what is wrong there.
fn broken_regex<'a>(reader: &Reader, node: &'a Node, path: &str) -> Option<&'a str> {
    let regex = node.get("uri")?.get("regex")?.text()?;
    let at = join(&join(path, "uri"), "regex");
    reader.invalid(&at).map(|_| regex)
}

/// What every path that a regex matches begins with, if that is more than `/`. Total: the regex may
/// be broken.
fn literal_prefix(regex: &str) -> Option<&str> {
    if regex.contains('|') {
        return None;
    }
    let end = regex.find(|c| r"\.+*?()[]{}^$".contains(c));
    let (literal, rest) = regex.split_at(end.unwrap_or(regex.len()));
    let literal = if rest.starts_with(['*', '?', '{']) {
        // The character before may be left out.
        let last = literal.char_indices().next_back();
        last.and_then(|(at, _)| literal.get(..at))?
    } else {
        literal
    };
    (literal.len() > 1 && literal.starts_with('/')).then_some(literal)
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
            reader.refuse(&at, &entry.value, message);
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
pub(crate) fn is_token(byte: u8) -> bool {
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

fn port(node: &Node) -> Option<Port> {
    Port::new(node.get("port")?.integer()?).ok()
}

/// Reads one match of a TCP rule.
pub(super) fn tcp(reader: &mut Reader, node: &Node, path: &str) -> TcpAlternative {
    TcpAlternative {
        port: port(node),
        validity: validity(reader, node, path, &TCP_CONDITIONS_LATER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certain_beginning_of_a_regex() {
        for (regex, expected) in [
            ("/api/(v1", Some("/api/")),
            ("/api/v[12", Some("/api/v")),
            ("/apis?/[", Some("/api")),
            ("/a/{", Some("/a")),
            ("/(", None),
            ("/a*[", None),
            ("[", None),
            ("(/a", None),
            ("/api/(a|b", None),
            ("api/(", None),
            ("", None),
        ] {
            assert_eq!(literal_prefix(regex), expected, "{regex}");
        }
    }
}
