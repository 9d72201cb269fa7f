//! A client's and a server's sidecar, as workers on one thread, with certificates of one CA.

use std::{
    cell::Cell,
    future::Future,
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};

use outrigger_ca::CertificateAuthority;
use outrigger_model::{
    Authority, Endpoint, InboundPolicy, InboundPort, MeshSettings, MtlsMode, Port, Protocol,
    SpiffeId, TrustDomain,
};
use outrigger_proxy::{
    accept::{Role, accept},
    drain::Drain,
    snapshot::{Lookup, Snapshot, SnapshotWriter, channel},
    telemetry::{Identity, IstioMetrics, Telemetry},
    tls::TlsContext,
    worker::{Demand, Shared, SharedLimits, Worker},
};
use outrigger_tests::sum;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::{net::TcpListener, sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::plan::{ServicePlan, meshed, service};

/// Longest a test may take: beyond it something hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a test on a thread of its own kind: what a worker is.
pub(super) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        tokio::time::timeout(PATIENCE, test)
            .await
            .expect("the test hangs")
    })
}

/// A listener on a free port of loopback.
pub(super) async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address where nothing listens.
pub(super) async fn nowhere() -> SocketAddr {
    listener().await.1
}

/// An authority that issues certificates for tests.
pub(super) struct Issuer {
    authority: CertificateAuthority,
    _folder: tempfile::TempDir,
}

impl Issuer {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let domain = TrustDomain::parse("cluster.local").unwrap();
        Self {
            authority: CertificateAuthority::open_or_create(folder.path(), domain).unwrap(),
            _folder: folder,
        }
    }

    pub(super) fn roots(&self) -> Vec<Arc<[u8]>> {
        self.authority.trust_bundle().roots
    }

    /// A fresh key and certificate, trusting `roots`.
    pub(super) fn context(&self, identity: &SpiffeId, roots: &[Arc<[u8]>]) -> Arc<TlsContext> {
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        let issued = self
            .authority
            .issue(request.der(), identity, Duration::from_secs(3600))
            .unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let context = TlsContext::build(identity.clone(), issued.chain_der, key, roots);
        Arc::new(context.unwrap())
    }
}

/// Access log lines, for tests to read.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One sidecar.
pub(super) struct Side {
    pub(super) identity: SpiffeId,
    pub(super) worker: Rc<Worker>,
    pub(super) drain: Drain,
    pub(super) telemetry: Telemetry,
    /// What workers ask the control plane for.
    pub(super) demanded: mpsc::Receiver<Authority>,
    lines: Lines,
    writer: SnapshotWriter,
    number: Cell<u64>,
    inbound: Option<Arc<InboundPolicy>>,
    pub(super) stop: CancellationToken,
}

impl Side {
    fn new(name: &str, issuer: &Issuer, seed: u64) -> Self {
        let identity: SpiffeId = format!("spiffe://cluster.local/ns/shop/sa/{name}")
            .parse()
            .unwrap();
        let own = Identity {
            workload: format!("shop/{name}").parse().unwrap(),
            spiffe: identity.clone(),
        };
        let lines = Lines::default();
        let telemetry = Telemetry::new(own, IstioMetrics::Hidden, lines.clone()).unwrap();
        let inbound = Arc::new(InboundPolicy {
            name: format!("shop/{name}").parse().unwrap(),
            identity: identity.clone(),
            default_mtls: MtlsMode::Strict,
            ports: Vec::new(),
        });
        let (writer, snapshots) = channel(Snapshot {
            number: 0,
            settings: settings(),
            inbound: Some(Arc::clone(&inbound)),
            services: Default::default(),
        });
        let drain = Drain::default();
        let (demand, demanded): (Demand, _) = mpsc::channel(64);
        let shared = Shared {
            snapshots,
            demand,
            tls: Arc::default(),
            telemetry: telemetry.clone(),
            drain: drain.clone(),
            limits: SharedLimits::new(10_000),
            started: Instant::now(),
        };
        shared
            .tls
            .store(Some(issuer.context(&identity, &issuer.roots())));
        Self {
            identity,
            worker: Worker::new(shared, seed),
            drain,
            telemetry,
            demanded,
            lines,
            writer,
            number: Cell::new(0),
            inbound: Some(inbound),
            stop: CancellationToken::new(),
        }
    }

    /// Accepts on a fresh address.
    pub(super) async fn listen(&self, role: Role) -> SocketAddr {
        let (listener, address) = listener().await;
        let accepting = accept(
            Rc::clone(&self.worker),
            listener,
            Rc::new(role),
            self.stop.clone(),
        );
        self.worker.tasks.spawn_local(accepting);
        address
    }

    /// Replaces what this sidecar knows.
    pub(super) fn knows(&self, services: &[ServicePlan]) {
        let known = services.iter().map(|plan| {
            let service = Lookup::Found(plan.service());
            (plan.authority.clone().into_boxed_str(), service)
        });
        self.publish(known);
    }

    /// As the control plane's word that there is no such service.
    pub(super) fn knows_no(&self, authority: &str) {
        self.publish([(authority.into(), Lookup::Missing)]);
    }

    fn publish(&self, services: impl IntoIterator<Item = (Box<str>, Lookup)>) {
        self.number.set(self.number.get() + 1);
        self.writer.publish(Snapshot {
            number: self.number.get(),
            settings: settings(),
            inbound: self.inbound.clone(),
            services: services.into_iter().collect(),
        });
    }

    /// What a port of this workload speaks, and who may connect.
    pub(super) fn port(&mut self, port: Port, protocol: Protocol, mtls: MtlsMode) {
        let mut policy = self.inbound.as_deref().cloned().unwrap();
        policy.ports.push(InboundPort {
            port,
            protocol,
            mtls,
        });
        self.inbound = Some(Arc::new(policy));
        self.publish(self.writer.present().services.clone());
    }

    /// Waits for a line of the access log (failures) that holds all of `texts`.
    pub(super) async fn logged(&self, texts: &[&str]) -> String {
        loop {
            let log = String::from_utf8(self.lines.0.lock().unwrap().clone()).unwrap();
            let has = |line: &&str| texts.iter().all(|text| line.contains(text));
            if let Some(line) = log.lines().find(has) {
                return line.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The value of a metric on the page, summed over the label sets that hold all of `labels`.
    pub(super) fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        sum(&self.telemetry.page(), name, labels)
    }
}

fn settings() -> Arc<MeshSettings> {
    Arc::new(MeshSettings::defaults(
        TrustDomain::parse("cluster.local").unwrap(),
    ))
}

/// A pair of sidecars.
pub(super) struct Mesh {
    pub(super) issuer: Issuer,
    pub(super) client: Side,
    pub(super) server: Side,
    /// Applications and clients of the test.
    pub(super) tasks: TaskTracker,
}

impl Mesh {
    pub(super) fn new() -> Self {
        let issuer = Issuer::new();
        Self {
            client: Side::new("web", &issuer, 7),
            server: Side::new("orders", &issuer, 11),
            issuer,
            tasks: TaskTracker::new(),
        }
    }

    /// Where the server's sidecar takes traffic for an application.
    pub(super) async fn inbound(&self, application: SocketAddr) -> SocketAddr {
        let port = Port::new(application.port()).unwrap();
        self.server
            .listen(Role::Inbound { port, application })
            .await
    }

    /// Where the client's application reaches a service.
    pub(super) async fn outbound(&self, authority: &str) -> SocketAddr {
        let authority = Authority::parse(authority, None).unwrap();
        self.client.listen(Role::Destination(authority)).await
    }

    pub(super) async fn forward_proxy(&self) -> SocketAddr {
        self.client.listen(Role::ForwardProxy).await
    }

    /// Where the client's application reaches what `plan` describes.
    pub(super) async fn known(&self, plan: ServicePlan) -> SocketAddr {
        let authority = plan.authority.clone();
        self.client.knows(&[plan]);
        self.outbound(&authority).await
    }

    /// An application behind the server's sidecar, as an endpoint.
    pub(super) async fn behind(&self, application: SocketAddr) -> Endpoint {
        meshed(self.inbound(application).await, &self.server.identity)
    }

    /// Where the client's application reaches one behind the server's sidecar, as `orders:80`.
    pub(super) async fn through(
        &self,
        application: SocketAddr,
        change: impl FnOnce(ServicePlan) -> ServicePlan,
    ) -> SocketAddr {
        let endpoint = self.behind(application).await;
        self.known(change(service("orders:80", vec![endpoint])))
            .await
    }

    /// A further worker of the client's sidecar, and where it takes traffic for `orders:80`.
    pub(super) async fn another_worker(&self, seed: u64) -> (Rc<Worker>, SocketAddr) {
        let worker = Worker::new(self.client.worker.shared.clone(), seed);
        let (listener, address) = listener().await;
        let role = Role::Destination(Authority::parse("orders:80", None).unwrap());
        let stop = self.client.stop.clone();
        let accepting = accept(Rc::clone(&worker), listener, Rc::new(role), stop);
        worker.tasks.spawn_local(accepting);
        (worker, address)
    }
}
