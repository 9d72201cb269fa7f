//! The codec between model and wire.
