//! A resource, encoded once for all who subscribe to it.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes};
use outrigger_model::{EndpointState, Resource, ResourceName, SpiffeId};
use outrigger_proto::{DecodeError, Version, codec, wire::discovery::Resource as Submessage};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};

/// Field `resources` of DeltaDiscoveryResponse.
const RESOURCES_FIELD: u32 = 2;
/// Field `aliases` of Resource.
const ALIASES_FIELD: u32 = 4;

/// A resource and its bytes. Equal versions mean equal content.
#[derive(Debug)]
pub(super) struct EncodedResource {
    pub(super) name: ResourceName,
    pub(super) version: Version,
    /// Who may have it; `None`: everybody in the mesh.
    pub(super) audience: Option<SpiffeId>,
    /// Endpoints that take work, of an EndpointShard.
    pub(super) ready: Box<[SocketAddr]>,
    /// Number of shards, of a Destination.
    pub(super) shards: u16,
    /// The `Resource` submessage without aliases: those differ by sidecar, come last in the
    /// order of fields, and are appended.
    body: Bytes,
}

impl EncodedResource {
    /// Encodes, and decodes again as a sidecar will: better one error here than a NACK from each.
    pub(super) fn new(resource: &Resource) -> Result<Self, DecodeError> {
        let name = resource.name();
        let kind = name.kind();
        let bytes = codec::encode(resource);
        codec::decode(kind, &bytes)?;
        let version = codec::version(kind, &bytes);
        let mut submessage = Submessage {
            version: version.to_string(),
            name: name.to_string(),
            ..Submessage::default()
        };
        let any = submessage.resource.get_or_insert_default();
        any.type_url = kind.type_url().to_owned();
        any.value = bytes.into();
        let mut audience = None;
        let mut ready = Vec::new();
        let mut shards = 0;
        match resource {
            Resource::InboundPolicy(policy) => audience = Some(policy.identity.clone()),
            Resource::EndpointShard(shard) => {
                let endpoints = shard.endpoints.iter();
                ready.extend(
                    endpoints
                        .filter(|endpoint| endpoint.state == EndpointState::Ready)
                        .map(|endpoint| endpoint.address),
                );
            }
            Resource::Destination(destination) => shards = destination.shards,
            Resource::RouteTable(_) | Resource::TrustBundle(_) | Resource::MeshSettings(_) => {}
        }
        Ok(Self {
            name,
            version,
            audience,
            ready: ready.into(),
            shards,
            body: submessage.encode_to_vec().into(),
        })
    }

    /// Whether an endpoint that took work does not any more: news that should not wait.
    pub(super) fn loses_endpoint(&self, next: &Self) -> bool {
        self.ready
            .iter()
            .any(|address| !next.ready.contains(address))
    }

    /// Bytes in a response, with these aliases.
    pub(super) fn encoded_len<T: AsRef<str>>(&self, aliases: &[T]) -> usize {
        let len = self.submessage_len(aliases);
        key_len(RESOURCES_FIELD) + encoded_len_varint(wide(len)) + len
    }

    fn submessage_len<T: AsRef<str>>(&self, aliases: &[T]) -> usize {
        let alias = |alias: &T| {
            let len = alias.as_ref().len();
            key_len(ALIASES_FIELD) + encoded_len_varint(wide(len)) + len
        };
        self.body.len() + aliases.iter().map(alias).sum::<usize>()
    }

    /// Appends the field of a response.
    pub(super) fn encode<T: AsRef<str>>(&self, aliases: &[T], buffer: &mut impl BufMut) {
        encode_key(RESOURCES_FIELD, WireType::LengthDelimited, buffer);
        encode_varint(wide(self.submessage_len(aliases)), buffer);
        buffer.put_slice(&self.body);
        for alias in aliases {
            put_text(ALIASES_FIELD, alias.as_ref(), buffer);
        }
    }
}

/// A string field.
pub(super) fn put_text(field: u32, text: &str, buffer: &mut impl BufMut) {
    encode_key(field, WireType::LengthDelimited, buffer);
    encode_varint(wide(text.len()), buffer);
    buffer.put_slice(text.as_bytes());
}

/// Bytes of a string field.
pub(super) fn text_len(field: u32, text: &str) -> usize {
    key_len(field) + encoded_len_varint(wide(text.len())) + text.len()
}

/// Lengths in memory fit 64 bits.
fn wide(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
