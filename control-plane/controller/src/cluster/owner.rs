//! Whose end is the end of what is made here: a ClusterRole of the chart, which every Secret,
//! ConfigMap and Lease made by the control plane names as its owner. With it Kubernetes' garbage
//! collector takes them away, in every namespace: nothing is left of a mesh that was uninstalled.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Deserialize;

use super::{Api, Backoff};

const VERSION: &str = "rbac.authorization.k8s.io/v1";
const KIND: &str = "ClusterRole";

/// What all objects that are made here carry.
#[derive(Debug, Clone, Default)]
pub struct Owner {
    reference: Option<OwnerReference>,
}

#[derive(Deserialize)]
struct View {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    uid: String,
}

impl Owner {
    /// The ClusterRole `name`. Waits while the API server is away; one that is not there leaves
    /// objects without owner, as [`Owner::default`] does.
    pub async fn cluster_role(api: &Api, name: &str) -> Self {
        let path = format!("/apis/{VERSION}/clusterroles/{name}");
        let mut backoff = Backoff::default();
        loop {
            let error = match api.get::<View>(&path).await {
                Ok(View { metadata }) => {
                    let reference = OwnerReference {
                        api_version: VERSION.to_owned(),
                        kind: KIND.to_owned(),
                        name: name.to_owned(),
                        uid: metadata.uid,
                        ..OwnerReference::default()
                    };
                    return Self {
                        reference: Some(reference),
                    };
                }
                Err(error) => error,
            };
            let cause = &error as &dyn std::error::Error;
            if matches!(error.code(), Some(403 | 404)) {
                tracing::warn!(
                    name,
                    error = cause,
                    "no owner for what is made here: an uninstall will not take it away"
                );
                return Self::default();
            }
            tracing::warn!(
                name,
                error = cause,
                "the owner of what is made here is not known yet"
            );
            tokio::time::sleep(backoff.fail()).await;
        }
    }

    /// Metadata of an object of ours.
    pub(super) fn metadata(&self, name: &str) -> ObjectMeta {
        let labels = [
            ("app.kubernetes.io/name", "outrigger"),
            ("app.kubernetes.io/managed-by", "outrigger"),
        ];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels.into()),
            owner_references: self.reference.clone().map(|reference| vec![reference]),
            ..ObjectMeta::default()
        }
    }

    /// Whether an object is of a mesh of the same name before this one, and about to be collected.
    pub(super) fn outlives(&self, object: &ObjectMeta) -> bool {
        let Some(own) = &self.reference else {
            return false;
        };
        let references = object.owner_references.iter().flatten();
        references
            .filter(|one| (&one.kind, &one.name) == (&own.kind, &own.name))
            .any(|one| one.uid != own.uid)
    }
}
