//! Changes to heads and trailers on their way through: reserved names, the path's edits.
//!
//! A field name is compared with `_` and `-` taken as the same, because servers behind us fold
//! them (CGI, WSGI): `x_outrigger_reason` would else reach an application as the real one.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use smallvec::SmallVec;

use outrigger_policy::filter::FieldOps;

use crate::exchange::{RequestEdit, ResponseEdit};

const RESERVED: &str = "x-outrigger-*";

/// The fields of a request as they are sent upstream. `host` is left out: `:authority` says it.
pub(super) fn request_headers(incoming: &HeaderMap, edit: &RequestEdit) -> HeaderMap {
    let mut headers = incoming.clone();
    headers.remove(http::header::HOST);
    if let Some(changes) = &edit.changes {
        change(&mut headers, &changes.request);
    }
    remove_where(&mut headers, |name| {
        matches(name, RESERVED)
            || edit.remove.iter().any(|pattern| matches(name, pattern))
            || edit.set.iter().any(|(set, _)| matches(name, set))
    });
    announce(&mut headers, false);
    for (name, value) in &edit.set {
        set(&mut headers, name, value);
    }
    headers
}

/// Changes the fields of a response in place.
pub(super) fn response_headers(headers: &mut HeaderMap, edit: &ResponseEdit) {
    if let Some(changes) = &edit.changes {
        change(headers, &changes.response);
    }
    remove_where(headers, |name| {
        (!edit.keep_reserved && matches(name, RESERVED))
            || edit.set.iter().any(|(set, _)| matches(name, set))
    });
    announce(headers, edit.keep_reserved);
    for (name, value) in &edit.set {
        set(headers, name, value);
    }
}

/// Takes out of trailers what may not stand there; reserved names too, unless they are kept.
pub(super) fn trailers(trailers: &mut HeaderMap, keep_reserved: bool) {
    remove_where(trailers, |name| !may_trail(name, keep_reserved));
}

fn may_trail(name: &str, keep_reserved: bool) -> bool {
    !crate::h1::is_forbidden_trailer(name.as_bytes()) || (keep_reserved && matches(name, RESERVED))
}

/// `Trailer` names what comes (RFC 9110 §6.6.2): nothing that [`trailers`] takes out.
fn announce(headers: &mut HeaderMap, keep_reserved: bool) {
    if !headers.contains_key(header::TRAILER) {
        return;
    }
    let mut passing = String::new();
    for value in headers.get_all(header::TRAILER) {
        let names = value.to_str().unwrap_or_default().split(',').map(str::trim);
        let known = names.filter(|name| HeaderName::from_bytes(name.as_bytes()).is_ok());
        for name in known.filter(|name| may_trail(name, keep_reserved)) {
            if !passing.is_empty() {
                passing.push_str(", ");
            }
            passing.push_str(name);
        }
    }
    headers.remove(header::TRAILER);
    if let Ok(value) = HeaderValue::from_str(&passing)
        && !passing.is_empty()
    {
        headers.insert(header::TRAILER, value);
    }
}

/// What the route changes. Names and values were checked when they were configured.
fn change(headers: &mut HeaderMap, ops: &FieldOps) {
    if ops.is_empty() {
        return;
    }
    remove_where(headers, |name| ops.drops(name.as_bytes()));
    for (name, value) in ops.put() {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
}

fn remove_where(headers: &mut HeaderMap, mut unwanted: impl FnMut(&str) -> bool) {
    let names: SmallVec<[HeaderName; 4]> = headers
        .keys()
        .filter(|name| unwanted(name.as_str()))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

/// Our own code names and values; one that is not a field is left out and told of.
fn set(headers: &mut HeaderMap, name: &'static str, value: &bytes::Bytes) {
    match (
        HeaderName::from_bytes(name.as_bytes()),
        HeaderValue::from_maybe_shared(value.clone()),
    ) {
        (Ok(name), Ok(value)) => {
            headers.insert(name, value);
        }
        (Ok(_), Err(_)) | (Err(_), Ok(_) | Err(_)) => {
            tracing::warn!(
                name,
                "field not set: its name or value cannot stand in a head"
            );
        }
    }
}

/// Whether a name (lower case, as HTTP/2 has it) is the pattern, or starts with it where the
/// pattern ends in `*`.
fn matches(name: &str, pattern: &str) -> bool {
    let same = |(a, b): (u8, u8)| fold(a) == fold(b);
    match pattern.strip_suffix('*') {
        Some(prefix) => name.len() >= prefix.len() && name.bytes().zip(prefix.bytes()).all(same),
        None => name.len() == pattern.len() && name.bytes().zip(pattern.bytes()).all(same),
    }
}

const fn fold(byte: u8) -> u8 {
    match byte {
        b'_' => b'-',
        other => other.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use smallvec::smallvec;

    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn reserved_names_never_leave_in_any_spelling() {
        let incoming = map(&[
            ("x-outrigger-reason", "spoofed"),
            ("x_outrigger_reason", "spoofed"),
            ("x-outrigger_peer", "spoofed"),
            ("x-outriggers", "kept"),
            ("host", "a"),
            ("te", "trailers"),
        ]);
        let sent = request_headers(&incoming, &RequestEdit::default());
        assert_eq!(sent, map(&[("x-outriggers", "kept"), ("te", "trailers")]));
    }

    #[test]
    fn trailers_that_do_not_pass_are_not_announced() {
        let head = || {
            map(&[
                ("trailer", "grpc-status, x-outrigger-reason"),
                ("trailer", "x-sum,host"),
            ])
        };
        let sent = request_headers(&head(), &RequestEdit::default());
        assert_eq!(sent, map(&[("trailer", "grpc-status, x-sum")]));
        let edit = ResponseEdit {
            keep_reserved: true,
            ..ResponseEdit::default()
        };
        let mut answer = head();
        response_headers(&mut answer, &edit);
        let kept = "grpc-status, x-outrigger-reason, x-sum";
        assert_eq!(answer, map(&[("trailer", kept)]));
        let mut nothing = map(&[("trailer", "content-length")]);
        response_headers(&mut nothing, &edit);
        assert!(nothing.is_empty());
    }

    #[test]
    fn set_replaces_every_spelling_and_remove_takes_prefixes() {
        let incoming = map(&[
            ("x_request_id", "1"),
            ("x-request-id", "2"),
            ("x-b3-traceid", "3"),
            ("x-b4", "4"),
        ]);
        let edit = RequestEdit {
            set: smallvec![("x-request-id", Bytes::from_static(b"own"))],
            remove: &["x-b3-*"],
            ..RequestEdit::default()
        };
        assert_eq!(
            request_headers(&incoming, &edit),
            map(&[("x-b4", "4"), ("x-request-id", "own")])
        );
    }

    #[test]
    fn an_answer_keeps_reserved_names_only_from_a_meshed_peer() {
        for keep_reserved in [false, true] {
            let edit = ResponseEdit {
                keep_reserved,
                ..ResponseEdit::default()
            };
            let mut headers = map(&[("x-outrigger-reason", "no-route")]);
            response_headers(&mut headers, &edit);
            assert_eq!(headers.len(), usize::from(keep_reserved));
        }
    }
}
