//! What tests over real processes share: a mesh started from manifests ([`Mesh`] on a [`Folder`]),
//! clients and addresses for it, waiting with a deadline, and the differential check against real
//! servers and clients.
//!
//! What a program must be able to report is an error; what only ends a test panics, and says so.

pub mod differential;
mod folder;
pub mod http1;
mod loopback;
mod mesh;
mod page;
mod program;
mod wait;

pub use folder::Folder;
pub use loopback::{free_address, free_port};
pub use mesh::{Mesh, Workload};
pub use page::sum;
pub use program::{Program, is_gone, signal};
pub use wait::{PATIENCE, eventually, wait_until};
