//! Opaque TCP: relayed whole, whoever speaks first, and ended side by side.

use std::{cell::Cell, io::ErrorKind, rc::Rc, time::Duration};

use outrigger_model::Protocol;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

use super::{
    mesh::{Mesh, nowhere, run},
    peer::{App, Client, Http, get, once},
    plan::{ServicePlan, plain, service},
    wire::{self, rest, say, until},
};

/// The client's address for `application` behind a sidecar, on a port that speaks `protocol`.
async fn through(
    mesh: &Mesh,
    application: std::net::SocketAddr,
    protocol: Protocol,
    change: impl FnOnce(ServicePlan) -> ServicePlan,
) -> std::net::SocketAddr {
    let endpoint = mesh.behind(application).await;
    let plan = service("db:5432", vec![endpoint]).speaks(protocol);
    mesh.known(change(plan)).await
}

async fn echo(mut stream: TcpStream) {
    let (mut read, mut write) = stream.split();
    // A peer that breaks off is part of the tests.
    if tokio::io::copy(&mut read, &mut write).await.is_ok() {
        let _gone = write.shutdown().await;
    }
}

/// What is read next ends in a reset, not in an end.
async fn expect_reset(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let read = stream.read_to_end(&mut rest).await;
    let kind = read.map_err(|error| error.kind());
    assert_eq!(kind, Err(ErrorKind::ConnectionReset), "{rest:?}");
}

/// A byte that depends on its place.
fn pattern(place: usize) -> u8 {
    place.wrapping_mul(31).to_le_bytes()[1]
}

#[test]
fn bytes_arrive_whole_and_half_closed_connections_go_on() {
    run(async {
        const LENGTH: usize = 48 * 1024 * 1024;
        let mesh = Mesh::new();
        let app = wire::server(&mesh, echo).await;
        let outbound = through(&mesh, app, Protocol::Tcp, |plan| plan).await;
        let client = TcpStream::connect(outbound).await.unwrap();
        let (mut read, mut write) = client.into_split();
        let sent: Rc<[u8]> = (0..LENGTH).map(pattern).collect();
        let sending = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let receiving = async {
            let mut got = Vec::with_capacity(LENGTH);
            read.read_to_end(&mut got).await.unwrap();
            got
        };
        let ((), got) = tokio::join!(sending, receiving);
        assert!(got == *sent, "{} bytes came back", got.len());
        let metric = |name| mesh.client.metric(name, &[]);
        while metric("outrigger_tcp_connections_closed_total") < 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(metric("outrigger_tcp_sent_bytes_total"), 48 << 20);
        assert_eq!(metric("outrigger_tcp_received_bytes_total"), 48 << 20);
    });
}

#[test]
fn a_server_that_speaks_first_does_not_wait_on_an_undeclared_port() {
    run(async {
        let mesh = Mesh::new();
        let app = wire::server(&mesh, async |mut stream| {
            say(&mut stream, "220 ready\r\n").await;
            assert_eq!(until(&mut stream, "\r\n").await, "EHLO me\r\n");
            say(&mut stream, "250 ok\r\n").await;
        })
        .await;
        let outbound = through(&mesh, app, Protocol::Detect, |plan| plan).await;
        let mut client = TcpStream::connect(outbound).await.unwrap();
        assert_eq!(until(&mut client, "\r\n").await, "220 ready\r\n");
        say(&mut client, "EHLO me\r\n").await;
        assert_eq!(rest(&mut client).await, "250 ok\r\n");
    });
}

#[test]
fn a_client_that_speaks_first_is_understood_on_an_undeclared_port() {
    run(async {
        let mesh = Mesh::new();
        let app = wire::server(&mesh, echo).await;
        let outbound = through(&mesh, app, Protocol::Detect, |plan| plan).await;
        let mut client = TcpStream::connect(outbound).await.unwrap();
        say(&mut client, "*1\r\n$4\r\nPING\r\n").await;
        until(&mut client, "PING\r\n").await;
        let web = App::answering(&mesh, 200).await;
        let outbound = through(&mesh, web.address, Protocol::Detect, |plan| plan).await;
        assert_eq!(once(&mesh, outbound, get("/a")).await.text(), "/a");
    });
}

#[test]
fn http_on_an_undeclared_port_needs_one_connection() {
    run(async {
        let mesh = Mesh::new();
        let web = App::answering(&mesh, 200).await;
        let outbound = through(&mesh, web.address, Protocol::Detect, |plan| {
            plan.policy(|policy| policy.limits.connections_max = 1)
        })
        .await;
        for _ in 0..5 {
            // The connection opened for a server that speaks first must give way.
            let mut client = Client::connect(&mesh, outbound, Http::One).await;
            let reply = client.get("/a").await;
            assert_eq!(reply.status, 200, "{}", reply.reason());
        }
    });
}

#[test]
fn a_connection_is_tried_elsewhere_before_anything_was_sent() {
    run(async {
        let mesh = Mesh::new();
        let nowhere = nowhere().await;
        let opened = Rc::new(Cell::new(0));
        let count = Rc::clone(&opened);
        let app = wire::server(&mesh, move |stream| {
            count.set(count.get() + 1);
            echo(stream)
        })
        .await;
        let outbound = through(&mesh, app, Protocol::Tcp, |mut plan| {
            plan.targets[0].2.push(plain(nowhere));
            plan
        })
        .await;
        for _ in 0..6 {
            let mut client = TcpStream::connect(outbound).await.unwrap();
            say(&mut client, "hello\n").await;
            until(&mut client, "hello\n").await;
        }
        assert_eq!(opened.get(), 6);
    });
}

#[test]
fn without_an_endpoint_the_connection_ends_and_the_reason_is_counted() {
    run(async {
        let mesh = Mesh::new();
        mesh.client
            .knows(&[service("db:5432", Vec::new()).speaks(Protocol::Tcp)]);
        let outbound = mesh.outbound("db:5432").await;
        let mut client = TcpStream::connect(outbound).await.unwrap();
        assert_eq!(rest(&mut client).await, "");
        let reason = [r#"reason="no-endpoint""#];
        let refused = mesh.client.metric("outrigger_refusals_total", &reason);
        assert_eq!(refused, 1, "{}", mesh.client.telemetry.page());
    });
}

#[test]
fn connections_are_bounded_and_who_waits_in_vain_is_told_once() {
    run(async {
        let mesh = Mesh::new();
        let app = wire::server(&mesh, echo).await;
        let outbound = through(&mesh, app, Protocol::Tcp, |plan| {
            plan.policy(|policy| {
                policy.limits.connections_max = 1;
                policy.limits.pending_timeout = Duration::from_millis(100);
            })
        })
        .await;
        let mut first = TcpStream::connect(outbound).await.unwrap();
        say(&mut first, "one\n").await;
        until(&mut first, "one\n").await;
        let mut second = TcpStream::connect(outbound).await.unwrap();
        assert_eq!(rest(&mut second).await, "");
        let reason = [r#"reason="pending-timeout""#];
        let refused = || mesh.client.metric("outrigger_refusals_total", &reason);
        while refused() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(refused(), 1);
        assert_eq!(mesh.client.metric("outrigger_retries_total", &[]), 0);
        drop(first);
        let mut third = TcpStream::connect(outbound).await.unwrap();
        say(&mut third, "three\n").await;
        until(&mut third, "three\n").await;
    });
}

/// An endpoint that breaks off must not look like one that is done.
#[test]
fn a_reset_by_the_server_reaches_the_client_as_one() {
    run(async {
        for protocol in [Protocol::Tcp, Protocol::Detect] {
            let mesh = Mesh::new();
            let app = wire::server(&mesh, async |mut stream| {
                say(&mut stream, "half\n").await;
                until(&mut stream, "go\n").await;
                stream.set_zero_linger().unwrap();
            })
            .await;
            let outbound = through(&mesh, app, protocol, |plan| plan).await;
            let mut client = TcpStream::connect(outbound).await.unwrap();
            until(&mut client, "half\n").await;
            say(&mut client, "go\n").await;
            expect_reset(&mut client).await;
            for side in [&mesh.client, &mesh.server] {
                let reason = r#""reason":"upstream-reset-in-response""#;
                let line = side.logged(&[r#""protocol":"tcp""#, reason]).await;
                assert!(line.contains(r#""response_bytes":5"#), "{line}");
                let closed = [r#"reason="upstream-reset-in-response""#];
                let count = side.metric("outrigger_tcp_connections_closed_total", &closed);
                assert_eq!(count, 1);
            }
        }
    });
}

#[test]
fn a_reset_by_the_client_reaches_the_server_as_one() {
    run(async {
        let mesh = Mesh::new();
        let (seen, mut ends) = mpsc::channel(1);
        let app = wire::server(&mesh, move |mut stream| {
            let seen = seen.clone();
            async move {
                say(&mut stream, "ready\n").await;
                until(&mut stream, "half").await;
                expect_reset(&mut stream).await;
                seen.send(()).await.unwrap();
            }
        })
        .await;
        let outbound = through(&mesh, app, Protocol::Tcp, |plan| plan).await;
        let mut client = TcpStream::connect(outbound).await.unwrap();
        until(&mut client, "ready\n").await;
        say(&mut client, "half").await;
        client.set_zero_linger().unwrap();
        drop(client);
        ends.recv().await.unwrap();
        for side in [&mesh.client, &mesh.server] {
            side.logged(&[r#""protocol":"tcp""#, r#""reason":"client-gone""#])
                .await;
            assert_eq!(side.metric("outrigger_refusals_total", &[]), 0);
        }
    });
}

/// What the drain cuts off is no end either.
#[test]
fn a_connection_that_is_cut_off_is_reset() {
    run(async {
        let mesh = Mesh::new();
        let app = wire::server(&mesh, echo).await;
        let outbound = through(&mesh, app, Protocol::Tcp, |plan| plan).await;
        let mut client = TcpStream::connect(outbound).await.unwrap();
        say(&mut client, "one\n").await;
        until(&mut client, "one\n").await;
        mesh.client.drain.force();
        expect_reset(&mut client).await;
        mesh.client.logged(&[r#""reason":"draining""#]).await;
    });
}

#[test]
fn a_connection_that_no_endpoint_takes_is_reset() {
    run(async {
        let mesh = Mesh::new();
        mesh.client
            .knows(&[service("db:5432", Vec::new()).speaks(Protocol::Tcp)]);
        let outbound = mesh.outbound("db:5432").await;
        let mut client = TcpStream::connect(outbound).await.unwrap();
        expect_reset(&mut client).await;
    });
}
