//! A request head: raw bytes, spans into them, and what the engine decided about it.

use super::field::{self, Field, Fields, Span, text};
use super::{FIELDS_MAX, Framing, Reject, Version, authority, diagnose};
use bytes::Bytes;
use outrigger_policy::RequestView;
use std::mem::MaybeUninit;

/// The form of the request target (RFC 9112 §3.2). Authority form is missing: CONNECT is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// `/path?query`.
    Origin,
    /// `http://authority/path?query`, as a client sends it to a proxy.
    Absolute { authority: Span, path: Span },
    /// `*`, of OPTIONS.
    Asterisk,
}

/// A request head that passed every check.
#[derive(Debug, Clone)]
pub struct RequestHead {
    raw: Bytes,
    method: Span,
    target: Span,
    form: Target,
    version: Version,
    framing: Framing,
    host: Option<Span>,
    fields: Fields,
    persistent: bool,
    expect_continue: bool,
    websocket: bool,
}

impl RequestHead {
    /// Reads a complete head: `raw` is what [`Scanner`](super::Scanner) delimited, from the first
    /// byte of the method to the empty line.
    ///
    /// # Errors
    /// The [`Reject`] that names the first doubt found.
    pub fn parse(raw: Bytes) -> Result<RequestHead, Reject> {
        let mut slots = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut parsed = httparse::Request::new(&mut []);
        match parsed.parse_with_uninit_headers(&raw, &mut slots) {
            Ok(httparse::Status::Complete(len)) if len == raw.len() => {}
            Ok(_) => return Err(Reject::BareLf),
            Err(error) => return Err(diagnose::request(&raw, error)),
        }
        let (Some(method), Some(target)) = (parsed.method, parsed.path) else {
            return Err(Reject::BadRequestLine);
        };
        let version = match parsed.version {
            Some(0) => Version::Http10,
            Some(1) => Version::Http11,
            Some(_) | None => return Err(Reject::VersionNotSupported),
        };
        let method_span = Span::within(&raw, method.as_bytes())?;
        let target_span = Span::within(&raw, target.as_bytes())?;
        if method_span.start() != 0 {
            return Err(Reject::LeadingBlankLine);
        }
        let form = read_target(&raw, method.as_bytes(), target.as_bytes())?;
        let (fields, facts) = field::collect(&raw, parsed.headers)?;
        let framing = facts.framing.request(version)?;
        if let Some(host) = facts.host {
            authority::check(host.of(&raw))?;
        } else if version == Version::Http11 {
            return Err(Reject::HostMissing);
        }
        let is_11 = version == Version::Http11;
        let websocket = is_11
            && method == "GET"
            && framing.is_empty()
            && facts
                .upgrade
                .is_some_and(|span| span.of(&raw).eq_ignore_ascii_case(b"websocket"));
        Ok(RequestHead {
            method: method_span,
            target: target_span,
            form,
            version,
            framing,
            host: facts.host,
            fields,
            persistent: is_11 && !facts.options.close,
            expect_continue: is_11 && facts.expect_continue && !framing.is_empty(),
            websocket,
            raw,
        })
    }

    /// The bytes as they arrived.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The method, as sent: methods are case-sensitive.
    pub fn method(&self) -> &str {
        text(self.method, &self.raw)
    }

    /// The target as sent, in whatever form.
    pub fn target(&self) -> &str {
        text(self.target, &self.raw)
    }

    /// Path and query, or `*`: what goes upstream. Never empty.
    pub fn path_and_query(&self) -> &str {
        match self.form {
            Target::Origin => text(self.target, &self.raw),
            Target::Asterisk => "*",
            Target::Absolute { path, .. } => match text(path, &self.raw) {
                // RFC 9112 §3.2.4: the server-wide OPTIONS in absolute form has no path at all.
                "" if self.method() == "OPTIONS" => "*",
                "" => "/",
                path => path,
            },
        }
    }

    /// The authority: of an absolute target, else `Host`, else (HTTP/1.0 only) none.
    ///
    /// An absolute target wins over `Host`, which is then replaced (RFC 9112 §3.2.2): what routes
    /// the request here is what the next server sees.
    pub fn authority(&self) -> Option<&str> {
        match self.form {
            Target::Absolute { authority, .. } => Some(text(authority, &self.raw)),
            Target::Origin | Target::Asterisk => self.host.map(|host| text(host, &self.raw)),
        }
    }

    /// Whether the target came in absolute form, as to a forward proxy.
    pub fn is_absolute(&self) -> bool {
        matches!(self.form, Target::Absolute { .. })
    }

    /// The version of the client.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The framing of the body.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the client lets the connection live on: HTTP/1.1 without `close`. An HTTP/1.0
    /// client never does, since a proxy cannot tell who asked for its `keep-alive` (RFC 9112 §9.3).
    pub fn persistent(&self) -> bool {
        self.persistent
    }

    /// Whether the client waits for `100 Continue` before it sends its body. False for HTTP/1.0
    /// and without a body, where the expectation means nothing (RFC 9110 §10.1.1).
    pub fn expect_continue(&self) -> bool {
        self.expect_continue
    }

    /// Whether it asks, properly, to become a WebSocket. Any other upgrade is not passed on.
    pub fn websocket(&self) -> bool {
        self.websocket
    }

    /// All fields in their order, hop-by-hop ones included.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.parts(&self.raw)
    }

    /// Every value of the field `name`, in order. Case does not count.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.named(&self.raw, name)
    }

    /// The first value of the field `name`. Case does not count.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.fields.first(&self.raw, name)
    }

    pub(super) fn method_bytes(&self) -> &[u8] {
        self.method.of(&self.raw)
    }

    pub(super) fn path_bytes(&self) -> &[u8] {
        match self.form {
            Target::Origin => self.target.of(&self.raw),
            Target::Absolute { .. } | Target::Asterisk => self.path_and_query().as_bytes(),
        }
    }

    pub(super) fn has_host(&self) -> bool {
        self.host.is_some()
    }

    /// Whether the `Host` line may leave as it came: at most one space around its value. Servers
    /// differ on tabs there: some refuse them, some take them for a part of the name.
    pub(super) fn host_is_plain(&self) -> bool {
        self.host.is_none_or(|host| {
            let range = host.range();
            let before = self.raw.get(..range.start).unwrap_or_default();
            let after = self.raw.get(range.end..).unwrap_or_default();
            (before.ends_with(b":") || before.ends_with(b": ")) && after.starts_with(b"\r\n")
        })
    }

    pub(super) fn field_list(&self) -> &[Field] {
        self.fields.as_slice()
    }
}

impl RequestView for RequestHead {
    fn method(&self) -> &str {
        RequestHead::method(self)
    }

    fn path(&self) -> &str {
        let target = self.path_and_query();
        target.split_once('?').map_or(target, |(path, _)| path)
    }

    fn query(&self) -> Option<&str> {
        let (_, query) = self.path_and_query().split_once('?')?;
        Some(query)
    }

    fn visit_header(&self, name_lowercase: &str, visit: &mut dyn FnMut(&[u8])) {
        self.get_all(name_lowercase).for_each(visit);
    }
}

fn read_target(raw: &[u8], method: &[u8], target: &[u8]) -> Result<Target, Reject> {
    if !target.is_ascii() {
        return Err(Reject::TargetNotAscii);
    }
    if method == b"CONNECT" {
        return Err(Reject::Connect);
    }
    if memchr::memchr(b'#', target).is_some() {
        return Err(Reject::BadTarget);
    }
    match target {
        [b'/', ..] => Ok(Target::Origin),
        b"*" if method == b"OPTIONS" => Ok(Target::Asterisk),
        b"*" => Err(Reject::AsteriskTarget),
        _ => read_absolute(raw, target),
    }
}

fn read_absolute(raw: &[u8], target: &[u8]) -> Result<Target, Reject> {
    const SCHEME: &[u8] = b"http://";
    let Some((scheme, rest)) = target
        .split_at_checked(SCHEME.len())
        .filter(|(s, _)| s.eq_ignore_ascii_case(SCHEME))
    else {
        return Err(if authority::check(target).is_ok() {
            Reject::AuthorityTarget
        } else if memchr::memmem::find(target, b"://").is_some() {
            Reject::BadScheme
        } else {
            Reject::BadTarget
        });
    };
    debug_assert_eq!(scheme.len(), SCHEME.len());
    let end = rest
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?'))
        .unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).ok_or(Reject::BadTarget)?;
    authority::check(authority)?;
    // `http://host?query` would need a byte that the head does not have; nobody sends it.
    if path.first() == Some(&b'?') {
        return Err(Reject::BadTarget);
    }
    Ok(Target::Absolute {
        authority: Span::within(raw, authority)?,
        path: Span::within(raw, path)?,
    })
}
