//! What a client speaks, from its first bytes (DESIGN §5).
//!
//! Pure: bytes in, answer out. Who reads them, and what happens meanwhile, is the listener's.
//!
//! Servers are lenient: some skip blank lines and blanks before a request, split its line at any
//! white space, and take any token as a method and any text as a target. Whatever one of them might
//! read as a request is called HTTP here, so that our own strict engine judges it: called opaque,
//! it would reach the application past identity and policy, with header fields of the client's
//! choice. Where the bytes are too few to tell, more are waited for, up to [`LINE_BYTES_MAX`].

/// First bytes of an HTTP/2 connection with prior knowledge (RFC 9113 §3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Fields of a head that is looked at for its host: DEF-01/02.
const FIELDS_MAX: usize = 100;

/// Longest start of a first line that is looked at. What is still neither HTTP nor clearly
/// something else behind it is left to the strict engine, which refuses it.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// What the bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Detected {
    /// Not enough bytes.
    Undecided,
    /// What a server of HTTP/1 might take as a request.
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
    let start = bytes
        .iter()
        .position(|byte| !is_blank(*byte) && !is_line_end(*byte));
    let line = start
        .and_then(|start| bytes.get(start..))
        .unwrap_or_default();
    match request_line(line) {
        Detected::Undecided if bytes.len() > LINE_BYTES_MAX => Detected::Http1,
        answer => answer,
    }
}

/// Classifies the bytes from the first that is not blank.
fn request_line(line: &[u8]) -> Detected {
    let Some(method) = line.iter().position(|byte| !is_token(*byte)) else {
        return Detected::Undecided;
    };
    let (method, rest) = line.split_at(method);
    let Some(target) = rest.iter().position(|byte| !is_blank(*byte)) else {
        return if method.is_empty() {
            Detected::Opaque
        } else {
            Detected::Undecided
        };
    };
    if method.is_empty() || target == 0 {
        return Detected::Opaque;
    }
    match rest.get(target) {
        Some(b'/' | b'*' | b'h' | b'H') => Detected::Http1,
        // Text protocols have verbs too: the end of the line tells.
        _ => line_end(rest),
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

/// After `METHOD target`: only HTTP ends its line with a version.
fn line_end(rest: &[u8]) -> Detected {
    let is_no_text = |byte: &u8| byte.is_ascii_control() && !is_blank(*byte) && *byte != b'\r';
    let Some(end) = rest.iter().position(is_no_text) else {
        return Detected::Undecided;
    };
    let (line, end) = rest.split_at(end);
    let names_version = line
        .windows(5)
        .any(|part| part.eq_ignore_ascii_case(b"HTTP/"));
    if end.first() == Some(&b'\n') && names_version {
        Detected::Http1
    } else {
        Detected::Opaque
    }
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What lenient servers take between the parts of a request line (RFC 9112 §3).
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0x0b | 0x0c)
}

fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
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
        check(b"\r\n", Detected::Undecided);
        check(b"\r\n\r\nGET /", Detected::Http1);
        check(b" GET /", Detected::Http1);
        check(b"get /", Detected::Http1);
        check(b"GET\t/", Detected::Http1);
        check(b"GET  \x0b/", Detected::Http1);
        check(b"!#$~ /", Detected::Http1);
        check(b"CONNECT a:443 HTTP/1.1\r\n", Detected::Http1);
        check(b"GET foo http/1.0\n", Detected::Http1);
        check(b"GET foo", Detected::Undecided);
        check(b"GET foo\r\n", Detected::Opaque);
        check(b"set key 0 0 5\r\nHTTP/", Detected::Opaque);
        check(b"AMQP\0\0\x09\x01", Detected::Opaque);
        check(b"SSH-2.0-OpenSSH_9.2 Debian\r\n", Detected::Opaque);
        check(&[b'A'; LINE_BYTES_MAX + 1], Detected::Http1);
        check(b"\x16\x03\x01\x02\x00", Detected::Tls);
        check(b"\x16\x04", Detected::Opaque);
        check(b"EHLO mail\r\n", Detected::Opaque);
        check(b"SELECT 1\n", Detected::Opaque);
        check(b"QUERY a\0", Detected::Opaque);
        check(b"*1\r\n$4\r\nPING\r\n", Detected::Opaque);
        check(b"\0\0\0\x08", Detected::Opaque);
        check(b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Detected::Undecided);
        check(b"AAAA\r\n", Detected::Opaque);
    }

    fn piece() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..4),
            "[ \t\r\n/*a-cA-C]{1,4}".prop_map(String::into_bytes),
            Just(b"GET ".to_vec()),
            Just(b" HTTP/1.1\r\n".to_vec()),
        ]
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
        fn more_bytes_never_change_a_decision(bytes in proptest::collection::vec(piece(), 0..12).prop_map(|pieces| pieces.concat()), cut in 0..60_usize) {
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
