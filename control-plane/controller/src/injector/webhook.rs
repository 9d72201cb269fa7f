//! The mutating webhook: `POST /inject` with an AdmissionReview (admission.k8s.io/v1).
//!
//! Only pods that are created are asked about. A review that cannot be read is the API server's
//! fault and answered with 400; a pod whose annotations cannot be used is refused with the
//! annotation's name; everything else is admitted, with a sidecar or without. A namespace that is
//! not known yet, because it is as young as its pod, is waited for; then the answer is 503, which
//! the API server counts as a failed call and its failure policy decides on (DEF-36).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::future::BoxFuture;
use prometheus::{IntCounterVec, Opts, Registry};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};

use super::{Injected, Namespace, Settings, inject, patch};

/// Largest review that is read: an object of etcd's limit (1.5 MiB), with room for its envelope.
const REVIEW_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Longest wait for a namespace to become known: the API server waits for 5 s (DEF-36).
const NAMESPACE_MAX: Duration = Duration::from_secs(3);

/// Labels of namespaces, as the source knows them.
pub trait Namespaces: Send + Sync + 'static {
    /// The labels of `name`, as soon as it is known.
    fn labels<'a>(&'a self, name: &'a str) -> BoxFuture<'a, BTreeMap<String, String>>;
}

#[cfg(feature = "kubernetes")]
impl Namespaces for crate::source::Cluster {
    fn labels<'a>(&'a self, name: &'a str) -> BoxFuture<'a, BTreeMap<String, String>> {
        Box::pin(async move {
            let mut namespaces = self.namespaces();
            loop {
                namespaces.borrow_and_update();
                if let Some(labels) = self.namespace_labels(name) {
                    let owned = |(name, value): (Arc<str>, Arc<str>)| {
                        (name.as_ref().to_owned(), value.as_ref().to_owned())
                    };
                    return labels.into_iter().map(owned).collect();
                }
                if namespaces.changed().await.is_err() {
                    // The source has ended: nothing becomes known any more.
                    std::future::pending::<()>().await;
                }
            }
        })
    }
}

/// Counts what became of pods.
#[derive(Debug, Clone)]
pub struct WebhookMetrics {
    reviews: IntCounterVec,
}

impl WebhookMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// When `registry` has metrics of these names already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let reviews = IntCounterVec::new(
            Opts::new(
                "outrigger_injector_reviews_total",
                "Pods that the API server asked about, by what became of them.",
            ),
            &["outcome"],
        )?;
        registry.register(Box::new(reviews.clone()))?;
        Ok(Self { reviews })
    }

    fn count(&self, outcome: &str) {
        self.reviews.with_label_values(&[outcome]).inc();
    }
}

/// What the webhook works from.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "holds a foreign lookup")]
pub struct Webhook {
    /// What is put into pods: what is in force at each review.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// Who is enrolled.
    pub namespaces: Arc<dyn Namespaces>,
    /// What became of pods.
    pub metrics: WebhookMetrics,
}

/// The webhook's routes.
pub fn router(webhook: Webhook) -> Router {
    Router::new()
        .route("/inject", post(review))
        .layer(DefaultBodyLimit::max(REVIEW_BYTES_MAX))
        .with_state(webhook)
}

#[derive(Debug, Deserialize)]
struct Review {
    request: Request,
}

/// The part of an AdmissionRequest that is read.
#[derive(Debug, Deserialize)]
struct Request {
    uid: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    kind: Kind,
    #[serde(default)]
    object: Value,
}

#[derive(Debug, Default, Deserialize)]
struct Kind {
    #[serde(default)]
    group: String,
    #[serde(default)]
    kind: String,
}

/// An AdmissionResponse.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    /// Base64 of the JSON patch.
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

async fn review(
    State(webhook): State<Webhook>,
    review: Result<Json<Review>, axum::extract::rejection::JsonRejection>,
) -> Response {
    let Json(Review { request }) = match review {
        Ok(review) => review,
        Err(error) => {
            webhook.metrics.count("unreadable");
            return error.into_response();
        }
    };
    let is_new_pod = request.kind.group.is_empty()
        && request.kind.kind == "Pod"
        && request.operation == "CREATE";
    if !is_new_pod {
        webhook.metrics.count("not_a_new_pod");
        return answer(admitted(request.uid));
    }
    let known = webhook.namespaces.labels(&request.namespace);
    let Ok(labels) = timeout(NAMESPACE_MAX, known).await else {
        webhook.metrics.count("unknown_namespace");
        let text = format!(
            "namespace {} is not known to the injector yet; try again",
            request.namespace
        );
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let namespace = Namespace {
        name: &request.namespace,
        labels: &labels,
    };
    let settings = Arc::clone(&webhook.settings.borrow());
    let result = inject(&settings, &namespace, &request.object);
    webhook.metrics.count(match &result {
        Ok(Injected { skipped: None, .. }) => "injected",
        Ok(Injected { .. }) => "skipped",
        Err(_) => "refused",
    });
    answer(match result {
        Ok(done) => {
            let operations = patch(&request.object, &done.pod);
            let mut admitted = admitted(request.uid);
            admitted.warnings = done.warnings;
            if !operations.is_empty() {
                admitted.patch_type = Some("JSONPatch");
                admitted.patch = Some(BASE64_STANDARD.encode(Value::from(operations).to_string()));
            }
            admitted
        }
        Err(error) => Answer {
            allowed: false,
            status: Some(json!({"code": 400, "message": format!("outrigger: {error}")})),
            ..admitted(request.uid)
        },
    })
}

fn admitted(uid: String) -> Answer {
    Answer {
        uid,
        allowed: true,
        patch_type: None,
        patch: None,
        status: None,
        warnings: Vec::new(),
    }
}

fn answer(answer: Answer) -> Response {
    Json(json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": answer,
    }))
    .into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower::ServiceExt;

    use super::*;

    struct Known(Option<BTreeMap<String, String>>);

    impl Namespaces for Known {
        fn labels<'a>(&'a self, _: &'a str) -> BoxFuture<'a, BTreeMap<String, String>> {
            match self.0.clone() {
                Some(labels) => Box::pin(std::future::ready(labels)),
                None => Box::pin(std::future::pending()),
            }
        }
    }

    async fn post(labels: Option<&[(&str, &str)]>, body: String) -> (StatusCode, Value) {
        let labels = labels.map(|labels| {
            labels
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        });
        let router = router(Webhook {
            settings: watch::channel(Arc::new(super::super::tests::settings())).1,
            namespaces: Arc::new(Known(labels)),
            metrics: WebhookMetrics::new(&Registry::new()).unwrap(),
        });
        let request = http::Request::post("/inject")
            .header("content-type", "application/json")
            .body(Body::from(body))
            .unwrap();
        let response = router.oneshot(request).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), REVIEW_BYTES_MAX)
            .await
            .unwrap();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    fn review_of(pod: &Value) -> String {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "u-1", "namespace": "shop", "operation": "CREATE",
            "kind": {"group": "", "version": "v1", "kind": "Pod"}, "object": pod,
        }})
        .to_string()
    }

    const ENROLLED: &[(&str, &str)] = &[("outrigger.dev/inject", "enabled")];

    #[tokio::test]
    async fn a_pod_of_an_enrolled_namespace_is_patched() {
        let pod = json!({"metadata": {}, "spec": {"containers": []}});
        let (status, answer) = post(Some(ENROLLED), review_of(&pod)).await;
        assert_eq!(status, StatusCode::OK);
        let response = &answer["response"];
        assert_eq!(
            (
                &response["uid"],
                &response["allowed"],
                &response["patchType"]
            ),
            (&json!("u-1"), &json!(true), &json!("JSONPatch"))
        );
        let patch = BASE64_STANDARD
            .decode(response["patch"].as_str().unwrap())
            .unwrap();
        let patch: Value = serde_json::from_slice(&patch).unwrap();
        let paths: Vec<&str> = patch
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|operation| operation["path"].as_str())
            .collect();
        assert_eq!(
            paths,
            [
                "/metadata/annotations",
                "/spec/initContainers",
                "/spec/volumes"
            ]
        );
    }

    #[tokio::test]
    async fn what_is_not_ours_is_admitted_as_it_is() {
        let (_, answer) = post(Some(&[]), review_of(&json!({"spec": {}}))).await;
        assert_eq!(answer["response"], json!({"uid": "u-1", "allowed": true}));
        let other = review_of(&json!({"spec": {}})).replace("CREATE", "UPDATE");
        let (_, answer) = post(Some(ENROLLED), other).await;
        assert_eq!(answer["response"], json!({"uid": "u-1", "allowed": true}));
    }

    #[tokio::test]
    async fn a_bad_annotation_refuses_the_pod_by_name() {
        let pod =
            json!({"metadata": {"annotations": {"outrigger.dev/workers": "many"}}, "spec": {}});
        let (status, answer) = post(Some(ENROLLED), review_of(&pod)).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(answer["response"]["allowed"], json!(false));
        assert_eq!(
            answer["response"]["status"]["message"],
            json!(
                "outrigger: annotation outrigger.dev/workers of the pod is \"many\": write 1 to 64"
            )
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_namespace_fails_the_call() {
        let (status, _) = post(None, review_of(&json!({}))).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn what_is_no_review_is_a_bad_request() {
        for body in ["", "[]", "{\"request\": 1}"] {
            let (status, _) = post(Some(ENROLLED), body.into()).await;
            assert!(status.is_client_error(), "{body}: {status}");
        }
    }
}
