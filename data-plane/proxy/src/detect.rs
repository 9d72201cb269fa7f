//! What a client speaks, from its first bytes (DESIGN §5).
//!
//! Pure: bytes in, answer out. Who reads them, and what happens meanwhile, is the listener's.

/// First bytes of an HTTP/2 connection with prior knowledge (RFC 9113 §3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Longest method looked for: `UPDATEREDIRECTREF` (RFC 4437) has 17 characters.
const METHOD_BYTES_MAX: usize = 20;

/// What the bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Detected {
    /// Not enough bytes.
    Undecided,
    /// A method and a space.
    Http1,
    /// The preface.
    Http2,
    /// A TLS record with a handshake.
    Tls,
    /// Something else.
    Opaque,
}

/// Classifies what was read so far. More bytes never change an answer other than `Undecided`.
#[must_use]
pub fn classify(bytes: &[u8]) -> Detected {
    let Some(first) = bytes.first() else {
        return Detected::Undecided;
    };
    if bytes.starts_with(HTTP2_PREFACE) {
        return Detected::Http2;
    }
    if HTTP2_PREFACE.starts_with(bytes) {
        return Detected::Undecided;
    }
    if *first == 0x16 {
        // TLS: handshake record, version 3.x.
        return match bytes.get(1) {
            None => Detected::Undecided,
            Some(3) => Detected::Tls,
            Some(_) => Detected::Opaque,
        };
    }
    let method = bytes
        .iter()
        .position(|byte| !is_method_byte(*byte))
        .unwrap_or(bytes.len());
    match bytes.get(method) {
        None if method <= METHOD_BYTES_MAX => Detected::Undecided,
        Some(b' ') if (1..=METHOD_BYTES_MAX).contains(&method) => target(bytes.get(method + 1)),
        _ => Detected::Opaque,
    }
}

/// After `METHOD `: a path, `*`, or a URI's first letter. `GET ` alone is not HTTP enough: text
/// protocols have verbs too.
fn target(first: Option<&u8>) -> Detected {
    match first {
        None => Detected::Undecided,
        Some(b'/' | b'*' | b'h' | b'H') => Detected::Http1,
        Some(_) => Detected::Opaque,
    }
}

/// Methods of registered use are upper-case letters and `-` (RFC 9110 §16.1.2).
fn is_method_byte(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte == b'-'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn first_bytes() {
        let check = |bytes: &[u8], expected| {
            assert_eq!(classify(bytes), expected, "{}", bytes.escape_ascii());
        };
        check(b"", Detected::Undecided);
        check(b"G", Detected::Undecided);
        check(b"GET ", Detected::Undecided);
        check(b"GET /", Detected::Http1);
        check(b"OPTIONS * HTTP/1.1", Detected::Http1);
        check(b"GET http://a/ HTTP/1.1", Detected::Http1);
        check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n", Detected::Undecided);
        check(HTTP2_PREFACE, Detected::Http2);
        check(b"PROPFIND /x", Detected::Http1);
        check(b"\x16\x03\x01\x02\x00", Detected::Tls);
        check(b"\x16\x04", Detected::Opaque);
        check(b"EHLO mail\r\n", Detected::Opaque);
        check(b"SELECT 1", Detected::Opaque);
        check(b"*1\r\n$4\r\nPING\r\n", Detected::Opaque);
        check(b"\0\0\0\x08", Detected::Opaque);
        check(b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Detected::Opaque);
    }

    proptest! {
        #[test]
        fn more_bytes_never_change_a_decision(bytes in proptest::collection::vec(any::<u8>(), 0..40), cut in 0..40_usize) {
            let early = classify(bytes.get(..cut).unwrap_or(&bytes));
            if early != Detected::Undecided {
                prop_assert_eq!(early, classify(&bytes));
            }
        }

        #[test]
        fn http_heads_too(path in "/[a-z]{0,9}", cut in 0..20_usize) {
            let head = format!("DELETE {path} HTTP/1.1\r\n");
            let early = classify(head.as_bytes().get(..cut).unwrap_or_default());
            prop_assert!(matches!(early, Detected::Undecided | Detected::Http1));
        }
    }
}
