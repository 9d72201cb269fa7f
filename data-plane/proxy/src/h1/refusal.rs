//! Answers of the mesh itself, on the wire.

use super::Reject;
use super::write::{put_decimal, put_field};
use crate::reason::{Reason, Refusal};

/// The reason of the mesh for a request that the engine refuses.
pub(super) fn reason(reject: Reject) -> Reason {
    match (reject.status(), reject) {
        (431, _) => Reason::HeadTooLarge,
        (501, reject) => Reason::NotImplemented(reject.slug()),
        (505, _) => Reason::HttpVersion,
        (_, reject) => Reason::BadRequest(reject.slug()),
    }
}

/// Appends a whole response: status, `x-outrigger-reason`, and the same as text. `head_only`:
/// to HEAD, which is told the length of a body that does not come.
pub(super) fn put(refusal: &Refusal, head_only: bool, close: bool, out: &mut Vec<u8>) -> u64 {
    let text = refusal.to_string();
    let status = refusal.status();
    let length = u64::try_from(text.len()).unwrap_or(0).saturating_add(1);
    out.extend_from_slice(b"HTTP/1.1 ");
    put_decimal(u64::from(status), out);
    out.push(b' ');
    out.extend_from_slice(phrase(status).as_bytes());
    out.extend_from_slice(b"\r\n");
    put_field("content-type", b"text/plain; charset=utf-8", out);
    out.extend_from_slice(b"content-length: ");
    put_decimal(length, out);
    out.extend_from_slice(b"\r\n");
    put_field("x-outrigger-reason", text.as_bytes(), out);
    if let Some(location) = &refusal.location {
        put_field("location", location.as_bytes(), out);
    }
    if close {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if head_only {
        return 0;
    }
    out.extend_from_slice(text.as_bytes());
    out.push(b'\n');
    length
}

/// Reason phrases of the statuses that the mesh answers with.
fn phrase(status: u16) -> &'static str {
    match status {
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        _ => "Refused",
    }
}
