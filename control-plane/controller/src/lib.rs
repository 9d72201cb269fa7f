//! controller
pub mod identity;
pub mod transport;
