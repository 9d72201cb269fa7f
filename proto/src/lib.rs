//! The wire between the planes: `.proto` files, the code generated from them, and the codec
//! between wire and model.
//!
//! - [`wire`]: generated messages and gRPC stubs. Discovery is the envelope of incremental xDS
//!   with resource types of our own (DESIGN §4); certificates have their own service (§6).
//! - [`codec`]: [`encode`] and [`decode`] between a [`Resource`](outrigger_model::Resource) and
//!   its bytes, and [`version`], their content hash.
//!
//! Both planes work on the model's types; only the codec sees generated resource messages.

pub mod codec;
pub mod wire;

pub use codec::{DecodeError, Version, decode, encode, version};
