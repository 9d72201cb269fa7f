//! The wire between the planes: `.proto` files, the code generated from them, and the codec
//! between wire and model.
//!
//! - [`wire`]: generated messages and gRPC stubs. Discovery is the envelope of incremental xDS
//!   with resource types of our own (DESIGN §4); certificates have their own service (§6).
//! - [`codec`]: between a resource of the model and its bytes.
//!
//! Only this crate sees generated resource messages: both planes work on the model's types.

pub mod codec;
pub mod wire;
