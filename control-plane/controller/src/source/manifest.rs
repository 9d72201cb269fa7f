//! The text of one manifest file becomes documents with positions.
//!
//! YAML (several documents, `---` between them) and JSON, which is YAML written in its flow style,
//! go through one parser, so that both report line and column. A JSON array and a `List` hold
//! several objects; they are taken apart here, so that every manifest is one object.
//!
//! A file is taken whole or not at all: an object in front of an error may well be the half that
//! an editor has written so far.

use outrigger_compiler::{
    Node, Position,
    document::{Entry, Value},
};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{Location, Spanned};

/// Why a file holds nothing that can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(super) struct SyntaxError {
    /// Where, as far as known.
    pub(super) position: Position,
    /// What is wrong.
    pub(super) reason: String,
}

/// Reads a file's text: each item is one object's tree with the index of its document.
///
/// # Errors
/// When the text is not YAML, or larger or deeper than the parser's budget (64 levels, 250,000
/// values, 1,024 documents).
pub(super) fn parse(text: &str) -> Result<Vec<(u32, Node)>, SyntaxError> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
    };
    let documents: Vec<Spanned<Tree>> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| {
            let position = error.location().map_or(Position::UNKNOWN, position);
            SyntaxError {
                reason: without_place(&error.to_string()),
                position,
            }
        })?;
    let mut objects = Vec::new();
    for (index, document) in (0_u32..).zip(documents) {
        take_apart(node(document), index, 0, &mut objects);
    }
    Ok(objects)
}

/// The parser repeats the place in its text: `… at line 3, column 5`.
fn without_place(text: &str) -> String {
    let first = text.lines().next().unwrap_or(text);
    let end = first.find(" at line ").unwrap_or(first.len());
    let cut = first.get(..end).unwrap_or(first);
    // `error: line 3 column 5: what is wrong`
    let rest = cut.strip_prefix("error: ").unwrap_or(cut);
    // Advice for whoever programs with the parser.
    let rest = rest
        .split(", set DuplicateKeyPolicy")
        .next()
        .unwrap_or(rest);
    match rest.split_once(": ") {
        Some((place, reason)) if place.starts_with("line ") => reason.to_owned(),
        _ => rest.to_owned(),
    }
}

/// Lists of lists are not objects; deeper than this they are left as they are.
const LIST_DEPTH_MAX: u8 = 4;

fn take_apart(node: Node, document: u32, depth: u8, into: &mut Vec<(u32, Node)>) {
    let is_list = node.get("kind").and_then(Node::text) == Some("List")
        && node.get("apiVersion").and_then(Node::text) == Some("v1");
    let items = match node.value {
        Value::List(items) if depth < LIST_DEPTH_MAX => items,
        Value::Map(entries) if is_list && depth < LIST_DEPTH_MAX => entries
            .into_iter()
            .find(|entry| entry.key == "items")
            .map(|entry| match entry.value.value {
                Value::List(items) => items,
                Value::Null => Vec::new(),
                other => vec![Node::new(entry.value.position, other)],
            })
            .unwrap_or_default(),
        value => {
            into.push((document, Node::new(node.position, value)));
            return;
        }
    };
    for item in items {
        take_apart(item, document, depth + 1, into);
    }
}

/// Any value; its place comes from the [`Spanned`] around it.
enum Tree {
    Scalar(Value),
    List(Vec<Spanned<Tree>>),
    Map(Vec<(Spanned<Key>, Spanned<Tree>)>),
}

fn node(tree: Spanned<Tree>) -> Node {
    let value = match tree.value {
        Tree::Scalar(value) => value,
        Tree::List(items) => Value::List(items.into_iter().map(node).collect()),
        Tree::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| Entry {
                    position: position(key.referenced),
                    key: key.value.0,
                    value: node(value),
                })
                .collect(),
        ),
    };
    Node::new(position(tree.referenced), value)
}

fn position(location: Location) -> Position {
    Position {
        line: u32::try_from(location.line()).unwrap_or(u32::MAX),
        column: u32::try_from(location.column()).unwrap_or(u32::MAX),
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Tree, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Integer(value)))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Tree, E> {
        let number = i64::try_from(value)
            .map_err(|_| E::custom(format!("the number {value} is larger than any field takes")))?;
        Ok(Tree::Scalar(Value::Integer(number)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Text(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Text(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Tree::Map(map))
    }
}

/// A key; numbers and booleans become the text they were written as.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Tree::deserialize(deserializer)? {
            Tree::Scalar(Value::Text(text)) => Ok(Self(text)),
            Tree::Scalar(Value::Bool(value)) => Ok(Self(value.to_string())),
            Tree::Scalar(Value::Integer(number)) => Ok(Self(number.to_string())),
            Tree::Scalar(Value::Float(number)) => Ok(Self(number.to_string())),
            Tree::Scalar(Value::Null) => Ok(Self("null".to_owned())),
            Tree::Scalar(Value::List(_) | Value::Map(_)) | Tree::List(_) | Tree::Map(_) => {
                Err(D::Error::custom("a key is text, not a list or mapping"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(node: &Node) -> (u32, u32) {
        (node.position.line, node.position.column)
    }

    #[test]
    fn keys_and_values_know_their_place() {
        let text = "# note\nkind: Service\nspec:\n  ports:\n  - port: 8080\n    name: no\n";
        let objects = parse(text).unwrap();
        let (_, node) = &objects[0];
        let spec = &node.entries()[1];
        assert_eq!((spec.position.line, spec.position.column), (3, 1));
        let port = &node.get("spec").unwrap().get("ports").unwrap().items()[0];
        assert_eq!(port.get("port").unwrap().integer(), Some(8080));
        assert_eq!(at(port.get("port").unwrap()), (5, 11));
        // YAML 1.2: only true and false are booleans.
        assert_eq!(port.get("name").unwrap().text(), Some("no"));
    }

    #[test]
    fn scalars_have_the_types_of_yaml() {
        let objects = parse("a: [1, 1.5, true, null, '1', x, -3]\n8080: y\n").unwrap();
        let values: Vec<_> = objects[0].1.get("a").unwrap().items().iter().collect();
        let values: Vec<_> = values.into_iter().map(|node| node.value.clone()).collect();
        let expected = [
            Value::Integer(1),
            Value::Float(1.5),
            Value::Bool(true),
            Value::Null,
            Value::Text("1".to_owned()),
            Value::Text("x".to_owned()),
            Value::Integer(-3),
        ];
        assert_eq!(values, expected);
        assert_eq!(objects[0].1.get("8080").unwrap().text(), Some("y"));
    }

    #[test]
    fn documents_lists_and_json_are_taken_apart() {
        let check = |text: &str, expected: &[(u32, &str)]| {
            let found = parse(text).unwrap();
            let found: Vec<_> = found
                .iter()
                .map(|(document, node)| (*document, node.get("a").unwrap().text().unwrap()))
                .collect();
            assert_eq!(found, expected, "{text}");
        };
        check("a: x\n---\na: y\n", &[(0, "x"), (1, "y")]);
        check("---\n---\na: y\n---\n", &[(0, "y")]);
        check("# only a comment\n", &[]);
        check("", &[]);
        check("[{\"a\": \"x\"}, {\"a\": \"y\"}]", &[(0, "x"), (0, "y")]);
        check("{\n\t\"a\": \"x\\/\"\n}\n", &[(0, "x/")]);
        check(
            "apiVersion: v1\nkind: List\nitems:\n- a: x\n- a: y\n---\na: z\n",
            &[(0, "x"), (0, "y"), (1, "z")],
        );
        check("apiVersion: v1\nkind: List\nitems:\n", &[]);
        check("x: &m {a: b}\n<<: *m\n", &[(0, "b")]);
    }

    #[test]
    fn what_is_broken_says_where() {
        let check = |text: &str, line: u32, reason: &str| {
            let error = parse(text).unwrap_err();
            assert_eq!(error.position.line, line, "{text:?}: {error:?}");
            assert!(error.position.column > 0, "{error:?}");
            assert!(error.reason.contains(reason), "{error:?}");
            assert!(!error.reason.contains(" at line "), "{error:?}");
            assert!(!error.reason.contains("DuplicateKeyPolicy"), "{error:?}");
        };
        check("a: b\nc: [1, 2\n", 2, "unclosed bracket");
        check("a: b\na: c\n", 2, "duplicate");
        check("a: 'b\n", 2, "quoted scalar");
        check("a: *x\n", 1, "");
        check("a: 18446744073709551615\n", 1, "larger than any field");
        check("{\"a\": }}", 1, "");
    }
}
