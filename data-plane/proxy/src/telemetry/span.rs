//! A span from a finished request: OpenTelemetry's HTTP conventions, and Outrigger's own facts.
//!
//! Runs only for sampled requests, on the worker, at the request's end; near 4,000 instructions,
//! most of them for the attributes' texts.

use std::{borrow::Cow, time::SystemTime};

use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::{Carried, Direction, RequestRecord, trace::Context};
use crate::reason::Reason;

/// Longest text of an attribute, in bytes.
const TEXT_MAX: usize = 1_024;

/// The span of this request, or `None` if it is not recorded.
pub(super) fn of(
    context: &Context,
    record: &RequestRecord<'_>,
    end: SystemTime,
) -> Option<SpanData> {
    let (trace, span, parent) = context.recorded()?;
    Some(SpanData {
        span_context: SpanContext::new(
            TraceId::from(trace),
            SpanId::from(span),
            TraceFlags::SAMPLED,
            false,
            TraceState::NONE,
        ),
        parent_span_id: SpanId::from(parent),
        parent_span_is_remote: parent != 0,
        span_kind: match record.direction {
            Direction::Outbound => SpanKind::Client,
            Direction::Inbound => SpanKind::Server,
        },
        name: name(record),
        start_time: end.checked_sub(record.duration).unwrap_or(end),
        end_time: end,
        attributes: attributes(record),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: status(record),
        instrumentation_scope: InstrumentationScope::builder("outrigger")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    })
}

/// The method alone: a path would make a name of each request. A gRPC path is a name already.
fn name(record: &RequestRecord<'_>) -> Cow<'static, str> {
    match record.carried {
        Carried::Grpc => Cow::Owned(cut(record.path.trim_start_matches('/')).to_owned()),
        Carried::Http1 | Carried::Http2 => Cow::Borrowed(known_method(record.method)),
        Carried::Tcp => Cow::Borrowed("TCP"),
    }
}

/// The conventions' list (RFC 9110 and PATCH); others are `HTTP` in names, `_OTHER` in attributes.
fn known_method(method: &str) -> &'static str {
    const KNOWN: [&str; 9] = [
        "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE",
    ];
    KNOWN
        .into_iter()
        .find(|known| *known == method)
        .unwrap_or("HTTP")
}

/// A client's span fails from 400 on, a server's from 500 on.
fn status(record: &RequestRecord<'_>) -> Status {
    let client_error = record.direction == Direction::Outbound && record.status >= 400;
    if record.is_failure() || client_error {
        Status::error(record.reason.map_or("", Reason::slug))
    } else {
        Status::Unset
    }
}

fn attributes(record: &RequestRecord<'_>) -> Vec<KeyValue> {
    let mut list = Vec::with_capacity(20);
    let mut text = |key: &'static str, value: &str| {
        if !value.is_empty() {
            list.push(KeyValue::new(key, cut(value).to_owned()));
        }
    };
    match known_method(record.method) {
        "HTTP" if record.method.is_empty() => {}
        "HTTP" => {
            text("http.request.method", "_OTHER");
            text("http.request.method_original", record.method);
        }
        known => text("http.request.method", known),
    }
    text("url.path", record.path);
    let (host, port) = split_authority(record.authority);
    text("server.address", host);
    match record.carried {
        Carried::Http1 => text("network.protocol.version", "1.1"),
        Carried::Http2 => text("network.protocol.version", "2"),
        Carried::Grpc => {
            text("network.protocol.version", "2");
            text("rpc.system", "grpc");
        }
        Carried::Tcp => {}
    }
    text("outrigger.reason", record.reason.map_or("", Reason::slug));
    text("outrigger.detail", record.detail);
    text(
        "outrigger.origin",
        record.origin.map_or("", |origin| origin.as_str()),
    );
    text("outrigger.security", record.security.slug());
    if let Some(destination) = record.destination {
        text("outrigger.destination", &destination.to_string());
    }
    if let Some(subset) = record.backend.and_then(|backend| backend.subset.as_ref()) {
        text("outrigger.subset", subset.as_str());
    }
    if let Some(peer) = record.peer {
        text("outrigger.peer", &peer.to_string());
    }
    match (record.reason, record.status) {
        (Some(reason), _) => text("error.type", reason.slug()),
        (None, status) if status >= 500 => text("error.type", &status.to_string()),
        (None, _) => {}
    }
    if let Some(endpoint) = record.endpoint {
        text("network.peer.address", &endpoint.ip().to_string());
        list.push(KeyValue::new(
            "network.peer.port",
            i64::from(endpoint.port()),
        ));
    }
    let mut number = |key: &'static str, value: i64| list.push(KeyValue::new(key, value));
    if let Some(port) = port {
        number("server.port", i64::from(port));
    }
    if record.status != 0 {
        number("http.response.status_code", i64::from(record.status));
    }
    if let Some(status) = record.grpc_status {
        number("rpc.grpc.status_code", i64::from(status));
    }
    number("outrigger.attempts", i64::from(record.attempts));
    list
}

fn split_authority(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (authority, None),
        },
        _ => (authority, None),
    }
}

fn cut(text: &str) -> &str {
    let end = (0..=TEXT_MAX.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or("")
}
