//! What metrics say of connections to endpoints.

use std::time::Duration;

use outrigger_model::{Lifetime, Protocol, RequestsPerConnection};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    mesh::{Mesh, Side, run},
    peer::{App, Client, Gated, Http, answer},
    plan::{at_most, plain, service},
    wire::{self, rest, say, until},
};

const OPENED: &str = "outrigger_upstream_connections_total";
const CLOSED: &str = "outrigger_upstream_connections_closed_total";

/// Waits until so many connections are opened, active, idle and closed.
async fn shows(side: &Side, labels: &[&str], expected: [u64; 4]) {
    loop {
        let names = [
            OPENED,
            "outrigger_upstream_connections_active",
            "outrigger_upstream_connections_idle",
            CLOSED,
        ];
        let shown = names.map(|name| side.metric(name, labels));
        if shown == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn a_kept_connection_is_active_while_it_carries_something(version: Http) {
    run(async {
        let mesh = Mesh::new();
        let gated = Gated::start(&mesh, version, "ok").await;
        let app = &gated.app;
        let protocol = match version {
            Http::One => Protocol::Http,
            Http::Two => Protocol::Http2,
        };
        let endpoints = vec![mesh.behind(app.address).await];
        let plan = service("orders:80", endpoints.clone()).speaks(protocol);
        let outbound = mesh.known(plan).await;
        let mut client = Client::connect(&mesh, outbound, version).await;
        let to_orders = [
            "direction=\"outbound\"",
            "destination_service_name=\"orders\"",
            "destination_port=\"80\"",
        ];
        let port = format!("destination_port=\"{}\"", app.address.port());
        let to_app = ["direction=\"inbound\"", &port];
        for _ in 0..2 {
            let reply = async {
                shows(&mesh.client, &to_orders, [1, 1, 0, 0]).await;
                shows(&mesh.server, &to_app, [1, 1, 0, 0]).await;
                gated.open(1);
            };
            let (answered, ()) = tokio::join!(client.get("/"), reply);
            assert_eq!(answered.status, 200);
            shows(&mesh.client, &to_orders, [1, 0, 1, 0]).await;
            shows(&mesh.server, &to_app, [1, 0, 1, 0]).await;
        }
        let moved = |side: &Side, name: &str, labels: &[&str]| {
            let bytes = side.metric(name, labels);
            assert!((50..2_000).contains(&bytes), "{name} {bytes}");
        };
        for name in [
            "outrigger_upstream_sent_bytes_total",
            "outrigger_upstream_received_bytes_total",
        ] {
            moved(&mesh.client, name, &to_orders);
            moved(&mesh.server, name, &to_app);
        }
        // The endpoint leaves: its idle connection goes with the next request that looks.
        let other = App::start(&mesh, version, async |_| answer(200, "other")).await;
        let mut left = service("orders:80", vec![plain(other.address)]).speaks(protocol);
        left.targets[0].1.limits.idle_timeout = Lifetime::Unlimited;
        mesh.client.knows(&[left]);
        assert_eq!(client.get("/").await.text(), "other");
        shows(&mesh.client, &to_orders, [2, 0, 1, 1]).await;
        assert_eq!(mesh.client.metric(CLOSED, &["reason=\"removed\""]), 1);
        assert_eq!(mesh.server.metric(OPENED, &to_app), 1);
    });
}

#[test]
fn http1_connections_are_counted() {
    a_kept_connection_is_active_while_it_carries_something(Http::One);
}

#[test]
fn http2_connections_are_counted() {
    a_kept_connection_is_active_while_it_carries_something(Http::Two);
}

#[test]
fn a_connection_names_what_ended_it() {
    run(async {
        let mesh = Mesh::new();
        let app = wire::server(&mesh, async |mut stream| {
            loop {
                let head = until(&mut stream, "\r\n\r\n").await;
                if head.starts_with("GET /break") {
                    return stream.set_zero_linger().unwrap();
                }
                say(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n").await;
                say(&mut stream, "Keep-Alive: timeout=1\r\n").await;
                say(&mut stream, "\r\nok").await;
            }
        })
        .await;
        let plan = |most| {
            service("orders:80", vec![plain(app)])
                .policy(|policy| policy.limits.requests_per_connection = most)
        };
        let outbound = mesh.outbound("orders:80").await;
        let mut client = Client::connect(&mesh, outbound, Http::One).await;
        let spent = RequestsPerConnection::AtMost(at_most(1));
        for (most, path, reason) in [
            (RequestsPerConnection::Unlimited, "/break", "reset"),
            (RequestsPerConnection::Unlimited, "/", "idle"),
            (spent, "/", "spent"),
        ] {
            mesh.client.knows(&[plan(most)]);
            client.get(path).await;
            let reason = format!("reason=\"{reason}\"");
            shows(&mesh.client, &[&reason], [0, 0, 0, 1]).await;
        }
        shows(&mesh.client, &[], [3, 0, 0, 3]).await;
    });
}

#[test]
fn opaque_connections_are_active_to_their_end() {
    run(async {
        let mesh = Mesh::new();
        let app = wire::server(&mesh, async |mut stream| {
            assert_eq!(until(&mut stream, "\n").await, "hello\n");
            say(&mut stream, "bye\n").await;
            stream.shutdown().await.unwrap();
        })
        .await;
        let endpoint = mesh.behind(app).await;
        let plan = service("db:5432", vec![endpoint]).speaks(Protocol::Tcp);
        let outbound = mesh.known(plan).await;
        let mut client = TcpStream::connect(outbound).await.unwrap();
        shows(&mesh.client, &[], [1, 1, 0, 0]).await;
        say(&mut client, "hello\n").await;
        assert_eq!(rest(&mut client).await, "bye\n");
        client.shutdown().await.unwrap();
        for side in [&mesh.client, &mesh.server] {
            shows(side, &[], [1, 0, 0, 1]).await;
            assert_eq!(side.metric(CLOSED, &["reason=\"peer\""]), 1);
            assert_eq!(side.metric("outrigger_upstream_sent_bytes_total", &[]), 6);
            let received = "outrigger_upstream_received_bytes_total";
            assert_eq!(side.metric(received, &[]), 4);
        }
    });
}
