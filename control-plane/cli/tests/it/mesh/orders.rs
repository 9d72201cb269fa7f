//! `order-service` of the example shop: a canary, with `timeout` and `retries` under `spec`.

use std::{collections::BTreeMap, net::SocketAddr, thread, time::Instant};

use outrigger_tests::http1::call;

use super::{
    bed::{App, Bed},
    load::{gets, split},
};

const PATH: &str = "/api/v1/products";

#[test]
fn order_service_has_its_canary_its_timeouts_and_its_retries() {
    let mut bed = Bed::new();
    bed.write_example("order-service");
    bed.service("order-service", "order-service", "http");
    let stable = bed.app("order-v1", "order-service", "product", "v1");
    let canary = bed.app("order-v2", "order-service", "product", "v2");
    bed.start(&[]);
    let orders = bed.outbound("order-service");

    // Where the two fields belong is said, and they are in force all the same.
    for field in ["spec.timeout", "spec.retries"] {
        let warned = bed.seen().iter().any(|event| {
            event["event"] == "warning"
                && event["object"] == "VirtualService/shop/order-service"
                && event["path"] == field
                && event["message"]
                    .as_str()
                    .is_some_and(|text| text.contains("http"))
        });
        assert!(warned, "{field}: {:#?}", bed.seen());
    }

    // 1,000 at 10 %: 100, give or take 9.5; five times that is 1 in a million.
    let replies = gets(orders, PATH, 1000, 4);
    let versions = split(&replies);
    let of_canary = versions["v2"];
    assert!((53..=147).contains(&of_canary), "{versions:?}");
    assert_eq!(canary.requests(), of_canary);
    assert_eq!(stable.requests(), 1000 - of_canary);

    failures_are_not_repeated_unless_asked(&mut bed, [stable, canary]);
    silence_is_cut_short([stable, canary], orders);
    bed.end();
}

/// Istio's default conditions have no 503; `retryOn: 5xx` has.
fn failures_are_not_repeated_unless_asked(bed: &mut Bed, apps: [App; 2]) {
    let orders = bed.outbound("order-service");
    set_all(apps, r#"{"mode":"fail","status":503}"#);
    let reply = call(orders, "GET", PATH, &[]);
    assert_eq!((reply.status, reply.reason()), (503, ""));
    assert_eq!(attempts(apps), [1]);

    bed.write("order-service-5xx", RETRY_5XX);
    bed.service("order-5xx", "order-service", "http");
    bed.in_force("VirtualService/shop/order-5xx");
    set_all(apps, r#"{"mode":"fail","status":503}"#);
    let forward = bed.sidecar("client").forward_proxy;
    let target = format!("http://order-5xx.shop.svc.cluster.local{PATH}");
    let reply = call(forward, "GET", &target, &[]);
    assert_eq!(reply.status, 503, "{}", reply.reason());
    // attempts: 3 are retries: one try more than that, each with its number.
    assert_eq!(attempts(apps), [1, 1, 1, 1]);
}

/// Tries of 2 s within 5 s: the third is cut. What may have been done is not done again.
fn silence_is_cut_short(apps: [App; 2], orders: SocketAddr) {
    set_all(apps, r#"{"mode":"hang"}"#);
    let begun = Instant::now();
    let (get, post) = thread::scope(|scope| {
        let get = scope.spawn(|| (call(orders, "GET", PATH, &[]), begun.elapsed()));
        let post = scope.spawn(|| (call(orders, "POST", "/post", b"{}"), begun.elapsed()));
        (get.join().unwrap(), post.join().unwrap())
    });
    let seconds = get.1.as_secs_f64();
    assert_eq!(get.0.status, 504);
    assert!(
        get.0.reason().starts_with("request-timeout"),
        "{}",
        get.0.reason()
    );
    assert!((4.9..6.5).contains(&seconds), "{seconds} s");
    assert_eq!(attempts(apps), [1, 1, 1]);

    let seconds = post.1.as_secs_f64();
    assert_eq!(post.0.status, 504);
    assert!(
        post.0.reason().starts_with("per-try-timeout"),
        "{}",
        post.0.reason()
    );
    assert!((1.9..3.5).contains(&seconds), "{seconds} s");
    let posts = apps.map(|app| {
        app.stats()
            .paths
            .get("/post")
            .map_or(0, |path| path.requests)
    });
    assert_eq!(posts.iter().sum::<u64>(), 1);
    set_all(apps, r#"{"mode":"ok"}"#);
}

fn set_all(apps: [App; 2], fault: &str) {
    for app in apps {
        app.fault(fault);
        app.reset();
    }
}

/// Of each try, from the first, how many requests reached the applications. Only repeated ones
/// carry their number.
pub(crate) fn attempts<const N: usize>(apps: [App; N]) -> Vec<u64> {
    let mut counts = BTreeMap::<u32, u64>::new();
    for app in apps {
        if let Some(path) = app.stats().paths.get(PATH) {
            let repeated: u64 = path.attempts.values().sum();
            *counts.entry(1).or_default() += path.requests - repeated;
            for (number, count) in &path.attempts {
                *counts.entry(number.parse().unwrap()).or_default() += count;
            }
        }
    }
    counts.into_values().collect()
}

const RETRY_5XX: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: order-5xx, namespace: shop}
spec:
  hosts: [order-5xx]
  http:
  - route: [{destination: {host: order-5xx}}]
    retries: {attempts: 3, retryOn: 5xx}
";
