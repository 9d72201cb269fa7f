//! The control plane, as a library: sources, discovery, certificates, and the listener they share.
pub mod discovery;
pub mod identity;
pub mod transport;
