//! Captured mode, proven in network namespaces: two pods with an application and a sidecar each,
//! the rules of `outrigger-proxy redirect`, the real control plane, and a neighbour outside the mesh.
//!
//! `netns OUTRIGGER_PROXY`, as root, with `ip` (iproute2), `nft` (nftables) and `setpriv`
//! (util-linux). What is missing fails. Traffic stays in the namespaces made here; they and every
//! process started in them are gone at the end, however it ends.

mod application;
mod cases;
mod client;
mod ground;
mod mesh;
mod wire;

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(proxy), None) = (arguments.next(), arguments.next()) else {
        bail!("usage: netns OUTRIGGER_PROXY");
    };
    let proxy = proxy
        .canonicalize()
        .with_context(|| format!("no {}", proxy.display()))?;
    ensure!(
        rustix::process::geteuid().is_root(),
        "network namespaces need root"
    );
    cases::run(&proxy)
}
