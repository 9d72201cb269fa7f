//! The typed resources and identifiers that both planes share.
//!
//! The compiler produces these values, `outrigger-proto` carries them, the sidecar works from them:
//! a field has one definition, here. Every value is complete: defaults are filled in by whoever
//! builds the resource, so that a sidecar never guesses what an absent field means (DESIGN §4).
//!
//! Pure: no I/O, clock, runtime or global randomness. Identifiers are newtypes with fallible
//! constructors (`parse`, `new`); what exists is valid.

#![warn(clippy::wildcard_enum_match_arm)]

mod destination;
mod endpoint;
mod error;
mod filter;
mod identity;
mod inbound;
mod mesh;
mod name;
mod number;
mod resource;
mod route;

pub use destination::{
    Balancer, ConnectionLimits, Destination, EjectionThreshold, Lifetime, OutlierDetection,
    Protocol, RequestsPerConnection, Subset, TrafficPolicy,
};
pub use endpoint::{
    ENDPOINTS_PER_SHARD_MAX, Endpoint, EndpointShard, EndpointState, Locality, Peer,
};
pub use error::InvalidValue;
pub use filter::{
    FieldEdit, FieldName, FieldValue, Filters, HostRewrite, NewField, PathRewrite, PathText,
    Redirect, RedirectStatus, Scheme,
};
pub use identity::{SpiffeId, TrustDomain};
pub use inbound::{InboundPolicy, InboundPort, MtlsMode};
pub use mesh::{AccessLog, MeshSettings, Tracing, TrustBundle};
pub use name::{
    Authority, DestinationName, Hostname, Namespace, Origin, ServiceAccount, ShardName, SubsetName,
    WorkloadName,
};
pub use number::{Percent, Port, Ratio, Weight};
pub use resource::{Resource, ResourceKind, ResourceName};
pub use route::{
    Backend, Backoff, HeaderMatch, HeaderTest, HttpAction, HttpBackend, HttpMatch, HttpRule,
    HttpTarget, MethodMatch, PathMatch, QueryMatch, RetryBudget, RetryConditions, RetryPolicy,
    RouteTable, TcpRule, TextMatch, Timeout, WeightedBackend,
};
