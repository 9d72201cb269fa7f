//! Istio's StringMatch: `exact`, `prefix` or `regex`; empty where it is a test of presence.

use outrigger_model::TextMatch;

use super::Reader;
use crate::Node;

/// What a StringMatch says.
pub(super) enum StringMatch {
    /// `{}`: anything.
    Empty,
    /// Exactly one of the three.
    Text(TextMatch),
}

/// Reads a StringMatch; a value that cannot be used is a finding at `path`, and reads as empty.
pub(super) fn read(reader: &mut Reader, node: &Node, path: &str) -> StringMatch {
    let text = |key: &str| node.get(key).and_then(Node::text).map(str::to_owned);
    let found: Vec<TextMatch> = [
        text("exact").map(TextMatch::Exact),
        text("prefix").map(TextMatch::Prefix),
        text("regex").map(TextMatch::Regex),
    ]
    .into_iter()
    .flatten()
    .collect();
    if found.len() > 1 {
        reader.refuse(
            path,
            node,
            "write one of exact, prefix and regex, not several",
        );
    }
    match found.into_iter().next() {
        Some(text) if reader.invalid(path).is_none() => StringMatch::Text(text),
        Some(_) | None => StringMatch::Empty,
    }
}
