//! The Istio front end: VirtualService and DestinationRule to the intermediate representation.
//!
//! Follows the field documentation of Istio 1.31 (networking/v1alpha3 `virtual_service.proto`,
//! `destination_rule.proto`). Works on documents that `schema` has walked: a value that it
//! found wrong is not used here, a condition that it found wrong or not supported never widens
//! a match in silence.

mod condition;
mod host;
mod policy;
mod reader;
mod retry;
mod routes;
mod string_match;

pub(crate) use condition::is_token;
pub(crate) use policy::{SUBSETS_MAX, read as read_policy};
pub(crate) use reader::{Reader, bound, items, number, time};
pub(crate) use routes::read as read_routes;
