//! One call of the API server.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use super::body::{self, BodyError};

/// Longest wait for one answer.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer of a call: a Secret or ConfigMap is 1 MiB at most.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest refusal that is read.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// How the cluster is reached is not known.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig cannot be used; see --kubeconfig and --context")]
    Kubeconfig(#[from] KubeconfigError),
    /// Not in a pod, and no kubeconfig.
    #[error("no way to the API server; run in a pod with a service account, or give --kubeconfig")]
    Infer(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// TLS towards the API server cannot be set up.
    #[error("no client for the API server")]
    Client(#[source] Box<kube::Error>),
}

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No answer: not connected, or cut.
    #[error("the API server cannot be reached")]
    Unreachable(#[source] Box<kube::Error>),
    /// No answer in time.
    #[error("the API server does not answer in time")]
    Timeout,
    /// It says no.
    #[error("the API server answers {code} to {path}: {message}")]
    Refused {
        /// HTTP status.
        code: u16,
        /// What was asked.
        path: String,
        /// In its words.
        message: String,
    },
    /// The answer broke off, or is larger than anything that is expected.
    #[error("the API server's answer cannot be read")]
    Body(#[from] BodyError),
    /// The answer is no such object.
    #[error("the API server's answer to {path} is not understood")]
    Malformed {
        /// What was asked.
        path: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The request cannot be written: a mistake of this program.
    #[error("the request cannot be made")]
    Request(#[from] http::Error),
}

impl ApiError {
    /// The HTTP status, if there was an answer.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::Unreachable(_)
            | Self::Timeout
            | Self::Body(_)
            | Self::Malformed { .. }
            | Self::Request(_) => None,
        }
    }

    /// A label for metrics: one of a fixed set.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Timeout => "timeout",
            Self::Refused { code: 401, .. } => "unauthorized",
            Self::Refused { code: 403, .. } => "forbidden",
            Self::Refused { code: 404, .. } => "not_found",
            Self::Refused { code: 409, .. } => "conflict",
            Self::Refused { code: 410, .. } => "gone",
            Self::Refused { code: 429, .. } => "too_many_requests",
            Self::Refused { .. } => "refused",
            Self::Body(_) => "broken_off",
            Self::Malformed { .. } | Self::Request(_) => "malformed",
        }
    }
}

/// The part of a Status that says why.
#[derive(Debug, Deserialize)]
struct Refusal {
    #[serde(default)]
    message: String,
}

/// A way to the API server. Clones share its connections.
#[derive(Clone)]
pub struct Api {
    client: Client,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

impl Api {
    /// Over a client that is there already.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// As a kubeconfig says (a file, or `$KUBECONFIG`, or `~/.kube/config`; its context, or
    /// another), else as in a pod. Needs a runtime; connects at the first call.
    ///
    /// # Errors
    /// When there is neither, or it cannot be used.
    pub async fn connect(file: Option<&Path>, context: Option<&str>) -> Result<Self, ConnectError> {
        // An error says that there is one already: this one.
        rustls::crypto::aws_lc_rs::default_provider()
            .install_default()
            .ok();
        let options = KubeConfigOptions {
            context: context.map(str::to_owned),
            ..KubeConfigOptions::default()
        };
        let mut config = match file {
            Some(file) => {
                let kubeconfig = Kubeconfig::read_from(file)?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await?
            }
            None if context.is_some() => Config::from_kubeconfig(&options).await?,
            None => Config::infer()
                .await
                .map_err(|error| ConnectError::Infer(error.into()))?,
        };
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        // A watch may be silent for longer than any one call: who reads it sets the deadline.
        config.read_timeout = None;
        config.write_timeout = Some(CALL_TIMEOUT);
        config.default_retry = false;
        let client =
            Client::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))?;
        Ok(Self::new(client))
    }

    /// Reads an object.
    ///
    /// # Errors
    /// When there is no such object, or the call fails otherwise.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.call(Method::GET, path, "application/json", Vec::new())
            .await
    }

    /// Makes an object.
    ///
    /// # Errors
    /// When it is there already (409), or the call fails otherwise.
    pub async fn create<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        object: &B,
    ) -> Result<T, ApiError> {
        let body = json(path, object)?;
        self.call(Method::POST, path, "application/json", body)
            .await
    }

    /// Replaces an object; refused (409) when it has changed since its resourceVersion.
    ///
    /// # Errors
    /// As said, or when the call fails otherwise.
    pub async fn replace<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        object: &B,
    ) -> Result<T, ApiError> {
        let body = json(path, object)?;
        self.call(Method::PUT, path, "application/json", body).await
    }

    /// Merges into an object (RFC 7386).
    ///
    /// # Errors
    /// When there is no such object (404), or the call fails otherwise.
    pub async fn merge<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        part: &B,
    ) -> Result<T, ApiError> {
        let body = json(path, part)?;
        self.call(Method::PATCH, path, "application/merge-patch+json", body)
            .await
    }

    /// Changes an object by operations (RFC 6902), all of them or none: a `test` that fails refuses
    /// the patch (422).
    ///
    /// # Errors
    /// As said, when there is no such object (404), or the call fails otherwise.
    pub async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        operations: &[serde_json::Value],
    ) -> Result<T, ApiError> {
        let body = json(path, &operations)?;
        self.call(Method::PATCH, path, "application/json-patch+json", body)
            .await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> Result<T, ApiError> {
        let bytes = self.read(method, path, kind, body, ANSWER_BYTES_MAX);
        let bytes = timeout(CALL_TIMEOUT, bytes)
            .await
            .map_err(|_| ApiError::Timeout)??;
        serde_json::from_slice(&bytes).map_err(|source| ApiError::Malformed {
            path: path.to_owned(),
            source,
        })
    }

    async fn read(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Vec<u8>,
        bytes_max: usize,
    ) -> Result<Bytes, ApiError> {
        let response = self.send(method, path, kind, body).await?;
        Ok(body::collect(response.into_body(), bytes_max).await?)
    }

    /// The whole of a large answer. No deadline: the caller has one.
    pub(super) async fn page(&self, path: &str, bytes_max: usize) -> Result<Bytes, ApiError> {
        self.read(Method::GET, path, "application/json", Vec::new(), bytes_max)
            .await
    }

    /// An answer that goes on; its head comes in [`CALL_TIMEOUT`].
    pub(super) async fn open(&self, path: &str) -> Result<Response<Body>, ApiError> {
        let opened = self.send(Method::GET, path, "application/json", Vec::new());
        timeout(CALL_TIMEOUT, opened)
            .await
            .map_err(|_| ApiError::Timeout)?
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> Result<Response<Body>, ApiError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, kind)
            .header(header::ACCEPT, "application/json")
            .body(Body::from(body))?;
        let response = self
            .client
            .send(request)
            .await
            .map_err(|error| ApiError::Unreachable(Box::new(error)))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refusal(path, response).await)
    }
}

async fn refusal(path: &str, response: Response<Body>) -> ApiError {
    let status: StatusCode = response.status();
    let text = body::collect(response.into_body(), REFUSAL_BYTES_MAX).await;
    let parsed: Option<Refusal> = text
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    let said = parsed.map(|refusal| refusal.message);
    ApiError::Refused {
        code: status.as_u16(),
        // Without the query: it holds nothing that helps.
        path: path.split('?').next().unwrap_or(path).to_owned(),
        message: said
            .filter(|message| !message.is_empty())
            .unwrap_or_else(|| {
                status
                    .canonical_reason()
                    .unwrap_or("no reason given")
                    .to_owned()
            }),
    }
}

fn json<B: Serialize>(path: &str, object: &B) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(object).map_err(|source| ApiError::Malformed {
        path: path.to_owned(),
        source,
    })
}
