//! Metrics, access log and traces: what the request path tells, and how it is kept and shown.

mod record;

pub use record::{Carried, Direction, RequestRecord, Security};
