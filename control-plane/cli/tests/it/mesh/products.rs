//! `product-service` of the example shop: a canary below a path, limits, and ejection.

use std::{net::SocketAddr, thread};

use super::{
    bed::{App, Bed},
    client::call,
    eventually,
    load::{gets, split},
};

const PATH: &str = "/api/v1/products";
const FAIL: &str = r#"{"mode":"fail","status":500}"#;

#[test]
fn product_service_has_its_canary_its_limits_and_its_ejection() {
    let mut bed = Bed::new();
    bed.write_example("product-service");
    bed.service("product-service", "product-service", "http");
    // The same workloads under a name with ejections short enough to see them end.
    bed.write("quick", QUICK);
    bed.service("quick", "product-service", "http");
    let first = bed.app("product-v1", "product-service", "product", "v1");
    let second = bed.app("product-v1-b", "product-service", "product", "v1");
    let canary = bed.app("product-v2", "product-service", "product", "v2");
    bed.start(&[]);
    let products = bed.outbound("product-service");

    let apps = [first, second, canary];
    split_below_the_path_alone(&bed, products, apps);
    one_that_fails_is_left_out(products, bed.outbound("quick"), apps);
    what_is_over_the_limits_is_refused(products, apps);
    bed.end();
}

fn split_below_the_path_alone(bed: &Bed, products: SocketAddr, apps: [App; 3]) {
    let versions = split(&gets(products, PATH, 1000, 4));
    let of_canary = versions["v2"];
    assert!((53..=147).contains(&of_canary), "{versions:?}");
    let counts = apps.map(App::requests);
    assert_eq!(counts[2], of_canary);
    // Round robin: the two of v1 share alike.
    assert_eq!(counts[0] + counts[1], 1000 - of_canary);
    assert!(counts[0].abs_diff(counts[1]) <= 1, "{counts:?}");

    let elsewhere = call(products, "GET", "/", &[]);
    assert_eq!(elsewhere.status, 404);
    assert!(
        elsewhere.reason().starts_with("no-route"),
        "{}",
        elsewhere.reason()
    );
    assert_eq!(apps.map(App::requests), counts);

    // At most two requests on each connection, each of which is a handshake.
    for (workload, requests) in ["product-v1", "product-v1-b", "product-v2"]
        .iter()
        .zip(counts)
    {
        let inbound = ["direction=\"inbound\"", "result=\"completed\""];
        let handshakes = bed.metric(workload, "outrigger_tls_handshakes_total", &inbound);
        assert!(
            handshakes >= requests.div_ceil(2) && handshakes <= requests,
            "{workload}: {handshakes} for {requests} requests"
        );
    }
}

fn one_that_fails_is_left_out(products: SocketAddr, quick: SocketAddr, apps: [App; 3]) {
    let [first, second, _] = apps;
    let one = || call(products, "GET", PATH, &[]).status;
    // Every second answer is a failure: never five in a row, so it stays.
    first.reset();
    first.fault(r#"{"mode":"fail","status":500,"ratio":0.5}"#);
    let failed = (0..60).filter(|_| one() == 500).count();
    let requests = first.requests();
    assert!(requests >= 20, "{requests}");
    assert_eq!(failed, usize::try_from(requests / 2).unwrap());
    // All: the fifth in a row is the last. The last failure above may have begun the row.
    first.fault(FAIL);
    first.reset();
    second.reset();
    let failed = (0..60).filter(|_| one() == 500).count();
    let requests = first.requests();
    assert!((4..=5).contains(&requests), "{requests}");
    assert_eq!(failed, usize::try_from(requests).unwrap());
    assert!(second.requests() > 30, "{}", second.requests());

    // Where ejections are short, it comes back when its time is over, and not before.
    first.reset();
    let one = || call(quick, "GET", PATH, &[]);
    while first.requests() < 5 {
        one();
    }
    assert!((0..20).all(|_| one().status == 200));
    first.fault(r#"{"mode":"ok"}"#);
    eventually("an ejected endpoint returns", || {
        assert_eq!(one().status, 200);
        first.requests() > 5
    });
}

fn what_is_over_the_limits_is_refused(products: SocketAddr, apps: [App; 3]) {
    const AT_ONCE: usize = 160;
    for app in apps {
        // Less than the per-try timeout by far, so that none is repeated or ejected.
        app.fault(r#"{"mode":"slow","delay_ms":600}"#);
        app.reset();
    }
    let replies: Vec<_> = thread::scope(|scope| {
        let calls: Vec<_> = (0..AT_ONCE)
            .map(|_| scope.spawn(|| call(products, "GET", PATH, &[])))
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let (served, refused): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
    for reply in &refused {
        assert_eq!(reply.status, 503);
        let reason = reply.reason();
        assert!(
            reason.starts_with("requests-full") || reason.starts_with("pending-full"),
            "{reason}"
        );
    }
    assert!(refused.len() > 20, "{} refused", refused.len());
    // What was refused never reached an application.
    let served = u64::try_from(served.len()).unwrap();
    assert_eq!(apps.map(App::requests).iter().sum::<u64>(), served);
    let [first, second, _] = apps.map(|app| app.stats().in_flight_max);
    assert!(first + second <= 100, "{first} and {second} at once");
}

const QUICK: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: quick, namespace: shop}
spec:
  host: quick
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    outlierDetection: {consecutive5xxErrors: 5, interval: 500ms, baseEjectionTime: 1s, maxEjectionPercent: 50}
";
