//! InboundPolicy: what a sidecar does with traffic for its own workload.

use crate::{Port, Protocol, SpiffeId, WorkloadName};

/// Policy of one workload class, sent only to sidecars that hold `identity`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundPolicy {
    /// Key.
    pub name: WorkloadName,
    /// The identity that sidecars of this class prove.
    pub identity: SpiffeId,
    /// For ports not listed below.
    pub default_mtls: MtlsMode,
    /// Known ports of the application, sorted by port.
    pub ports: Vec<InboundPort>,
}

/// One port of the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundPort {
    /// The port.
    pub port: Port,
    /// What the application speaks there.
    pub protocol: Protocol,
    /// Who may connect.
    pub mtls: MtlsMode,
}

/// Whether plain text is accepted (DEF-31).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MtlsMode {
    /// Only peers that prove an identity of the mesh: the default.
    Strict,
    /// Also plain text.
    Permissive,
}
