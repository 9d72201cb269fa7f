//! Trace context: an application in a mesh passes on what it was sent, or traces end there.

use http::{HeaderMap, HeaderName};

/// W3C trace context and baggage, B3 in both its forms, and the request's name.
const PASSED_ON: [HeaderName; 10] = [
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("baggage"),
    HeaderName::from_static("b3"),
    HeaderName::from_static("x-b3-traceid"),
    HeaderName::from_static("x-b3-spanid"),
    HeaderName::from_static("x-b3-parentspanid"),
    HeaderName::from_static("x-b3-sampled"),
    HeaderName::from_static("x-b3-flags"),
    HeaderName::from_static("x-request-id"),
];

/// The headers of a request that its own calls carry too.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace(HeaderMap);

impl Trace {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut kept = HeaderMap::new();
        for name in &PASSED_ON {
            for value in headers.get_all(name) {
                kept.append(name.clone(), value.clone());
            }
        }
        Self(kept)
    }

    /// Adds them to the headers of a call.
    pub(crate) fn put(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.0 {
            headers.append(name.clone(), value.clone());
        }
    }
}
