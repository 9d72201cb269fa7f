//! The control plane: where objects come from, and how what is compiled of them reaches sidecars.
//!
//! - [`source`]: a watched folder of manifests, or the Kubernetes API.
//! - [`cluster`]: what else is asked of that API: root, leadership.
//! - [`discovery`]: each sidecar gets the part that it uses.
//! - [`transport`]: the gRPC listener, TLS from the first byte.
//! - [`identity`]: certificates for workloads.
//! - [`injector`]: sidecars into pods.
//! - [`controller`]: all of it, assembled.

#[cfg(feature = "kubernetes")]
pub mod cluster;
pub mod controller;
pub mod discovery;
pub mod identity;
pub mod injector;
pub mod source;
pub mod transport;
