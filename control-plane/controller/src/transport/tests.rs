//! Real clients over real TLS. `Mesh` is the bench that the certificate service's tests use too.

use std::{net::Ipv4Addr, path::PathBuf};

use outrigger_ca::{CertificateAuthority, ServerNames, TokenAuthority};
use outrigger_model::TrustDomain;
use prometheus::Registry;
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt, time::Instant};
use tokio_rustls::{TlsConnector, client};

use super::*;
use crate::identity::{IdentityMetrics, IdentityOptions, IdentityService, TokenReviewer};

/// Nothing in these tests takes longer on an idle machine than a fraction of this.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);

/// A control plane's certificate service on a free port, and the keys to every attack on it.
pub(crate) struct Mesh {
    pub(crate) folder: TempDir,
    pub(crate) authority: Arc<CertificateAuthority>,
    pub(crate) tokens: Arc<TokenAuthority>,
    pub(crate) tls: Arc<ServerTls>,
    pub(crate) address: SocketAddr,
    pub(crate) identity_metrics: IdentityMetrics,
    metrics: TransportMetrics,
    server: JoinSet<Result<(), tonic::transport::Error>>,
}

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

pub(crate) fn identity(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{account}")
        .parse()
        .unwrap()
}

pub(crate) fn csr(key: &KeyPair) -> Vec<u8> {
    let request = CertificateParams::default().serialize_request(key);
    request.unwrap().der().to_vec()
}

impl Mesh {
    pub(crate) async fn start(ttl: Duration) -> Self {
        Self::start_with(ttl, IdentityOptions::default(), None).await
    }

    /// Without `reviewer`, the local tokens' own.
    pub(crate) async fn start_with(
        ttl: Duration,
        options: IdentityOptions,
        reviewer: Option<Arc<dyn TokenReviewer>>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = CertificateAuthority::open_or_create(folder.path(), trust_domain());
        let authority = Arc::new(authority.unwrap());
        let tokens =
            Arc::new(TokenAuthority::open_or_create(folder.path(), trust_domain()).unwrap());
        let registry = Registry::new();
        let metrics = TransportMetrics::register(&registry).unwrap();
        let identity_metrics = IdentityMetrics::register(&registry).unwrap();
        let names = ServerNames {
            identity: "spiffe://cluster.local/ns/outrigger-system/sa/outrigger"
                .parse()
                .unwrap(),
            dns: vec!["outrigger.outrigger-system.svc".to_owned()],
            addresses: vec![Ipv4Addr::LOCALHOST.into()],
        };
        let tls = ServerTls::new(Arc::clone(&authority), names, ttl, metrics.clone());
        let tls = Arc::new(tls.unwrap());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let local = || Arc::new(crate::identity::LocalTokens(Arc::clone(&tokens))) as _;
        let service = IdentityService::new(
            Arc::clone(&authority),
            reviewer.unwrap_or_else(local),
            &options,
            identity_metrics.clone(),
        );
        let incoming = connections(listener, Arc::clone(&tls), metrics.clone());
        let mut tasks = JoinSet::new();
        let router = server().add_service(service.into_server());
        tasks.spawn(router.serve_with_incoming(incoming));
        Self {
            folder,
            authority,
            tokens,
            tls,
            address,
            identity_metrics,
            metrics,
            server: tasks,
        }
    }

    /// A client that trusts the mesh's root, with a certificate or without.
    pub(crate) fn client(
        &self,
        certificate: Option<(&[CertificateDer<'static>], &KeyPair)>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for root in self.authority.trust_bundle().roots {
            roots.add(CertificateDer::from(root.to_vec())).unwrap();
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(mesh_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match certificate {
            Some((chain, key)) => {
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
                builder.with_client_auth_cert(chain.to_vec(), key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    /// A client with a certificate of the mesh.
    pub(crate) fn client_of(&self, account: &str) -> ClientConfig {
        let key = KeyPair::generate().unwrap();
        let issued = self
            .authority
            .issue(&csr(&key), &identity(account), HOUR)
            .unwrap();
        self.client(Some((&issued.chain_der, &key)))
    }

    pub(crate) async fn connect(
        &self,
        config: &Arc<ClientConfig>,
    ) -> io::Result<client::TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.address).await?;
        let name = ServerName::from(self.address.ip());
        TlsConnector::from(Arc::clone(config))
            .connect(name, tcp)
            .await
    }

    fn handshakes(&self, result: &str) -> u64 {
        match result {
            "ok" => self.metrics.handshakes_ok.get(),
            "timeout" => self.metrics.handshakes_timeout.get(),
            "tls" => self.metrics.handshakes_tls.get(),
            "identity" => self.metrics.handshakes_identity.get(),
            other => panic!("{other}"),
        }
    }

    /// The connection comes to nothing, and is counted under `result`.
    async fn refused(&self, config: ClientConfig, result: &str) {
        let before = self.handshakes(result);
        let config = Arc::new(config);
        // In TLS 1.3 the client is done first: the refusal arrives with the first read. One that
        // is accepted brings HTTP/2 settings instead.
        let read = async {
            let mut stream = self.connect(&config).await?;
            stream.read_u8().await
        };
        let read = tokio::time::timeout(DEADLINE, read)
            .await
            .expect("refused in time");
        read.expect_err("the connection is refused");
        eventually(|| self.handshakes(result) == before + 1).await;
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.server.abort_all();
    }
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "not within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn leaf_of(stream: &client::TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn clients_with_and_without_certificate_are_served() {
    let mesh = Mesh::start(HOUR).await;
    for config in [mesh.client(None), mesh.client_of("orders")] {
        let mut stream = mesh.connect(&Arc::new(config)).await.unwrap();
        stream.read_u8().await.unwrap();
    }
    assert_eq!(mesh.handshakes("ok"), 2);
    let expiry = mesh.metrics.certificate_expiry.get();
    assert!(expiry > 0, "{expiry}");
}

#[tokio::test]
async fn a_peer_is_known_until_its_certificate_ends() {
    let mesh = Mesh::start(HOUR).await;
    let key = KeyPair::generate().unwrap();
    let issue = |ttl| {
        let issued = mesh.authority.issue(&csr(&key), &identity("orders"), ttl);
        issued.unwrap().chain_der[0].clone()
    };
    for ttl in [Duration::from_secs(60), HOUR] {
        let ends = ends_at(&issue(ttl)).unwrap();
        let left = ends.duration_since(Instant::now());
        assert!(
            left <= ttl && left > ttl - Duration::from_secs(30),
            "{left:?}"
        );
    }
    assert_eq!(ends_at(&CertificateDer::from(vec![0x30, 0])), None);
}

#[tokio::test]
async fn a_strangers_certificate_is_refused() {
    let (mesh, other) = (Mesh::start(HOUR).await, Mesh::start(HOUR).await);
    let key = KeyPair::generate().unwrap();
    let theirs = other
        .authority
        .issue(&csr(&key), &identity("orders"), HOUR)
        .unwrap();
    mesh.refused(mesh.client(Some((&theirs.chain_der, &key))), "tls")
        .await;
    let alone = CertificateParams::default().self_signed(&key).unwrap();
    mesh.refused(mesh.client(Some((&[alone.der().clone()], &key))), "tls")
        .await;
    assert_eq!(mesh.handshakes("ok"), 0);
}

/// What the mesh's own root vouches for is still no workload without exactly one identity.
#[tokio::test]
async fn a_certificate_needs_exactly_one_identity_of_this_trust_domain() {
    let mesh = Mesh::start(HOUR).await;
    let file = |name: &str| -> PathBuf { mesh.folder.path().join(name) };
    let read = |name| std::fs::read_to_string(file(name)).unwrap();
    let root_key = KeyPair::from_pem(&read("ca.key")).unwrap();
    let root = Issuer::from_ca_cert_pem(&read("ca.crt"), root_key).unwrap();
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let ours = "spiffe://cluster.local/ns/shop/sa/orders";
    let tables = [
        vec![SanType::DnsName("orders".try_into().unwrap())],
        vec![uri(ours), uri("spiffe://cluster.local/ns/shop/sa/payments")],
        vec![uri("spiffe://other.example/ns/shop/sa/orders")],
        vec![uri("spiffe://cluster.local/shop/orders")],
        vec![uri("https://cluster.local/ns/shop/sa/orders")],
    ];
    for names in tables {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        let leaf = params.signed_by(&key, &root).unwrap();
        mesh.refused(mesh.client(Some((&[leaf.der().clone()], &key))), "identity")
            .await;
    }
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri(ours)];
    let good = params.signed_by(&key, &root).unwrap();
    let config = Arc::new(mesh.client(Some((&[good.der().clone()], &key))));
    mesh.connect(&config)
        .await
        .unwrap()
        .read_u8()
        .await
        .unwrap();
}

#[tokio::test]
async fn older_tls_and_plain_text_are_refused() {
    let mesh = Mesh::start(HOUR).await;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let old = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    mesh.refused(old, "tls").await;
    let mut plain = TcpStream::connect(mesh.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut plain, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // A TLS alert at most: no HTTP/2 frame.
    plain.read_to_end(&mut answer).await.ok();
    assert!(answer.len() <= 7, "{answer:?}");
    eventually(|| mesh.handshakes("tls") == 2).await;
}

#[tokio::test]
async fn no_session_is_resumed() {
    let mesh = Mesh::start(HOUR).await;
    let config = Arc::new(mesh.client_of("orders"));
    for _ in 0..3 {
        let mut stream = mesh.connect(&config).await.unwrap();
        stream.read_u8().await.unwrap();
        assert_eq!(
            stream.get_ref().1.handshake_kind(),
            Some(HandshakeKind::Full)
        );
    }
}

/// DEF-11: silent clients fill every handshake place, and a good one gets through all the same.
#[tokio::test]
async fn silent_clients_delay_others_for_one_handshake_timeout_at_most() {
    let mesh = Mesh::start(HOUR).await;
    let mut silent = Vec::new();
    for _ in 0..HANDSHAKES_MAX {
        silent.push(TcpStream::connect(mesh.address).await.unwrap());
    }
    let config = Arc::new(mesh.client(None));
    let good = async { mesh.connect(&config).await?.read_u8().await };
    let good = tokio::time::timeout(2 * HANDSHAKE_TIMEOUT, good).await;
    good.expect("in time").expect("served");
    eventually(|| mesh.handshakes("timeout") == u64::try_from(HANDSHAKES_MAX).unwrap()).await;
}

#[tokio::test]
async fn the_server_certificate_is_renewed_by_itself() {
    let mesh = Mesh::start(Duration::from_secs(2)).await;
    let config = Arc::new(mesh.client(None));
    let mut first = mesh.connect(&config).await.unwrap();
    first.read_u8().await.unwrap();
    let end = mesh.tls.not_after();
    let renewed = eventually(|| mesh.tls.not_after() > end);
    tokio::select! {
        () = mesh.tls.keep_renewed() => unreachable!("it never ends"),
        () = renewed => {}
    }
    let second = mesh.connect(&config).await.unwrap();
    assert_ne!(leaf_of(&first), leaf_of(&second));
}

#[tokio::test]
async fn a_new_root_is_believed_after_a_renewal() {
    let (mesh, next) = (Mesh::start(HOUR).await, Mesh::start(HOUR).await);
    let key = KeyPair::generate().unwrap();
    let theirs = next
        .authority
        .issue(&csr(&key), &identity("orders"), HOUR)
        .unwrap();
    let config = mesh.client(Some((&theirs.chain_der, &key)));
    mesh.refused(config.clone(), "tls").await;
    mesh.authority
        .add_root(&next.authority.trust_bundle().roots[0])
        .unwrap();
    mesh.tls.renew().unwrap();
    let mut stream = mesh.connect(&Arc::new(config)).await.unwrap();
    stream.read_u8().await.unwrap();
}
