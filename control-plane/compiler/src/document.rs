//! A document as it was written: a tree of values, each with its line and column.
//!
//! The sources (a manifest folder, the Kubernetes API) fill this tree; [`crate::Object`] reads it.
//! Keeping the position of every key and value is what lets a diagnostic name the line, long
//! after the text is gone. Nothing here knows YAML or JSON syntax.

use std::{fmt, sync::Arc};

/// Line and column in a file, both from 1. [`Position::UNKNOWN`] where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl Position {
    /// For values that come from no file, such as those of the Kubernetes API.
    pub const UNKNOWN: Self = Self { line: 0, column: 0 };

    /// Whether there is a position at all.
    #[must_use]
    pub fn is_known(self) -> bool {
        self.line > 0
    }
}

/// Where an object comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Provenance {
    /// A document in a manifest file.
    File(Source),
    /// The Kubernetes API.
    Api {
        /// `metadata.uid`.
        uid: Arc<str>,
    },
}

/// A place in a manifest file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    /// Path of the file, relative to the folder that is watched.
    pub file: Arc<str>,
    /// Index of the document in the file, from 0.
    pub document: u32,
    /// Where it stands: of an object, the first line; of a diagnostic, the field.
    pub position: Position,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { line, column } = self.position;
        if self.position.is_known() {
            write!(f, "{}:{line}:{column}", self.file)
        } else {
            write!(f, "{} (document {})", self.file, self.document)
        }
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(source) => source.fmt(f),
            Self::Api { uid } => write!(f, "uid {uid}"),
        }
    }
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where the value starts.
    pub position: Position,
    /// The value.
    pub value: Value,
}

/// A value of a document.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`, or nothing: the same as if the key were not there.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order written; the reader of the syntax refuses duplicate keys.
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key; keys that are no text are written as text (`8080:` is `"8080"`).
    pub key: String,
    /// Where the key stands.
    pub position: Position,
    /// The value.
    pub value: Node,
}

impl Node {
    /// A value at a position.
    #[must_use]
    pub fn new(position: Position, value: Value) -> Self {
        Self { position, value }
    }

    /// A mapping at a position, from keys with their positions and values.
    #[must_use]
    pub fn map(
        position: Position,
        entries: impl IntoIterator<Item = (String, Position, Self)>,
    ) -> Self {
        let entries = entries
            .into_iter()
            .map(|(key, position, value)| Entry {
                key,
                position,
                value,
            })
            .collect();
        Self::new(position, Value::Map(entries))
    }

    /// The same value without positions.
    #[must_use]
    pub fn from_json(json: &serde_json::Value) -> Self {
        let value = match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(*value),
            serde_json::Value::Number(number) => match number.as_i64() {
                Some(integer) => Value::Integer(integer),
                None => Value::Float(number.as_f64().unwrap_or(f64::INFINITY)),
            },
            serde_json::Value::String(text) => Value::Text(text.clone()),
            serde_json::Value::Array(items) => {
                Value::List(items.iter().map(Self::from_json).collect())
            }
            serde_json::Value::Object(entries) => {
                let entries = entries.iter().map(|(key, value)| Entry {
                    key: key.clone(),
                    position: Position::UNKNOWN,
                    value: Self::from_json(value),
                });
                Value::Map(entries.collect())
            }
        };
        Self::new(Position::UNKNOWN, value)
    }

    /// The value of a key, if this is a mapping that has it with a value other than null.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entries()
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.value)
            .filter(|node| node.value != Value::Null)
    }

    /// The entries of a mapping; none for any other value.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            Value::Null
            | Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::List(_) => &[],
        }
    }

    /// The items of a sequence; none for any other value.
    #[must_use]
    pub fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            Value::Null
            | Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::Map(_) => &[],
        }
    }

    /// The text, if it is text.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            Value::Null
            | Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::List(_)
            | Value::Map(_) => None,
        }
    }

    /// The number, if it is a whole number.
    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        match &self.value {
            Value::Integer(number) => Some(*number),
            Value::Null
            | Value::Bool(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::List(_)
            | Value::Map(_) => None,
        }
    }

    /// What the value is, for messages: `text "abc"`, `a list`.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => format!("{value}"),
            Value::Integer(number) => format!("the number {number}"),
            Value::Float(number) => format!("the number {number}"),
            Value::Text(text) => {
                let shown: String = text.chars().take(64).collect();
                format!("the text {shown:?}")
            }
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_becomes_nodes() {
        let node = Node::from_json(&serde_json::json!({"a": [1, "b", null, 1.5, true]}));
        let items = node.get("a").unwrap().items();
        assert_eq!(items[0].integer(), Some(1));
        assert_eq!(items[1].text(), Some("b"));
        assert_eq!(items[2].value, Value::Null);
        assert_eq!(items[3].describe(), "the number 1.5");
        assert_eq!(items[4].describe(), "true");
        assert!(node.get("b").is_none());
    }
}
