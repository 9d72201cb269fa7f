//! Trace context: which trace a request belongs to, whether it is recorded, and what goes upstream.
//!
//! W3C Trace Context (Level 1, strict) decides; where no `traceparent` is there, B3 is read, and
//! where B3 was spoken it is kept in step. The caller's decision stands; only a trace without one
//! is sampled here, by its id, so that every sidecar comes to the same answer.
//!
//! | incoming, tracing on | what is done |
//! | --- | --- |
//! | sampled | our span; headers name it |
//! | not sampled | headers pass untouched |
//! | none | new trace, announced with our decision |
//! | invalid, or two `traceparent` | new trace; the old `tracestate` goes |
//!
//! With tracing off every header passes untouched; the id is only read for the access log.
//! An unsampled request makes no span and allocates for its new header at most.

mod b3;
mod w3c;

use std::str;

use bytes::Bytes;
use outrigger_model::{Ratio, Tracing};
use outrigger_policy::RequestView;

use crate::exchange::RequestEdit;

/// What is done about traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// Headers pass, nothing is recorded.
    Off,
    /// Share of the traces that begin here.
    Ratio(Ratio),
}

impl Sampling {
    /// What the settings say.
    #[must_use]
    pub fn of(tracing: &Tracing) -> Self {
        match tracing {
            Tracing::Off => Self::Off,
            Tracing::Otlp { sampling, .. } => Self::Ratio(*sampling),
        }
    }
}

/// A trace and a span in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ids {
    /// Not zero.
    trace: u128,
    /// The caller's span; not zero.
    span: u64,
}

/// What a caller's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Incoming {
    /// No header.
    Absent,
    /// A header that is not valid, or several.
    Invalid,
    /// A trace; `None`: the decision is left to us (B3 only).
    Trace(Ids, Option<bool>),
    /// A decision without a trace (B3 only).
    Decision(bool),
}

/// What the headers sent upstream say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// What the caller sent.
    Pass,
    /// Our decision not to record.
    Announce,
    /// Our span.
    Record,
}

/// The trace context of one request.
#[derive(Debug, Clone)]
pub struct Context {
    role: Role,
    trace: u128,
    /// Caller's span, 0 for none.
    parent: u64,
    /// The span in the header sent on.
    span: u64,
    /// The header sent on; all zero if there is none.
    text: [u8; w3c::LENGTH],
    b3: b3::Style,
    /// A `tracestate` that belongs to an invalid `traceparent`.
    stale_state: bool,
}

impl Context {
    /// Reads the caller's headers and decides. `random` gives numbers that no caller can foresee.
    #[must_use]
    pub fn begin(
        request: &impl RequestView,
        sampling: Sampling,
        random: &mut impl FnMut() -> u64,
    ) -> Self {
        let mut incoming = w3c::read(request);
        let Sampling::Ratio(ratio) = sampling else {
            return match incoming {
                Incoming::Trace(ids, sampled) => Self::passed(ids, sampled == Some(true)),
                Incoming::Absent | Incoming::Invalid | Incoming::Decision(_) => Self::silent(),
            };
        };
        let stale_state = incoming == Incoming::Invalid && w3c::has_state(request);
        let mut b3 = b3::Style::None;
        if incoming == Incoming::Absent {
            (b3, incoming) = b3::read(request);
        }
        let (ids, decision) = match incoming {
            Incoming::Trace(ids, Some(false)) => return Self::passed(ids, false),
            Incoming::Decision(false) => return Self::silent(),
            Incoming::Trace(ids, decision) => (Some(ids), decision),
            Incoming::Decision(decision) => (None, Some(decision)),
            Incoming::Absent | Incoming::Invalid => (None, None),
        };
        let trace = ids.map_or_else(|| new_trace(random), |ids| ids.trace);
        let record = decision.unwrap_or_else(|| is_sampled(trace, ratio));
        let parent = ids.map_or(0, |ids| ids.span);
        // An unsampled trace keeps the caller's span as the parent of what follows.
        let span = if parent == 0 || record {
            not_zero(random())
        } else {
            parent
        };
        Self {
            role: if record { Role::Record } else { Role::Announce },
            trace,
            parent,
            span,
            text: w3c::format(Ids { trace, span }, record),
            b3,
            stale_state,
        }
    }

    /// A context that leaves no mark: for connections without requests.
    #[must_use]
    pub fn silent() -> Self {
        Self {
            role: Role::Pass,
            trace: 0,
            parent: 0,
            span: 0,
            text: [0; w3c::LENGTH],
            b3: b3::Style::None,
            stale_state: false,
        }
    }

    fn passed(ids: Ids, sampled: bool) -> Self {
        Self {
            trace: ids.trace,
            text: w3c::format(ids, sampled),
            ..Self::silent()
        }
    }

    /// Whether a span is made of this request.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.role == Role::Record
    }

    /// Sets the headers that go upstream; none where the caller's pass untouched.
    pub fn apply(&self, edit: &mut RequestEdit) {
        if self.role == Role::Pass {
            return;
        }
        edit.set
            .push(("traceparent", Bytes::copy_from_slice(&self.text)));
        if self.stale_state {
            // Level 1 §3.3.1.1 lets an empty value stand; the field cannot be dropped from here.
            edit.set.push(("tracestate", Bytes::new()));
        }
        self.b3.apply(self, edit);
    }

    /// `traceparent` as it goes upstream, for the access log; empty where there is none.
    #[must_use]
    pub fn traceparent(&self) -> &str {
        if self.trace == 0 {
            ""
        } else {
            str::from_utf8(&self.text).unwrap_or("")
        }
    }

    /// Trace, own span, and the caller's (0 for none), of a request that is recorded.
    pub(super) fn recorded(&self) -> Option<(u128, u64, u64)> {
        self.is_sampled()
            .then_some((self.trace, self.span, self.parent))
    }
}

fn new_trace(random: &mut impl FnMut() -> u64) -> u128 {
    (u128::from(random()) << 64) | u128::from(not_zero(random()))
}

fn not_zero(number: u64) -> u64 {
    number.max(1)
}

/// By the 56 low bits of the id, which Level 2 of the standard wants to be random.
fn is_sampled(trace: u128, ratio: Ratio) -> bool {
    let low = trace & ((1 << 56) - 1);
    (low * 1_000_000) >> 56 < u128::from(ratio.parts_per_million())
}

#[cfg(test)]
mod tests;
