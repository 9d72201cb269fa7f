//! Generates messages and gRPC stubs from `proto/`, in pure Rust (no protoc).
//!
//! Bytes fields become `bytes::Bytes`, so that decoding shares the receive buffer. Servers stand
//! behind the feature `server`: the sidecar is a client only.

use std::error::Error;

const FILES: [&str; 7] = [
    "envoy/service/discovery/v3/discovery.proto",
    "outrigger/identity/v1/identity.proto",
    "outrigger/resource/v1/destination.proto",
    "outrigger/resource/v1/endpoint.proto",
    "outrigger/resource/v1/inbound.proto",
    "outrigger/resource/v1/mesh.proto",
    "outrigger/resource/v1/route.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(())
}
