//! Mutual TLS between sidecars (DESIGN §5, DEF-23/24; SECURITY-NOTES rules 7–9).
//!
//! TLS 1.3 only, both sides verified against the mesh's roots, no resumption, no early data. A
//! peer's name is its SPIFFE ID, not DNS: the verifiers check the chain and that the leaf carries
//! exactly one URI SAN that is an identity of this trust domain; whether it is the *right*
//! identity is the caller's question ([`identity_of`]), asked before a byte of data is sent.
//!
//! A [`TlsContext`] is immutable; rotation builds a new one and swaps it. Connections made with
//! the old one go on.

mod verify;

use std::{fmt, sync::Arc};

use outrigger_model::{SpiffeId, TrustDomain};
use rustls::{
    ClientConfig, ServerConfig,
    client::{ResolvesClientCert, Resumption},
    crypto::CryptoProvider,
    server::ResolvesServerCert,
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use verify::MeshVerifier;
pub use verify::{IdentityError, ends_at, identity_of};

/// What is inside a mesh connection, told by ALPN (DESIGN §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// `outrigger/h1`.
    H1,
    /// `outrigger/h2`.
    H2,
    /// `outrigger/tcp`.
    Tcp,
}

impl Alpn {
    /// All, in the order a server prefers them.
    pub const ALL: [Self; 3] = [Self::H2, Self::H1, Self::Tcp];

    /// The protocol's bytes.
    #[must_use]
    pub fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::H1 => b"outrigger/h1",
            Self::H2 => b"outrigger/h2",
            Self::Tcp => b"outrigger/tcp",
        }
    }

    /// The meaning of what was negotiated.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|alpn| alpn.as_bytes() == bytes)
    }
}

/// Certificate, key and roots in force, as rustls configurations.
pub struct TlsContext {
    /// Our own identity.
    pub identity: SpiffeId,
    server: Arc<ServerConfig>,
    client_h1: Arc<ClientConfig>,
    client_h2: Arc<ClientConfig>,
    client_tcp: Arc<ClientConfig>,
    control: Arc<ClientConfig>,
    key: Arc<FixedKey>,
    roots: Vec<Arc<[u8]>>,
    /// The leaf in force, DER, for the admin endpoint.
    pub leaf: CertificateDer<'static>,
}

/// A context could not be built.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A root certificate does not parse.
    #[error("a root certificate of the trust bundle is not usable")]
    Root(#[source] webpki::Error),
    /// The bundle is empty: nobody could be verified.
    #[error("the trust bundle holds no root certificate")]
    NoRoots,
    /// The chain is empty.
    #[error("the certificate chain is empty")]
    NoCertificate,
    /// Key or certificate not usable, or they do not belong together.
    #[error("certificate and key are not usable together")]
    Key(#[source] rustls::Error),
}

impl TlsContext {
    /// Builds the configurations from a leaf-first DER chain, its key and DER roots.
    ///
    /// # Errors
    /// When a part is not usable.
    pub fn build(
        identity: SpiffeId,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: &[Arc<[u8]>],
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(mesh_provider());
        let verifier = Arc::new(MeshVerifier::new(
            roots,
            identity.trust_domain.clone(),
            Arc::clone(&provider),
        )?);
        let leaf = chain.first().cloned().ok_or(TlsError::NoCertificate)?;
        let key = CertifiedKey::from_der(chain, key, &provider).map_err(TlsError::Key)?;
        let key = Arc::new(FixedKey(Arc::new(key)));
        let resolver = || Some(Arc::clone(&key));
        let client = |alpn: Alpn| client_config(&provider, &verifier, resolver(), alpn.as_bytes());
        Ok(Self {
            identity,
            leaf,
            roots: roots.to_vec(),
            control: client_config(&provider, &verifier, resolver(), CONTROL_ALPN)?,
            server: server_config(&provider, &verifier, &key)?,
            client_h1: client(Alpn::H1)?,
            client_h2: client(Alpn::H2)?,
            client_tcp: client(Alpn::Tcp)?,
            key,
        })
    }

    /// The chain in force, leaf first, DER: what every peer is shown.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.0.cert
    }

    /// Roots that peers are verified against, DER.
    #[must_use]
    pub fn roots(&self) -> &[Arc<[u8]>] {
        &self.roots
    }

    /// For connections from other sidecars.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// For connections to other sidecars.
    #[must_use]
    pub fn client(&self, alpn: Alpn) -> Arc<ClientConfig> {
        Arc::clone(match alpn {
            Alpn::H1 => &self.client_h1,
            Alpn::H2 => &self.client_h2,
            Alpn::Tcp => &self.client_tcp,
        })
    }

    /// For the connection to the control plane.
    #[must_use]
    pub fn control(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.control)
    }

    /// Trust domain of the mesh.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.identity.trust_domain
    }
}

/// Shows no key (SECURITY-NOTES rule 12).
impl fmt::Debug for TlsContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsContext")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// aws-lc-rs with the suites and groups of DEF-24.
#[must_use]
pub fn mesh_provider() -> CryptoProvider {
    use rustls::crypto::aws_lc_rs::{cipher_suite as suite, default_provider, kx_group as group};
    CryptoProvider {
        cipher_suites: vec![
            suite::TLS13_AES_128_GCM_SHA256,
            suite::TLS13_AES_256_GCM_SHA384,
            suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![group::X25519, group::X25519MLKEM768, group::SECP256R1],
        ..default_provider()
    }
}

/// For the connection to the control plane before this sidecar holds a certificate: the server is
/// verified against the roots handed over at start, we show nothing.
///
/// # Errors
/// When the roots are not usable.
pub fn bootstrap_client(
    trust_domain: &TrustDomain,
    roots: &[Arc<[u8]>],
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(mesh_provider());
    let verifier = MeshVerifier::new(roots, trust_domain.clone(), Arc::clone(&provider))?;
    client_config(&provider, &Arc::new(verifier), None, CONTROL_ALPN)
}

/// gRPC (RFC 9113 §3.2).
const CONTROL_ALPN: &[u8] = b"h2";

fn client_config(
    provider: &Arc<CryptoProvider>,
    verifier: &Arc<MeshVerifier>,
    key: Option<Arc<FixedKey>>,
    alpn: &[u8],
) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier: Arc<MeshVerifier> = Arc::clone(verifier);
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Key)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match key {
        Some(key) => builder.with_client_cert_resolver(key),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    // A resumed session skips the certificate check: rotation and revocation would leak (rule 9).
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    // The verifier reads identities, not names; sending the placeholder name would be noise.
    config.enable_sni = false;
    Ok(Arc::new(config))
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    verifier: &Arc<MeshVerifier>,
    key: &Arc<FixedKey>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier: Arc<MeshVerifier> = Arc::clone(verifier);
    let key: Arc<FixedKey> = Arc::clone(key);
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Key)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(key);
    config.alpn_protocols = Alpn::ALL
        .iter()
        .map(|alpn| alpn.as_bytes().to_vec())
        .collect();
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// One certificate for both directions.
struct FixedKey(Arc<CertifiedKey>);

impl fmt::Debug for FixedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FixedKey")
    }
}

impl ResolvesServerCert for FixedKey {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl ResolvesClientCert for FixedKey {
    fn resolve(
        &self,
        _root_hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
