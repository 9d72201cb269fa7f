//! The one narrow view of a request that routing, resilience and telemetry know.
//!
//! HTTP/1 and HTTP/2 engines implement it over their own representation; decisions see neither.

/// Read access to a request head. Implementations do not allocate.
pub trait RequestView {
    /// The method, case-sensitive (RFC 9110 §9.1).
    fn method(&self) -> &str;

    /// The path without query, as received.
    fn path(&self) -> &str;

    /// Calls `visit` with each value of the fields of this name (given in lower case), in order.
    fn visit_header(&self, name_lowercase: &str, visit: &mut dyn FnMut(&[u8]));
}
