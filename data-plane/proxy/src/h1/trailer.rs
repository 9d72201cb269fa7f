//! Trailers (RFC 9110 §6.5): parsed with the limits of a head, and filtered.
//!
//! A server may merge trailers into the head it has acted on already, so no field may pass that
//! frames, routes, authenticates or controls the message (RFC 9110 §6.5.1 forbids those anyway).

use super::field::{RESERVED_PREFIX, same_name};
use super::{FIELDS_MAX, Reject, diagnose};

/// Trailer lines that may pass, each `name: value` with CRLF.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trailers(Vec<u8>);

impl Trailers {
    /// The lines, ready to be sent between the last chunk and the empty line.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a line, unless its name may not stand in a trailer or a byte may not stand in a field.
    pub fn push(&mut self, name: &str, value: &[u8]) {
        let well_formed = !name.is_empty()
            && name.bytes().all(super::field::is_token)
            && value.iter().copied().all(super::field::is_value);
        if well_formed && !is_forbidden(name.as_bytes()) {
            self.0.extend_from_slice(name.as_bytes());
            self.0.extend_from_slice(b": ");
            self.0.extend_from_slice(value);
            self.0.extend_from_slice(b"\r\n");
        }
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.split(|&byte| byte == b'\n').filter_map(|line| {
            let line = line.strip_suffix(b"\r")?;
            let colon = memchr::memchr(b':', line)?;
            let name = std::str::from_utf8(line.get(..colon)?).ok()?;
            Some((name, line.get(colon + 2..)?))
        })
    }
}

/// Reads a whole trailer section, empty line included.
pub(super) fn parse(raw: &[u8]) -> Result<Trailers, Reject> {
    let mut trailers = Trailers::default();
    if raw == b"\r\n" {
        return Ok(trailers);
    }
    let mut slots = [httparse::EMPTY_HEADER; FIELDS_MAX];
    match httparse::parse_headers(raw, &mut slots) {
        Ok(httparse::Status::Complete((len, fields))) if len == raw.len() => {
            for field in fields {
                trailers.push(field.name, field.value);
            }
            Ok(trailers)
        }
        Ok(_) => Err(Reject::BareLf),
        Err(error) => Err(diagnose::trailers(raw, error)),
    }
}

/// Whether a field of this name passes.
pub(super) fn may_pass(name: &[u8]) -> bool {
    name.iter().copied().all(super::field::is_token) && !is_forbidden(name)
}

/// Whether a field may not stand in a trailer, by either version of HTTP.
pub(crate) fn is_forbidden(name: &[u8]) -> bool {
    let reserved = name.get(..RESERVED_PREFIX.len());
    reserved.is_some_and(|prefix| same_name(prefix, RESERVED_PREFIX))
        || name
            .get(..12)
            .is_some_and(|prefix| same_name(prefix, b"x-forwarded-"))
        || FORBIDDEN
            .iter()
            .any(|other| same_name(name, other.as_bytes()))
}

/// Framing and hop; routing; authentication; control; payload; trace context.
const FORBIDDEN: &[&str] = &[
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
    "http2-settings",
    "host",
    "forwarded",
    "via",
    "max-forwards",
    "expect",
    "authorization",
    "proxy-authorization",
    "www-authenticate",
    "proxy-authenticate",
    "cookie",
    "set-cookie",
    "cache-control",
    "pragma",
    "range",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "if-range",
    "age",
    "date",
    "expires",
    "location",
    "retry-after",
    "vary",
    "content-encoding",
    "content-type",
    "content-range",
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
];
