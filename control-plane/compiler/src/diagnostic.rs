//! What the compiler has to say about objects: errors, warnings and notes.
//!
//! A diagnostic names the object, the field by its path, the place in the file where there is
//! one, and what to write instead. The compiler never fails as a whole: what is wrong harms only
//! the rule or field it is in (DESIGN §2).

use std::fmt;

use crate::{ObjectKey, Source};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Something does not work as written.
    Error,
    /// It works, but probably not as meant.
    Warning,
    /// Good to know.
    Info,
}

/// What it is about. Stable names, printed by [`fmt::Display`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// The document is no object that can be read (no kind, no name).
    InvalidObject,
    /// A value of the wrong type or outside its range.
    InvalidValue,
    /// A field that must be there is not.
    MissingField,
    /// A field that does not exist.
    UnknownField,
    /// A field or value that exists and is not supported yet.
    Unsupported,
    /// A field that works here but belongs elsewhere.
    Misplaced,
    /// A field that works but whose successor should be used.
    Deprecated,
    /// A host that no service has.
    UnknownHost,
    /// A port that the service does not have.
    UnknownPort,
    /// A subset that no DestinationRule defines.
    UnknownSubset,
    /// A reference into another namespace that nothing there allows.
    NotPermitted,
    /// Another object decides instead.
    Shadowed,
    /// Never takes effect.
    Unreachable,
    /// An endpoint that is left out.
    Endpoint,
    /// An object of a kind that is not used.
    NotUsed,
}

/// One thing to say about one field of one object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// What about.
    pub code: Code,
    /// The object; `None` when the document could not be read as one.
    pub object: Option<ObjectKey>,
    /// The field, `spec.http[0].timeout`; empty for the whole object.
    pub path: String,
    /// Where it stands, for objects from files.
    pub position: Option<Source>,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        })
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidObject => "invalid-object",
            Self::InvalidValue => "invalid-value",
            Self::MissingField => "missing-field",
            Self::UnknownField => "unknown-field",
            Self::Unsupported => "unsupported",
            Self::Misplaced => "misplaced",
            Self::Deprecated => "deprecated",
            Self::UnknownHost => "unknown-host",
            Self::UnknownPort => "unknown-port",
            Self::UnknownSubset => "unknown-subset",
            Self::NotPermitted => "not-permitted",
            Self::Shadowed => "shadowed",
            Self::Unreachable => "unreachable",
            Self::Endpoint => "endpoint",
            Self::NotUsed => "not-used",
        })
    }
}

/// `shop.yaml:12:5: error: VirtualService/shop/orders spec.http[0].timeout: … [invalid-value]`
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = &self.position {
            write!(f, "{source}: ")?;
        }
        write!(f, "{}: ", self.severity)?;
        if let Some(object) = &self.object {
            write!(f, "{object}")?;
            if !self.path.is_empty() {
                write!(f, " {}", self.path)?;
            }
            f.write_str(": ")?;
        } else if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{} [{}]", self.message, self.code)
    }
}
