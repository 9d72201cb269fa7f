//! The mesh's root in a Secret, and its certificate in every namespace.
//!
//! The Secret `outrigger-ca` in the control plane's namespace is made once, by whichever replica
//! comes first: all others are refused (409) and read what it made. Or somebody else writes it
//! before: `ca.crt` and `ca.key`, or `tls.crt`, `tls.key` and `ca.crt` as cert-manager does. It is
//! never changed here.
//!
//! The ConfigMap `outrigger-root` with `ca.crt` is what a sidecar trusts before its first
//! certificate; [`keep`] holds it true, on the replica that has the Lease.

use std::path::{Path, PathBuf};

use k8s_openapi::{
    ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use outrigger_ca::{CertificateAuthority, RootError, generate_root};
use outrigger_model::{Namespace, TrustDomain};

use super::{Api, ApiError, Backoff, owner::Owner};

mod config_map;

pub use config_map::{CONFIG_MAP, keep};

/// Name of the Secret.
pub const SECRET: &str = "outrigger-ca";

/// The root cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RootSecretError {
    /// The API server does not give the Secret, or does not let it be made.
    #[error("the Secret {SECRET} cannot be read or made")]
    Api(#[from] ApiError),
    /// It does not hold what it should.
    #[error(
        "the Secret {namespace}/{SECRET} has neither ca.crt and ca.key nor tls.crt and tls.key; \
         complete it, or delete it to begin with a new root"
    )]
    Incomplete {
        /// Its namespace.
        namespace: Namespace,
    },
    /// It was made by a mesh that is gone, and goes with it.
    #[error("the Secret {SECRET} is of a mesh that was uninstalled, and about to be deleted")]
    Ending,
    /// What it holds cannot be used.
    #[error(transparent)]
    Root(#[from] RootError),
}

/// The authority of the root in the Secret, which is made if it is not there. Waits while the API
/// server is away, somebody has yet to write what the Secret should hold, or one of a mesh before
/// this one is about to be deleted.
///
/// # Errors
/// When the Secret holds a root that cannot be used.
pub async fn authority(
    api: &Api,
    namespace: &Namespace,
    trust_domain: &TrustDomain,
    owner: &Owner,
) -> Result<CertificateAuthority, RootError> {
    let mut backoff = Backoff::default();
    loop {
        let error = match try_authority(api, namespace, trust_domain, owner).await {
            Ok(authority) => return Ok(authority),
            Err(RootSecretError::Root(error)) => return Err(error),
            Err(error) => error,
        };
        complain(&error);
        tokio::time::sleep(backoff.fail()).await;
    }
}

fn complain(error: &RootSecretError) {
    let cause = error as &dyn std::error::Error;
    tracing::warn!(error = cause, "no root for the mesh yet; trying again");
}

async fn try_authority(
    api: &Api,
    namespace: &Namespace,
    trust_domain: &TrustDomain,
    owner: &Owner,
) -> Result<CertificateAuthority, RootSecretError> {
    let folder = format!("/api/v1/namespaces/{namespace}/secrets");
    let path = format!("{folder}/{SECRET}");
    let secret: Secret = match api.get(&path).await {
        Err(error) if error.code() == Some(404) => {
            let secret = new_secret(namespace, trust_domain, owner)?;
            match api.create(&folder, &secret).await {
                Ok(secret) => {
                    tracing::info!(%namespace, secret = SECRET, "made a root for the mesh");
                    secret
                }
                // Another replica was faster.
                Err(error) if error.code() == Some(409) => api.get(&path).await?,
                Err(error) => return Err(error.into()),
            }
        }
        other => other?,
    };
    if owner.outlives(&secret.metadata) {
        return Err(RootSecretError::Ending);
    }
    from_secret(&secret, namespace, trust_domain)
}

fn new_secret(
    namespace: &Namespace,
    trust_domain: &TrustDomain,
    owner: &Owner,
) -> Result<Secret, RootError> {
    let (certificate, key) = generate_root(trust_domain)?;
    let data = [
        ("ca.crt".to_owned(), ByteString(certificate.into_bytes())),
        ("ca.key".to_owned(), ByteString(key.as_bytes().to_vec())),
    ];
    Ok(Secret {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_string()),
            ..owner.metadata(SECRET)
        },
        data: Some(data.into()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    })
}

fn from_secret(
    secret: &Secret,
    namespace: &Namespace,
    trust_domain: &TrustDomain,
) -> Result<CertificateAuthority, RootSecretError> {
    let data = secret.data.as_ref();
    let entry = |name: &str| {
        let bytes = data
            .and_then(|data| data.get(name))
            .map(|bytes| bytes.0.as_slice());
        bytes.filter(|bytes| !bytes.is_empty())
    };
    let place = |name: &str| PathBuf::from(format!("Secret {namespace}/{SECRET} {name}"));
    let load = |certificate: &[u8], key: &[u8], names: (&str, &str)| {
        let places = (place(names.0), place(names.1));
        let places: (&Path, &Path) = (&places.0, &places.1);
        CertificateAuthority::from_pem(certificate, key, places, trust_domain.clone())
    };
    if let (Some(certificate), Some(key)) = (entry("ca.crt"), entry("ca.key")) {
        return Ok(load(certificate, key, ("ca.crt", "ca.key"))?);
    }
    let (Some(certificate), Some(key)) = (entry("tls.crt"), entry("tls.key")) else {
        let namespace = namespace.clone();
        return Err(RootSecretError::Incomplete { namespace });
    };
    // cert-manager: `tls.crt` is the certificate of the key and what leads up, `ca.crt` the root.
    let mut chain = certificate.to_vec();
    if let Some(root) = entry("ca.crt").filter(|root| *root != certificate) {
        chain.push(b'\n');
        chain.extend_from_slice(root);
    }
    Ok(load(&chain, key, ("tls.crt", "tls.key"))?)
}

#[cfg(test)]
mod tests;
