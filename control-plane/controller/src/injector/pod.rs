//! Reading and changing a pod as a JSON value. The API server has checked its shape; from a file
//! it may be anything, so that what has another shape than expected reads as absent, and is
//! replaced when something has to be written there.

use serde_json::{Map, Value};

/// The text at `path`, if it is one.
pub(super) fn text<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    at(value, path)?.as_str()
}

/// The value at `path`.
pub(super) fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| value.get(key))
}

/// The object at `path`, if it is there.
pub(super) fn at_mut<'a>(
    value: &'a mut Value,
    path: &[&str],
) -> Option<&'a mut Map<String, Value>> {
    path.iter()
        .try_fold(value, |value, key| value.get_mut(key))?
        .as_object_mut()
}

/// The object at `path`, made when it is not there.
pub(super) fn section<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    path.iter().fold(object(value), |map, key| {
        object(map.entry(*key).or_insert(Value::Null))
    })
}

fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("made an object above")
}

/// A list of the pod's `spec`, if it is there.
pub(super) fn list_mut<'a>(pod: &'a mut Value, name: &str) -> Option<&'a mut Vec<Value>> {
    pod.get_mut("spec")?.get_mut(name)?.as_array_mut()
}

/// A list of the pod's `spec`, made when it is not there.
pub(super) fn list<'a>(pod: &'a mut Value, name: &str) -> &'a mut Vec<Value> {
    let value = section(pod, &["spec"]).entry(name).or_insert(Value::Null);
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    value.as_array_mut().expect("made a list above")
}

/// The containers and init containers of a pod, those of a sidecar included.
pub(super) fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"]
        .into_iter()
        .filter_map(|name| at(pod, &["spec", name])?.as_array())
        .flatten()
}

/// The container's name.
pub(super) fn name(container: &Value) -> &str {
    text(container, &["name"]).unwrap_or_default()
}

/// An annotation.
pub(super) fn annotation<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
    text(pod, &["metadata", "annotations", name])
}

/// A label.
pub(super) fn label<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
    text(pod, &["metadata", "labels", name])
}
