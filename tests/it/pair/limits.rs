//! Bounds of a destination, and what is refused beyond them.

use std::time::Duration;

use outrigger_model::RequestsPerConnection;

use super::{
    mesh::{Mesh, run},
    peer::{App, Client, Gated, Http, get, once},
    plan::{at_most, plain, service},
};

#[test]
fn too_many_requests_at_once_are_refused_by_name() {
    run(async {
        let mesh = Mesh::new();
        let mut gated = Gated::start(&mesh, Http::One, "").await;
        let plan = service("orders:80", vec![plain(gated.app.address)])
            .policy(|policy| policy.limits.requests_max = 2);
        let outbound = mesh.known(plan).await;
        let refused = async {
            gated.arrived(2).await;
            let reply = once(&mesh, outbound, get("/")).await;
            let reason = "requests-full; shop/orders:80; by DestinationRule/shop/it";
            assert_eq!((reply.status, reply.reason()), (503, reason));
            // These, and one more below.
            gated.open(3);
        };
        let (one, two) = (
            once(&mesh, outbound, get("/")),
            once(&mesh, outbound, get("/")),
        );
        let (one, two, ()) = tokio::join!(one, two, refused);
        assert_eq!((one.status, two.status), (200, 200));
        assert_eq!(once(&mesh, outbound, get("/")).await.status, 200);
    });
}

#[test]
fn connections_are_bounded_and_the_line_before_them_too() {
    run(async {
        let mesh = Mesh::new();
        let mut gated = Gated::start(&mesh, Http::One, "").await;
        let plan = service("orders:80", vec![plain(gated.app.address)]).policy(|policy| {
            policy.limits.connections_max = 1;
            policy.limits.pending_max = 1;
            policy.limits.pending_timeout = Duration::from_millis(200);
        });
        let outbound = mesh.known(plan).await;
        let first = once(&mesh, outbound, get("/"));
        let others = async {
            gated.arrived(1).await;
            let (second, third) = tokio::join!(
                once(&mesh, outbound, get("/")),
                once(&mesh, outbound, get("/")),
            );
            let mut reasons = [second.reason().to_owned(), third.reason().to_owned()];
            reasons.sort();
            assert!(reasons[0].starts_with("pending-full; "), "{reasons:?}");
            assert!(reasons[1].starts_with("pending-timeout; "), "{reasons:?}");
            gated.open(1);
        };
        let (first, ()) = tokio::join!(first, others);
        assert_eq!(first.status, 200);
        // Who waits gets the connection that becomes free: one for all.
        gated.open(2);
        let (one, two) = tokio::join!(
            once(&mesh, outbound, get("/")),
            once(&mesh, outbound, get("/")),
        );
        assert_eq!((one.status, two.status), (200, 200));
        assert_eq!(gated.app.by_connection(), [3]);
    });
}

#[test]
fn a_connection_carries_no_more_requests_than_told() {
    run(async {
        let mesh = Mesh::new();
        let app = App::answering(&mesh, 200).await;
        let plan = service("orders:80", vec![plain(app.address)]).policy(|policy| {
            policy.limits.requests_per_connection = RequestsPerConnection::AtMost(at_most(2));
        });
        let outbound = mesh.known(plan).await;
        let mut client = Client::connect(&mesh, outbound, Http::One).await;
        for _ in 0..9 {
            assert_eq!(client.get("/").await.status, 200);
        }
        assert_eq!(app.by_connection(), [2, 2, 2, 2, 1]);
    });
}
