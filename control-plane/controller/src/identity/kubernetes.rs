//! Whom a projected ServiceAccount token belongs to: asked of the API server (DESIGN §6, DEF-29).
//!
//! A TokenReview for the audience `outrigger-ca` says whether the token is good for us, which
//! service account it is of, and which pod it is bound to. A token for another audience (the one
//! that every pod has for the API server among them) is worth nothing here, nor is one that is
//! bound to no pod: it would outlive whoever it was given to. The pod is then compared with what
//! is known of the cluster, and asked for where that differs, as the watch may lag.
//!
//! Nothing is remembered: each call is reviewed anew, so that no answer outlives its token.

use std::{
    error::Error,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use k8s_openapi::api::authentication::v1::{
    TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo,
};
use outrigger_ca::{AUDIENCE, TOKEN_BYTES_MAX, VerifiedWorkload};
use outrigger_model::{Hostname, Namespace, ServiceAccount, SpiffeId, TrustDomain, WorkloadName};
use serde::Deserialize;

use super::{ReviewError, TokenReviewer};
use crate::{
    cluster::{Api, ApiError},
    source::{Cluster, KnownPod},
};

const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
/// What the username of a service account begins with; namespace and name follow.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Reviews tokens by asking the API server.
#[derive(Debug)]
pub struct TokenReviews {
    api: Api,
    trust_domain: TrustDomain,
    cluster: Cluster,
}

/// What an authenticated token says of its holder.
#[derive(Debug, PartialEq, Eq)]
struct Holder {
    namespace: Namespace,
    service_account: ServiceAccount,
    pod: Hostname,
    pod_uid: String,
}

/// The parts of a Pod that count here.
#[derive(Debug, Deserialize)]
struct PodView {
    metadata: PodMetadata,
    #[serde(default)]
    spec: PodSpec,
}

#[derive(Debug, Deserialize)]
struct PodMetadata {
    uid: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    #[serde(default)]
    service_account_name: String,
}

impl TokenReviews {
    /// Reviews tokens of the cluster behind `api` for identities of `trust_domain`.
    #[must_use]
    pub fn new(api: Api, trust_domain: TrustDomain, cluster: Cluster) -> Self {
        Self {
            api,
            trust_domain,
            cluster,
        }
    }

    async fn holder(&self, token: &str) -> Result<Holder, ReviewError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![AUDIENCE.to_owned()]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let answer: Result<TokenReview, ApiError> = self.api.create(PATH, &review).await;
        let status = answer.map_err(unavailable)?.status.unwrap_or_default();
        holder(status)
    }

    /// Whether the pod is there, and runs as the token says.
    async fn check_pod(&self, holder: &Holder, workload: &WorkloadName) -> Result<(), ReviewError> {
        let known = self.cluster.pod(workload);
        if known.is_some_and(|pod| holder.is(&pod)) {
            return Ok(());
        }
        let (namespace, pod) = (&holder.namespace, &holder.pod);
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}");
        let found: PodView = match self.api.get(&path).await {
            Ok(found) => found,
            Err(error) if error.code() == Some(404) => return Err(refused("pod_unknown")),
            Err(error) => return Err(unavailable(error)),
        };
        let service_account = ServiceAccount::parse(&found.spec.service_account_name);
        let found = KnownPod {
            uid: found.metadata.uid,
            service_account: service_account.map_err(|_| refused("pod_mismatch"))?,
        };
        if holder.is(&found) {
            Ok(())
        } else {
            Err(refused("pod_mismatch"))
        }
    }
}

#[tonic::async_trait]
impl TokenReviewer for TokenReviews {
    async fn review(&self, token: &str) -> Result<VerifiedWorkload, ReviewError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(refused("token_too_large"));
        }
        let holder = self.holder(token).await?;
        let workload = WorkloadName {
            namespace: holder.namespace.clone(),
            name: holder.pod.clone(),
        };
        self.check_pod(&holder, &workload).await?;
        Ok(VerifiedWorkload {
            identity: SpiffeId {
                trust_domain: self.trust_domain.clone(),
                namespace: holder.namespace,
                service_account: holder.service_account,
            },
            workload,
            expires: expiry(token).ok_or(refused("token_malformed"))?,
        })
    }
}

impl Holder {
    fn is(&self, pod: &KnownPod) -> bool {
        self.pod_uid == pod.uid && self.service_account == pod.service_account
    }
}

/// What the API server says of a token, judged.
fn holder(status: TokenReviewStatus) -> Result<Holder, ReviewError> {
    let is_sound = status.error.as_deref().unwrap_or_default().is_empty();
    if status.authenticated != Some(true) || !is_sound {
        return Err(refused("not_authenticated"));
    }
    // An API server that does not know audiences names none: the token is then for anybody.
    let audiences = status.audiences.unwrap_or_default();
    if !audiences.iter().any(|audience| audience == AUDIENCE) {
        return Err(refused("wrong_audience"));
    }
    let user = status.user.unwrap_or_default();
    let username = user.username.as_deref().unwrap_or_default();
    let account = username.strip_prefix(SERVICE_ACCOUNT);
    let account = account.and_then(|account| account.split_once(':'));
    let (namespace, service_account) = account.ok_or(ReviewError::NotAWorkload)?;
    let namespace = Namespace::parse(namespace).map_err(|_| ReviewError::NotAWorkload)?;
    let service_account =
        ServiceAccount::parse(service_account).map_err(|_| ReviewError::NotAWorkload)?;
    let pod = claim(&user, POD_NAME).and_then(parse_pod);
    let (Some(pod), Some(pod_uid)) = (pod, claim(&user, POD_UID)) else {
        return Err(refused("not_pod_bound"));
    };
    Ok(Holder {
        namespace,
        service_account,
        pod,
        pod_uid: pod_uid.to_owned(),
    })
}

/// A pod's name as the API server writes it, without a second spelling.
fn parse_pod(name: &str) -> Option<Hostname> {
    Hostname::parse(name)
        .ok()
        .filter(|pod| pod.as_str() == name)
}

/// The one value of a claim; several are none.
fn claim<'a>(user: &'a UserInfo, name: &str) -> Option<&'a str> {
    match user.extra.as_ref()?.get(name)?.as_slice() {
        [value] if !value.is_empty() => Some(value),
        _ => None,
    }
}

/// When a token ends: `exp` of its claims (RFC 7519 §4.1.4), which the API server vouched for.
fn expiry(token: &str) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct Claims {
        exp: u64,
    }
    let claims = token.split('.').nth(1)?;
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp))
}

fn refused(reason: &'static str) -> ReviewError {
    ReviewError::Refused { reason }
}

fn unavailable(error: ApiError) -> ReviewError {
    let source: Box<dyn Error + Send + Sync> = error.into();
    ReviewError::Unavailable { source }
}

#[cfg(test)]
mod tests;
