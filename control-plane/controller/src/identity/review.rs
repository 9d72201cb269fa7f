//! Whom a token belongs to: asked of whoever made it.

use std::{error::Error, sync::Arc};

use outrigger_ca::{TokenAuthority, VerifiedWorkload};

/// Why a reviewer does not vouch for a token.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// The token is not good.
    #[error("the token is refused: {reason}")]
    Refused {
        /// Why: a label of a fixed set, for metrics and for the caller. No part of the token.
        reason: &'static str,
    },
    /// The token is good but does not belong to a workload of the mesh.
    #[error("the token does not belong to a workload of this mesh")]
    NotAWorkload,
    /// The reviewer cannot tell now.
    #[error("the token cannot be reviewed now")]
    Unavailable {
        /// What is in the way.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl ReviewError {
    /// A label for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Refused { reason } => reason,
            Self::NotAWorkload => "not_a_workload",
            Self::Unavailable { .. } => "review_unavailable",
        }
    }
}

/// Tells whom a token belongs to. Outside Kubernetes [`LocalTokens`]; inside,
/// [`TokenReviews`](super::TokenReviews).
#[tonic::async_trait]
pub trait TokenReviewer: Send + Sync + 'static {
    /// The workload that a token proves. Cancel safe: has to be, it runs under a deadline of 5 s.
    async fn review(&self, token: &str) -> Result<VerifiedWorkload, ReviewError>;
}

/// Tokens that this control plane signed itself.
#[expect(missing_debug_implementations, reason = "leads to a private key")]
pub struct LocalTokens(pub Arc<TokenAuthority>);

#[tonic::async_trait]
impl TokenReviewer for LocalTokens {
    async fn review(&self, token: &str) -> Result<VerifiedWorkload, ReviewError> {
        self.0.verify(token).map_err(|error| ReviewError::Refused {
            reason: error.reason(),
        })
    }
}
