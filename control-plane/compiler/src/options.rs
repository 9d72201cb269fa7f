//! What holds for the whole mesh, apart from objects.

use outrigger_model::{MeshSettings, Namespace};

/// Settings of a compiler. The same on every replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Passed on to sidecars; trust domain and cluster domain are used here too.
    pub settings: MeshSettings,
    /// Where DestinationRules for the whole mesh live; `outrigger-system` by default.
    pub root_namespace: Namespace,
    /// Which WorkloadEntries have a sidecar.
    pub membership: Membership,
}

/// Which WorkloadEntries have a sidecar, so that nothing but mutual TLS is spoken to them. Not about
/// `endpoints` of a ServiceEntry: those are meshed where that label says so and the service is
/// `MESH_INTERNAL`, and spoken to in plain text elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Membership {
    /// Those labelled `security.istio.io/tlsMode: istio`, as in Istio.
    Labelled,
    /// All, whatever that label says: the local mesh starts a sidecar for each.
    All,
}
