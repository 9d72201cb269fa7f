//! Outrigger's sidecar: takes an application's traffic in and out of the mesh.
//!
//! Workers carry traffic ([`worker`], [`accept`], [`outbound`], [`inbound`], the engines [`h1`] and
//! [`http2`]); one more thread runs discovery, certificates, export and admin (`control`). They meet
//! in the [`snapshot`], which the control thread alone replaces.

pub mod accept;
pub mod admin;
pub mod await_ready;
pub mod bootstrap;
pub mod cluster;
pub mod control;
pub mod detect;
pub mod drain;
pub mod ending;
mod engine;
pub mod exchange;
pub mod h1;
pub mod hold;
pub mod http2;
pub mod inbound;
pub mod io;
pub mod listeners;
pub mod outbound;
pub mod overload;
pub mod reason;
pub mod sidecar;
pub mod snapshot;
pub mod tcp;
mod tcp_path;
pub mod telemetry;
pub mod tls;
pub mod upstream;
pub mod worker;
