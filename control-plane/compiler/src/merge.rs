//! Merging: which of several objects decides, once, on the intermediate representation.
//!
//! `policy`: DestinationRules of the client's namespace, then the service's, then the root
//! namespace; within a namespace, the most exact host, then the oldest object.
//! `routes`: VirtualServices of one host in the order of their age.
//! `attached`: HTTPRoutes and GRPCRoutes of one service, match by match; they go before
//! VirtualServices.

pub(crate) mod attached;
pub(crate) mod policy;
pub(crate) mod routes;
pub(crate) mod targets;
