//! `outrigger control-plane`: the control plane of a cluster, one replica of it.
//!
//! It waits for the API server for as long as it takes, is ready when everything there is was
//! compiled and is served, and on SIGTERM sends its sidecars to another replica.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use axum::{Router, routing::get};
use clap::Args;
use outrigger_controller::{
    cluster::Api,
    controller::kubernetes::{self, KubernetesOptions, RunningInCluster},
    injector::{
        SettingsFile,
        webhook::{self, Webhook, WebhookMetrics},
    },
};
use outrigger_model::{Hostname, MeshSettings, Namespace, Ratio, ServiceAccount, TrustDomain};

use super::up::{Signals, tracing};
use crate::args;

/// `outrigger control-plane`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Namespace of the control plane: of its Secret, its Lease, its identity, and of policies for
    /// the whole mesh
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", value_parser = Namespace::parse, default_value = "outrigger-system")]
    pub(crate) namespace: Namespace,
    /// Service account of the control plane: with the namespace its identity
    #[arg(long, value_name = "NAME", env = "POD_SERVICE_ACCOUNT", value_parser = ServiceAccount::parse, default_value = "outrigger")]
    pub(crate) service_account: ServiceAccount,
    /// Name of this replica, which no other has [default: the host's name]
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub(crate) replica: Option<String>,
    /// Serve sidecars here: certificates and configuration
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:15012")]
    pub(crate) listen: SocketAddr,
    /// Serve metrics and health here: /metrics, /live, /ready
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:15014")]
    pub(crate) metrics: SocketAddr,
    /// Serve webhooks here, to the API server
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:15017")]
    pub(crate) webhook_listen: SocketAddr,
    /// Inject sidecars as this file says, which is followed as it changes; without it: not at all
    #[arg(long, value_name = "FILE")]
    pub(crate) injector_settings: Option<PathBuf>,
    /// Keep `caBundle` of this MutatingWebhookConfiguration true
    #[arg(long, value_name = "NAME")]
    pub(crate) webhook_configuration: Option<String>,
    /// ClusterRole with whose end Secret, ConfigMaps and Lease made here end
    #[arg(long, value_name = "NAME")]
    pub(crate) owner: Option<String>,
    /// Trust domain of identities
    #[arg(long, value_name = "NAME", value_parser = TrustDomain::parse, default_value = "cluster.local")]
    pub(crate) trust_domain: TrustDomain,
    /// Domain of the cluster's DNS names
    #[arg(long, value_name = "NAME", value_parser = Hostname::parse, default_value = "cluster.local")]
    pub(crate) cluster_domain: Hostname,
    /// Life of workload certificates, at most 24h
    #[arg(long, value_name = "TIME", value_parser = args::leaf_lifetime, default_value = "24h")]
    pub(crate) leaf_lifetime: Duration,
    /// Kubeconfig to reach the cluster with [default: as in a pod, else $KUBECONFIG, ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Have sidecars send traces to this OTLP receiver (gRPC), as in http://collector.tracing:4317
    #[arg(long, value_name = "URL", value_parser = args::otlp_endpoint)]
    pub(crate) otlp_endpoint: Option<String>,
    /// Share of traces that are recorded, 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = args::share, default_value = "0.01")]
    pub(crate) trace_sampling: Ratio,
    /// Which requests sidecars log
    #[arg(long, value_enum, default_value_t = args::AccessLog::Failures)]
    pub(crate) access_log: args::AccessLog,
    /// How long work in flight may take to end when a sidecar stops
    #[arg(long, value_name = "TIME", value_parser = args::duration, default_value = "10s")]
    pub(crate) drain_time: Duration,
    /// What is logged, on stderr: off, error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", env = "OUTRIGGER_LOG", value_parser = args::level, default_value = "info")]
    pub(crate) log: String,
}

/// Runs one replica until it is told to end.
///
/// # Errors
/// When there is no way to the API server, or an address or the root cannot be had.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
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
async fn listen(running: &mut RunningInCluster, arguments: &Arguments) -> anyhow::Result<()> {
    let mut webhooks = Router::new().route("/live", get(|| async { "live\n" }));
    if let Some(path) = &arguments.injector_settings {
        let file = SettingsFile::open(path)?;
        webhooks = webhooks.merge(webhook::router(Webhook {
            settings: file.settings(),
            namespaces: Arc::new(running.cluster().clone()),
            metrics: WebhookMetrics::new(running.registry())?,
        }));
        running.run(file.follow());
    }
    let address = arguments.webhook_listen;
    running.serve_webhooks(address, webhooks).await?;
    Ok(())
}

fn options(arguments: &Arguments) -> anyhow::Result<KubernetesOptions> {
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
        webhook_configuration: arguments.webhook_configuration.clone(),
        owner: arguments.owner.clone(),
        settings: MeshSettings {
            cluster_domain: arguments.cluster_domain.clone(),
            access_log: arguments.access_log.into(),
            tracing: tracing(arguments.otlp_endpoint.as_deref(), arguments.trace_sampling),
            drain_timeout: arguments.drain_time,
            ..MeshSettings::defaults(arguments.trust_domain.clone())
        },
    })
}
