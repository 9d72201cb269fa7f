//! Outrigger's sidecar: takes an application's traffic in and out of the mesh.
//!
//! Workers carry traffic (`worker`, `accept`, `outbound`, `inbound`, the engines [`h1`] and
//! [`http2`]); one more thread runs discovery, certificates, export and admin (`control`). They meet
//! in the [`snapshot`], which the control thread alone replaces.

pub mod bootstrap;
pub mod detect;
pub mod drain;
pub mod exchange;
pub mod h1;
pub mod http2;
pub mod io;
pub mod reason;
pub mod snapshot;
pub mod tcp;
pub mod telemetry;
pub mod tls;
pub mod upstream;
