//! What the control plane's server shows and whom it believes: its own certificate, renewed at
//! half its life, and the roots of the mesh.
//!
//! Both stand in one TLS configuration, swapped whole: a handshake sees either the old pair or the
//! new one. Connections that are open keep what they were made with. Owner of the configuration is
//! [`ServerTls::renew`], called by the task that runs [`ServerTls::keep_renewed`] and by whoever
//! changes the roots.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use outrigger_ca::{CertificateAuthority, IssueError, ServerNames};
use outrigger_model::SpiffeId;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::TransportMetrics;

/// How often the wall clock is looked at while a renewal is far off: it may be set, and machines sleep.
const CLOCK_CHECK: Duration = Duration::from_secs(60);
/// Pause between tries when a renewal fails.
const RETRY: Duration = Duration::from_secs(5);

/// The server's TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The authority gave no certificate.
    #[error("no certificate for the control plane's own server")]
    Issue(#[from] IssueError),
    /// A root of the trust bundle cannot be used.
    #[error("the roots of the mesh cannot verify clients")]
    Roots(#[from] VerifierBuilderError),
    /// rustls refuses key, certificate or settings.
    #[error("the server's TLS settings are refused")]
    Tls(#[from] rustls::Error),
}

/// The cryptography of the mesh (DEF-24): TLS 1.3 with AES-GCM or ChaCha20; X25519MLKEM768,
/// X25519 or P-256.
#[must_use]
pub fn mesh_provider() -> CryptoProvider {
    use aws_lc_rs::{cipher_suite, kx_group};
    CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
        ],
        ..aws_lc_rs::default_provider()
    }
}

/// Who connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// Workloads, with a certificate of this mesh or none yet; HTTP/2 alone.
    Mesh,
    /// The API server, which is none of the mesh: any certificate it may have is not asked for.
    Web,
}

/// TLS of the control plane's server.
#[expect(missing_debug_implementations, reason = "leads to private keys")]
pub struct ServerTls {
    authority: Arc<CertificateAuthority>,
    names: ServerNames,
    ttl: Duration,
    clients: Clients,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<Current>,
    metrics: TransportMetrics,
}

struct Current {
    config: Arc<ServerConfig>,
    not_before: SystemTime,
    not_after: SystemTime,
    renew_at: SystemTime,
}

impl ServerTls {
    /// Gets the first certificate. `ttl` is the life of each certificate, a day at most.
    ///
    /// # Errors
    /// When the authority issues none for these names, or its roots cannot be used.
    pub fn new(
        authority: Arc<CertificateAuthority>,
        names: ServerNames,
        ttl: Duration,
        metrics: TransportMetrics,
    ) -> Result<Self, TransportError> {
        Self::for_clients(Clients::Mesh, authority, names, ttl, metrics)
    }

    /// The same for clients of either kind.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn for_clients(
        clients: Clients,
        authority: Arc<CertificateAuthority>,
        names: ServerNames,
        ttl: Duration,
        metrics: TransportMetrics,
    ) -> Result<Self, TransportError> {
        let provider = Arc::new(mesh_provider());
        let current = Current::new(&authority, &names, ttl, clients, &provider)?;
        let tls = Self {
            authority,
            names,
            ttl,
            clients,
            provider,
            current: ArcSwap::from_pointee(current),
            metrics,
        };
        tls.show_expiry();
        Ok(tls)
    }

    /// Gets a new certificate and takes up the authority's present roots, for handshakes from now
    /// on. On an error the former ones stay.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn renew(&self) -> Result<(), TransportError> {
        let current = Current::new(
            &self.authority,
            &self.names,
            self.ttl,
            self.clients,
            &self.provider,
        )?;
        self.current.store(Arc::new(current));
        self.show_expiry();
        Ok(())
    }

    /// Renews the certificate at half its life, for ever. Cancel safe: yes, drop it to stop.
    pub async fn keep_renewed(&self) {
        loop {
            let now = SystemTime::now();
            let (due, wait) = {
                let current = self.current.load();
                let wait = current.renew_at.duration_since(now).unwrap_or_default();
                // Before its beginning: the clock was ahead when it was made.
                (wait.is_zero() || now < current.not_before, wait)
            };
            if !due {
                tokio::time::sleep(wait.min(CLOCK_CHECK)).await;
            } else if let Err(error) = self.renew() {
                self.metrics.renewals_failed.inc();
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "server certificate not renewed; trying again"
                );
                tokio::time::sleep(RETRY).await;
            } else {
                tracing::info!(identity = %self.names.identity, "server certificate renewed");
            }
        }
    }

    /// When the present certificate ends.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.current.load().not_after
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().config)
    }

    /// The identity in a certificate that a root vouches for: its one URI, which has to be a
    /// SPIFFE ID of this trust domain (SECURITY-NOTES rule 7).
    pub(super) fn identity_of(&self, leaf: &CertificateDer<'_>) -> Option<SpiffeId> {
        let leaf = webpki::EndEntityCert::try_from(leaf).ok()?;
        let mut names = leaf.valid_uri_names();
        let identity: SpiffeId = names.next()?.parse().ok()?;
        let alone = names.next().is_none();
        (alone && identity.trust_domain == *self.authority.trust_domain()).then_some(identity)
    }

    fn show_expiry(&self) {
        let since = self.not_after().duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since.map_or(0, |since| since.as_secs());
        self.metrics
            .certificate_expiry
            .set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }
}

impl Current {
    fn new(
        authority: &CertificateAuthority,
        names: &ServerNames,
        ttl: Duration,
        clients: Clients,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TransportError> {
        let mut roots = RootCertStore::empty();
        for root in authority.trust_bundle().roots {
            roots.add(CertificateDer::from(root.to_vec()))?;
        }
        // Without a certificate a client is a peer without identity; with a wrong one it is refused.
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
                .allow_unauthenticated()
                .build()?;
        let credentials = authority.issue_server(names, ttl)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(credentials.key_der.to_vec()));
        let certificate = credentials.certificate;
        let config = ServerConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?;
        let config = match clients {
            Clients::Mesh => config.with_client_cert_verifier(verifier),
            Clients::Web => config.with_no_client_auth(),
        };
        let mut config = config.with_single_cert(certificate.chain_der, key)?;
        config.alpn_protocols = match clients {
            Clients::Mesh => vec![b"h2".to_vec()],
            Clients::Web => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let now = SystemTime::now();
        let life = certificate
            .not_after
            .duration_since(now)
            .unwrap_or_default();
        Ok(Self {
            config: Arc::new(config),
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            renew_at: now + life / 2,
        })
    }
}
