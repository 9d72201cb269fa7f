//! Kinds and keys of objects.

use std::fmt;

use outrigger_model::{Hostname, Namespace};

/// The kinds that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1` Namespace.
    Namespace,
    /// `v1` ServiceAccount.
    ServiceAccount,
    /// `v1` Node.
    Node,
    /// `v1` Pod.
    Pod,
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io` EndpointSlice.
    EndpointSlice,
    /// `networking.istio.io` WorkloadEntry.
    WorkloadEntry,
    /// `networking.istio.io` ServiceEntry.
    ServiceEntry,
    /// `networking.istio.io` VirtualService.
    VirtualService,
    /// `networking.istio.io` DestinationRule.
    DestinationRule,
    /// `gateway.networking.k8s.io` HTTPRoute.
    HttpRoute,
    /// `gateway.networking.k8s.io` GRPCRoute.
    GrpcRoute,
    /// `gateway.networking.k8s.io` ReferenceGrant.
    ReferenceGrant,
}

const ISTIO_VERSIONS: &[&str] = &["v1", "v1beta1", "v1alpha3"];

impl Kind {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Namespace,
        Self::ServiceAccount,
        Self::Node,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::WorkloadEntry,
        Self::ServiceEntry,
        Self::VirtualService,
        Self::DestinationRule,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::ReferenceGrant,
    ];

    /// The name, as in `kind`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::ServiceAccount => "ServiceAccount",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::ServiceEntry => "ServiceEntry",
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::ReferenceGrant => "ReferenceGrant",
        }
    }

    /// API group, empty for the core group.
    #[must_use]
    pub fn group(self) -> &'static str {
        match self {
            Self::Namespace | Self::ServiceAccount | Self::Node | Self::Pod | Self::Service => "",
            Self::EndpointSlice => "discovery.k8s.io",
            Self::WorkloadEntry
            | Self::ServiceEntry
            | Self::VirtualService
            | Self::DestinationRule => "networking.istio.io",
            Self::HttpRoute | Self::GrpcRoute | Self::ReferenceGrant => "gateway.networking.k8s.io",
        }
    }

    /// Versions that are read; Istio's three are the same but for their name.
    #[must_use]
    pub fn versions(self) -> &'static [&'static str] {
        match self {
            Self::Namespace
            | Self::ServiceAccount
            | Self::Node
            | Self::Pod
            | Self::Service
            | Self::GrpcRoute => &["v1"],
            Self::EndpointSlice | Self::HttpRoute | Self::ReferenceGrant => &["v1", "v1beta1"],
            Self::WorkloadEntry
            | Self::ServiceEntry
            | Self::VirtualService
            | Self::DestinationRule => ISTIO_VERSIONS,
        }
    }

    /// Whether objects of this kind live in a namespace.
    #[must_use]
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node)
    }

    /// The kind of `apiVersion` and `kind`, if it is one that is used.
    #[must_use]
    pub fn find(api_version: &str, kind: &str) -> Option<Self> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        Self::ALL.into_iter().find(|known| {
            known.as_str() == kind && known.group() == group && known.versions().contains(&version)
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which object. The kind implies the API group; its version is no part of the key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Kind and group.
    pub kind: Kind,
    /// `metadata.namespace`, `default` if it names none; `None` for kinds without one.
    pub namespace: Option<Namespace>,
    /// `metadata.name`.
    pub name: Hostname,
}

impl ObjectKey {
    /// API group, empty for the core group.
    #[must_use]
    pub fn group(&self) -> &'static str {
        self.kind.group()
    }
}

/// `VirtualService/shop/orders`
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{}/{namespace}/{}", self.kind, self.name),
            None => write!(f, "{}/{}", self.kind, self.name),
        }
    }
}
