//! What can be seen of sidecars: for reports, events and tests.

use std::{collections::BTreeMap, sync::Arc};

use outrigger_model::{ResourceKind, ResourceName, SpiffeId, WorkloadName};
use outrigger_proto::Version;

/// How far the present content of a resource has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResourceStatus {
    /// Connected sidecars that subscribe to it.
    pub subscribed: usize,
    /// Of these, how many accepted the present content (or its absence).
    pub acked: usize,
    /// Of these, how many refused the present content.
    pub rejected: usize,
}

/// A connected sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SidecarStatus {
    /// As it names itself.
    pub workload: WorkloadName,
    /// As its certificate proves.
    pub identity: SpiffeId,
    /// What it subscribes to and exists or did, with the version it last accepted; `None`: none
    /// yet, or it accepted that the resource does not exist.
    pub accepted: BTreeMap<ResourceName, Option<Version>>,
}

/// Something a sidecar did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiscoveryEvent {
    /// A stream began.
    Connected {
        /// As it names itself.
        sidecar: WorkloadName,
        /// As its certificate proves.
        identity: SpiffeId,
    },
    /// A stream ended.
    Disconnected {
        /// As it named itself.
        sidecar: WorkloadName,
    },
    /// A response was applied.
    Accepted {
        /// By whom.
        sidecar: WorkloadName,
        /// What it held, removals included.
        names: Arc<[ResourceName]>,
    },
    /// A response was refused: the sidecar works on with what it had.
    Rejected {
        /// By whom.
        sidecar: WorkloadName,
        /// Kind of the response.
        kind: ResourceKind,
        /// What it held, removals included.
        names: Arc<[ResourceName]>,
        /// The sidecar's words, at most 512 characters.
        reason: Arc<str>,
    },
}
