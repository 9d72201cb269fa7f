//! Single values: their type, range and form.

use super::{Shape, nearest};
use crate::{Node, document::Value, duration};

/// What is wrong with a value that is no container; `None` if nothing.
pub(super) fn scalar_error(node: &Node, shape: &Shape) -> Option<String> {
    let wrong = || Some(format!("{}, not {}", expected(shape), node.describe()));
    match shape {
        Shape::Text => node.text().is_none().then(|| text_error(node)),
        Shape::Enum(values) => match node.text() {
            Some(text) if values.contains(&text) => None,
            Some(text) => {
                let near = nearest(text, values.iter().copied());
                let hint = near.map_or(String::new(), |near| format!("; did you mean {near}?"));
                Some(format!("{}, not {text:?}{hint}", expected(shape)))
            }
            None => wrong(),
        },
        Shape::Duration | Shape::DurationOrZero => match (node.text(), node.integer()) {
            (Some(text), _) => duration_error(text, matches!(shape, Shape::DurationOrZero)),
            (None, Some(number)) => Some(format!(
                "{number} has no unit: write for example {number}s or {number}ms"
            )),
            (None, None) => wrong(),
        },
        Shape::Regex => match node.text() {
            Some(text) => regex_error(text),
            None => wrong(),
        },
        Shape::Bool => (!matches!(node.value, Value::Bool(_))).then(wrong)?,
        Shape::Integer(min, max) => match node.integer() {
            Some(number) if (*min..=*max).contains(&number) => None,
            Some(_) | None => wrong(),
        },
        Shape::Number => {
            (!matches!(node.value, Value::Integer(_) | Value::Float(_))).then(wrong)?
        }
        Shape::PortOrName => match (node.integer(), node.text()) {
            (Some(number), _) if (1..=65_535).contains(&number) => None,
            (None, Some(name)) if !name.is_empty() => None,
            _ => wrong(),
        },
        Shape::Any => None,
        Shape::Object(_) | Shape::List(_) | Shape::Bulk(_) | Shape::Map(_) | Shape::Labels => {
            wrong()
        }
    }
}

/// What to write where text is expected.
pub(super) fn text_error(node: &Node) -> String {
    match node.value {
        Value::Bool(_) | Value::Integer(_) | Value::Float(_) => {
            let plain = node.describe();
            let plain = plain.strip_prefix("the number ").unwrap_or(&plain);
            format!("text is expected: put it in quotes, \"{plain}\"")
        }
        Value::Null | Value::Text(_) | Value::List(_) | Value::Map(_) => {
            format!("text is expected, not {}", node.describe())
        }
    }
}

fn duration_error(text: &str, zero: bool) -> Option<String> {
    match duration::parse(text) {
        Err(rule) => Some(format!("{text:?} is no duration: {rule}")),
        Ok(value) if value.is_zero() && zero => None,
        Ok(value) if value < std::time::Duration::from_millis(1) => Some(format!(
            "{text} is too short: write at least 1ms{}",
            if zero { ", or 0s to turn it off" } else { "" }
        )),
        Ok(_) => None,
    }
}

/// Longest expression, in characters (SECURITY-NOTES D7).
const REGEX_CHARS_MAX: usize = 1_024;
/// Largest compiled expression, in bytes (SECURITY-NOTES D7).
const REGEX_BYTES_MAX: usize = 256 * 1_024;

/// What is wrong with an RE2 expression; `None` if nothing.
pub(crate) fn regex_error(text: &str) -> Option<String> {
    if text.chars().count() > REGEX_CHARS_MAX {
        return Some(format!(
            "the expression is longer than {REGEX_CHARS_MAX} characters: write a shorter one"
        ));
    }
    // As the sidecar does: alone first, because `a)|(?:b` is only well-formed inside the anchors.
    let compile = |pattern: &str| {
        regex::bytes::RegexBuilder::new(pattern)
            .unicode(false)
            .size_limit(REGEX_BYTES_MAX)
            .dfa_size_limit(REGEX_BYTES_MAX)
            .build()
            .err()
    };
    let error = compile(text).or_else(|| compile(&format!(r"\A(?:{text})\z")))?;
    let reason = if let regex::Error::CompiledTooBig(_) = error {
        format!("it compiles to more than {REGEX_BYTES_MAX} bytes: use fewer repetitions")
    } else {
        // The last line of a syntax error is its reason; those before show the expression.
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default();
        last.trim_start_matches("error: ").to_owned()
    };
    Some(format!("{text:?} is no RE2 expression: {reason}"))
}

/// What to write, for messages.
pub(super) fn expected(shape: &Shape) -> String {
    match shape {
        Shape::Object(_) | Shape::Map(_) => "write a mapping".to_owned(),
        Shape::List(_) | Shape::Bulk(_) => "write a list".to_owned(),
        Shape::Labels => "write a mapping of text to text".to_owned(),
        Shape::Text => "write text".to_owned(),
        Shape::Enum(values) => format!("write one of {}", values.join(", ")),
        Shape::Duration | Shape::DurationOrZero => "write a duration such as 5s".to_owned(),
        Shape::Regex => "write an RE2 expression".to_owned(),
        Shape::Bool => "write true or false".to_owned(),
        Shape::Integer(1, 65_535) => "write a port from 1 to 65535".to_owned(),
        Shape::Integer(min, max) => format!("write a whole number from {min} to {max}"),
        Shape::Number => "write a number".to_owned(),
        Shape::PortOrName => "write a port from 1 to 65535 or the name of one".to_owned(),
        Shape::Any => "write a value".to_owned(),
    }
}
