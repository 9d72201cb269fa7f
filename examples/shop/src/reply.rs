//! Answers in JSON, and what the failure of a call means for the caller's own caller.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::{Deserialize, Serialize};
use tonic::body::Body;

use crate::peers::CallError;

/// An answer with a JSON body.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    let (status, text) = match serde_json::to_vec(value) {
        Ok(text) => (status, text),
        // Our own values always have a JSON form.
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, Vec::new()),
    };
    bytes(status, "application/json", text.into())
}

/// An answer with any body.
pub(crate) fn bytes(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[derive(Serialize, Deserialize)]
struct Problem {
    error: String,
}

/// An error with the reason in words.
pub(crate) fn error(status: StatusCode, reason: &str) -> Response<Body> {
    json(
        status,
        &Problem {
            error: reason.to_owned(),
        },
    )
}

/// The reason in words of an error that another application answered.
pub(crate) fn reason(body: &[u8]) -> Option<String> {
    let problem: Problem = serde_json::from_slice(body).ok()?;
    Some(problem.error)
}

/// The answer of a path that an application does not have.
pub(crate) fn not_found() -> Response<Body> {
    error(StatusCode::NOT_FOUND, "no such path")
}

/// The answer when another application failed: a refusal that concerns the order is passed on, a
/// failure becomes 502, or 504 if time ran out.
pub(crate) fn call_failed(failure: &CallError) -> Response<Body> {
    error(failure.status(), &failure.to_string())
}
