//! The hostile corpus against real implementations: what Outrigger's model says of each row is
//! what real servers and clients behind a pair of sidecars must see, no more and no less.
//!
//! [`requests`] sends every row of the request and chunk tables, with a tagged request behind it,
//! through the mesh to every server of [`servers`]; what each saw ([`record`]) is compared at the
//! end, by tag. [`direct`] sends the same bytes to the servers without the mesh and tells how
//! they differ from the model. [`responses`] lets a bare socket answer with the rows of the
//! response and chunk tables, and real clients read them through the mesh.

pub mod corpus;
pub mod direct;
mod ground;
pub mod manifests;
pub mod record;
pub mod requests;
pub mod responses;
pub mod servers;
mod tally;
pub mod wire;

pub use tally::Tally;
