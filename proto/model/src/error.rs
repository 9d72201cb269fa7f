//! The one error of this crate: a value that breaks its type's rule.

/// A value was refused by a newtype's constructor. The text says the rule and shows the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {rule}")]
pub struct InvalidValue {
    /// What was being parsed, in the field's words ("port", "host name").
    pub what: &'static str,
    /// The refused input, cut to 128 characters.
    pub value: String,
    /// The rule it breaks, with what to write instead.
    pub rule: &'static str,
}

impl InvalidValue {
    pub(crate) fn new(what: &'static str, value: &str, rule: &'static str) -> Self {
        Self {
            what,
            value: value.chars().take(128).collect(),
            rule,
        }
    }
}
