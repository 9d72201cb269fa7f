//! One request through an application: control paths, then fault, count and role.
//!
//! | path | answer |
//! | --- | --- |
//! | `GET /_control` | the [`Fault`] in force |
//! | `POST /_control` | sets it; 400 with the reason if it makes no sense |
//! | `GET`, `DELETE /_stats` | the counts; start from zero |
//! | `GET /healthz` | 200 while it runs |
//!
//! These are plain HTTP on every role, the gRPC ones too, and are neither hit by faults nor counted.
//! Every answer carries `x-shop-role` and `x-shop-version`.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tonic::body::Body;

use crate::app::Shared;
use crate::control::{Fault, Verdict};
use crate::reply;

/// The largest request body of the HTTP roles and the control path; the shop's are below 1 KiB.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Which attempt of the mesh a request is, by the headers that meshes use.
const ATTEMPT: [&str; 2] = ["x-outrigger-attempt", "x-envoy-attempt-count"];

pub(crate) async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let mut response = match (request.method(), request.uri().path()) {
        (&Method::GET, "/_control") => reply::json(StatusCode::OK, &shared.control.fault()),
        (&Method::POST, "/_control") => set_fault(&shared, request.into_body()).await,
        (&Method::GET, "/_stats") => reply::json(StatusCode::OK, &shared.counter.read()),
        (&Method::DELETE, "/_stats") => {
            shared.counter.reset();
            reply::json(StatusCode::OK, &shared.counter.read())
        }
        (&Method::GET, "/healthz") => reply::bytes(StatusCode::OK, "text/plain", Bytes::new()),
        (_, "/_control" | "/_stats" | "/healthz") => {
            reply::error(StatusCode::METHOD_NOT_ALLOWED, "no such method here")
        }
        _ => counted(&shared, request).await,
    };
    let headers = response.headers_mut();
    headers.insert("x-shop-role", HeaderValue::from_static(shared.role.name()));
    if let Ok(version) = HeaderValue::from_str(&shared.version) {
        headers.insert("x-shop-version", version);
    }
    Ok(response)
}

async fn set_fault(shared: &Shared, body: Incoming) -> Response<Body> {
    let body = match read(body).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    match serde_json::from_slice::<Fault>(&body) {
        Ok(fault) => {
            shared.control.set(fault.clone());
            reply::json(StatusCode::OK, &fault)
        }
        Err(error) => reply::error(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

async fn counted(shared: &Shared, request: Request<Incoming>) -> Response<Body> {
    let attempt = ATTEMPT
        .iter()
        .find_map(|name| request.headers().get(*name)?.to_str().ok());
    let ticket = shared.counter.begin(request.uri().path(), attempt);
    let response = match fault(shared, is_grpc(&request)).await {
        Some(failure) => failure,
        None => shared.application.call(request).await,
    };
    ticket.end(outcome(&response));
    response
}

/// Goes through the fault in force; `None` if the request is to be answered as usual.
async fn fault(shared: &Shared, grpc: bool) -> Option<Response<Body>> {
    match shared.control.next() {
        Verdict::Pass => None,
        Verdict::Slow { after } => {
            tokio::time::sleep(after).await;
            None
        }
        Verdict::Fail { status, after } => {
            tokio::time::sleep(after).await;
            Some(failure(status, grpc, "told to fail by /_control"))
        }
        Verdict::Hang(hung) => tokio::select! {
            () = hung.until_changed() => None,
            () = shared.stopping.cancelled() => Some(failure(503, grpc, "stopping")),
        },
    }
}

fn failure(status: u16, grpc: bool, reason: &str) -> Response<Body> {
    if grpc {
        tonic::Status::new(grpc_code(status), reason).into_http()
    } else {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        reply::error(status, reason)
    }
}

/// The gRPC status that stands for an HTTP status, as gRPC's own mapping has it, but 500 is
/// `INTERNAL`: a failing gRPC application says so itself and is not guessed at by its client.
const fn grpc_code(status: u16) -> tonic::Code {
    match status {
        400 | 500 => tonic::Code::Internal,
        401 => tonic::Code::Unauthenticated,
        403 => tonic::Code::PermissionDenied,
        404 => tonic::Code::Unimplemented,
        429 | 502..=504 => tonic::Code::Unavailable,
        _ => tonic::Code::Unknown,
    }
}

fn is_grpc<B>(request: &Request<B>) -> bool {
    request
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// How a request ended. A gRPC failure is known here by its head: unary calls that fail have no
/// message before their status.
fn outcome(response: &Response<Body>) -> String {
    let status = response.headers().get("grpc-status");
    match status.and_then(|status| status.to_str().ok()) {
        Some(status) => format!("grpc-{status}"),
        None => response.status().as_u16().to_string(),
    }
}

/// Reads a whole body, or says with 413 or 400 why not.
pub(crate) async fn read(body: Incoming) -> Result<Bytes, Response<Body>> {
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(reply::error(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is more than 64 KiB",
        )),
        Err(error) => Err(reply::error(StatusCode::BAD_REQUEST, &error.to_string())),
    }
}
