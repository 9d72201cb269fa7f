//! Putting a head together for the next hop.
//!
//! Kept lines are copied in runs, as they came; most heads leave in two or three copies. What
//! belongs to one hop is left out (RFC 9110 §7.6.1), framing is written from the typed value, and
//! what the mesh sets comes last, after every incoming spelling of the same name has been removed.

use super::connection::tokens;
use super::field::{Field, FieldKind, is_value, same_name};
use super::{Framing, RequestHead, ResponseHead, Version, trailer};
use bytes::Bytes;
use outrigger_policy::filter::FieldOps;

/// What becomes of incoming `x-outrigger-*` fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    /// Removed: the peer has no right to them.
    Strip,
    /// Passed on: the peer is a sidecar whose word counts.
    Keep,
}

/// Changes to the fields of a head. Names are lower case and valid; a value's control characters
/// are replaced by spaces, so that no configuration can split a message.
#[derive(Debug, Clone, Copy)]
pub struct FieldEdit<'a> {
    /// What the route changes, before the rest, which goes before it.
    pub changes: Option<&'a FieldOps>,
    /// Fields to write, replacing all of the same name, `_` and `-` and case apart.
    pub set: &'a [(&'static str, Bytes)],
    /// Fields to leave out; a trailing `*` leaves out all that begin so.
    pub remove: &'a [&'static str],
    /// What becomes of the mesh's own.
    pub reserved: Reserved,
}

impl FieldEdit<'_> {
    /// No change but the removal of reserved fields.
    pub const NONE: FieldEdit<'static> = FieldEdit {
        changes: None,
        set: &[],
        remove: &[],
        reserved: Reserved::Strip,
    };

    fn drops(&self, name: &[u8]) -> bool {
        self.replaces(name) || self.changes.is_some_and(|changes| changes.drops(name))
    }

    /// Whether the mesh itself sets or removes a field, whatever the route says.
    fn replaces(&self, name: &[u8]) -> bool {
        self.set
            .iter()
            .any(|(other, _)| same_name(name, other.as_bytes()))
            || self
                .remove
                .iter()
                .any(|other| match other.as_bytes().strip_suffix(b"*") {
                    Some(prefix) => name
                        .get(..prefix.len())
                        .is_some_and(|start| same_name(start, prefix)),
                    None => same_name(name, other.as_bytes()),
                })
    }
}

/// Changes to a request head.
#[derive(Debug, Clone, Copy)]
pub struct RequestEdit<'a> {
    /// Path and query instead of the request's own.
    pub path: Option<&'a str>,
    /// `Host` instead of the request's own authority.
    pub authority: Option<&'a str>,
    /// The framing of the body that will be sent.
    pub framing: Framing,
    /// Whether an expectation is passed on, so that the server answers it.
    pub expect: bool,
    /// Whether the WebSocket upgrade the request asks for is passed on.
    pub upgrade: bool,
    /// Whether this is the last request on the connection, and says so.
    pub close: bool,
    /// Changes to the fields.
    pub fields: FieldEdit<'a>,
}

/// Changes to a response head.
#[derive(Debug, Clone, Copy)]
pub struct ResponseEdit<'a> {
    /// The framing of the body that will be sent; `UntilClose` implies `close`.
    pub framing: Framing,
    /// Whether the connection ends with this response.
    pub close: bool,
    /// Changes to the fields.
    pub fields: FieldEdit<'a>,
}

/// The framing in which a body reaches a client of this version: lengths stay, everything else
/// becomes chunks, or for HTTP/1.0 the end of the connection.
pub fn downstream_framing(framing: Framing, client: Version) -> Framing {
    match (framing, client) {
        (Framing::Chunked | Framing::UntilClose, Version::Http11) => Framing::Chunked,
        (Framing::Chunked | Framing::UntilClose, Version::Http10) => Framing::UntilClose,
        (Framing::None | Framing::Length(_), Version::Http10 | Version::Http11) => framing,
    }
}

/// Room for what is added to a head: framing, host, trace context, a handful of reserved fields.
const ADDED_BYTES: usize = 512;

/// Appends the head of a request for the next server to `out`. Its version is HTTP/1.1 and its
/// target in origin form, whatever came in.
pub fn request(head: &RequestHead, edit: &RequestEdit<'_>, out: &mut Vec<u8>) {
    let raw: &[u8] = head.raw();
    out.reserve(raw.len() + ADDED_BYTES);
    out.extend_from_slice(head.method_bytes());
    out.push(b' ');
    out.extend_from_slice(edit.path.map_or_else(|| head.path_bytes(), str::as_bytes));
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let new_host =
        edit.authority.is_some() || head.is_absolute() || !head.has_host() || !head.host_is_plain();
    if new_host {
        // HTTP/1.0 without Host and no other authority: an empty one says the same in HTTP/1.1
        // (RFC 9110 §7.2).
        let authority = edit.authority.or_else(|| head.authority());
        put_field("host", authority.unwrap_or_default().as_bytes(), out);
    }
    let expect = edit.expect && head.version() == Version::Http11;
    let mut announced = false;
    copy_kept(raw, head.field_list(), out, |field, name| {
        match field.kind() {
            FieldKind::Plain => !edit.fields.drops(name),
            FieldKind::Host => !new_host,
            FieldKind::Expect => expect && !edit.fields.drops(name),
            FieldKind::Reserved => {
                edit.fields.reserved == Reserved::Keep && !edit.fields.drops(name)
            }
            FieldKind::ContentLength
            | FieldKind::TransferEncoding
            | FieldKind::Connection
            | FieldKind::Upgrade
            | FieldKind::Te
            | FieldKind::Hop => false,
            FieldKind::Trailer => {
                announced = true;
                false
            }
        }
    });
    put_framing(edit.framing, None, out);
    if announced && edit.framing == Framing::Chunked {
        put_trailer(raw, head.field_list(), &edit.fields, out);
    }
    if edit.upgrade && head.websocket() {
        out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
    } else {
        put_request_options(takes_trailers(head), edit.close, out);
    }
    put_edit(&edit.fields, out);
    out.extend_from_slice(b"\r\n");
}

/// Appends the head of a response, interim ones included, for the client to `out`.
pub fn response(head: &ResponseHead, edit: &ResponseEdit<'_>, out: &mut Vec<u8>) {
    let raw: &[u8] = head.raw();
    out.reserve(raw.len() + ADDED_BYTES);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status_text().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.reason());
    out.extend_from_slice(b"\r\n");
    let mut announced = false;
    copy_kept(raw, head.field_list(), out, |field, name| {
        match field.kind() {
            FieldKind::Plain | FieldKind::Host | FieldKind::Expect => !edit.fields.drops(name),
            FieldKind::Reserved => {
                edit.fields.reserved == Reserved::Keep && !edit.fields.drops(name)
            }
            FieldKind::ContentLength
            | FieldKind::TransferEncoding
            | FieldKind::Connection
            | FieldKind::Upgrade
            | FieldKind::Te
            | FieldKind::Hop => false,
            FieldKind::Trailer => {
                announced = true;
                false
            }
        }
    });
    put_framing(edit.framing, head.declared(), out);
    if announced && edit.framing == Framing::Chunked {
        put_trailer(raw, head.field_list(), &edit.fields, out);
    }
    match head.upgrade() {
        // 426 has to say what to upgrade to; elsewhere the offer was made to us, not the client.
        Some(protocol) if matches!(head.status(), 101 | 426) => {
            put_field("upgrade", protocol, out);
            let close = edit.close && head.status() != 101;
            put_field(
                "connection",
                if close { b"upgrade, close" } else { b"upgrade" },
                out,
            );
        }
        Some(_) | None if edit.close || edit.framing == Framing::UntilClose => {
            out.extend_from_slice(b"connection: close\r\n");
        }
        Some(_) | None => {}
    }
    put_edit(&edit.fields, out);
    out.extend_from_slice(b"\r\n");
}

/// Appends one field line. Control characters in `value` become spaces.
pub fn put_field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    // No early exit, so that it is done sixteen bytes at a time; a tab takes the slow path too.
    let control = value.iter().fold(false, |control, &byte| {
        control | (byte < b' ') | (byte == 0x7f)
    });
    if !control {
        out.extend_from_slice(value);
    } else {
        out.extend(
            value
                .iter()
                .map(|&byte| if is_value(byte) { byte } else { b' ' }),
        );
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the framing field, if the framing has one. `declared`: of a body that does not come.
pub fn put_framing(framing: Framing, declared: Option<u64>, out: &mut Vec<u8>) {
    let length = match framing {
        Framing::Length(length) => Some(length),
        Framing::None => declared,
        Framing::Chunked => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            None
        }
        Framing::UntilClose => None,
    };
    if let Some(length) = length {
        out.extend_from_slice(b"content-length: ");
        put_decimal(length, out);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends `Trailer` with the names of what may stand behind a body in chunks, if any was announced
/// (RFC 9110 §6.6.2). Elsewhere no trailers are sent, so none are named.
fn put_trailer(raw: &[u8], fields: &[Field], edit: &FieldEdit<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    let named = fields
        .iter()
        .filter(|field| field.kind() == FieldKind::Trailer && !edit.drops(field.name().of(raw)));
    let names = named.flat_map(|field| tokens(field.value().of(raw)));
    for name in names.filter(|name| trailer::may_pass(name)) {
        let before: &[u8] = if out.len() == start {
            b"trailer: "
        } else {
            b", "
        };
        out.extend_from_slice(before);
        out.extend_from_slice(name);
    }
    if out.len() > start {
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends `number` in decimal digits.
pub fn put_decimal(number: u64, out: &mut Vec<u8>) {
    let mut digits = [0_u8; 20];
    let mut start = digits.len();
    let mut left = number;
    loop {
        start -= 1;
        digits[start] = b'0' + u8::try_from(left % 10).unwrap_or(0);
        left /= 10;
        if left == 0 || start == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

fn put_edit(edit: &FieldEdit<'_>, out: &mut Vec<u8>) {
    for (name, value) in edit.changes.into_iter().flat_map(FieldOps::put) {
        if !edit.replaces(name.as_bytes()) {
            put_field(name, value.as_bytes(), out);
        }
    }
    for (name, value) in edit.set {
        put_field(name, value, out);
    }
}

fn put_request_options(trailers: bool, close: bool, out: &mut Vec<u8>) {
    let lines: &[u8] = match (trailers, close) {
        (false, false) => b"",
        (false, true) => b"connection: close\r\n",
        (true, false) => b"connection: te\r\nte: trailers\r\n",
        (true, true) => b"connection: te, close\r\nte: trailers\r\n",
    };
    out.extend_from_slice(lines);
}

/// `TE: trailers` is the one member of `TE` that means something to the next server.
fn takes_trailers(head: &RequestHead) -> bool {
    head.field_list()
        .iter()
        .filter(|field| field.kind() == FieldKind::Te)
        .any(|field| {
            tokens(field.value().of(head.raw()))
                .any(|token| token.eq_ignore_ascii_case(b"trailers"))
        })
}

/// Copies the lines that `keep` wants, adjacent ones at once. Lines lie back to back, from the
/// first name to the empty line.
fn copy_kept(
    raw: &[u8],
    fields: &[Field],
    out: &mut Vec<u8>,
    mut keep: impl FnMut(&Field, &[u8]) -> bool,
) {
    let mut run: Option<usize> = None;
    for field in fields {
        let start = field.name().start();
        if keep(field, field.name().of(raw)) {
            run.get_or_insert(start);
        } else if let Some(first) = run.take() {
            out.extend_from_slice(raw.get(first..start).unwrap_or_default());
        }
    }
    if let Some(first) = run {
        out.extend_from_slice(
            raw.get(first..raw.len().saturating_sub(2))
                .unwrap_or_default(),
        );
    }
}
