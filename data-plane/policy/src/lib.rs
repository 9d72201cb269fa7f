//! policy
mod request;

pub use request::RequestView;
