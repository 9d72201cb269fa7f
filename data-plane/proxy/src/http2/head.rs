//! The request head: what h2 accepted, checked for what h2 leaves to us.
//!
//! h2 has already refused (stream error PROTOCOL_ERROR): unknown, repeated, late or missing
//! pseudo-headers, upper case names, connection-specific fields, `te` other than `trailers`,
//! a declared length that does not fit the body. What is left is ambiguity about who is
//! addressed and targets that the routes could read differently from the application.

use http::{
    HeaderMap, Method, Uri, header,
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};
use outrigger_policy::RequestView;

use crate::{exchange::RequestEdit, reason::Reason};

/// A request head, as decisions see it and as it is sent on.
#[derive(Debug)]
pub struct RequestHead {
    method: Method,
    scheme: Scheme,
    authority: Authority,
    target: PathAndQuery,
    headers: HeaderMap,
    grpc: bool,
}

impl RequestHead {
    /// Checks a head.
    pub(super) fn parse(parts: Parts, fields_max: usize) -> Result<Self, Reason> {
        let Parts {
            method,
            uri,
            headers,
            ..
        } = parts;
        if method == Method::CONNECT {
            return Err(Reason::NotImplemented("connect-not-supported"));
        }
        check_fields(&headers, fields_max)?;
        let uri = uri.into_parts();
        let authority = authority(uri.authority, &headers)?;
        // h2 drops the scheme where there is no :authority.
        let scheme = uri.scheme.unwrap_or(Scheme::HTTP);
        if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
            return Err(Reason::BadRequest("bad-scheme"));
        }
        let Some(target) = uri.path_and_query else {
            return Err(Reason::BadRequest("bad-target"));
        };
        let is_asterisk = target.path() == "*" && method == Method::OPTIONS;
        if !is_asterisk && !target.path().starts_with('/') {
            let asterisk = target.path() == "*";
            return Err(Reason::BadRequest(if asterisk {
                "asterisk-target"
            } else {
                "bad-target"
            }));
        }
        if !target.as_str().is_ascii() {
            return Err(Reason::BadRequest("target-not-ascii"));
        }
        let grpc = is_grpc(&headers);
        Ok(Self {
            method,
            scheme,
            authority,
            target,
            headers,
            grpc,
        })
    }

    /// `host` or `host:port`.
    pub(super) fn authority(&self) -> &str {
        self.authority.as_str()
    }

    /// Whether the content type is gRPC's.
    pub(super) fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// Whether an answer has no body.
    pub(super) fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// Whether sending it twice is the same as once (RFC 9110 §9.2.2).
    pub(super) fn is_idempotent(&self) -> bool {
        self.method.is_idempotent()
    }

    /// Length that the client declared for the body.
    pub(super) fn declared_length(&self) -> Option<u64> {
        let value = self.headers.get(header::CONTENT_LENGTH)?;
        value.to_str().ok()?.parse().ok()
    }

    /// Fields as received.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Method and target, or what the route puts in their place, for a request with these fields.
    pub(super) fn to_request(
        &self,
        headers: HeaderMap,
        edit: &RequestEdit,
    ) -> Result<http::Request<()>, http::Error> {
        let target = match &edit.target {
            Some(target) => PathAndQuery::try_from(&**target)?,
            None => self.target.clone(),
        };
        let rewritten = edit.changes.as_ref();
        let authority = match rewritten.and_then(|changes| changes.authority()) {
            Some(authority) => Authority::try_from(authority)?,
            None => self.authority.clone(),
        };
        let mut request = http::Request::new(());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(authority)
            .path_and_query(target)
            .build()?;
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

impl RequestView for RequestHead {
    fn method(&self) -> &str {
        self.method.as_str()
    }

    fn path(&self) -> &str {
        self.target.path()
    }

    fn query(&self) -> Option<&str> {
        self.target.query()
    }

    fn visit_header(&self, name_lowercase: &str, visit: &mut dyn FnMut(&[u8])) {
        // An HTTP/2 request has no Host line of its own; rules that name it mean the authority.
        if name_lowercase == "host" {
            visit(self.authority.as_str().as_bytes());
            return;
        }
        for value in self.headers.get_all(name_lowercase) {
            visit(value.as_bytes());
        }
    }
}

/// `application/grpc`, with or without a message format; not gRPC-Web.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return false;
    };
    let bytes = value.as_bytes();
    let prefix = b"application/grpc";
    let Some((start, rest)) = bytes.split_at_checked(prefix.len()) else {
        return false;
    };
    start.eq_ignore_ascii_case(prefix) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// Size of a head as RFC 9113 §6.5.2 counts it: names, values, and 32 for each field.
pub(super) fn head_bytes(parts: &Parts) -> u64 {
    const PSEUDO: [&str; 4] = [":method", ":scheme", ":authority", ":path"];
    let uri = &parts.uri;
    let pseudo = [
        parts.method.as_str().len(),
        uri.scheme_str().map_or(0, str::len),
        uri.authority()
            .map_or(0, |authority| authority.as_str().len()),
        uri.path_and_query()
            .map_or(0, |target| target.as_str().len()),
    ];
    let pseudo = PSEUDO
        .iter()
        .zip(pseudo)
        .map(|(name, value)| name.len() + value + 32);
    let fields = parts
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 32);
    u64::try_from(pseudo.chain(fields).sum::<usize>()).unwrap_or(u64::MAX)
}

/// Whether a head or trailers hold more fields than allowed. Cookie crumbs (RFC 9113 §8.2.3) are
/// one field; their bytes are bounded with the rest.
pub(super) fn too_many_fields(headers: &HeaderMap, fields_max: usize) -> bool {
    if headers.len() <= fields_max {
        return false;
    }
    let crumbs = headers.get_all(header::COOKIE).iter().count();
    headers.len() - crumbs.saturating_sub(1) > fields_max
}

fn check_fields(headers: &HeaderMap, fields_max: usize) -> Result<(), Reason> {
    if too_many_fields(headers, fields_max) {
        return Err(Reason::HeadTooLarge);
    }
    if headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        return Err(Reason::BadRequest("length-repeated"));
    }
    Ok(())
}

/// `:authority`, or `Host` where there is none; both must agree (RFC 9113 §8.3.1).
fn authority(pseudo: Option<Authority>, headers: &HeaderMap) -> Result<Authority, Reason> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Reason::BadRequest("host-repeated"));
    }
    let authority = match (pseudo, host) {
        (Some(authority), None) => authority,
        (Some(authority), Some(host)) => {
            let same = authority
                .as_str()
                .as_bytes()
                .eq_ignore_ascii_case(host.as_bytes());
            if !same {
                return Err(Reason::BadRequest("host-mismatch"));
            }
            authority
        }
        (None, Some(host)) => {
            Authority::try_from(host.as_bytes()).map_err(|_| Reason::BadRequest("host-invalid"))?
        }
        (None, None) => return Err(Reason::BadRequest("host-missing")),
    };
    check_authority(authority.as_str())?;
    Ok(authority)
}

/// Host and decimal port, nothing else: no user information, no empty host.
fn check_authority(text: &str) -> Result<(), Reason> {
    let bad = Err(Reason::BadRequest("host-invalid"));
    if !text.is_ascii() || text.contains('@') {
        return bad;
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        Some(_) | None => (text, None),
    };
    let bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
    if host.is_empty() || (host.contains(':') && !bracketed) {
        return bad;
    }
    match port {
        Some(port) if port.parse::<u16>().is_err() || port.starts_with('+') => bad,
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn check(request: http::request::Builder, expected: Result<&str, Reason>) {
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let shown = format!("{parts:?}");
        let parsed = RequestHead::parse(parts, 100);
        let got = parsed.as_ref().map(RequestHead::authority);
        assert_eq!(got.map_err(|reason| *reason), expected, "{shown}");
    }

    fn get(uri: &str) -> http::request::Builder {
        Request::get(uri)
    }

    #[test]
    fn who_is_addressed_is_never_ambiguous() {
        let bad = |slug| Err(Reason::BadRequest(slug));
        check(get("http://a:80/x"), Ok("a:80"));
        check(get("http://a/x").header("host", "A"), Ok("a"));
        check(get("http://a/x").header("host", "b"), bad("host-mismatch"));
        check(get("/x").header("host", "b:1"), Ok("b:1"));
        check(get("/x"), bad("host-missing"));
        check(
            get("/x").header("host", "a").header("host", "a"),
            bad("host-repeated"),
        );
        check(get("/x").header("host", "a b"), bad("host-invalid"));
        check(get("http://u@a/x"), bad("host-invalid"));
        check(get("http://a:/x"), bad("host-invalid"));
        check(get("http://a:99999/x"), bad("host-invalid"));
        check(get("/x").header("host", ":80"), bad("host-invalid"));
        check(get("http://[::1]:80/x"), Ok("[::1]:80"));
        check(get("http://[::1]/x"), Ok("[::1]"));
    }

    #[test]
    fn targets_and_methods_that_are_not_carried() {
        let bad = |slug| Err(Reason::BadRequest(slug));
        check(get("ftp://a/x"), bad("bad-scheme"));
        check(get("*").header("host", "a"), bad("asterisk-target"));
        check(Request::options("*").header("host", "a"), Ok("a"));
        check(
            Request::connect("a:1"),
            Err(Reason::NotImplemented("connect-not-supported")),
        );
        check(
            get("http://a/")
                .header("content-length", "1")
                .header("content-length", "1"),
            bad("length-repeated"),
        );
    }

    #[test]
    fn fields_are_counted_and_cookie_crumbs_are_one() {
        let many = |name: &'static str, count: usize| {
            (0..count).fold(get("http://a/"), |builder, _| builder.header(name, "v"))
        };
        check(many("x", 100), Ok("a"));
        check(many("x", 101), Err(Reason::HeadTooLarge));
        check(many("cookie", 500), Ok("a"));
        check(many("cookie", 500).header("a", "1"), Ok("a"));
    }

    #[test]
    fn grpc_is_known_by_its_content_type() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC;charset=x", true),
            ("application/grpc-web", false),
            ("application/grp", false),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            assert_eq!(is_grpc(&headers), expected, "{value}");
        }
    }
}
