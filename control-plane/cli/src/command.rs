//! What each subcommand does.

pub(crate) mod control_plane;
pub(crate) mod up;
