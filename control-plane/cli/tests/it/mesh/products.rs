//! `product-service` of the example shop: a canary below a path, limits, and ejection.

use std::{
    net::SocketAddr,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use outrigger_tests::{PATIENCE, eventually, http1::call};

use super::{
    bed::{App, Bed},
    load::{gets, split},
    orders::attempts,
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
    // And under one that has the limits and no timeout, so that it does not matter how long it takes.
    bed.write(
        "limited",
        &LIMITS
            .replace("HOST", "limited")
            .replace("REQUESTS", "http2MaxRequests: 100, "),
    );
    bed.service("limited", "product-service", "http");
    bed.write(
        "waiting",
        &LIMITS.replace("HOST", "waiting").replace("REQUESTS", ""),
    );
    bed.service("waiting", "product-service", "http");
    let first = bed.app("product-v1", "product-service", "product", "v1");
    let second = bed.app("product-v1-b", "product-service", "product", "v1");
    let canary = bed.app("product-v2", "product-service", "product", "v2");
    bed.start(&[]);
    let products = bed.outbound("product-service");

    let apps = [first, second, canary];
    split_below_the_path_alone(&bed, products, apps);
    silence_is_tried_four_times(products, apps);
    one_that_fails_is_left_out(products, bed.outbound("quick"), apps);
    what_is_over_the_limits_is_refused(&bed, apps);
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

/// Three retries of 2 s each, within 10 s.
fn silence_is_tried_four_times(products: SocketAddr, apps: [App; 3]) {
    for app in apps {
        app.fault(r#"{"mode":"hang"}"#);
        app.reset();
    }
    let begun = Instant::now();
    let reply = call(products, "GET", PATH, &[]);
    let taken = begun.elapsed();
    assert_eq!(reply.status, 504, "{}", reply.reason());
    assert_eq!(attempts(apps), [1, 1, 1, 1]);
    assert!(taken >= Duration::from_millis(7_900), "{taken:?}");
    assert!(taken < Duration::from_secs(12), "{taken:?}");
    for app in apps {
        app.fault(r#"{"mode":"ok"}"#);
    }
}

/// 100 at once, and 50 more that wait where only connections are bounded.
fn what_is_over_the_limits_is_refused(bed: &Bed, apps: [App; 3]) {
    const SERVED: usize = 100;
    const REFUSED: usize = 60;
    for service in ["limited", "waiting"] {
        let address = bed.outbound(service);
        for app in apps {
            app.fault(r#"{"mode":"hang"}"#);
            app.reset();
        }
        let (tell, replies) = mpsc::channel();
        for _ in 0..SERVED + REFUSED {
            let tell = tell.clone();
            thread::spawn(move || tell.send(call(address, "GET", PATH, &[])));
        }
        let mut reasons = Vec::new();
        for _ in 0..REFUSED {
            // Nothing is answered before it is told to: these are refusals.
            let reply = replies.recv_timeout(PATIENCE).unwrap();
            assert_eq!(reply.status, 503, "{service}");
            reasons.push(reply.reason().to_owned());
        }
        let count = |reason: &str| {
            let of = reasons.iter().filter(|each| each.starts_with(reason));
            of.count()
        };
        if service == "limited" {
            assert_eq!(count("requests-full"), REFUSED, "{reasons:?}");
        } else {
            // The first 50 wait until their time is over; those who come later only if there is
            // room again by then.
            assert_eq!(count("pending-full") + count("pending-timeout"), REFUSED);
            assert!(count("pending-timeout") >= 50, "{reasons:?}");
        }
        eventually("all others have reached an application", || {
            apps.iter().map(|app| app.requests()).sum::<u64>() == 100
        });
        for app in apps {
            app.fault(r#"{"mode":"ok"}"#);
        }
        for _ in 0..SERVED {
            let reply = replies.recv_timeout(PATIENCE).unwrap();
            assert_eq!(reply.status, 200, "{service}: {}", reply.reason());
        }
        // What was refused never reached an application.
        let served = apps.map(|app| app.requests());
        assert_eq!(served.iter().sum::<u64>(), 100, "{service}: {served:?}");
    }
}

/// Those of the example; `REQUESTS` bounds requests beside connections.
const LIMITS: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: HOST, namespace: shop}
spec:
  host: HOST
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    connectionPool:
      tcp: {maxConnections: 100}
      http: {http1MaxPendingRequests: 50, REQUESTSmaxRequestsPerConnection: 2}
";

const QUICK: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: quick, namespace: shop}
spec:
  host: quick
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    outlierDetection: {consecutive5xxErrors: 5, interval: 500ms, baseEjectionTime: 4s, maxEjectionPercent: 50}
";
