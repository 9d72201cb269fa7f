//! The slow path: httparse refused a head, and the reason has to be exact.
//!
//! httparse knows seven errors; the corpus, the access log and whoever debugs a client want to
//! know which rule was broken. Nothing here can accept a message.

use super::Reject;
use super::field::{is_token, is_value};

/// The reason for which httparse refused the request head `raw`.
pub(super) fn request(raw: &[u8], error: httparse::Error) -> Reject {
    let (line, fields) = first_line(raw);
    raw_bytes(raw)
        .or_else(|| request_line(line))
        .or_else(|| field_lines(fields))
        .unwrap_or_else(|| fallback(error))
}

/// The reason for which httparse refused the response head `raw`.
pub(super) fn response(raw: &[u8], error: httparse::Error) -> Reject {
    let (line, fields) = first_line(raw);
    raw_bytes(raw)
        .or_else(|| status_line(line))
        .or_else(|| field_lines(fields))
        .unwrap_or_else(|| fallback(error))
}

/// The reason for which httparse refused the trailer section `raw`.
pub(super) fn trailers(raw: &[u8], error: httparse::Error) -> Reject {
    raw_bytes(raw)
        .or_else(|| field_lines(raw))
        .unwrap_or_else(|| fallback(error))
}

fn fallback(error: httparse::Error) -> Reject {
    use httparse::Error;
    match error {
        Error::HeaderName => Reject::BadFieldName,
        Error::HeaderValue => Reject::BadFieldValue,
        Error::NewLine => Reject::BareCr,
        Error::Status => Reject::BadStatusLine,
        Error::Token => Reject::BadRequestLine,
        Error::TooManyHeaders => Reject::TooManyFields,
        Error::Version => Reject::VersionNotSupported,
    }
}

fn first_line(raw: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr::memmem::find(raw, b"\r\n").unwrap_or(raw.len());
    (
        raw.get(..end).unwrap_or_default(),
        raw.get(end + 2..).unwrap_or_default(),
    )
}

/// What no line of any head may contain.
fn raw_bytes(raw: &[u8]) -> Option<Reject> {
    let after_cr =
        |position: usize| position.checked_sub(1).and_then(|cr| raw.get(cr)) == Some(&b'\r');
    if !memchr::memchr_iter(b'\n', raw).all(after_cr) {
        return Some(Reject::BareLf);
    }
    if memchr::memchr(0, raw).is_some() {
        return Some(Reject::Nul);
    }
    memchr::memchr_iter(b'\r', raw)
        .any(|position| raw.get(position + 1) != Some(&b'\n'))
        .then_some(Reject::BareCr)
}

fn request_line(line: &[u8]) -> Option<Reject> {
    let mut words = line.split(|&byte| byte == b' ');
    let method = words.next().unwrap_or_default();
    if method.is_empty() || !method.iter().copied().all(is_token) {
        return Some(Reject::BadMethod);
    }
    let (Some(target), Some(version), None) = (words.next(), words.next(), words.next()) else {
        return Some(Reject::BadRequestLine);
    };
    if target.is_empty() {
        return Some(Reject::BadRequestLine);
    }
    if target
        .iter()
        .any(|byte| !byte.is_ascii_graphic() && byte.is_ascii())
    {
        return Some(Reject::BadTarget);
    }
    if !target.is_ascii() {
        return Some(Reject::TargetNotAscii);
    }
    match version {
        b"HTTP/1.0" | b"HTTP/1.1" => None,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Some(Reject::VersionNotSupported)
        }
        _ => Some(Reject::BadRequestLine),
    }
}

fn status_line(line: &[u8]) -> Option<Reject> {
    match line {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0' | b'1', ..] => {}
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor, b' ', ..]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Some(Reject::VersionNotSupported);
        }
        _ => return Some(Reject::BadStatusLine),
    }
    let rest = line.get(8..).unwrap_or_default();
    let code = matches!(rest, [b' ', a, b, c, ..]
        if a.is_ascii_digit() && b.is_ascii_digit() && c.is_ascii_digit());
    let reason = rest.get(4..).unwrap_or_default();
    let ends = matches!(reason.first(), None | Some(b' '));
    (!code || !ends || !reason.iter().copied().all(is_value)).then_some(Reject::BadStatusLine)
}

fn field_lines(mut rest: &[u8]) -> Option<Reject> {
    loop {
        let (line, after) = first_line(rest);
        if line.is_empty() {
            return None;
        }
        if let Some(reject) = field_line(line) {
            return Some(reject);
        }
        rest = after;
    }
}

fn field_line(line: &[u8]) -> Option<Reject> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Some(Reject::ObsFold);
    }
    let Some(colon) = memchr::memchr(b':', line) else {
        return Some(Reject::BadFieldLine);
    };
    let (name, value) = line.split_at_checked(colon)?;
    if name.is_empty() {
        Some(Reject::EmptyFieldName)
    } else if matches!(name.last(), Some(b' ' | b'\t')) {
        Some(Reject::SpaceBeforeColon)
    } else if !name.iter().copied().all(is_token) {
        Some(Reject::BadFieldName)
    } else if !value.iter().copied().all(is_value) {
        Some(Reject::BadFieldValue)
    } else {
        None
    }
}
