//! What changes under load: certificates, configuration, workloads. Nothing fails.

use std::collections::BTreeSet;

use outrigger_tests::{eventually, http1::call};
use rustix::process::Signal;
use serde_json::Value;

use super::{
    bed::Bed,
    load::{Load, gets, split},
};

const PATH: &str = "/api/v1/products";

#[test]
fn certificates_rotate_under_load() {
    let mut bed = Bed::new();
    bed.service("products", "products", "http");
    // A handshake for every second request, so that each certificate is used as soon as it is there.
    bed.write("rule", TWO_EACH);
    let app = bed.app("products-v1", "products", "product", "v1");
    bed.start(&["--leaf-lifetime", "4s"]);
    let load = Load::start(bed.outbound("products"), PATH, 2);
    let mut serials = [BTreeSet::new(), BTreeSet::new()];
    while serials.iter().any(|seen| seen.len() < 4) {
        load.more(5);
        for (workload, seen) in ["client", "products-v1"].iter().zip(&mut serials) {
            let certificates: Value = bed.admin(workload, "/certs").json();
            let leaf = &certificates["chain"][0];
            assert!(leaf["expires_in_seconds"].as_u64().unwrap() <= 4, "{leaf}");
            seen.insert(leaf["serial"].as_str().unwrap().to_owned());
        }
    }
    // Config streams ended with their certificates meanwhile: an edit arrives all the same.
    bed.write("rule", &TWO_EACH.replace(": 2", ": 1"));
    bed.in_force("DestinationRule/shop/products");
    load.more(20);
    let answered = load.end_without_failure();
    assert_eq!(app.requests(), answered);
    let inbound = ["direction=\"inbound\"", "result=\"completed\""];
    let handshakes = bed.metric("products-v1", "outrigger_tls_handshakes_total", &inbound);
    assert!(handshakes >= answered / 2, "{handshakes} for {answered}");
    bed.end();
}

#[test]
fn weights_workloads_and_services_change_under_load() {
    let mut bed = Bed::new();
    bed.service("products", "products", "http");
    bed.write("rule", SUBSETS);
    bed.write("weights", &weights(90));
    let stable = bed.app("products-v1", "products", "product", "v1");
    let spare = bed.app("products-v1-b", "products", "product", "v1");
    let canary = bed.app("products-v2", "products", "product", "v2");
    bed.start(&[]);
    let products = bed.outbound("products");
    let load = Load::start(products, PATH, 2);
    load.more(50);

    for weight in [100, 0, 50, 10, 100, 0] {
        bed.write("weights", &weights(weight));
        bed.in_force("VirtualService/shop/products");
        // In force means for every request that begins after it.
        let versions = split(&gets(products, PATH, 120, 2));
        let of_stable = versions.get("v1").copied().unwrap_or_default();
        let expected = match weight {
            0 => 0..=0,
            100 => 120..=120,
            50 => 33..=87,
            _ => 1..=40,
        };
        assert!(expected.contains(&of_stable), "at {weight}: {versions:?}");
    }
    assert!(canary.requests() >= 240);

    // A workload goes: what it has begun it ends, and nothing begins there any more.
    bed.write("weights", &weights(100));
    bed.in_force("VirtualService/shop/products");
    let before = spare.requests();
    load.more(50);
    assert!(spare.requests() > before);
    bed.remove("products-v1-b");
    bed.workload_event("removed", "products-v1-b");
    let before = stable.requests();
    load.more(50);
    assert!(stable.requests() >= before + 50);

    // A service that did not exist when the client's sidecar started.
    let forward = bed.sidecar("client").forward_proxy;
    let target = format!("http://late.shop.svc.cluster.local{PATH}");
    let reply = call(forward, "GET", &target, &[]);
    assert!(
        reply.reason().starts_with("no-service"),
        "{}",
        reply.reason()
    );
    bed.service("late", "late", "http");
    let late = bed.app("late-v1", "late", "product", "v7");
    bed.workload_event("added", "late-v1");
    eventually("a service that was added is reached", || {
        call(forward, "GET", &target, &[]).version() == "v7"
    });
    assert!(late.requests() >= 1);

    // The control plane does nothing for a while: what is in force stays in force.
    bed.signal(Signal::STOP);
    load.more(200);
    bed.signal(Signal::CONT);
    bed.write("weights", &weights(0));
    bed.in_force("VirtualService/shop/products");
    assert_eq!(split(&gets(products, PATH, 40, 2))["v2"], 40);

    load.end_without_failure();
    bed.end();
}

pub(crate) fn weights(of_v1: u8) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: products, namespace: shop}}
spec:
  hosts: [products]
  http:
  - route:
    - {{destination: {{host: products, subset: v1}}, weight: {of_v1}}}
    - {{destination: {{host: products, subset: v2}}, weight: {}}}
",
        100 - of_v1
    )
}

pub(crate) const SUBSETS: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: products, namespace: shop}
spec:
  host: products
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
";

const TWO_EACH: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: products, namespace: shop}
spec:
  host: products
  trafficPolicy:
    connectionPool: {http: {maxRequestsPerConnection: 2}}
";
