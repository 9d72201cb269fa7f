//! What tests over real processes share: a mesh started from manifests, with its addresses.

mod mesh;

pub use mesh::{Mesh, Workload, free_port};
