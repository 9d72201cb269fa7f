//! Answers that the mesh makes itself, in the client's own protocol.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::reason::{Reason, Refusal};

const REASON: HeaderName = HeaderName::from_static("x-outrigger-reason");

/// The shape in which a client understands a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Trailers-only (gRPC over HTTP/2, "Responses"): status 200, `grpc-status`, no body.
    Grpc,
    /// Status and a short text.
    Text,
    /// The same head without the text: answer to HEAD.
    TextHead,
}

/// Head and body.
pub(super) fn answer(refusal: &Refusal, shape: Shape) -> (Response<()>, Bytes) {
    let text = refusal.to_string();
    let mut response = Response::new(());
    *response.version_mut() = http::Version::HTTP_2;
    let reason = HeaderValue::from_bytes(text.as_bytes())
        .unwrap_or_else(|_| HeaderValue::from_static(refusal.reason.slug()));
    response.headers_mut().insert(REASON, reason);
    // Where to go is told in HTTP's words to every client: gRPC has none for it.
    if shape == Shape::Grpc && refusal.location.is_none() {
        grpc_fields(response.headers_mut(), refusal.reason.grpc_status(), &text);
        return (response, Bytes::new());
    }
    *response.status_mut() =
        StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = Bytes::from(format!("{text}\n"));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    if let Some(location) = &refusal.location
        && let Ok(location) = HeaderValue::from_str(location)
    {
        headers.insert(header::LOCATION, location);
    }
    match shape {
        Shape::Text | Shape::Grpc => (response, body),
        Shape::TextHead => (response, Bytes::new()),
    }
}

/// Trailers of a gRPC stream that its deadline ended.
pub(super) fn late_trailers() -> HeaderMap {
    let late = Reason::RequestTimeout;
    let mut trailers = HeaderMap::new();
    trailers.insert(
        "grpc-status",
        HeaderValue::from(u16::from(late.grpc_status())),
    );
    trailers.insert("grpc-message", HeaderValue::from_static(late.slug()));
    trailers.insert(REASON, HeaderValue::from_static(late.slug()));
    trailers
}

fn grpc_fields(headers: &mut HeaderMap, status: u8, text: &str) {
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert("grpc-status", HeaderValue::from(u16::from(status)));
    if let Ok(message) = HeaderValue::from_str(&percent_encode(text)) {
        headers.insert("grpc-message", message);
    }
}

/// `Percent-Encoded` of the gRPC protocol: printable ASCII other than `%` as it is.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'$' | b'&'..=b'~' => encoded.push(char::from(byte)),
            _ => {
                encoded.push('%');
                for nibble in [byte >> 4, byte & 15] {
                    let digit = char::from_digit(u32::from(nibble), 16).unwrap_or('0');
                    encoded.push(digit.to_ascii_uppercase());
                }
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_clients_get_trailers_only() {
        let refusal = Refusal::new(Reason::PendingFull).detail("100% full");
        let (response, body) = answer(&refusal, Shape::Grpc);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert_eq!(response.headers()["grpc-status"], "8");
        assert_eq!(
            response.headers()["grpc-message"],
            "pending-full; 100%25 full"
        );
        assert_eq!(
            response.headers()["x-outrigger-reason"],
            "pending-full; 100% full"
        );
        assert!(body.is_empty());
    }

    #[test]
    fn others_get_status_and_text() {
        let refusal = Refusal::new(Reason::NoRoute);
        let (response, body) = answer(&refusal, Shape::Text);
        assert_eq!(response.status(), 404);
        assert_eq!(response.headers()["content-length"], "9");
        assert_eq!(&body[..], b"no-route\n");
        let (response, body) = answer(&refusal, Shape::TextHead);
        assert_eq!(response.headers()["content-length"], "9");
        assert!(body.is_empty());
    }

    #[test]
    fn messages_survive_any_text() {
        assert_eq!(percent_encode("a~ %\u{e9}\n"), "a~ %25%C3%A9%0A");
    }
}
