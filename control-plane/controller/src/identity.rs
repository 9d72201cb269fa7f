//! The certificate service: a workload shows its token and gets a certificate (DESIGN §6).
//!
//! The order of a call, and the code reads in this order: one token, from `authorization: Bearer`;
//! a free place; whom the token belongs to, by the [`TokenReviewer`]; whether the connection is
//! that same workload's, when it came with a certificate; whether the workload asks too often; the
//! certificate, for exactly that identity.
//!
//! The token is asked for in every call, renewals too: a certificate that leaked cannot be made to
//! last by renewing it. The identity comes from the token alone; of the signing request only the
//! public key counts (SECURITY-NOTES rule 8). Neither token nor request is logged.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use outrigger_ca::{CertificateAuthority, IssueError, IssuedCertificate, VerifiedWorkload};
use outrigger_model::SpiffeId;
use outrigger_proto::wire::identity::{
    IssueCertificateRequest, IssueCertificateResponse,
    certificate_service_server::{CertificateService, CertificateServiceServer},
};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, metadata::MetadataMap};

use crate::transport::PeerInfo;
use rate::AskRate;

#[cfg(feature = "kubernetes")]
mod kubernetes;
mod metrics;
mod rate;
mod review;

#[cfg(feature = "kubernetes")]
pub use kubernetes::TokenReviews;
pub use metrics::IdentityMetrics;
pub use review::{LocalTokens, ReviewError, TokenReviewer};

/// Largest request message: a signing request, and room to say of a larger one that it is too large.
const MESSAGE_BYTES_MAX: usize = 2 * outrigger_ca::CSR_BYTES_MAX;
/// Longest wait for a free place.
const PLACE_WAIT: Duration = Duration::from_secs(1);
/// Time for a reviewer's answer, which may come from another server.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);

/// Settings of the certificate service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityOptions {
    /// Life of a certificate: 24 h by default, and at most (DEF-26).
    pub leaf_ttl: Duration,
    /// Calls served at once; further ones wait a second, then get `RESOURCE_EXHAUSTED`. 64 by
    /// default: at some 300 µs of CPU each that is a queue of 20 ms.
    pub concurrent_max: usize,
}

impl Default for IdentityOptions {
    fn default() -> Self {
        Self {
            leaf_ttl: outrigger_ca::LEAF_TTL_MAX,
            concurrent_max: 64,
        }
    }
}

/// The service. Serve it with [`Self::into_server`], over [`crate::transport::connections`] only:
/// elsewhere the peer is unknown, and every call is refused.
#[expect(missing_debug_implementations, reason = "leads to private keys")]
pub struct IdentityService {
    authority: Arc<CertificateAuthority>,
    reviewer: Arc<dyn TokenReviewer>,
    places: Semaphore,
    rate: AskRate,
    leaf_ttl: Duration,
    metrics: IdentityMetrics,
}

/// Why a call got no certificate.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("no token: send it as `authorization: Bearer <token>`, once")]
    NoToken,
    #[error("this connection does not say who its peer is")]
    NoPeer,
    #[error("too many calls at once; try again")]
    Busy,
    #[error("this workload asks too often; try again later")]
    TooOften,
    #[error(transparent)]
    Review(ReviewError),
    #[error("the token's review took too long; try again")]
    ReviewTimeout,
    #[error("the token belongs to {token}, the connection to {peer}")]
    Mismatch { token: SpiffeId, peer: SpiffeId },
    #[error(transparent)]
    Issue(IssueError),
}

impl Refusal {
    /// The label in metrics and logs: one of a fixed set.
    fn reason(&self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::NoPeer => "no_peer",
            Self::Busy => "busy",
            Self::TooOften => "too_often",
            Self::Review(error) => error.reason(),
            Self::ReviewTimeout => "review_timeout",
            Self::Mismatch { .. } => "identity_mismatch",
            Self::Issue(error) => error.reason(),
        }
    }

    /// What the caller is told: nothing that it does not know or may not know.
    fn status(&self) -> Status {
        let text = self.to_string();
        match self {
            Self::NoToken => Status::unauthenticated(text),
            Self::Review(ReviewError::Refused { reason }) => {
                Status::permission_denied(format!("the token is refused: {reason}"))
            }
            Self::Review(ReviewError::NotAWorkload) | Self::Mismatch { .. } => {
                Status::permission_denied(text)
            }
            Self::Review(ReviewError::Unavailable { .. }) => {
                Status::unavailable("the token cannot be reviewed now; try again")
            }
            Self::Busy | Self::TooOften => Status::resource_exhausted(text),
            Self::ReviewTimeout => Status::unavailable(text),
            Self::Issue(IssueError::Csr(_)) => Status::invalid_argument(text),
            Self::Issue(IssueError::WrongTrustDomain { .. }) => Status::permission_denied(text),
            Self::Issue(IssueError::RootExpired) => Status::unavailable(text),
            Self::NoPeer
            | Self::Issue(
                IssueError::TtlTooShort { .. } | IssueError::BadRoot { .. } | IssueError::Crypto(_),
            ) => Status::internal("the control plane cannot issue certificates; see its log"),
        }
    }
}

impl IdentityService {
    /// A service that issues from `authority` what `reviewer` vouches for.
    #[must_use]
    pub fn new(
        authority: Arc<CertificateAuthority>,
        reviewer: Arc<dyn TokenReviewer>,
        options: &IdentityOptions,
        metrics: IdentityMetrics,
    ) -> Self {
        Self {
            authority,
            reviewer,
            places: Semaphore::new(options.concurrent_max),
            rate: AskRate::default(),
            leaf_ttl: options.leaf_ttl,
            metrics,
        }
    }

    /// The service as tonic serves it, its message size bounded.
    #[must_use]
    pub fn into_server(self) -> CertificateServiceServer<Self> {
        CertificateServiceServer::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    async fn certify(
        &self,
        metadata: &MetadataMap,
        peer: Option<&PeerInfo>,
        csr_der: &[u8],
    ) -> Result<(VerifiedWorkload, IssuedCertificate), Refusal> {
        let peer = peer.ok_or(Refusal::NoPeer)?;
        let token = bearer(metadata).ok_or(Refusal::NoToken)?;
        let place = tokio::time::timeout(PLACE_WAIT, self.places.acquire()).await;
        let Ok(Ok(_place)) = place else {
            return Err(Refusal::Busy);
        };
        let workload = tokio::time::timeout(REVIEW_TIMEOUT, self.reviewer.review(token))
            .await
            .map_err(|_| Refusal::ReviewTimeout)?
            .map_err(Refusal::Review)?;
        if let Some(identity) = peer.identity.as_ref()
            && *identity != workload.identity
        {
            return Err(Refusal::Mismatch {
                token: workload.identity,
                peer: identity.clone(),
            });
        }
        if !self.rate.admit(&workload.workload, Instant::now()) {
            return Err(Refusal::TooOften);
        }
        let issued = self
            .authority
            .issue(csr_der, &workload.identity, self.leaf_ttl);
        Ok((workload, issued.map_err(Refusal::Issue)?))
    }

    fn answer(&self, issued: &IssuedCertificate) -> IssueCertificateResponse {
        let roots = self.authority.trust_bundle().roots;
        IssueCertificateResponse {
            chain_der: issued
                .chain_der
                .iter()
                .map(|der| der.to_vec().into())
                .collect(),
            roots_der: roots.iter().map(|root| root.to_vec().into()).collect(),
            not_before: unix_seconds(issued.not_before),
            not_after: unix_seconds(issued.not_after),
        }
    }
}

#[tonic::async_trait]
impl CertificateService for IdentityService {
    async fn issue_certificate(
        &self,
        request: Request<IssueCertificateRequest>,
    ) -> Result<Response<IssueCertificateResponse>, Status> {
        let peer = request.extensions().get::<PeerInfo>();
        let csr_der = &request.get_ref().csr_der;
        match self.certify(request.metadata(), peer, csr_der).await {
            Ok((workload, issued)) => {
                self.metrics.issued.inc();
                let answer = self.answer(&issued);
                tracing::info!(
                    identity = %workload.identity, workload = %workload.workload,
                    peer = peer.map(|peer| tracing::field::display(peer.address)),
                    not_after = answer.not_after, "certificate issued"
                );
                Ok(Response::new(answer))
            }
            Err(refusal) => {
                self.metrics.refused(refusal.reason());
                tracing::warn!(
                    reason = refusal.reason(),
                    error = &refusal as &dyn std::error::Error,
                    peer = peer.map(|peer| tracing::field::display(peer.address)),
                    "certificate refused"
                );
                Err(refusal.status())
            }
        }
    }
}

/// The token of the one `authorization` entry (RFC 6750 §2.1); two entries are none.
fn bearer(metadata: &MetadataMap) -> Option<&str> {
    let mut values = metadata.get_all("authorization").iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn unix_seconds(time: SystemTime) -> i64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
