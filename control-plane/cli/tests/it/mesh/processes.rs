//! Processes that die are started again, and none is left.

use outrigger_tests::{eventually, http1::call, signal};
use rustix::process::Signal;

use super::bed::Bed;

const PATH: &str = "/api/v1/products";

#[test]
fn a_killed_sidecar_and_a_killed_application_come_back() {
    let mut bed = Bed::new();
    bed.service("products", "products", "http");
    let app = bed.app("products-v1", "products", "product", "v1");
    bed.start(&[]);
    let products = bed.outbound("products");
    assert_eq!(call(products, "GET", PATH, &[]).status, 200);
    assert_eq!(app.requests(), 1);

    for role in ["sidecar", "application"] {
        let start = bed.seen().iter().rfind(|event| {
            event["event"] == "child_start"
                && event["workload"] == "shop/products-v1"
                && event["role"] == role
        });
        let pid = start.unwrap()["pid"].as_u64().unwrap();
        signal(u32::try_from(pid).unwrap(), Signal::KILL).unwrap();
        let exit = bed.event(|event| event["event"] == "child_exit" && event["role"] == role);
        assert_eq!(exit["workload"], "shop/products-v1");
        assert_eq!(exit["expected"], false);
        assert!(exit["status"].as_str().unwrap().contains('9'), "{exit}");
        assert!(exit["restart_in_ms"].is_u64(), "{exit}");
        let again = bed.event(|event| event["event"] == "child_start" && event["role"] == role);
        assert_ne!(again["pid"].as_u64(), Some(pid));
        eventually("traffic flows again", || {
            call(products, "GET", PATH, &[]).status == 200
        });
    }
    // The application that died took its counts along.
    assert!(app.requests() >= 1);
    bed.end();
}
