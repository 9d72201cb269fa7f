//! The difference of two pods as a JSON patch (RFC 6902).
//!
//! Only whole members of `metadata` and `spec` are written: what the injector changes are lists
//! that it owns the order of, and a patch by index into them would have to be read with the pod
//! beside it.

use serde_json::{Value, json};

/// Operations that turn `from` into `to`, as far as the members of their `metadata` and `spec` go;
/// none when these are the same.
#[must_use]
pub fn patch(from: &Value, to: &Value) -> Vec<Value> {
    ["metadata", "spec"]
        .into_iter()
        .flat_map(|section| members(section, from.get(section), to.get(section)))
        .collect()
}

fn members(section: &str, from: Option<&Value>, to: Option<&Value>) -> Vec<Value> {
    let Some(to) = to.and_then(Value::as_object) else {
        return Vec::new();
    };
    let Some(from) = from.and_then(Value::as_object) else {
        return vec![json!({"op": "add", "path": format!("/{section}"), "value": to})];
    };
    let path = |name: &str| {
        let escaped = name.replace('~', "~0").replace('/', "~1");
        format!("/{section}/{escaped}")
    };
    let removed = from
        .keys()
        .filter(|name| !to.contains_key(*name))
        .map(|name| json!({"op": "remove", "path": path(name)}));
    // RFC 6902 §4.1: adding a member that exists replaces it.
    let written = to
        .iter()
        .filter(|(name, value)| from.get(*name) != Some(value))
        .map(|(name, value)| json!({"op": "add", "path": path(name), "value": value}));
    removed.chain(written).collect()
}
