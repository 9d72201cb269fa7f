//! The workload's certificate: a key made here, a CSR, a chain back, and again before it expires
//! (DESIGN §6; DEF-26/27).
//!
//! The key never leaves this process's memory. Renewal is at a random point between half and two
//! thirds of the leaf's life; while the CA cannot be reached the old certificate serves on, with
//! backoff between attempts.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use outrigger_model::{SpiffeId, TrustBundle};
use outrigger_proto::wire::identity::{
    IssueCertificateRequest, IssueCertificateResponse,
    certificate_service_client::CertificateServiceClient,
};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{sync::watch, time::sleep};
use tonic::{Request, metadata::MetadataValue};

use super::{
    backoff::Backoff,
    link::{self, ControlPlane},
};
use crate::{
    telemetry::Telemetry,
    tls::{TlsContext, TlsError, bootstrap_client},
    upstream::TlsReader,
};

/// The whole call.
const ISSUE_MAX: Duration = Duration::from_secs(10);
/// Largest token read (rule E7).
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// The task's state.
#[derive(Debug)]
pub(super) struct Certificates {
    pub(super) to: ControlPlane,
    pub(super) identity: SpiffeId,
    pub(super) token_file: PathBuf,
    /// Roots in force: those handed over at start, then those of the trust bundle.
    pub(super) roots: Vec<Arc<[u8]>>,
    pub(super) tls: TlsReader,
    /// Grows with each certificate or root set in force.
    pub(super) renewed: watch::Sender<u64>,
    pub(super) trust: watch::Receiver<Option<Arc<TrustBundle>>>,
    pub(super) telemetry: Telemetry,
    /// End of the certificate in force, seconds since 1970; 0 before the first.
    pub(super) valid_until: u64,
}

/// A certificate could not be had.
#[derive(Debug, thiserror::Error)]
enum IssueError {
    #[error("cannot read the token file {}", path.display())]
    Token {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the token file {} is empty, too long, or not ASCII", path.display())]
    TokenText { path: PathBuf },
    #[error("cannot make a key or request")]
    Request(#[source] rcgen::Error),
    #[error("cannot reach the control plane")]
    Connect(#[source] tonic::transport::Error),
    #[error("the control plane refused: {0}")]
    Refused(String),
    #[error("no answer within 10 s")]
    Timeout,
    #[error("the certificate received is not usable")]
    Unusable(#[source] TlsError),
}

/// Key, chain and times of the certificate in force.
struct Material {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    renew_in: Duration,
}

impl Certificates {
    /// Runs until dropped.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            match self.issue().await {
                Ok(material) => {
                    backoff.reset();
                    self.hold(material).await;
                }
                Err(error) => {
                    let pause = backoff.next();
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(%error, cause, ?pause, "no certificate; trying again");
                    sleep(pause).await;
                }
            }
        }
    }

    /// Uses a certificate until it is time for the next; new roots come into force meanwhile.
    async fn hold(&mut self, material: Material) {
        let renewal = sleep(material.renew_in);
        tokio::pin!(renewal);
        loop {
            tokio::select! {
                () = &mut renewal => return,
                changed = self.trust.changed() => {
                    if changed.is_err() {
                        return renewal.await;
                    }
                }
            }
            let Some(bundle) = self.trust.borrow_and_update().clone() else {
                continue;
            };
            if bundle.roots == self.roots {
                continue;
            }
            self.roots.clone_from(&bundle.roots);
            match self.install(&material) {
                Ok(()) => tracing::info!(roots = self.roots.len(), "new roots in force"),
                Err(error) => {
                    tracing::error!(%error, "the trust bundle is not usable; the old roots stay")
                }
            }
        }
    }

    fn install(&self, material: &Material) -> Result<(), TlsError> {
        let context = TlsContext::build(
            self.identity.clone(),
            material.chain.clone(),
            material.key.clone_key(),
            &self.roots,
        )?;
        self.tls.store(Some(Arc::new(context)));
        self.renewed.send_modify(|count| *count += 1);
        Ok(())
    }

    async fn issue(&mut self) -> Result<Material, IssueError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IssueError::Request)?;
        let csr = CertificateParams::default()
            .serialize_request(&key)
            .map_err(IssueError::Request)?;
        let mut request = Request::new(IssueCertificateRequest {
            csr_der: csr.der().to_vec().into(),
        });
        request
            .metadata_mut()
            .insert("authorization", self.bearer()?);
        let tls = self.client_config().map_err(IssueError::Unusable)?;
        let calling = async {
            let channel = link::connect(&self.to, tls)
                .await
                .map_err(IssueError::Connect)?;
            let mut client = CertificateServiceClient::new(channel);
            let answer = client.issue_certificate(request).await;
            answer.map(tonic::Response::into_inner).map_err(|status| {
                IssueError::Refused(format!("{:?}: {}", status.code(), status.message()))
            })
        };
        let answer = tokio::time::timeout(ISSUE_MAX, calling);
        let answer = answer.await.map_err(|_| IssueError::Timeout)??;
        if !answer.roots_der.is_empty() && self.trust.borrow().is_none() {
            self.roots = answer
                .roots_der
                .iter()
                .map(|root| Arc::from(root.as_ref()))
                .collect();
        }
        let material = material(&answer, &key);
        self.install(&material).map_err(IssueError::Unusable)?;
        self.valid_until = u64::try_from(answer.not_after).unwrap_or_default();
        self.telemetry
            .certificate(UNIX_EPOCH + Duration::from_secs(self.valid_until));
        tracing::info!(identity = %self.identity, renew_in = ?material.renew_in, "certificate in force");
        Ok(material)
    }

    /// mTLS while there is a valid certificate; before, and when the CA was away for longer than a
    /// certificate lives, the token alone.
    fn client_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        match self.tls.load_full() {
            Some(context) if unix_seconds() < self.valid_until => Ok(context.control()),
            Some(_) | None => bootstrap_client(&self.identity.trust_domain, &self.roots),
        }
    }

    /// The token is read each time: it rotates (DEF-29).
    fn bearer(&self) -> Result<MetadataValue<tonic::metadata::Ascii>, IssueError> {
        let path = &self.token_file;
        let text = std::fs::read_to_string(path).map_err(|source| IssueError::Token {
            path: path.clone(),
            source,
        })?;
        let token = text.trim();
        if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
            return Err(IssueError::TokenText { path: path.clone() });
        }
        let mut value = MetadataValue::try_from(format!("Bearer {token}"))
            .map_err(|_| IssueError::TokenText { path: path.clone() })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

fn material(answer: &IssueCertificateResponse, key: &KeyPair) -> Material {
    let chain = answer
        .chain_der
        .iter()
        .map(|der| CertificateDer::from(der.to_vec()))
        .collect();
    let not_after = u64::try_from(answer.not_after).unwrap_or_default();
    let left = Duration::from_secs(not_after.saturating_sub(unix_seconds()));
    // Uniformly between half and two thirds (DEF-27), so that a fleet does not renew at once.
    let share = 0.5 + fastrand::f64() / 6.0;
    Material {
        chain,
        key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        renew_in: left.mul_f64(share).max(Duration::from_secs(1)),
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
