//! The control plane in a cluster, assembled: objects and proofs of identity from the API server,
//! the root in a Secret, and several replicas that all serve (DESIGN §8).
//!
//! [`start`] waits for whatever it needs: an API server that is away at the start is waited for, as
//! it would be later. Health is served from the first moment; `/ready` turns to 200 when everything
//! there is was compiled and the gRPC port listens, and back to 503 when it stops.
//!
//! What one replica alone may do, [`duties`], goes with the Lease; serving does not.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use outrigger_ca::{CertificateAuthority, ServerNames};
use outrigger_compiler::{Compiler, Membership, Severity};
use outrigger_model::{MeshSettings, Namespace, Resource, ServiceAccount, SpiffeId};
use prometheus::Registry;
use tokio::{
    net::TcpListener,
    sync::{broadcast, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    EVENTS_MAX, Event, InForce, SHUTDOWN_MAX, Server, ServerOptions, StartError, monitor, owner,
};
use crate::{
    cluster::{Api, lease::Candidate, owner::Owner, root, webhook},
    discovery::DiscoveryHandle,
    identity::TokenReviews,
    source::{Cluster, Kubernetes, Source},
    transport::{self, Clients, ServerTls, TransportMetrics},
};

/// Name of the Lease, in the control plane's namespace.
pub const LEASE: &str = "outrigger-leader";
/// Name of the Service that sidecars and the API server know the control plane by.
pub const SERVICE: &str = "outrigger";

/// How a control plane runs in a cluster.
#[derive(Debug, Clone)]
pub struct KubernetesOptions {
    /// Its own namespace, also where policies for the whole mesh live.
    pub namespace: Namespace,
    /// Its service account: with the namespace what it proves to sidecars.
    pub service_account: ServiceAccount,
    /// This replica's name, which no other has: the pod's.
    pub replica: String,
    /// Where to listen for sidecars; port 0 is any free one.
    pub listen: SocketAddr,
    /// Where to serve metrics and health in plain HTTP.
    pub metrics: SocketAddr,
    /// Life of certificates, 24 h at most.
    pub leaf_lifetime: Duration,
    /// What every sidecar is told.
    pub settings: MeshSettings,
    /// Name of the MutatingWebhookConfiguration whose `caBundle` is kept true; `None`: there is
    /// none.
    pub webhook_configuration: Option<String>,
    /// ClusterRole with whose end everything ends that is made here; `None`: it stays.
    pub owner: Option<String>,
}

/// A control plane that runs until [`Self::shutdown`] or until dropped, which ends it at once.
#[expect(missing_debug_implementations, reason = "leads to private keys")]
pub struct RunningInCluster {
    address: SocketAddr,
    metrics: SocketAddr,
    options: KubernetesOptions,
    authority: Arc<CertificateAuthority>,
    discovery: DiscoveryHandle,
    cluster: Cluster,
    registry: Registry,
    leads: watch::Receiver<bool>,
    ready: watch::Sender<bool>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// Starts, and returns when everything there is was compiled and is served. Waits for the API
/// server for as long as it takes. Cancel safe: yes, dropped midway everything ends.
///
/// # Errors
/// When an address, the root or a certificate cannot be had.
pub async fn start(options: KubernetesOptions, api: Api) -> Result<RunningInCluster, StartError> {
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let registry = Registry::new();
    let (ready, is_ready) = watch::channel(false);
    let page = monitor::Page {
        registry: registry.clone(),
        ready: Some(is_ready),
    };
    let metrics = monitor::serve(options.metrics, page, &stop, &mut tasks).await?;

    let settings = &options.settings;
    let (authority, owner) = authority(&options, &api).await?;
    let authority = Arc::new(authority);
    super::root::show(&authority, &registry)?;
    let warnings = super::root::warn(Arc::clone(&authority));
    let stopped = stop.clone();
    tasks.spawn(async move {
        stopped.run_until_cancelled(warnings).await;
    });
    let (mut source, cluster) = Kubernetes::start(api.clone(), &registry)?;
    let first = source.synced().await;
    tracing::info!(objects = first.changes.len(), "the cluster is known");

    let discovery = DiscoveryHandle::new(&registry)?;
    let compiler = Compiler::new(outrigger_compiler::Options {
        settings: settings.clone(),
        root_namespace: options.namespace.clone(),
        membership: Membership::Labelled,
    });
    let (events, said) = broadcast::channel(EVENTS_MAX);
    tasks.spawn(log(said));
    let mut objects = owner::Owner::new(
        Source::Kubernetes(Box::new(source)),
        compiler,
        discovery.clone(),
        events,
        watch::channel(InForce::default()).0,
    );
    objects.begin(first, Resource::TrustBundle(authority.trust_bundle()));

    let server = ServerOptions {
        names: names(&options, options.listen),
        leaf_lifetime: options.leaf_lifetime,
    };
    let reviewer = TokenReviews::new(api.clone(), settings.trust_domain.clone(), cluster.clone());
    let server = Server::new(
        server,
        Arc::clone(&authority),
        Arc::new(reviewer),
        &registry,
    )?;
    let (listener, address) = bind(options.listen).await?;
    server.serve(listener, &discovery, &stop, &mut tasks);
    tasks.spawn(objects.run(stop.clone()));
    let roots = super::root_pem(&authority);
    let leads = lead(&options, &api, &cluster, (roots, owner), &stop, &mut tasks);
    ready.send_replace(true);
    tracing::info!(%address, replica = options.replica, "control plane started");
    Ok(RunningInCluster {
        address,
        metrics,
        options,
        authority,
        discovery,
        cluster,
        registry,
        leads,
        ready,
        stop,
        tasks,
    })
}

/// The mesh's root, and who owns what is made for it.
async fn authority(
    options: &KubernetesOptions,
    api: &Api,
) -> Result<(CertificateAuthority, Owner), StartError> {
    let owner = match &options.owner {
        Some(name) => Owner::cluster_role(api, name).await,
        None => Owner::default(),
    };
    let (namespace, trust_domain) = (&options.namespace, &options.settings.trust_domain);
    let authority = root::authority(api, namespace, trust_domain, &owner).await?;
    Ok((authority, owner))
}

/// Logs what there is to say about objects and sidecars, until there is nobody left to say it.
async fn log(mut said: broadcast::Receiver<Event>) {
    loop {
        match said.recv().await {
            Ok(Event::Diagnostic(diagnostic)) => match diagnostic.severity {
                Severity::Error | Severity::Warning => tracing::warn!(%diagnostic, "an object"),
                Severity::Info => tracing::debug!(%diagnostic, "an object"),
            },
            Ok(Event::Rejected {
                sidecar,
                resource,
                reason,
            }) => tracing::warn!(%sidecar, resource, %reason, "a sidecar refused what it was sent"),
            Ok(Event::Config { .. }) => {}
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "more to say than is kept: some was not logged");
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// Names under which sidecars and the API server know the control plane.
fn names(options: &KubernetesOptions, listen: SocketAddr) -> ServerNames {
    let KubernetesOptions {
        namespace,
        settings,
        ..
    } = options;
    let service = format!("{SERVICE}.{namespace}.svc");
    let full = format!("{service}.{}", settings.cluster_domain);
    ServerNames {
        identity: identity(options),
        dns: vec![service, full],
        addresses: Vec::from_iter((!listen.ip().is_unspecified()).then_some(listen.ip())),
    }
}

fn identity(options: &KubernetesOptions) -> SpiffeId {
    SpiffeId {
        trust_domain: options.settings.trust_domain.clone(),
        namespace: options.namespace.clone(),
        service_account: options.service_account.clone(),
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listen_error = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(listen_error)?;
    let bound = listener.local_addr().map_err(listen_error)?;
    Ok((listener, bound))
}

/// Stands for the Lease, and has its duties done while this replica holds it.
fn lead(
    options: &KubernetesOptions,
    api: &Api,
    cluster: &Cluster,
    (roots, owner): (String, Owner),
    stop: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> watch::Receiver<bool> {
    let (namespace, replica) = (options.namespace.as_str(), &options.replica);
    let candidate = Candidate::new(api.clone(), namespace, LEASE, replica).owned_by(owner.clone());
    let (leads, is_leader) = watch::channel(false);
    tasks.spawn(candidate.run(leads, stop.clone()));
    let duties = duties(
        api.clone(),
        cluster.namespaces(),
        options.webhook_configuration.clone(),
        (roots, owner),
        is_leader.clone(),
    );
    let stopped = stop.clone();
    tasks.spawn(async move {
        stopped.run_until_cancelled(duties).await;
    });
    is_leader
}

/// What the leader alone does: the root certificate in every namespace, and in the webhook's
/// configuration.
async fn duties(
    api: Api,
    namespaces: watch::Receiver<BTreeSet<Namespace>>,
    webhook: Option<String>,
    (roots, owner): (String, Owner),
    mut leads: watch::Receiver<bool>,
) {
    let (_hold, roots) = watch::channel(roots);
    while leads.wait_for(|leads| *leads).await.is_ok() {
        let mut deposed = leads.clone();
        tokio::select! {
            () = root::keep(api.clone(), namespaces.clone(), roots.clone(), owner.clone()) => {}
            () = keep_webhook(&api, webhook.as_deref(), &roots) => {}
            _ = deposed.wait_for(|leads| !*leads) => {}
        }
    }
}

async fn keep_webhook(api: &Api, name: Option<&str>, roots: &watch::Receiver<String>) {
    match name {
        Some(name) => webhook::keep(api.clone(), name, roots.clone()).await,
        None => std::future::pending().await,
    }
}

impl RunningInCluster {
    /// Where it listens for sidecars.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its metrics and health are.
    #[must_use]
    pub fn metrics(&self) -> SocketAddr {
        self.metrics
    }

    /// What it proves to sidecars.
    #[must_use]
    pub fn identity(&self) -> SpiffeId {
        identity(&self.options)
    }

    /// The roots that a sidecar trusts before its first trust bundle, as PEM; also what the API
    /// server has to trust to call a webhook.
    #[must_use]
    pub fn root_pem(&self) -> String {
        super::root_pem(&self.authority)
    }

    /// Which sidecars are connected, and what they have.
    #[must_use]
    pub fn discovery(&self) -> &DiscoveryHandle {
        &self.discovery
    }

    /// Pods and namespaces.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The control plane's metrics.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Whether this replica has the duties that one alone may have.
    #[must_use]
    pub fn leads(&self) -> watch::Receiver<bool> {
        self.leads.clone()
    }

    /// Serves webhooks over HTTPS at `address` until shut down, under the Service's DNS names and a
    /// certificate of the mesh's authority, renewed by itself. Returns where.
    ///
    /// # Errors
    /// When the address is not to be had, or a certificate.
    pub async fn serve_webhooks(
        &mut self,
        address: SocketAddr,
        router: Router,
    ) -> Result<SocketAddr, StartError> {
        let metrics = TransportMetrics::register_webhook(&self.registry)?;
        let tls = ServerTls::for_clients(
            Clients::Web,
            Arc::clone(&self.authority),
            names(&self.options, address),
            self.options.leaf_lifetime,
            metrics.clone(),
        )?;
        let (listener, bound) = bind(address).await?;
        let (tls, stop) = (Arc::new(tls), &self.stop);
        transport::web::serve(listener, tls, metrics, router, stop, &mut self.tasks);
        Ok(bound)
    }

    /// Has a task run until it ends or the control plane is shut down.
    pub fn run(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        let stopped = self.stop.clone();
        self.tasks.spawn(async move {
            stopped.run_until_cancelled(task).await;
        });
    }

    /// Ends all streams and tasks: sidecars connect to another replica, and work on meanwhile with
    /// what they have; the Lease is given back. Takes 5 s at most. Cancel safe: dropped midway,
    /// what is left ends at once.
    pub async fn shutdown(mut self) {
        self.ready.send_replace(false);
        self.discovery.close();
        self.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(SHUTDOWN_MAX, ended).await.is_err() {
            tracing::warn!("the control plane's tasks did not end in time");
        }
    }
}

#[cfg(test)]
mod tests;
