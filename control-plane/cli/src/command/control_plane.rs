//! `outrigger control-plane`: the control plane of a cluster, one replica of it.
//!
//! It waits for the API server for as long as it takes, is ready when everything there is was
//! compiled and is served, and on SIGTERM sends its sidecars to another replica.

use std::process::ExitCode;

use anyhow::Context;
use axum::{Router, routing::get};
use outrigger_controller::{
    cluster::Api,
    controller::kubernetes::{self, KubernetesOptions, RunningInCluster},
};
use outrigger_model::MeshSettings;

use super::up::{Signals, tracing};
use crate::args;

/// Runs one replica until it is told to end.
///
/// # Errors
/// When there is no way to the API server, or an address or the root cannot be had.
pub(crate) async fn run(arguments: args::ControlPlane) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let (kubeconfig, context) = (
        arguments.kubeconfig.as_deref(),
        arguments.context.as_deref(),
    );
    let api = Api::connect(kubeconfig, context).await?;
    let starting = kubernetes::start(options(&arguments)?, api);
    let mut running = tokio::select! {
        started = starting => started?,
        () = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    listen(&mut running, &arguments).await?;
    signals.next().await;
    running.shutdown().await;
    Ok(ExitCode::SUCCESS)
}

/// Starts what listens beside discovery, metrics and health: the webhooks that the API server calls.
async fn listen(
    running: &mut RunningInCluster,
    arguments: &args::ControlPlane,
) -> anyhow::Result<()> {
    let webhooks = Router::new().route("/live", get(|| async { "live\n" }));
    let address = arguments.webhook_listen;
    running.serve_webhooks(address, webhooks).await?;
    Ok(())
}

fn options(arguments: &args::ControlPlane) -> anyhow::Result<KubernetesOptions> {
    let replica = match &arguments.replica {
        Some(replica) => replica.clone(),
        None => {
            let name = rustix::system::uname();
            let name = name.nodename().to_str();
            name.context("the host's name is no text: use --replica")?
                .to_owned()
        }
    };
    Ok(KubernetesOptions {
        namespace: arguments.namespace.clone(),
        service_account: arguments.service_account.clone(),
        replica,
        listen: arguments.listen,
        metrics: arguments.metrics,
        leaf_lifetime: arguments.leaf_lifetime,
        settings: MeshSettings {
            cluster_domain: arguments.cluster_domain.clone(),
            access_log: arguments.access_log.into(),
            tracing: tracing(arguments.otlp_endpoint.as_deref(), arguments.trace_sampling),
            drain_timeout: arguments.drain_time,
            ..MeshSettings::defaults(arguments.trust_domain.clone())
        },
    })
}
