//! The codec between a resource of the model and its bytes on the wire.
//!
//! - Canonical: equal values give equal bytes on every replica (fields in order of number, no maps,
//!   sets and dictionaries sorted), so that a hash of the bytes is a version.
//! - Exact: `decode(kind, &encode(&value)) == value` for every value that keeps the model's rules.
//! - Strict: an absent bound, an unknown enum value, a number out of range, a list too long is an
//!   error that names its field, never a guess. The sidecar answers it with a NACK. Unknown fields
//!   are skipped, so that an older sidecar can follow a newer control plane.
//! - Bounded: bytes are capped before parsing, counts before anything of the model is built.

mod bound;
mod destination;
mod endpoint;
mod error;
mod field;
mod inbound;
mod limit;
mod mesh;
mod route;
#[cfg(test)]
mod tests;
mod version;

use bytes::Bytes;
use outrigger_model::{Resource, ResourceKind};
use prost::Message;

use crate::wire::resource as wire;

pub use error::{DecodeError, Problem};
pub use limit::{
    BACKENDS_PER_RULE_MAX, FIELD_CHANGES_MAX, HEADERS_PER_MATCH_MAX, HOSTS_MAX, HTTP_RULES_MAX,
    INBOUND_PORTS_MAX, MATCHES_PER_RULE_MAX, QUERY_PER_MATCH_MAX, REGEX_CHARS_MAX,
    RESOURCE_BYTES_MAX, ROOTS_MAX, STATUSES_MAX, SUBSETS_MAX, TCP_RULES_MAX, VIPS_MAX,
};
pub use version::{InvalidVersion, Version, version};

/// Canonical bytes of a resource: the value of the `Any` whose type is
/// [`ResourceKind::type_url`]. Lists that the model keeps sorted are sorted here if they are not.
#[must_use]
pub fn encode(resource: &Resource) -> Bytes {
    let bytes = match resource {
        Resource::Destination(value) => destination::encode(value).encode_to_vec(),
        Resource::EndpointShard(value) => endpoint::encode(value).encode_to_vec(),
        Resource::RouteTable(value) => route::encode(value).encode_to_vec(),
        Resource::InboundPolicy(value) => inbound::encode(value).encode_to_vec(),
        Resource::TrustBundle(value) => mesh::encode_bundle(value).encode_to_vec(),
        Resource::MeshSettings(value) => mesh::encode_settings(value).encode_to_vec(),
    };
    bytes.into()
}

/// The resource that [`encode`] made these bytes from.
///
/// # Errors
/// When the bytes are no message of that kind, or a field breaks a rule of the model or a limit of
/// this module; the error names the field.
pub fn decode(kind: ResourceKind, bytes: &[u8]) -> Result<Resource, DecodeError> {
    if bytes.len() > RESOURCE_BYTES_MAX {
        return Err(DecodeError::TooLarge {
            kind,
            bytes: bytes.len(),
        });
    }
    let malformed = |source| DecodeError::Malformed { kind, source };
    let resource = match kind {
        ResourceKind::Destination => {
            let message = wire::Destination::decode(bytes).map_err(malformed)?;
            destination::decode(&message).map(Resource::Destination)
        }
        ResourceKind::EndpointShard => {
            let message = wire::EndpointShard::decode(bytes).map_err(malformed)?;
            endpoint::decode(&message).map(Resource::EndpointShard)
        }
        ResourceKind::RouteTable => {
            let message = wire::RouteTable::decode(bytes).map_err(malformed)?;
            route::decode(&message).map(Resource::RouteTable)
        }
        ResourceKind::InboundPolicy => {
            let message = wire::InboundPolicy::decode(bytes).map_err(malformed)?;
            inbound::decode(&message).map(Resource::InboundPolicy)
        }
        ResourceKind::TrustBundle => {
            let message = wire::TrustBundle::decode(bytes).map_err(malformed)?;
            mesh::decode_bundle(&message).map(Resource::TrustBundle)
        }
        ResourceKind::MeshSettings => {
            let message = wire::MeshSettings::decode(bytes).map_err(malformed)?;
            mesh::decode_settings(&message).map(Resource::MeshSettings)
        }
    };
    resource.map_err(|error| DecodeError::Field {
        kind,
        field: error.path,
        problem: error.problem,
    })
}
