//! The fields of a head: spans into its raw bytes, what each one means for the engine, and the
//! facts on framing and persistence gathered in the one pass that classifies them.

use super::connection::{self, Options};
use super::{FIELDS_MAX, Reject, framing::FramingFacts};
use smallvec::SmallVec;
use std::ops::Range;

/// A range of a head's bytes. Sixteen bits are enough: a head is at most 65,535 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    start: u16,
    end: u16,
}

impl Span {
    #[inline]
    pub(super) fn new(start: usize, end: usize) -> Result<Span, Reject> {
        match (u16::try_from(start), u16::try_from(end)) {
            (Ok(start), Ok(end)) => Ok(Span { start, end }),
            (Err(_), _) | (_, Err(_)) => Err(Reject::HeadTooLarge),
        }
    }

    /// The span of `part`, which must be a slice of `whole`.
    #[inline]
    pub(super) fn within(whole: &[u8], part: &[u8]) -> Result<Span, Reject> {
        let start = part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr());
        Span::new(start, start.wrapping_add(part.len()))
    }

    pub(super) fn start(self) -> usize {
        usize::from(self.start)
    }

    /// As an index range.
    pub fn range(self) -> Range<usize> {
        usize::from(self.start)..usize::from(self.end)
    }

    /// The bytes it names in `raw`.
    pub fn of(self, raw: &[u8]) -> &[u8] {
        raw.get(self.range()).unwrap_or_default()
    }
}

/// What a field is to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldKind {
    /// End to end, untouched.
    Plain,
    /// `Host`.
    Host,
    /// `Content-Length`: read once, never copied.
    ContentLength,
    /// `Transfer-Encoding`: read once, never copied.
    TransferEncoding,
    /// `Connection`.
    Connection,
    /// `Upgrade`.
    Upgrade,
    /// `TE`.
    Te,
    /// `Expect`.
    Expect,
    /// `Trailer`: written anew, with the names of what passes.
    Trailer,
    /// Of this hop only: `Keep-Alive`, `Proxy-Connection`, `HTTP2-Settings`, and whatever
    /// `Connection` nominates.
    Hop,
    /// The mesh's own `x-outrigger-*`, in any spelling.
    Reserved,
}

/// One field line.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    name: Span,
    value: Span,
    kind: FieldKind,
}

impl Field {
    /// What the engine takes it for.
    pub fn kind(&self) -> FieldKind {
        self.kind
    }

    pub(super) fn name(&self) -> Span {
        self.name
    }

    pub(super) fn value(&self) -> Span {
        self.value
    }
}

/// The fields of a head, in their order. Up to 24 stay off the heap: more than browsers send.
#[derive(Debug, Clone, Default)]
pub struct Fields(SmallVec<[Field; 24]>);

impl Fields {
    pub(super) fn as_slice(&self) -> &[Field] {
        &self.0
    }

    /// Names and values in their order; `raw` is the head that they are fields of.
    pub(super) fn parts<'a>(&'a self, raw: &'a [u8]) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.0.iter().map(|field| parts(field, raw))
    }

    /// Every value of the field `name`, in order. Case does not count.
    pub(super) fn named<'a>(
        &'a self,
        raw: &'a [u8],
        name: &'a str,
    ) -> impl Iterator<Item = &'a [u8]> {
        self.parts(raw)
            .filter(move |(candidate, _)| candidate.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// The first value of the field `name`. Case does not count.
    pub(super) fn first<'a>(&'a self, raw: &'a [u8], name: &str) -> Option<&'a [u8]> {
        self.parts(raw)
            .find(|(candidate, _)| candidate.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

/// The text of a span whose bytes were checked to be ASCII.
pub(super) fn text(span: Span, raw: &[u8]) -> &str {
    std::str::from_utf8(span.of(raw)).unwrap_or_default()
}

/// Name and value of a field.
pub(super) fn parts<'a>(field: &Field, raw: &'a [u8]) -> (&'a str, &'a [u8]) {
    (text(field.name, raw), field.value.of(raw))
}

/// What the fields of a head say to the engine, gathered while they are classified.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) framing: FramingFacts,
    pub(super) options: Options,
    pub(super) host: Option<Span>,
    pub(super) upgrade: Option<Span>,
    pub(super) expect_continue: bool,
    upgrade_repeated: bool,
}

/// Turns what httparse found into spans and facts.
pub(super) fn collect(
    raw: &[u8],
    parsed: &[httparse::Header<'_>],
) -> Result<(Fields, Facts), Reject> {
    if parsed.len() > FIELDS_MAX {
        return Err(Reject::TooManyFields);
    }
    let mut fields = Fields::default();
    let mut facts = Facts::default();
    for header in parsed {
        let name = header.name.as_bytes();
        let kind = classify(name);
        let span = Span::within(raw, name)?;
        if !raw
            .get(..span.start())
            .is_some_and(|before| before.ends_with(b"\r\n"))
        {
            return Err(Reject::BareLf);
        }
        let value = Span::within(raw, header.value)?;
        if kind != FieldKind::Plain {
            facts.note(kind, name, header.value, value)?;
        }
        fields.0.push(Field {
            name: span,
            value,
            kind,
        });
    }
    if facts.options.nominated {
        strike_nominated(raw, &mut fields);
    }
    if facts.upgrade_repeated || !facts.options.upgrade {
        facts.upgrade = None;
    }
    Ok((fields, facts))
}

impl Facts {
    fn note(
        &mut self,
        kind: FieldKind,
        name: &[u8],
        value: &[u8],
        span: Span,
    ) -> Result<(), Reject> {
        match kind {
            FieldKind::Plain
            | FieldKind::Te
            | FieldKind::Trailer
            | FieldKind::Hop
            | FieldKind::Reserved => {}
            FieldKind::ContentLength => self.framing.note_length(name, value)?,
            FieldKind::TransferEncoding => self.framing.note_encoding(name, value)?,
            FieldKind::Connection => self.options.note(value)?,
            FieldKind::Host if self.host.replace(span).is_some() => {
                return Err(Reject::HostRepeated);
            }
            FieldKind::Host => {}
            FieldKind::Upgrade => self.upgrade_repeated |= self.upgrade.replace(span).is_some(),
            FieldKind::Expect => {
                self.expect_continue |= value.eq_ignore_ascii_case(b"100-continue");
            }
        }
        Ok(())
    }
}

/// Marks the plain fields that `Connection` names as fields of this hop. `Host` and the framing
/// fields have a kind of their own, so nominating them does nothing.
fn strike_nominated(raw: &[u8], fields: &mut Fields) {
    let (connections, mut plain): (SmallVec<[Span; 4]>, SmallVec<[&mut Field; 24]>) = {
        let mut connections = SmallVec::new();
        let mut plain = SmallVec::new();
        for field in &mut fields.0 {
            match field.kind {
                FieldKind::Connection => connections.push(field.value),
                FieldKind::Plain | FieldKind::Trailer => plain.push(field),
                FieldKind::Host
                | FieldKind::ContentLength
                | FieldKind::TransferEncoding
                | FieldKind::Upgrade
                | FieldKind::Te
                | FieldKind::Expect
                | FieldKind::Hop
                | FieldKind::Reserved => {}
            }
        }
        (connections, plain)
    };
    for span in connections {
        for option in connection::tokens(span.of(raw)) {
            for field in &mut plain {
                if field.name.of(raw).eq_ignore_ascii_case(option) {
                    field.kind = FieldKind::Hop;
                }
            }
        }
    }
}

/// The prefix of the mesh's own fields.
pub(super) const RESERVED_PREFIX: &[u8] = b"x-outrigger-";

fn classify(name: &[u8]) -> FieldKind {
    let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
    match name.len() {
        2 if is(b"te") => FieldKind::Te,
        4 if is(b"host") => FieldKind::Host,
        6 if is(b"expect") => FieldKind::Expect,
        7 if is(b"upgrade") => FieldKind::Upgrade,
        7 if is(b"trailer") => FieldKind::Trailer,
        10 if is(b"connection") => FieldKind::Connection,
        10 if is(b"keep-alive") => FieldKind::Hop,
        14 if is(b"http2-settings") => FieldKind::Hop,
        14 if same_name(name, b"content-length") => FieldKind::ContentLength,
        16 if is(b"proxy-connection") => FieldKind::Hop,
        17 if same_name(name, b"transfer-encoding") => FieldKind::TransferEncoding,
        _ if is_reserved(name) => FieldKind::Reserved,
        _ => FieldKind::Plain,
    }
}

fn is_reserved(name: &[u8]) -> bool {
    matches!(name.first(), Some(b'x' | b'X'))
        && name
            .get(..RESERVED_PREFIX.len())
            .is_some_and(|prefix| same_name(prefix, RESERVED_PREFIX))
}

/// Whether two field names are one to a server that folds case and takes `_` for `-` (CGI does).
pub fn same_name(left: &[u8], right: &[u8]) -> bool {
    let fold = |byte: u8| {
        if byte == b'_' {
            b'-'
        } else {
            byte.to_ascii_lowercase()
        }
    };
    left.len() == right.len() && left.iter().zip(right).all(|(&l, &r)| fold(l) == fold(r))
}

/// RFC 9110 §5.6.2 `tchar`.
pub(super) const fn is_token(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
        || byte.is_ascii_alphanumeric()
}

/// RFC 9110 §5.5 `field-content`: visible, obs-text, space and tab.
pub(super) const fn is_value(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..=0xff)
}
