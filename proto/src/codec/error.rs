//! Why bytes are not a resource.

use outrigger_model::{InvalidValue, ResourceKind};

use super::RESOURCE_BYTES_MAX;

/// Bytes were not a resource of the expected kind.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than any resource may be.
    #[error(
        "{} of {bytes} bytes is over the limit of {RESOURCE_BYTES_MAX}",
        kind.as_str()
    )]
    TooLarge {
        /// Kind that was expected.
        kind: ResourceKind,
        /// Length.
        bytes: usize,
    },
    /// Not a protobuf message of that type.
    #[error("{} is malformed", kind.as_str())]
    Malformed {
        /// Kind that was expected.
        kind: ResourceKind,
        /// What the parser met.
        source: prost::DecodeError,
    },
    /// A field breaks a rule.
    #[error("{}.{field}: {problem}", kind.as_str())]
    Field {
        /// Kind that was expected.
        kind: ResourceKind,
        /// Path as in the .proto file: `http[3].retry.backoff.base`.
        field: String,
        /// The rule it breaks.
        problem: Problem,
    },
}

/// Which rule a field breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Required, and absent.
    #[error("is missing")]
    Missing,
    /// Required, and without an entry.
    #[error("is empty")]
    Empty,
    /// An enum value that this version does not know, or the unspecified one.
    #[error("has unknown value {0}")]
    UnknownValue(i32),
    /// A number above its range.
    #[error("is {value}, at most {max} is allowed")]
    OutOfRange {
        /// Found.
        value: u64,
        /// Largest allowed.
        max: u64,
    },
    /// An index beyond the end of its dictionary.
    #[error("points at entry {index} of a dictionary of {count}")]
    Dangling {
        /// Found, from 0.
        index: u32,
        /// Entries that there are.
        count: usize,
    },
    /// A number or bound that must not be zero.
    #[error("is zero")]
    Zero,
    /// A list longer than its limit.
    #[error("has {count} entries, at most {max} are allowed")]
    TooMany {
        /// Found.
        count: usize,
        /// Limit.
        max: usize,
    },
    /// A sorted list is not in strictly ascending order.
    #[error("is not in ascending order")]
    Unsorted,
    /// A byte string or column of the wrong length.
    #[error("has length {found}, expected {expected}")]
    Length {
        /// Found.
        found: usize,
        /// Expected.
        expected: usize,
    },
    /// A text with a rule of its own.
    #[error(transparent)]
    Invalid(#[from] InvalidValue),
}

/// A problem and the path to it, built from the inside out.
#[derive(Debug)]
pub(super) struct FieldError {
    pub(super) path: String,
    pub(super) problem: Problem,
}

impl FieldError {
    pub(super) fn new(field: &str, problem: impl Into<Problem>) -> Self {
        Self {
            path: field.to_owned(),
            problem: problem.into(),
        }
    }

    /// The same problem, seen from the message that holds `field`.
    pub(super) fn within(mut self, field: &str) -> Self {
        self.path = if self.path.is_empty() {
            field.to_owned()
        } else {
            format!("{field}.{}", self.path)
        };
        self
    }
}
