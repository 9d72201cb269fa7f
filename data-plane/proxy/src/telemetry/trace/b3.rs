//! B3, the form that Zipkin's libraries speak: one `b3` header, or several `x-b3-*`.

use bytes::Bytes;
use outrigger_policy::RequestView;

use super::{Context, Ids, Incoming, Role, w3c::hex};
use crate::exchange::RequestEdit;

/// In which form the caller spoke B3; it is answered in the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Not at all.
    None,
    /// `b3`.
    Single,
    /// `x-b3-traceid` and the rest.
    Multi,
}

/// The caller's B3 headers; what is not valid counts as absent, as B3's own libraries do.
pub(super) fn read(request: &impl RequestView) -> (Style, Incoming) {
    let mut single = None;
    request.visit_header("b3", &mut |value| {
        single.get_or_insert_with(|| parse_single(value));
    });
    if let Some(Some(incoming)) = single {
        return (Style::Single, incoming);
    }
    match read_multi(request) {
        Some(incoming) => (Style::Multi, incoming),
        None => (Style::None, Incoming::Absent),
    }
}

/// `{trace}-{span}[-{state}[-{parent}]]`, or the state alone.
fn parse_single(value: &[u8]) -> Option<Incoming> {
    let mut parts = value.split(|byte| *byte == b'-');
    let first = parts.next()?;
    let Some(span) = parts.next() else {
        return state(first).map(Incoming::Decision);
    };
    let ids = ids(first, span)?;
    let Some(text) = parts.next() else {
        return Some(Incoming::Trace(ids, None));
    };
    let parent_valid = parts
        .next()
        .is_none_or(|parent| parent.len() == 16 && hex(parent).is_some());
    let decision = state(text).filter(|_| parent_valid && parts.next().is_none())?;
    Some(Incoming::Trace(ids, Some(decision)))
}

fn read_multi(request: &impl RequestView) -> Option<Incoming> {
    let mut decision = None;
    request.visit_header("x-b3-sampled", &mut |value| decision = state(value));
    request.visit_header("x-b3-flags", &mut |value| {
        if value == b"1" {
            decision = Some(true);
        }
    });
    let mut trace = None;
    request.visit_header("x-b3-traceid", &mut |value| trace = trace_id(value));
    let mut span = None;
    request.visit_header("x-b3-spanid", &mut |value| span = span_id(value));
    match (trace, span) {
        (Some(trace), Some(span)) => Some(Incoming::Trace(Ids { trace, span }, decision)),
        _ => decision.map(Incoming::Decision),
    }
}

/// `1` or `d` (debug) is yes, `0` is no; `true` and `false` come from old libraries.
fn state(text: &[u8]) -> Option<bool> {
    match text {
        b"1" | b"d" | b"true" => Some(true),
        b"0" | b"false" => Some(false),
        _ => None,
    }
}

fn ids(trace: &[u8], span: &[u8]) -> Option<Ids> {
    Some(Ids {
        trace: trace_id(trace)?,
        span: span_id(span)?,
    })
}

/// 32 digits, or 16 for the short ids of old libraries.
fn trace_id(digits: &[u8]) -> Option<u128> {
    let trace = hex(digits).filter(|_| matches!(digits.len(), 16 | 32))?;
    (trace != 0).then_some(trace)
}

fn span_id(digits: &[u8]) -> Option<u64> {
    let span = hex(digits).filter(|_| digits.len() == 16)?;
    u64::try_from(span).ok().filter(|span| *span != 0)
}

impl Style {
    /// Names our span, or our decision, in the form that the caller spoke.
    pub(super) fn apply(self, context: &Context, edit: &mut RequestEdit) {
        let Context {
            trace,
            span,
            parent,
            ..
        } = context;
        let sampled = if context.role == Role::Record {
            "1"
        } else {
            "0"
        };
        match self {
            Self::None => {}
            Self::Single => {
                let text = format!("{trace:032x}-{span:016x}-{sampled}");
                edit.set.push(("b3", Bytes::from(text)));
            }
            Self::Multi => {
                edit.set
                    .push(("x-b3-traceid", Bytes::from(format!("{trace:032x}"))));
                edit.set
                    .push(("x-b3-spanid", Bytes::from(format!("{span:016x}"))));
                if context.role == Role::Record && *parent != 0 {
                    edit.set
                        .push(("x-b3-parentspanid", Bytes::from(format!("{parent:016x}"))));
                }
                edit.set
                    .push(("x-b3-sampled", Bytes::from_static(sampled.as_bytes())));
            }
        }
    }
}
