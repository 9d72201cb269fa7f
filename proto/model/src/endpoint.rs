//! Endpoints, in shards of at most 64 so that a change to one moves little.

use std::{net::SocketAddr, sync::Arc};

use crate::{ShardName, SpiffeId, SubsetName, Weight};

/// Largest number of endpoints in one shard: one change then re-sends a few kilobytes at most.
pub const ENDPOINTS_PER_SHARD_MAX: usize = 64;

/// Some endpoints of a destination. Columnar on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointShard {
    /// Key.
    pub name: ShardName,
    /// At most [`ENDPOINTS_PER_SHARD_MAX`], in the order of their addresses.
    pub endpoints: Vec<Endpoint>,
}

/// One address of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where to connect.
    pub address: SocketAddr,
    /// Share of load relative to the others.
    pub weight: Weight,
    /// Where it runs.
    pub locality: Locality,
    /// Who answers there, and so whether TLS is spoken.
    pub peer: Peer,
    /// Whether it takes new work.
    pub state: EndpointState,
    /// Subsets of the destination that hold it, sorted.
    pub subsets: Vec<SubsetName>,
}

/// Region, zone and sub-zone, each possibly empty (Istio's `region/zone/subzone`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Locality {
    /// `topology.kubernetes.io/region`.
    pub region: Arc<str>,
    /// `topology.kubernetes.io/zone`.
    pub zone: Arc<str>,
    /// `topology.istio.io/subzone`.
    pub subzone: Arc<str>,
}

/// Who answers at an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A sidecar that must prove this identity; it never gets plain text.
    Meshed(SpiffeId),
    /// No sidecar: plain text.
    Plain,
}

/// Whether an endpoint takes new work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndpointState {
    /// Yes.
    Ready,
    /// Terminating: what is in flight ends, nothing new is sent while others are ready.
    Draining,
}
