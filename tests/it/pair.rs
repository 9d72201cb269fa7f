//! Two sidecars in one process: real requests through a client's and a server's worker, mutual TLS
//! between them, counted at the application behind.
//!
//! A test makes a [`mesh::Mesh`], starts applications ([`peer`]), says with [`plan`] what the
//! client's sidecar knows, and calls. Everything runs on one thread; nothing sleeps to settle.

mod change;
mod connections;
mod ends;
mod filters;
mod floods;
mod http1;
mod http2;
mod identity;
mod inbound;
mod limits;
mod mesh;
mod opaque;
mod overload;
mod peer;
mod plan;
mod resilience;
mod routing;
mod wire;
mod workers;
