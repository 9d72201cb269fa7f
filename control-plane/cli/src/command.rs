//! What each subcommand does.

#[cfg(feature = "kubernetes")]
pub(crate) mod control_plane;
pub(crate) mod inject;
pub(crate) mod up;
