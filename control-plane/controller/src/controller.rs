//! The control plane, assembled: a manifest folder in, certificates and configuration out over
//! gRPC (DESIGN §2). In a cluster: [`kubernetes`].
//!
//! [`Controller::start`] takes a folder that was read already, compiles and publishes it, and
//! serves. From then on one task, the owner, turns each [`Update`] of the folder into compiled
//! resources and hands them to discovery; nothing else writes compiler or resources.
//!
//! Absent on purpose: anything about processes. Who starts sidecars asks [`Running::mint_token`]
//! and [`Running::root_pem`] for what they need.
//!
//! Longer than most, because starting, what is running, and every way in which either fails belong
//! to one life.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use outrigger_ca::{
    CertificateAuthority, RootError, ServerNames, TOKEN_TTL_DEFAULT, TokenAuthority, TokenError,
    WorkloadToken,
};
use outrigger_compiler::{Compiler, Membership, Workload};
use outrigger_model::{
    InvalidValue, MeshSettings, Namespace, Resource, ServiceAccount, SpiffeId, WorkloadName,
};
use prometheus::Registry;
use tokio::{
    net::TcpListener,
    sync::{broadcast, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    discovery::DiscoveryHandle,
    identity::{IdentityMetrics, IdentityOptions, IdentityService, LocalTokens, TokenReviewer},
    source::{Directory, Manifest, Source, Update},
    transport::{self, ServerTls, TransportError, TransportMetrics},
};

mod event;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
mod monitor;
mod owner;
mod root;

pub use event::{Event, ObjectChange};

use owner::Owner;

/// The control plane's own namespace, also where policies for the whole mesh live.
pub const ROOT_NAMESPACE: &str = "outrigger-system";
/// The control plane's service account.
pub const SERVICE_ACCOUNT: &str = "outrigger";

/// Events kept for a reader that lags; beyond that it misses the oldest and is told how many.
/// A folder of a thousand objects with one thing to say about each fits.
const EVENTS_MAX: usize = 1_024;
/// Time for streams and tasks to end after [`Running::shutdown`].
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);

/// Where the mesh's root certificate and key come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// From the state folder, made there at the first start.
    State,
    /// From PEM files that the user brings.
    Files {
        /// Certificate, with what leads to its root.
        certificate: PathBuf,
        /// Private key.
        key: PathBuf,
    },
}

/// How a control plane runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Keeps keys over restarts; made with mode 0700.
    pub state_dir: PathBuf,
    /// Root of the mesh.
    pub root: Root,
    /// Where to listen; port 0 is any free one.
    pub listen: SocketAddr,
    /// Where to serve metrics and health in plain HTTP; none: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Life of certificates, 24 h at most.
    pub leaf_lifetime: Duration,
    /// What every sidecar is told.
    pub settings: MeshSettings,
    /// Which WorkloadEntries have a sidecar.
    pub membership: Membership,
}

impl Options {
    /// What [`Running::in_force`] will begin with, before anything is started. Compiles the update.
    ///
    /// # Errors
    /// Never in practice: the root namespace's name is a constant.
    pub fn in_force(&self, first: &Update) -> Result<InForce, StartError> {
        Ok(owner::in_force(first, self.compiler()?))
    }

    fn compiler(&self) -> Result<outrigger_compiler::Options, StartError> {
        Ok(outrigger_compiler::Options {
            settings: self.settings.clone(),
            root_namespace: Namespace::parse(ROOT_NAMESPACE)?,
            membership: self.membership,
        })
    }
}

/// What the control plane works from.
#[derive(Debug, Clone, Default)]
pub struct InForce {
    /// The objects, sorted by key.
    pub manifests: Arc<[Manifest]>,
    /// What WorkloadEntries were compiled to, by namespace and name.
    pub workloads: Arc<[Arc<Workload>]>,
}

/// The control plane could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Root or token key cannot be used.
    #[error("the keys of the mesh cannot be used")]
    Keys(#[from] RootError),
    /// No certificate for the control plane itself.
    #[error("the control plane cannot prove who it is")]
    Transport(#[from] TransportError),
    /// The address is not to be had.
    #[error("the control plane cannot listen on {address}; is another process using it?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Two metrics of one name: a mistake of this program.
    #[error("metrics cannot be registered")]
    Metrics(#[from] prometheus::Error),
    /// The trust domain makes no identity.
    #[error("the control plane has no identity in this trust domain")]
    Identity(#[from] InvalidValue),
}

/// Starts control planes.
#[derive(Debug)]
pub struct Controller;

/// A control plane that runs until [`Self::shutdown`] or until dropped, which ends it at once.
#[expect(missing_debug_implementations, reason = "leads to private keys")]
pub struct Running {
    address: SocketAddr,
    metrics: Option<SocketAddr>,
    keys: Keys,
    discovery: DiscoveryHandle,
    registry: Registry,
    events: broadcast::Sender<Event>,
    in_force: watch::Receiver<InForce>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Controller {
    /// Compiles what is in the folder, publishes it and begins to serve. `first` is the update
    /// that came with `directory`. The events begin with what there is to say about it. Blocks for
    /// a moment on the state folder's files.
    ///
    /// # Errors
    /// When keys, address or certificate cannot be had. What is wrong in the folder is none.
    pub async fn start(
        options: Options,
        directory: Directory,
        first: Update,
    ) -> Result<(Running, broadcast::Receiver<Event>), StartError> {
        let keys = Keys::open(&options)?;
        let registry = Registry::new();
        let listen_error = |source| StartError::Listen {
            address: options.listen,
            source,
        };
        root::show(&keys.authority, &registry)?;
        let server = ServerOptions {
            names: ServerNames {
                identity: keys.identity.clone(),
                dns: Vec::new(),
                addresses: vec![options.listen.ip()],
            },
            leaf_lifetime: options.leaf_lifetime,
        };
        let reviewer = Arc::new(LocalTokens(Arc::clone(&keys.tokens)));
        let server = Server::new(server, Arc::clone(&keys.authority), reviewer, &registry)?;
        let listener = TcpListener::bind(options.listen)
            .await
            .map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;

        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let metrics = match options.metrics {
            Some(address) => {
                let page = monitor::Page {
                    registry: registry.clone(),
                    ready: None,
                };
                Some(monitor::serve(address, page, &stop, &mut tasks).await?)
            }
            None => None,
        };
        let discovery = DiscoveryHandle::new(&registry)?;
        let (events, said) = broadcast::channel(EVENTS_MAX);
        let compiler = Compiler::new(options.compiler()?);
        let (publish_in_force, in_force) = watch::channel(InForce::default());
        let mut owner = Owner::new(
            Source::Directory(Box::new(directory)),
            compiler,
            discovery.clone(),
            events.clone(),
            publish_in_force,
        );
        owner.begin(first, Resource::TrustBundle(keys.authority.trust_bundle()));
        server.serve(listener, &discovery, &stop, &mut tasks);
        tasks.spawn(owner.run(stop.clone()));
        let (stopped, authority) = (stop.clone(), Arc::clone(&keys.authority));
        tasks.spawn(async move {
            stopped.run_until_cancelled(root::warn(authority)).await;
        });
        tracing::info!(%address, identity = %keys.identity, "control plane started");
        let running = Running {
            address,
            metrics,
            keys,
            discovery,
            registry,
            events,
            in_force,
            stop,
            tasks,
        };
        Ok((running, said))
    }
}

/// The roots that an authority trusts, as PEM.
fn root_pem(authority: &CertificateAuthority) -> String {
    let roots = authority.trust_bundle().roots;
    let roots = roots
        .iter()
        .map(|der| pem::Pem::new("CERTIFICATE", der.to_vec()));
    roots.map(|root| pem::encode(&root)).collect()
}

/// What the control plane signs with, and who it is itself.
struct Keys {
    authority: Arc<CertificateAuthority>,
    tokens: Arc<TokenAuthority>,
    identity: SpiffeId,
}

impl Keys {
    fn open(options: &Options) -> Result<Self, StartError> {
        let trust_domain = &options.settings.trust_domain;
        let authority = match &options.root {
            Root::State => {
                CertificateAuthority::open_or_create(&options.state_dir, trust_domain.clone())
            }
            Root::Files { certificate, key } => {
                CertificateAuthority::from_files(certificate, key, trust_domain.clone())
            }
        };
        let tokens = TokenAuthority::open_or_create(&options.state_dir, trust_domain.clone())?;
        Ok(Self {
            authority: Arc::new(authority?),
            tokens: Arc::new(tokens),
            identity: SpiffeId {
                trust_domain: trust_domain.clone(),
                namespace: Namespace::parse(ROOT_NAMESPACE)?,
                service_account: ServiceAccount::parse(SERVICE_ACCOUNT)?,
            },
        })
    }
}

/// The gRPC server, before it listens.
struct Server {
    tls: Arc<ServerTls>,
    certificates: IdentityService,
    metrics: TransportMetrics,
}

/// What differs between servers.
struct ServerOptions {
    names: ServerNames,
    leaf_lifetime: Duration,
}

impl Server {
    fn new(
        options: ServerOptions,
        authority: Arc<CertificateAuthority>,
        reviewer: Arc<dyn TokenReviewer>,
        registry: &Registry,
    ) -> Result<Self, StartError> {
        let metrics = TransportMetrics::register(registry)?;
        let tls = ServerTls::new(
            Arc::clone(&authority),
            options.names,
            options.leaf_lifetime,
            metrics.clone(),
        )?;
        let certificates = IdentityService::new(
            authority,
            reviewer,
            &IdentityOptions {
                leaf_ttl: options.leaf_lifetime,
                ..IdentityOptions::default()
            },
            IdentityMetrics::register(registry)?,
        );
        Ok(Self {
            tls: Arc::new(tls),
            certificates,
            metrics,
        })
    }

    fn serve(
        self,
        listener: TcpListener,
        discovery: &DiscoveryHandle,
        stop: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) {
        let router = transport::server()
            .add_service(self.certificates.into_server())
            .add_service(discovery.server());
        let incoming = transport::connections(listener, Arc::clone(&self.tls), self.metrics);
        let stopped = stop.clone().cancelled_owned();
        tasks.spawn(async move {
            if let Err(error) = router.serve_with_incoming_shutdown(incoming, stopped).await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the gRPC server ended"
                );
            }
        });
        let (stopped, tls) = (stop.clone(), self.tls);
        tasks.spawn(async move {
            stopped.run_until_cancelled(tls.keep_renewed()).await;
        });
    }
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its metrics are, if it serves them.
    #[must_use]
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// What it proves to sidecars.
    #[must_use]
    pub fn identity(&self) -> &SpiffeId {
        &self.keys.identity
    }

    /// Follows what happens from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// The objects in force, always those that were compiled last, and the workloads among them.
    #[must_use]
    pub fn in_force(&self) -> watch::Receiver<InForce> {
        self.in_force.clone()
    }

    /// Which sidecars are connected, and what they have.
    #[must_use]
    pub fn discovery(&self) -> &DiscoveryHandle {
        &self.discovery
    }

    /// The control plane's metrics.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The roots that a sidecar trusts before its first trust bundle, as PEM.
    #[must_use]
    pub fn root_pem(&self) -> String {
        root_pem(&self.keys.authority)
    }

    /// A token with which a sidecar proves its identity, good for an hour.
    ///
    /// # Errors
    /// When the identity is of another trust domain or the workload of another namespace.
    pub fn mint_token(
        &self,
        identity: &SpiffeId,
        workload: &WorkloadName,
    ) -> Result<WorkloadToken, TokenError> {
        self.keys.tokens.mint(identity, workload, TOKEN_TTL_DEFAULT)
    }

    /// Ends all streams and tasks; sidecars work on with what they have. Takes 5 s at most.
    /// Cancel safe: dropped midway, what is left ends at once.
    pub async fn shutdown(mut self) {
        self.discovery.close();
        self.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(SHUTDOWN_MAX, ended).await.is_err() {
            tracing::warn!("the control plane's tasks did not end in time");
        }
    }
}
