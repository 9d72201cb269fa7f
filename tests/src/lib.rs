//! What tests over real processes share: a mesh started from manifests, with its addresses, and
//! the differential check against real servers and clients.

pub mod differential;
mod mesh;

pub use mesh::{Mesh, Workload, free_port};
