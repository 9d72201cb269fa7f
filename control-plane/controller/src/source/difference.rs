//! What an edit changed in an object, field by field, for people to read.

use std::fmt;

use outrigger_compiler::{Node, document::Value};

/// Most fields named for one edit: beyond that the whole object changed.
pub const FIELDS_MAX: usize = 16;

/// One field that an edit changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldChange {
    /// The field, `spec.http[0].route[1].weight`.
    pub path: String,
    /// What it was; `None` if it was not there.
    pub before: Option<String>,
    /// What it is; `None` if it is gone.
    pub after: Option<String>,
}

/// `spec.http[0].route[1].weight 90 → 80`
impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => write!(f, "{} {before} → {after}", self.path),
            (None, Some(after)) => write!(f, "{} added: {after}", self.path),
            (Some(before), None) => write!(f, "{} removed: {before}", self.path),
            (None, None) => f.write_str(&self.path),
        }
    }
}

/// The fields in which two trees differ, places aside; at most [`FIELDS_MAX`].
pub(super) fn difference(before: &Node, after: &Node) -> Vec<FieldChange> {
    let mut changes = Vec::new();
    compare(String::new(), Some(before), Some(after), &mut changes);
    changes
}

fn compare(
    path: String,
    before: Option<&Node>,
    after: Option<&Node>,
    changes: &mut Vec<FieldChange>,
) {
    if changes.len() >= FIELDS_MAX {
        return;
    }
    match (
        before.map(|node| &node.value),
        after.map(|node| &node.value),
    ) {
        (Some(Value::Map(old)), Some(Value::Map(new))) => {
            let join = |key: &str| match path.as_str() {
                "" => key.to_owned(),
                path => format!("{path}.{key}"),
            };
            let in_new = |key: &str| new.iter().find(|entry| entry.key == key);
            let in_old = |key: &str| old.iter().any(|entry| entry.key == key);
            for entry in old {
                let value = in_new(&entry.key).map(|entry| &entry.value);
                compare(join(&entry.key), Some(&entry.value), value, changes);
            }
            for entry in new.iter().filter(|entry| !in_old(&entry.key)) {
                compare(join(&entry.key), None, Some(&entry.value), changes);
            }
        }
        (Some(Value::List(old)), Some(Value::List(new))) => {
            for index in 0..old.len().max(new.len()) {
                let path = format!("{path}[{index}]");
                compare(path, old.get(index), new.get(index), changes);
            }
        }
        (old, new) if old == new => {}
        (old, new) => changes.push(FieldChange {
            path,
            before: old.map(show),
            after: new.map(show),
        }),
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Text(text) => text.chars().take(64).collect(),
        Value::List(items) => format!("a list of {}", items.len()),
        Value::Map(entries) => format!("a mapping of {}", entries.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::manifest::parse, *};

    #[test]
    fn fields_are_named() {
        let check = |before: &str, after: &str, expected: &[&str]| {
            let tree = |text| parse(text).unwrap().remove(0).1;
            let changes = difference(&tree(before), &tree(after));
            let shown: Vec<_> = changes.iter().map(ToString::to_string).collect();
            assert_eq!(shown, expected);
        };
        check("a: {b: [1, 2]}", "a: {b: [1, 3]}", &["a.b[1] 2 → 3"]);
        check("a: 1\n", "# moved\n\n\na: 1\n", &[]);
        check("a: 1\nb: x", "a: 1", &["b removed: x"]);
        check("a: 1", "a: 1\nb: {c: d}", &["b added: a mapping of 1"]);
        check("a: [1]", "a: x", &["a a list of 1 → x"]);
        check("a: [1]", "a: [1, 2]", &["a[1] added: 2"]);
    }

    #[test]
    fn the_number_of_fields_is_bounded() {
        let list = |from: i64| {
            let items: Vec<_> = (from..from + 100).map(|item| item.to_string()).collect();
            parse(&format!("[{}]", items.join(","))).map(|_| items.join(","))
        };
        let tree = |items: String| parse(&format!("a: [{items}]")).unwrap().remove(0).1;
        let changes = difference(&tree(list(0).unwrap()), &tree(list(200).unwrap()));
        assert_eq!(changes.len(), FIELDS_MAX);
    }
}
