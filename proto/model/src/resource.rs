//! The unit the control plane streams: a kind, a name, a value.

use std::{fmt, str::FromStr};

use crate::{
    Destination, DestinationName, EndpointShard, InboundPolicy, InvalidValue, MeshSettings,
    RouteTable, ShardName, TrustBundle, TrustDomain, WorkloadName,
};

/// The kinds of resources (DESIGN §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceKind {
    /// [`Destination`].
    Destination,
    /// [`EndpointShard`].
    EndpointShard,
    /// [`RouteTable`].
    RouteTable,
    /// [`InboundPolicy`].
    InboundPolicy,
    /// [`TrustBundle`].
    TrustBundle,
    /// [`MeshSettings`].
    MeshSettings,
}

impl ResourceKind {
    /// All kinds, in the order in which a change is best applied: what is named before what
    /// names it.
    pub const ALL: [Self; 6] = [
        Self::MeshSettings,
        Self::TrustBundle,
        Self::InboundPolicy,
        Self::EndpointShard,
        Self::Destination,
        Self::RouteTable,
    ];

    /// The kind's name, also its message in `outrigger.resource.v1`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Destination => "Destination",
            Self::EndpointShard => "EndpointShard",
            Self::RouteTable => "RouteTable",
            Self::InboundPolicy => "InboundPolicy",
            Self::TrustBundle => "TrustBundle",
            Self::MeshSettings => "MeshSettings",
        }
    }

    /// The `type_url` on the discovery stream.
    #[must_use]
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Destination => "type.googleapis.com/outrigger.resource.v1.Destination",
            Self::EndpointShard => "type.googleapis.com/outrigger.resource.v1.EndpointShard",
            Self::RouteTable => "type.googleapis.com/outrigger.resource.v1.RouteTable",
            Self::InboundPolicy => "type.googleapis.com/outrigger.resource.v1.InboundPolicy",
            Self::TrustBundle => "type.googleapis.com/outrigger.resource.v1.TrustBundle",
            Self::MeshSettings => "type.googleapis.com/outrigger.resource.v1.MeshSettings",
        }
    }

    /// The kind of a `type_url`, if it is one of ours.
    #[must_use]
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }
}

/// Kind and key of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceName {
    /// Key of a [`Destination`].
    Destination(DestinationName),
    /// Key of an [`EndpointShard`].
    EndpointShard(ShardName),
    /// Key of a [`RouteTable`].
    RouteTable(DestinationName),
    /// Key of an [`InboundPolicy`].
    InboundPolicy(WorkloadName),
    /// Key of a [`TrustBundle`].
    TrustBundle(TrustDomain),
    /// The one [`MeshSettings`], `mesh`.
    MeshSettings,
}

impl ResourceName {
    /// Parses the canonical name that [`fmt::Display`] prints.
    ///
    /// # Errors
    /// When the text is not a key of that kind.
    pub fn parse(kind: ResourceKind, text: &str) -> Result<Self, InvalidValue> {
        Ok(match kind {
            ResourceKind::Destination => Self::Destination(DestinationName::from_str(text)?),
            ResourceKind::EndpointShard => Self::EndpointShard(ShardName::from_str(text)?),
            ResourceKind::RouteTable => Self::RouteTable(DestinationName::from_str(text)?),
            ResourceKind::InboundPolicy => Self::InboundPolicy(WorkloadName::from_str(text)?),
            ResourceKind::TrustBundle => Self::TrustBundle(TrustDomain::parse(text)?),
            ResourceKind::MeshSettings if text == "mesh" => Self::MeshSettings,
            ResourceKind::MeshSettings => {
                return Err(InvalidValue::new(
                    "settings name",
                    text,
                    "the only name is mesh",
                ));
            }
        })
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> ResourceKind {
        match self {
            Self::Destination(_) => ResourceKind::Destination,
            Self::EndpointShard(_) => ResourceKind::EndpointShard,
            Self::RouteTable(_) => ResourceKind::RouteTable,
            Self::InboundPolicy(_) => ResourceKind::InboundPolicy,
            Self::TrustBundle(_) => ResourceKind::TrustBundle,
            Self::MeshSettings => ResourceKind::MeshSettings,
        }
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Destination(name) | Self::RouteTable(name) => name.fmt(f),
            Self::EndpointShard(name) => name.fmt(f),
            Self::InboundPolicy(name) => name.fmt(f),
            Self::TrustBundle(name) => name.fmt(f),
            Self::MeshSettings => f.write_str("mesh"),
        }
    }
}

/// One resource of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// See [`Destination`].
    Destination(Destination),
    /// See [`EndpointShard`].
    EndpointShard(EndpointShard),
    /// See [`RouteTable`].
    RouteTable(RouteTable),
    /// See [`InboundPolicy`].
    InboundPolicy(InboundPolicy),
    /// See [`TrustBundle`].
    TrustBundle(TrustBundle),
    /// See [`MeshSettings`].
    MeshSettings(MeshSettings),
}

impl Resource {
    /// Kind and key.
    #[must_use]
    pub fn name(&self) -> ResourceName {
        match self {
            Self::Destination(value) => ResourceName::Destination(value.name.clone()),
            Self::EndpointShard(value) => ResourceName::EndpointShard(value.name.clone()),
            Self::RouteTable(value) => ResourceName::RouteTable(value.name.clone()),
            Self::InboundPolicy(value) => ResourceName::InboundPolicy(value.name.clone()),
            Self::TrustBundle(value) => ResourceName::TrustBundle(value.trust_domain.clone()),
            Self::MeshSettings(_) => ResourceName::MeshSettings,
        }
    }
}
