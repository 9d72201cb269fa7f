//! What a rule changes of a request and its answer on their way: fields, path, authority; and what
//! it answers instead of sending the request anywhere.
//!
//! The names and values are newtypes that hold only what may be changed: whatever builds one of
//! these (the compiler, the codec), no configuration reaches framing, `Host`, or the mesh's own
//! fields.

use crate::{Hostname, InvalidValue, Port};

/// Changes of one rule, or of one of its backends. The default changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Filters {
    /// Fields of the request sent upstream.
    pub request: FieldEdit,
    /// Fields of the answer sent to the client.
    pub response: FieldEdit,
    /// Path of the request sent upstream; its query stays.
    pub path: PathRewrite,
    /// `Host` or `:authority` of the request sent upstream.
    pub host: HostRewrite,
}

/// Changes to the fields of a head, in this order: `set`, `add`, `remove` (Gateway API
/// `HTTPHeaderFilter`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct FieldEdit {
    /// These replace all fields of their name.
    pub set: Vec<NewField>,
    /// These join the fields of their name, as a line of their own (RFC 9110 §5.3: the same as
    /// appended after a comma, and right for `Set-Cookie` too).
    pub add: Vec<NewField>,
    /// Fields of these names go.
    pub remove: Vec<FieldName>,
}

/// A field to write.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NewField {
    /// Its name.
    pub name: FieldName,
    /// Its value.
    pub value: FieldValue,
}

/// The name of a field that configuration may change: an RFC 9110 token in lower case, at most 256
/// characters. Refused are names that belong to one hop or to framing, `Host`, and the mesh's own,
/// in every spelling with `_` for `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FieldName(String);

/// What configuration may not change: framing, one hop's own, who is addressed, and what sidecars
/// tell applications about the peer.
const RESERVED: [&str; 13] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-client-cert",
    "grpc-status",
];
/// The mesh's own.
const RESERVED_PREFIX: &str = "x-outrigger-";
/// Longest name, as in the Gateway API.
const NAME_BYTES_MAX: usize = 256;
/// Longest value, as in the Gateway API.
const VALUE_BYTES_MAX: usize = 4_096;
/// Longest path that replaces another, as in the Gateway API.
const PATH_BYTES_MAX: usize = 1_024;

impl FieldName {
    /// Takes a name in any case.
    ///
    /// # Errors
    /// When it is no token, too long, or reserved.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let refuse = |rule| Err(InvalidValue::new("field name", text, rule));
        if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(is_token) {
            return refuse("write 1–256 letters, digits and characters of !#$%&'*+-.^_`|~");
        }
        let name = text.to_ascii_lowercase();
        let folded = name.replace('_', "-");
        if folded == "host" {
            return refuse("Host follows from the route: rewrite the host name instead");
        }
        if RESERVED.contains(&folded.as_str()) || folded.starts_with(RESERVED_PREFIX) {
            return refuse("framing, connection and the mesh's own fields cannot be changed");
        }
        Ok(Self(name))
    }

    /// The name, lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The value of a field that configuration writes: at most 4,096 visible ASCII characters, spaces
/// and tabs, none of those two at either end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FieldValue(String);

impl FieldValue {
    /// # Errors
    /// When the text breaks the rule given at the type.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let is_fine = |byte: u8| byte.is_ascii_graphic() || byte == b' ' || byte == b'\t';
        let is_trimmed = text.trim_matches([' ', '\t']).len() == text.len();
        if text.len() <= VALUE_BYTES_MAX && is_trimmed && text.bytes().all(is_fine) {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidValue::new(
            "field value",
            text,
            "write at most 4096 visible ASCII characters, with single spaces or tabs inside",
        ))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What becomes of the path; the query stays.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum PathRewrite {
    /// Nothing.
    #[default]
    Keep,
    /// This takes the place of the whole path. Not empty.
    Full(PathText),
    /// The rule matched by the first elements of the path: others take their place.
    Prefix {
        /// What was matched, without a `/` at its end; empty for `/`.
        matched: PathText,
        /// What replaces it, without a `/` at its end; empty for `/` and for nothing.
        replacement: PathText,
    },
}

/// A path, or the beginning of one, as configuration writes it: empty, or from `/` on, at most
/// 1,024 visible ASCII characters without `?` and `#`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct PathText(String);

impl PathText {
    /// # Errors
    /// When the text breaks the rule given at the type.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let is_fine = |byte: u8| byte.is_ascii_graphic() && byte != b'?' && byte != b'#';
        let is_path = text.is_empty() || text.starts_with('/');
        if is_path && text.len() <= PATH_BYTES_MAX && text.bytes().all(is_fine) {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidValue::new(
            "path",
            text,
            "write / and at most 1023 visible ASCII characters other than ? and #",
        ))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What becomes of the authority.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum HostRewrite {
    /// Nothing.
    #[default]
    Keep,
    /// This host, without a port.
    To(Hostname),
}

/// An answer that sends the client elsewhere (RFC 9110 §15.4; Gateway API
/// `HTTPRequestRedirectFilter`). Complete: the compiler has filled in scheme and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Redirect {
    /// Of the location.
    pub scheme: Scheme,
    /// Host of the location: that of the request, without its port, or another.
    pub host: HostRewrite,
    /// Port of the location, left out where it is the scheme's own.
    pub port: Port,
    /// Path of the location; the request's query is kept.
    pub path: PathRewrite,
    /// Status.
    pub status: RedirectStatus,
}

/// The scheme of a location.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `http`, port 80.
    Http,
    /// `https`, port 443.
    Https,
}

/// The statuses of a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RedirectStatus {
    /// 301.
    MovedPermanently,
    /// 302.
    Found,
    /// 303.
    SeeOther,
    /// 307.
    Temporary,
    /// 308.
    Permanent,
}

impl RedirectStatus {
    /// # Errors
    /// When the number is none of the five.
    pub fn new(status: u32) -> Result<Self, InvalidValue> {
        Ok(match status {
            301 => Self::MovedPermanently,
            302 => Self::Found,
            303 => Self::SeeOther,
            307 => Self::Temporary,
            308 => Self::Permanent,
            _ => {
                return Err(InvalidValue::new(
                    "status of a redirect",
                    &status.to_string(),
                    "write 301, 302, 303, 307 or 308",
                ));
            }
        })
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u16 {
        match self {
            Self::MovedPermanently => 301,
            Self::Found => 302,
            Self::SeeOther => 303,
            Self::Temporary => 307,
            Self::Permanent => 308,
        }
    }
}

/// Reading from text, for codecs.
macro_rules! from_str {
    ($($name:ident),*) => {$(
        impl std::str::FromStr for $name {
            type Err = InvalidValue;
            fn from_str(text: &str) -> Result<Self, InvalidValue> {
                Self::parse(text)
            }
        }
    )*};
}
from_str!(FieldName, FieldValue, PathText);

/// RFC 9110 §5.6.2 `tchar`.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_may_be_changed() {
        let check = |text: &str, expected: Option<&str>| {
            let name = FieldName::parse(text).ok();
            assert_eq!(name.as_ref().map(FieldName::as_str), expected, "{text}");
        };
        check("X-Header-Set", Some("x-header-set"));
        check("set-cookie", Some("set-cookie"));
        check("x_user", Some("x_user"));
        check("x-outriggers", Some("x-outriggers"));
        for reserved in [
            "Host",
            "content-length",
            "Content_Length",
            "transfer-encoding",
            "Connection",
            "TE",
            "upgrade",
            "x-outrigger-reason",
            "X_Outrigger_Attempt",
            "x-forwarded-client-cert",
        ] {
            check(reserved, None);
        }
        check("", None);
        check(":path", None);
        check("a b", None);
        check("a\r\nb", None);
    }

    #[test]
    fn values_cannot_end_a_line() {
        assert!(FieldValue::parse("a b,\tc").is_ok());
        for bad in ["a\r\nb: c", "a\0", " a", "a\t", "\u{e9}"] {
            assert!(FieldValue::parse(bad).is_err(), "{bad:?}");
        }
        assert!(FieldValue::parse(&"a".repeat(4_097)).is_err());
    }

    #[test]
    fn paths_hold_no_query() {
        assert!(PathText::parse("").is_ok());
        assert!(PathText::parse("/a/b%20c").is_ok());
        for bad in ["a", "/a?b", "/a#b", "/a b", "/\r\n"] {
            assert!(PathText::parse(bad).is_err(), "{bad:?}");
        }
    }
}
