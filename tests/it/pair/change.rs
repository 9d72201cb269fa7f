//! Changes under load: configuration, endpoints, and the end of a sidecar. No request may notice.

use std::{cell::Cell, net::SocketAddr, time::Duration};

use outrigger_model::Protocol;
use tokio::net::TcpStream;

use super::{
    mesh::{Mesh, run},
    peer::{App, Client, Gated, Http, answer, full, get, request},
    plan::{ServicePlan, backend, meshed, plain, policy, rule, service},
    wire::{self, rest, say, until},
};

/// Calls on connections of `per_connection` requests until `done`, and counts.
async fn load(mesh: &Mesh, address: SocketAddr, version: Http, done: &Cell<bool>) -> usize {
    let mut count = 0;
    while !done.get() {
        let mut client = Client::connect(mesh, address, version).await;
        for number in 0..5 {
            let request = match number % 2 {
                0 => get("/"),
                _ => request("POST", "/", full("some body")),
            };
            let reply = client.send(request).await;
            assert_eq!((reply.status, reply.reason()), (200, ""));
            count += 1;
        }
    }
    count
}

/// A plan per step: endpoints come, go and change sides, rules and subsets too.
fn steps(app: &[SocketAddr; 2], inbound: &[SocketAddr; 2], mesh: &Mesh) -> Vec<ServicePlan> {
    let identity = &mesh.server.identity;
    let one = service("orders:80", vec![meshed(inbound[0], identity)]);
    let both = inbound.map(|address| meshed(address, identity)).to_vec();
    let bare = service("orders:80", vec![plain(app[1])]);
    let mut split = service("orders:80", both.clone());
    let subset = backend("orders:80", Some("v2"));
    let whole = backend("orders:80", None);
    split.http = vec![rule("split", vec![(1, whole), (1, subset.clone())])];
    split
        .targets
        .push((subset, policy(), vec![both[1].clone()]));
    let tight = service("orders:80", both).policy(|policy| policy.limits.connections_max = 64);
    vec![one, split, bare, tight]
}

fn changes_under_load(version: Http) {
    run(async {
        let mesh = Mesh::new();
        let start = || App::start(&mesh, version, async |_| answer(200, "ok"));
        let apps = [start().await, start().await];
        let addresses = [apps[0].address, apps[1].address];
        let inbound = [
            mesh.inbound(addresses[0]).await,
            mesh.inbound(addresses[1]).await,
        ];
        let steps = steps(&addresses, &inbound, &mesh);
        mesh.client.knows(&steps[..1]);
        let outbound = mesh.outbound("orders:80").await;
        let done = Cell::new(false);
        let change = async {
            for step in 0..60 {
                let before = apps[0].count() + apps[1].count();
                mesh.client.knows(&steps[step % 4..=step % 4]);
                // A change for every few requests.
                while apps[0].count() + apps[1].count() < before + 3 {
                    tokio::task::yield_now().await;
                }
            }
            done.set(true);
        };
        let (one, two, ()) = tokio::join!(
            load(&mesh, outbound, version, &done),
            load(&mesh, outbound, version, &done),
            change,
        );
        assert_eq!(apps[0].count() + apps[1].count(), one + two);
        assert!(apps[0].count() > 10 && apps[1].count() > 10);
    });
}

#[test]
fn configuration_changes_under_load_fail_no_http1_request() {
    changes_under_load(Http::One);
}

#[test]
fn configuration_changes_under_load_fail_no_http2_request() {
    changes_under_load(Http::Two);
}

/// Requests are in flight at the application when the sidecars are told to end.
fn drain_with_requests_in_flight(version: Http) {
    run(async {
        let mesh = Mesh::new();
        let mut gated = Gated::start(&mesh, version, "late").await;
        let outbound = mesh.through(gated.app.address, |plan| plan).await;
        let mut clients = Vec::new();
        for _ in 0..4 {
            clients.push(Client::connect(&mesh, outbound, version).await);
        }
        let calls = async {
            let [a, b, c, d] = clients.as_mut_slice() else {
                panic!()
            };
            let (a, b, c, d) = tokio::join!(a.get("/"), b.get("/"), c.get("/"), d.get("/"));
            for reply in [a, b, c, d] {
                assert_eq!((reply.status, reply.text()), (200, "late"));
                let close = reply.header("connection").map(str::to_owned);
                assert!(version == Http::Two || close.as_deref() == Some("close"));
            }
        };
        let end = async {
            gated.arrived(4).await;
            mesh.server.drain.begin();
            mesh.client.drain.begin();
            gated.open(4);
        };
        tokio::join!(calls, end);
        // With the last answer every connection ends, and so does the worker.
        for side in [&mesh.client, &mesh.server] {
            side.worker.tasks.close();
            let ended = tokio::time::timeout(Duration::from_secs(3), side.worker.tasks.wait());
            assert!(ended.await.is_ok(), "{} does not end", side.identity);
        }
        assert!(TcpStream::connect(outbound).await.is_err());
    });
}

#[test]
fn a_drain_lets_http1_requests_end() {
    drain_with_requests_in_flight(Http::One);
}

#[test]
fn a_drain_lets_http2_requests_end() {
    drain_with_requests_in_flight(Http::Two);
}

#[test]
fn a_connection_made_before_the_drain_is_still_served() {
    run(async {
        let mesh = Mesh::new();
        let app = App::answering(&mesh, 200).await;
        let outbound = mesh.through(app.address, |plan| plan).await;
        // The kernel has accepted them; the worker has had no turn to.
        let mut streams = Vec::new();
        for _ in 0..8 {
            let stream = std::net::TcpStream::connect(outbound).unwrap();
            stream.set_nonblocking(true).unwrap();
            streams.push(TcpStream::from_std(stream).unwrap());
        }
        mesh.client.drain.begin();
        for stream in &mut streams {
            say(stream, "GET / HTTP/1.1\r\nHost: o\r\n\r\n").await;
        }
        for stream in &mut streams {
            let answer = rest(stream).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
        }
    });
}

#[test]
fn what_outlives_the_drain_is_cut() {
    run(async {
        let mesh = Mesh::new();
        let app = App::start(&mesh, Http::One, async |_| std::future::pending().await).await;
        let outbound = mesh
            .known(service("orders:80", vec![plain(app.address)]))
            .await;
        let mut client = TcpStream::connect(outbound).await.unwrap();
        say(&mut client, "GET / HTTP/1.1\r\nHost: o\r\n\r\n").await;
        while app.count() == 0 {
            tokio::task::yield_now().await;
        }
        mesh.client.drain.begin();
        mesh.client.drain.force();
        assert_eq!(rest(&mut client).await, "");
        mesh.client.worker.tasks.close();
        mesh.client.worker.tasks.wait().await;
        let cut = mesh
            .client
            .metric("outrigger_requests_total", &["reason=\"draining\""]);
        assert_eq!(cut, 1, "what is cut is recorded");
    });
}

#[test]
fn an_opaque_connection_that_outlives_the_drain_is_recorded() {
    run(async {
        let mesh = Mesh::new();
        let app = wire::server(&mesh, async |mut stream| {
            until(&mut stream, "ping").await;
            say(&mut stream, "pong").await;
            rest(&mut stream).await;
        })
        .await;
        let plan = service("db:5432", vec![plain(app)]).speaks(Protocol::Tcp);
        let outbound = mesh.known(plan).await;
        let mut client = TcpStream::connect(outbound).await.unwrap();
        say(&mut client, "ping").await;
        until(&mut client, "pong").await;
        mesh.client.drain.force();
        assert_eq!(rest(&mut client).await, "");
        mesh.client.worker.tasks.close();
        mesh.client.worker.tasks.wait().await;
        let metric = |name, labels: &[&str]| mesh.client.metric(name, labels);
        let cut = ["reason=\"draining\""];
        assert_eq!(metric("outrigger_tcp_connections_closed_total", &cut), 1);
        assert_eq!(metric("outrigger_tcp_sent_bytes_total", &[]), 4);
        assert_eq!(metric("outrigger_tcp_received_bytes_total", &[]), 4);
    });
}
