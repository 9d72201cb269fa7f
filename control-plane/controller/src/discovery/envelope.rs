//! A response made of pre-encoded resources, and the gRPC codec that writes it.
//!
//! On the wire it is a DeltaDiscoveryResponse; in memory it shares each resource with all other
//! streams until the moment it is written.

use std::sync::Arc;

use outrigger_model::ResourceKind;
use outrigger_proto::wire::discovery::DeltaDiscoveryRequest;
use prost::Message;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use super::encoded::{EncodedResource, put_text, text_len};

/// Fields of DeltaDiscoveryResponse.
const TYPE_URL_FIELD: u32 = 4;
const NONCE_FIELD: u32 = 5;
const REMOVED_FIELD: u32 = 6;

/// One DeltaDiscoveryResponse.
#[derive(Debug)]
pub(super) struct Envelope {
    pub(super) kind: ResourceKind,
    pub(super) nonce: String,
    /// With the texts, other than its name, by which this sidecar subscribed to each.
    pub(super) resources: Vec<(Arc<EncodedResource>, Vec<Arc<str>>)>,
    pub(super) removed: Vec<Arc<str>>,
}

impl Envelope {
    /// Bytes that [`Self::encode`] writes.
    pub(super) fn encoded_len(&self) -> usize {
        let resources = self.resources.iter();
        let removed = self.removed.iter();
        resources
            .map(|(resource, aliases)| resource.encoded_len(aliases))
            .sum::<usize>()
            + removed.map(|name| removed_len(name)).sum::<usize>()
            + text_len(TYPE_URL_FIELD, self.kind.type_url())
            + text_len(NONCE_FIELD, &self.nonce)
    }

    fn encode(&self, buffer: &mut impl bytes::BufMut) {
        for (resource, aliases) in &self.resources {
            resource.encode(aliases, buffer);
        }
        put_text(TYPE_URL_FIELD, self.kind.type_url(), buffer);
        put_text(NONCE_FIELD, &self.nonce, buffer);
        for name in &self.removed {
            put_text(REMOVED_FIELD, name, buffer);
        }
    }
}

/// Bytes of one removal.
pub(super) fn removed_len(name: &str) -> usize {
    text_len(REMOVED_FIELD, name)
}

/// Requests in, [`Envelope`]s out.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct EnvelopeCodec;

impl Codec for EnvelopeCodec {
    type Encode = Envelope;
    type Decode = DeltaDiscoveryRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for EnvelopeCodec {
    type Item = Envelope;
    type Error = Status;

    fn encode(&mut self, item: Envelope, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        item.encode(buffer);
        Ok(())
    }
}

impl Decoder for EnvelopeCodec {
    type Item = DeltaDiscoveryRequest;
    type Error = Status;

    fn decode(
        &mut self,
        buffer: &mut DecodeBuf<'_>,
    ) -> Result<Option<DeltaDiscoveryRequest>, Status> {
        match DeltaDiscoveryRequest::decode(buffer) {
            Ok(request) => Ok(Some(request)),
            Err(error) => Err(Status::invalid_argument(format!(
                "not a DeltaDiscoveryRequest: {error}"
            ))),
        }
    }
}
