//! A small e-commerce system to try a service mesh on: one binary, a role for each application.
//!
//! ```text
//! storefront ─► order-service ─► inventory (gRPC), payments v1 and v2 (gRPC), shipping, notifications
//!            └► product-service v1 and v2
//! ```
//!
//! The applications know nothing of the mesh. They call each other at `<SERVICE>_SERVICE_HOST` and
//! `<SERVICE>_SERVICE_PORT`, as Kubernetes sets them, and pass on trace headers. Each can be told
//! while it runs to fail, hang or be slow ([`Fault`]), and counts the requests that really reached
//! it ([`stats`]), so that what the mesh did can be checked at the far end.
//!
//! Where things are: [`app`] accepts connections and drains; `exchange` takes one request through
//! fault, count and role; `roles` has the applications; `peers` calls the next one.
//! Deliberately absent: storage, authentication, retries (the mesh has them).

pub mod app;
pub mod args;
pub mod catalog;
pub mod control;
mod exchange;
pub mod peers;
mod reply;
mod roles;
pub mod stats;
mod trace;

use std::io::Write as _;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

pub use app::{App, Config};
pub use args::Role;
pub use control::{Fault, Mode};
pub use peers::{Addresses, Service};

/// The messages, clients and servers of `proto/shop.proto`.
#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::missing_errors_doc,
    reason = "generated code"
)]
pub mod pb {
    tonic::include_proto!("outrigger.shop.v1");
}

/// Runs one role until SIGTERM or SIGINT, then drains.
///
/// `args` is what follows the program's name, as `payments --port 9005 --version v2`; `--help` is
/// written to stdout. Other services are looked up in the environment. One line on stderr says
/// where it listens; stdout stays empty.
///
/// # Errors
/// On an argument that does not parse (a [`clap::Error`]), a `*_SERVICE_PORT` that is no port, or
/// an address that cannot be listened on.
pub async fn run(args: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let args = match args::Args::read(args) {
        Ok(args) => args,
        Err(error) if error.use_stderr() => return Err(error.into()),
        Err(help) => return help.print().context("cannot write the help text"),
    };
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let addresses = Addresses::new(|name| std::env::var(name).ok())?;
    let app = App::start(args.config(addresses)).await?;
    writeln!(
        std::io::stderr(),
        "shop {} {} listens on {}",
        args.role,
        args.version,
        app.local_addr()
    )
    .ok();
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    app.stop().await;
    Ok(())
}
