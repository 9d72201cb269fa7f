//! Reviews by a fake API server, honest and otherwise.

use serde_json::{Value, json};

use super::*;
use crate::{
    cluster::fake::{Fake, Outage},
    source::Kubernetes,
};

/// A token that says when it ends; who signed it is the API server's business.
fn token() -> String {
    let claims = URL_SAFE_NO_PAD.encode(json!({"exp": 4_000_000_000_u64}).to_string());
    format!("e30.{claims}.c2ln")
}

/// What an API server says of a good token.
fn good() -> Value {
    json!({
        "authenticated": true,
        "audiences": ["outrigger-ca"],
        "user": {
            "username": "system:serviceaccount:shop:orders",
            "extra": {
                "authentication.kubernetes.io/pod-name": ["orders-1"],
                "authentication.kubernetes.io/pod-uid": ["uid-1"],
            },
        },
    })
}

fn pod(uid: &str, service_account: &str) -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": "orders-1", "uid": uid},
        "spec": {"serviceAccountName": service_account},
    })
}

struct Bed {
    fake: Fake,
    reviews: TokenReviews,
    _source: Kubernetes,
}

/// A reviewer in a cluster that was watched while it had `watched` pods.
async fn bed(status: Value, watched: &[Value]) -> Bed {
    let fake = Fake::new();
    for pod in watched {
        fake.world().put("/api/v1/pods", pod.clone());
    }
    let (mut source, cluster) =
        Kubernetes::start(fake.api(), &prometheus::Registry::new()).unwrap();
    source.synced().await;
    let answer = move |asked: &Value| {
        assert_eq!(asked["spec"]["audiences"], json!(["outrigger-ca"]));
        (201, json!({"spec": asked["spec"], "status": status}))
    };
    fake.world().hooks.insert(PATH.to_owned(), Box::new(answer));
    let trust_domain = TrustDomain::parse("cluster.local").unwrap();
    let reviews = TokenReviews::new(fake.api(), trust_domain, cluster);
    Bed {
        fake,
        reviews,
        _source: source,
    }
}

fn reason(result: Result<VerifiedWorkload, ReviewError>) -> &'static str {
    result.err().map_or("accepted", |error| error.reason())
}

#[tokio::test(start_paused = true)]
async fn a_good_token_is_that_pods_and_no_others() {
    let bed = bed(good(), &[pod("uid-1", "orders")]).await;
    let verified = bed.reviews.review(&token()).await.unwrap();
    let expected = "spiffe://cluster.local/ns/shop/sa/orders";
    assert_eq!(verified.identity.to_string(), expected);
    assert_eq!(verified.workload.to_string(), "shop/orders-1");
    let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    assert_eq!(verified.expires, expires);
    // The pod was known: it was not asked for.
    assert_eq!(bed.fake.world().count(&["GET", "/pods/orders-1"]), 0);
    // And again: nothing is remembered.
    bed.reviews.review(&token()).await.unwrap();
    assert_eq!(bed.fake.world().count(&["POST", PATH]), 2);
}

/// What an API server says of a good token, but for one field.
fn changed(path: &str, value: Value) -> Value {
    let mut status = good();
    *status.pointer_mut(path).unwrap() = value;
    status
}

async fn judge(status: Value) -> &'static str {
    let bed = bed(status, &[pod("uid-1", "orders")]).await;
    reason(bed.reviews.review(&token()).await)
}

#[tokio::test(start_paused = true)]
async fn what_is_not_authenticated_for_us_is_refused() {
    let mut in_error = good();
    in_error["error"] = "[invalid bearer token, signature is invalid]".into();
    let audiences = |audiences: Value| changed("/audiences", audiences);
    for (status, expected) in [
        (good(), "accepted"),
        (json!({}), "not_authenticated"),
        (Value::Null, "not_authenticated"),
        (changed("/authenticated", false.into()), "not_authenticated"),
        (in_error, "not_authenticated"),
        (audiences(json!([])), "wrong_audience"),
        (audiences(Value::Null), "wrong_audience"),
        (
            audiences(json!(["https://kubernetes.default.svc"])),
            "wrong_audience",
        ),
        (
            audiences(json!(["outrigger-ca2", "Outrigger-ca"])),
            "wrong_audience",
        ),
        (audiences(json!(["other", "outrigger-ca"])), "accepted"),
    ] {
        assert_eq!(judge(status.clone()).await, expected, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_no_service_account_is_refused() {
    for (username, expected) in [
        ("system:serviceaccount:shop:orders", "accepted"),
        ("system:admin", "not_a_workload"),
        ("system:node:n1", "not_a_workload"),
        ("alice", "not_a_workload"),
        ("", "not_a_workload"),
        ("system:serviceaccount:shop", "not_a_workload"),
        ("system:serviceaccount:shop:", "not_a_workload"),
        ("system:serviceaccount::orders", "not_a_workload"),
        ("system:serviceaccount:shop:orders:x", "not_a_workload"),
        ("system:serviceaccount:shop/sa:orders", "not_a_workload"),
        ("system:serviceaccount:Shop:orders", "not_a_workload"),
        ("system:serviceaccount:shop:orders/ns/pay", "not_a_workload"),
        ("x:system:serviceaccount:shop:orders", "not_a_workload"),
        // Another account than its pod runs as, and another namespace than its pod's.
        ("system:serviceaccount:shop:payments", "pod_mismatch"),
        ("system:serviceaccount:other:orders", "pod_unknown"),
    ] {
        let status = changed("/user/username", username.into());
        assert_eq!(judge(status).await, expected, "{username}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_of_no_pod_or_another_is_refused() {
    let bare = changed("/user/extra", Value::Null);
    assert_eq!(judge(bare).await, "not_pod_bound");
    for (claim, value, expected) in [
        ("pod-name", json!([]), "not_pod_bound"),
        ("pod-name", json!(["orders-1", "orders-2"]), "not_pod_bound"),
        ("pod-name", json!(["../../secrets/x"]), "not_pod_bound"),
        ("pod-name", json!(["Orders-1"]), "not_pod_bound"),
        ("pod-name", json!(["orders-2"]), "pod_unknown"),
        ("pod-uid", json!([""]), "not_pod_bound"),
        ("pod-uid", json!(["uid-1", "uid-2"]), "not_pod_bound"),
        ("pod-uid", json!(["uid-2"]), "pod_mismatch"),
    ] {
        let path = format!("/user/extra/authentication.kubernetes.io~1{claim}");
        let found = judge(changed(&path, value.clone())).await;
        assert_eq!(found, expected, "{claim} {value}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_the_watch_does_not_know_yet_is_asked_for() {
    let bed = bed(good(), &[]).await;
    // Written where only a direct read finds it: the source is not driven any more.
    bed.fake.world().put("/api/v1/pods", pod("uid-1", "orders"));
    bed.reviews.review(&token()).await.unwrap();
    assert_eq!(
        bed.fake
            .world()
            .count(&["GET", "/namespaces/shop/pods/orders-1"]),
        1
    );
    // A pod of that name made anew is another pod.
    bed.fake.world().put("/api/v1/pods", pod("uid-9", "orders"));
    assert_eq!(reason(bed.reviews.review(&token()).await), "pod_mismatch");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_cannot_tell_is_no_refusal() {
    for outage in [
        Outage::Cut,
        Outage::Code(500),
        Outage::Code(403),
        Outage::Code(429),
    ] {
        let bed = bed(good(), &[pod("uid-1", "orders")]).await;
        bed.fake.world().outage = outage;
        let result = bed.reviews.review(&token()).await;
        assert!(
            matches!(result, Err(ReviewError::Unavailable { .. })),
            "{outage:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_token_is_refused_here() {
    let bed = bed(good(), &[pod("uid-1", "orders")]).await;
    let too_large = "x".repeat(TOKEN_BYTES_MAX + 1);
    assert_eq!(
        reason(bed.reviews.review(&too_large).await),
        "token_too_large"
    );
    assert_eq!(bed.fake.world().count(&["POST", PATH]), 0);
    for odd in ["", "a", "a.b.c", "a.e30.c"] {
        assert_eq!(
            reason(bed.reviews.review(odd).await),
            "token_malformed",
            "{odd}"
        );
    }
}
