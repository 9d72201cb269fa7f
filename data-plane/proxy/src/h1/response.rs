//! A response head: raw bytes, spans into them, and what the engine decided about it.

use super::connection::tokens;
use super::field::{self, Field, FieldKind, Fields, Span, same_name, text};
use super::framing::Asked;
use super::{FIELDS_MAX, Framing, Reject, Version, diagnose};
use bytes::Bytes;
use std::mem::MaybeUninit;
use std::time::Duration;

/// `HTTP/1.1 200`: version and status have a fixed width, the reason begins one space later.
const STATUS_END: usize = 12;

/// A response head that passed every check.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    raw: Bytes,
    status: u16,
    reason: Span,
    version: Version,
    framing: Framing,
    declared: Option<u64>,
    fields: Fields,
    persistent: bool,
    upgrade: Option<Span>,
}

impl ResponseHead {
    /// Reads a complete head, as delimited by [`Scanner`](super::Scanner).
    ///
    /// # Errors
    /// The [`Reject`] that names the first doubt found; to the client it means 502.
    pub fn parse(raw: Bytes, asked: Asked) -> Result<ResponseHead, Reject> {
        let mut slots = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        match config.parse_response_with_uninit_headers(&mut parsed, &raw, &mut slots) {
            Ok(httparse::Status::Complete(len)) if len == raw.len() => {}
            Ok(_) => return Err(Reject::BareLf),
            Err(error) => return Err(diagnose::response(&raw, error)),
        }
        let version = match parsed.version {
            Some(0) => Version::Http10,
            Some(1) => Version::Http11,
            Some(_) | None => return Err(Reject::VersionNotSupported),
        };
        let status = parsed
            .code
            .filter(|code| *code >= 100)
            .ok_or(Reject::BadStatusLine)?;
        if raw.first() != Some(&b'H') {
            return Err(Reject::LeadingBlankLine);
        }
        let line_end = memchr::memchr(b'\r', &raw).ok_or(Reject::BadStatusLine)?;
        let reason = Span::new((STATUS_END + 1).min(line_end), line_end)?;
        let (fields, facts) = field::collect(&raw, parsed.headers)?;
        let (framing, declared) = facts.framing.response(version, status, asked)?;
        Ok(ResponseHead {
            status,
            reason,
            version,
            framing,
            declared,
            fields,
            persistent: version == Version::Http11
                && !facts.options.close
                && framing != Framing::UntilClose,
            upgrade: facts.upgrade,
            raw,
        })
    }

    /// The bytes as they arrived.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The status code, 100 to 999.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The reason phrase, which may be empty and may hold bytes ≥ 0x80.
    pub fn reason(&self) -> &[u8] {
        self.reason.of(&self.raw)
    }

    /// The version of the server.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The framing of the body that follows.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// The length of the body that a HEAD or 304 response describes and does not carry.
    pub fn declared(&self) -> Option<u64> {
        self.declared
    }

    /// Whether the server lets the connection live on. Servers of HTTP/1.0 never do.
    pub fn persistent(&self) -> bool {
        self.persistent
    }

    /// How long the server keeps the connection without a request, where it says so in
    /// `Keep-Alive: timeout=SECONDS` (RFC 9112 §9.3 leaves it to the server; the field is RFC
    /// 2068's). The shortest where it says so more than once.
    pub fn idle_timeout(&self) -> Option<Duration> {
        let hop = self.fields.as_slice().iter();
        let values = hop
            .filter(|field| field.kind() == FieldKind::Hop)
            .filter(|field| same_name(field.name().of(&self.raw), b"keep-alive"))
            .map(|field| field.value().of(&self.raw));
        values.flat_map(tokens).filter_map(timeout).min()
    }

    /// Whether it is interim: another head follows. 101 is final for HTTP.
    pub fn interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// The protocol in `Upgrade`, where `Connection` names it too.
    pub fn upgrade(&self) -> Option<&[u8]> {
        self.upgrade.map(|span| span.of(&self.raw))
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

    pub(super) fn field_list(&self) -> &[Field] {
        self.fields.as_slice()
    }

    pub(super) fn status_text(&self) -> &str {
        text(
            Span::new(STATUS_END - 3, STATUS_END).unwrap_or_default(),
            &self.raw,
        )
    }
}

/// The value of `timeout=SECONDS`, in quotes or not. What is no such parameter says nothing.
fn timeout(parameter: &[u8]) -> Option<Duration> {
    let (name, value) = std::str::from_utf8(parameter).ok()?.split_once('=')?;
    let seconds = value.trim().trim_matches('"').parse::<u32>().ok()?;
    let named = name.trim().eq_ignore_ascii_case("timeout");
    named.then(|| Duration::from_secs(seconds.into()))
}
