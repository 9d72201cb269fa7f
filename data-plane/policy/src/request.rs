//! The one narrow view of a request that routing, resilience and telemetry know.
//!
//! Both HTTP engines implement it over what they already hold (raw spans for HTTP/1, a decoded
//! map for HTTP/2): nothing is copied to be looked at.

/// A request's head, read-only.
pub trait RequestView {
    /// The method as received, case-sensitive (RFC 9110 §9.1).
    fn method(&self) -> &str;

    /// The path as received, without query and fragment.
    fn path(&self) -> &str;

    /// The query as received, what follows the first `?`; `None` where there is no `?`.
    fn query(&self) -> Option<&str>;

    /// Calls `visit` with the value of every field of that name, in order, without surrounding
    /// white space. `name_lowercase` is in lower case; fields match it in any case.
    fn visit_header(&self, name_lowercase: &str, visit: &mut dyn FnMut(&[u8]));
}
