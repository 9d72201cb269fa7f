//! Walks an object along its schema: what was written where, and what is wrong with it.

use std::fmt::Write as _;

use super::{
    Field, Shape, Support, nearest,
    scalar::{expected, scalar_error, text_error},
};
use crate::{
    Code, Node, Position, Severity,
    document::{Entry, Value},
    ledger::{Written, WrittenField},
};

/// What a walk found, in the order written.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Checked {
    /// Every field with a value.
    pub(crate) fields: Vec<WrittenField>,
    /// What is wrong.
    pub(crate) findings: Vec<Finding>,
}

/// Something wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    pub(crate) code: Code,
    pub(crate) path: String,
    pub(crate) position: Position,
    pub(crate) message: String,
}

impl Checked {
    /// The first finding of these codes at `path` or below it.
    pub(crate) fn first_below(&self, path: &str, codes: &[Code]) -> Option<&Finding> {
        self.findings
            .iter()
            .find(|finding| codes.contains(&finding.code) && is_below(&finding.path, path))
    }

    /// Marks the fields whose values cannot be used, those that the readers found included.
    pub(crate) fn mark_invalid(&mut self) {
        let is_error = |finding: &&Finding| {
            finding.severity == Severity::Error && finding.code == Code::InvalidValue
        };
        for finding in self.findings.iter().filter(is_error) {
            let fields = self.fields.iter_mut();
            for field in fields.filter(|field| *field.path == *finding.path) {
                field.state = Written::Invalid;
            }
        }
    }

    /// The first error at `path` or below it: the value there cannot be used.
    pub(crate) fn error_below(&self, path: &str) -> Option<&Finding> {
        self.first_below(path, &[Code::InvalidValue, Code::MissingField])
    }
}

/// Whether `path` is `prefix` or inside it.
pub(crate) fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || prefix.is_empty() || rest.starts_with(['.', '[']))
}

/// Walks `node`, an object of a used kind.
pub(crate) fn check(node: &Node, shape: &'static Shape) -> Checked {
    let mut walk = Walk {
        path: String::new(),
        out: Checked::default(),
        mode: Mode::Full,
    };
    walk.value(node, shape);
    walk.out
}

/// How much is said about what is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Everything.
    Full,
    /// The fields are one line in the ledger already; values are checked.
    Folded,
    /// The subtree is not supported: only unknown names are reported.
    Unsupported,
}

struct Walk {
    path: String,
    out: Checked,
    mode: Mode,
}

impl Walk {
    fn value(&mut self, node: &Node, shape: &'static Shape) {
        match (shape, &node.value) {
            (Shape::Object(fields), Value::Map(entries)) => self.object(node, fields, entries),
            (Shape::List(item), Value::List(items)) => {
                if items.is_empty() {
                    self.written(node, Written::Used);
                }
                for (index, node) in items.iter().enumerate() {
                    self.inside(
                        |path| push_index(path, index),
                        |walk| walk.value(node, item),
                    );
                }
            }
            (Shape::Bulk(item), Value::List(items)) => {
                self.written(node, Written::Used);
                let mode = std::mem::replace(&mut self.mode, Mode::Folded);
                for (index, node) in items.iter().enumerate() {
                    self.inside(
                        |path| push_index(path, index),
                        |walk| walk.value(node, item),
                    );
                }
                self.mode = mode;
            }
            (Shape::Map(value), Value::Map(entries)) => {
                for entry in entries {
                    // A header test of null is the empty test: present.
                    if entry.value.value == Value::Null {
                        self.inside(
                            |path| push_key(path, &entry.key),
                            |walk| walk.written(&entry.value, Written::Used),
                        );
                        continue;
                    }
                    self.inside(
                        |path| push_key(path, &entry.key),
                        |walk| walk.value(&entry.value, value),
                    );
                }
            }
            (Shape::Labels, Value::Map(entries)) => self.labels(node, entries),
            (Shape::Any, _) => self.written(node, Written::Used),
            _ => match scalar_error(node, shape) {
                None => self.written(node, Written::Used),
                Some(message) => self.invalid(node, message),
            },
        }
    }

    fn object(&mut self, node: &Node, fields: &'static [Field], entries: &[Entry]) {
        if entries.is_empty() {
            self.written(node, Written::Used);
        }
        for entry in entries {
            match fields.iter().find(|field| field.name == entry.key) {
                Some(_) if entry.value.value == Value::Null => {}
                Some(field) => {
                    self.inside(
                        |path| push_key(path, field.name),
                        |walk| walk.field(entry, field),
                    );
                }
                None => {
                    self.inside(
                        |path| push_key(path, &entry.key),
                        |walk| walk.unknown(entry, fields),
                    );
                }
            }
        }
        if self.mode == Mode::Unsupported {
            return;
        }
        for field in fields.iter().filter(|field| field.required) {
            if node.get(field.name).is_none() {
                let message = format!("{} is missing: {}", field.name, expected(&field.shape));
                self.inside(
                    |path| push_key(path, field.name),
                    |walk| walk.find(Severity::Error, Code::MissingField, node.position, message),
                );
            }
        }
    }

    fn field(&mut self, entry: &Entry, field: &'static Field) {
        match field.support {
            Support::Used | Support::Extension => self.value(&entry.value, &field.shape),
            Support::Ignored => {}
            Support::NotYet => {
                if self.mode != Mode::Unsupported {
                    self.written_at(entry.position, Written::Unsupported);
                    self.find(
                        Severity::Warning,
                        Code::Unsupported,
                        entry.position,
                        format!("{} is not supported yet", field.name),
                    );
                }
                let mode = std::mem::replace(&mut self.mode, Mode::Unsupported);
                self.value(&entry.value, &field.shape);
                self.mode = mode;
            }
        }
    }

    fn unknown(&mut self, entry: &Entry, fields: &[Field]) {
        self.written_at(entry.position, Written::Unknown);
        let hint = match nearest(&entry.key, fields.iter().map(|field| field.name)) {
            Some(name) => format!(": did you mean {name}?"),
            None => {
                let is_used = |field: &&Field| field.support == Support::Used;
                let any_used = fields.iter().any(|field| is_used(&field));
                let names: Vec<_> = fields
                    .iter()
                    .filter(|field| !any_used || is_used(field))
                    .map(|field| field.name)
                    .collect();
                format!(": known here are {}", names.join(", "))
            }
        };
        let message = format!("there is no field {:?}{hint}", entry.key);
        self.find(
            Severity::Warning,
            Code::UnknownField,
            entry.position,
            message,
        );
    }

    fn labels(&mut self, node: &Node, entries: &[Entry]) {
        let bad = entries.iter().find(|entry| entry.value.text().is_none());
        match bad {
            None => self.written(node, Written::Used),
            Some(entry) => {
                let message = text_error(&entry.value);
                let key = entry.key.clone();
                self.written(node, Written::Used);
                self.inside(
                    |path| push_key(path, &key),
                    |walk| walk.invalid(&entry.value, message),
                );
            }
        }
    }

    fn invalid(&mut self, node: &Node, message: String) {
        if self.mode == Mode::Unsupported {
            return;
        }
        self.written(node, Written::Invalid);
        self.find(Severity::Error, Code::InvalidValue, node.position, message);
    }

    fn written(&mut self, node: &Node, state: Written) {
        self.written_at(node.position, state);
    }

    fn written_at(&mut self, position: Position, state: Written) {
        if self.mode == Mode::Full {
            self.out.fields.push(WrittenField {
                path: self.path.as_str().into(),
                position,
                state,
            });
        }
    }

    fn find(&mut self, severity: Severity, code: Code, position: Position, message: String) {
        self.out.findings.push(Finding {
            severity,
            code,
            path: self.path.clone(),
            position,
            message,
        });
    }

    fn inside(&mut self, push: impl FnOnce(&mut String), walk: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        push(&mut self.path);
        walk(self);
        self.path.truncate(length);
    }
}

fn push_index(path: &mut String, index: usize) {
    // Writing to a String cannot fail.
    write!(path, "[{index}]").ok();
}

fn push_key(path: &mut String, key: &str) {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if key.bytes().all(plain) {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key);
    } else {
        path.push('[');
        path.push_str(key);
        path.push(']');
    }
}

/// The path of a key below another, as the walk writes it.
pub(crate) fn join(path: &str, key: &str) -> String {
    let mut joined = path.to_owned();
    push_key(&mut joined, key);
    joined
}
