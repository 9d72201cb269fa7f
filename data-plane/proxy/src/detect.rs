//! What a client speaks, from its first bytes (DESIGN §5).
//!
//! Pure: bytes in, answer out. Who reads them, and what happens meanwhile, is the listener's.

/// First bytes of an HTTP/2 connection with prior knowledge (RFC 9113 §3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Fields of a head that is looked at for its host: DEF-01/02.
const FIELDS_MAX: usize = 100;

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

/// What a TLS client says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hello {
    /// More bytes are needed.
    Partial,
    /// All of it.
    Whole {
        /// The host it wants (SNI), lower case.
        server_name: Option<Box<str>>,
        /// The protocols it offers (ALPN).
        alpn: Vec<Box<[u8]>>,
    },
    /// No hello that rustls understands.
    Other,
}

/// Reads a TLS ClientHello from the first bytes of a connection.
#[must_use]
pub fn client_hello(mut bytes: &[u8]) -> Hello {
    let mut acceptor = rustls::server::Acceptor::default();
    while !bytes.is_empty() {
        if acceptor.read_tls(&mut bytes).is_err() {
            return Hello::Other;
        }
    }
    match acceptor.accept() {
        Ok(None) => Hello::Partial,
        Ok(Some(accepted)) => {
            let hello = accepted.client_hello();
            let offered = hello.alpn().into_iter().flatten();
            Hello::Whole {
                server_name: hello
                    .server_name()
                    .map(|name| name.to_ascii_lowercase().into()),
                alpn: offered.map(Into::into).collect(),
            }
        }
        Err(_) => Hello::Other,
    }
}

/// The value of `Host` in an HTTP/1 head that has come whole; `Ok(None)` when it names none.
///
/// # Errors
/// [`Partial`] when the head has not come whole, or is none.
pub fn http1_host(bytes: &[u8]) -> Result<Option<&str>, Partial> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Request::new(&mut fields);
    match head.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) | Err(_) => return Err(Partial),
    }
    let host = head
        .headers
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case("host"));
    Ok(host.and_then(|field| std::str::from_utf8(field.value).ok()))
}

/// A head that is not there yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partial;

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

    #[test]
    fn hosts_of_heads() {
        let check = |head: &[u8], expected| assert_eq!(http1_host(head), expected);
        check(
            b"GET / HTTP/1.1\r\nHOST: orders:80\r\n\r\n",
            Ok(Some("orders:80")),
        );
        check(b"GET / HTTP/1.1\r\nAccept: */*\r\n\r\n", Ok(None));
        check(b"GET / HTTP/1.1\r\nHost: orders\r\n", Err(Partial));
        check(b"GET /\r\n", Err(Partial));
    }

    #[test]
    fn hellos_of_tls_clients() {
        let roots = rustls::RootCertStore::empty();
        let mut config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"outrigger/h1".to_vec()];
        let name = "API.example".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        assert_eq!(
            client_hello(&bytes),
            Hello::Whole {
                server_name: Some("api.example".into()),
                alpn: vec![b"outrigger/h1".to_vec().into()],
            }
        );
        for cut in 0..bytes.len() {
            assert_eq!(client_hello(&bytes[..cut]), Hello::Partial, "{cut}");
        }
        assert_eq!(client_hello(b"\x16\x03\x01\0\x04\x02\0\0\0"), Hello::Other);
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_at_without_harm(bytes: Vec<u8>) {
            let tls = [b"\x16\x03\x01", bytes.as_slice()].concat();
            let whole = matches!(client_hello(&tls), Hello::Whole { .. });
            prop_assert!(!whole);
            prop_assert!(http1_host(&bytes).is_err());
        }

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
