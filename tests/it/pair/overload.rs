//! What a sidecar gives up as its memory fills, and connections whose certificates end.

use std::{future::pending, rc::Rc, time::Duration};

use http::Response;
use outrigger_model::Protocol;
use outrigger_policy::overload::Level;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Semaphore, mpsc},
    time::{Instant, timeout},
};

use super::{
    mesh::{Mesh, run},
    peer::{App, Client, Http, answer, endless, full, get, once, request},
    plan::{plain, service},
    wire::{say, server, until},
};

fn set(mesh: &Mesh, level: Level) {
    mesh.client.worker.shared.limits.overload.set(level);
}

/// Straight to the application: nothing of a server's sidecar is in the way.
async fn plainly(mesh: &Mesh, app: &App) -> std::net::SocketAddr {
    let plan = service("orders:80", vec![plain(app.address)]);
    mesh.known(plan).await
}

fn requests_are_refused_by_name_until_memory_is_free(version: Http) {
    run(async {
        let mesh = Mesh::new();
        let app = App::start(&mesh, version, async |_| answer(200, "/")).await;
        let outbound = plainly(&mesh, &app).await;
        let mut client = Client::connect(&mesh, outbound, version).await;
        assert_eq!(client.get("/").await.status, 200);
        set(&mesh, Level::Refuse);
        let reply = client.get("/").await;
        let reason = "overloaded; the sidecar is short of memory";
        assert_eq!((reply.status, reply.reason()), (503, reason));
        let refused = mesh
            .client
            .metric("outrigger_refusals_total", &[r#"reason="overloaded""#]);
        assert_eq!((refused, app.count()), (1, 1));
        set(&mesh, Level::Normal);
        assert_eq!(client.get("/").await.status, 200);
    });
}

#[test]
fn http1_requests_are_refused_by_name_until_memory_is_free() {
    requests_are_refused_by_name_until_memory_is_free(Http::One);
}

#[test]
fn http2_requests_are_refused_by_name_until_memory_is_free() {
    requests_are_refused_by_name_until_memory_is_free(Http::Two);
}

#[test]
fn http1_connections_end_after_their_request() {
    run(async {
        let mesh = Mesh::new();
        let app = App::answering(&mesh, 200).await;
        let outbound = plainly(&mesh, &app).await;
        let mut client = Client::connect(&mesh, outbound, Http::One).await;
        assert_eq!(client.get("/").await.header("connection"), None);
        set(&mesh, Level::EndConnections);
        mesh.client.worker.tend(Instant::now());
        let reply = client.get("/").await;
        let close = Some("close");
        assert_eq!((reply.status, reply.header("connection")), (200, close));
        assert!(client.try_send(get("/")).await.is_err(), "closed");
        // A new one is served once.
        let reply = once(&mesh, outbound, get("/")).await;
        assert_eq!((reply.status, reply.header("connection")), (200, close));
    });
}

#[test]
fn http2_connections_end_after_their_requests() {
    run(async {
        let mesh = Mesh::new();
        let app = App::start(&mesh, Http::Two, async |_| answer(200, "/")).await;
        let outbound = plainly(&mesh, &app).await;
        let mut client = Client::connect(&mesh, outbound, Http::Two).await;
        assert_eq!(client.get("/").await.status, 200);
        set(&mesh, Level::EndConnections);
        mesh.client.worker.tend(Instant::now());
        // GOAWAY: soon the client's connection takes no more streams.
        while client.try_send(get("/")).await.is_ok() {}
    });
}

#[test]
fn idle_connections_end_sooner_and_busy_ones_stay() {
    run(async {
        let mesh = Mesh::new();
        let app = App::answering(&mesh, 200).await;
        let outbound = plainly(&mesh, &app).await;
        let mut idle = TcpStream::connect(outbound).await.unwrap();
        say(&mut idle, "GET / HTTP/1.1\r\nHost: o\r\n\r\n").await;
        until(&mut idle, "\r\n\r\n/").await;
        let after = |seconds| {
            let now = Instant::now() + Duration::from_secs(seconds);
            mesh.client.worker.tend(now);
        };
        after(60);
        set(&mesh, Level::ShorterIdle);
        after(9);
        say(&mut idle, "GET / HTTP/1.1\r\nHost: o\r\n\r\n").await;
        let answer = until(&mut idle, "\r\n\r\n/").await;
        assert!(!answer.contains("connection: close"), "{answer}");
        after(11);
        assert_eq!(idle.read(&mut [0]).await.unwrap(), 0, "closed");
    });
}

#[test]
fn no_connection_is_taken_while_memory_is_full() {
    run(async {
        let mesh = Mesh::new();
        let app = App::answering(&mesh, 200).await;
        let outbound = plainly(&mesh, &app).await;
        assert_eq!(once(&mesh, outbound, get("/")).await.status, 200);
        set(&mesh, Level::StopAccepting);
        let mut waiting = TcpStream::connect(outbound).await.unwrap();
        say(&mut waiting, "GET / HTTP/1.1\r\nHost: o\r\n\r\n").await;
        let early = timeout(Duration::from_millis(50), waiting.read(&mut [0])).await;
        assert!(early.is_err(), "nobody took the connection");
        set(&mesh, Level::Normal);
        let answer = until(&mut waiting, "\r\n\r\n/").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    });
}

/// The server's sidecar ends connections of a peer whose certificate ended, in order: the next
/// request goes over a new one.
fn an_ended_certificate_ends_its_connections(version: Http) {
    run(async {
        let mesh = Mesh::new();
        let app = App::start(&mesh, version, async |_| answer(200, "/")).await;
        let outbound = mesh.through(app.address, |plan| plan).await;
        let mut client = Client::connect(&mesh, outbound, version).await;
        let handshakes = || {
            mesh.server
                .metric("outrigger_tls_handshakes_total", &[r#"result="completed""#])
        };
        for _ in 0..2 {
            assert_eq!(client.get("/").await.status, 200);
        }
        let hours = |hours: u64| Instant::now() + Duration::from_secs(3600 * hours);
        mesh.server
            .worker
            .tend(hours(0) + Duration::from_secs(3_000));
        assert_eq!(client.get("/").await.status, 200);
        assert_eq!(handshakes(), 1, "certificates of an hour still hold");
        mesh.server.worker.tend(hours(2));
        for _ in 0..20 {
            assert_eq!(client.get("/").await.status, 200);
            tokio::task::yield_now().await;
        }
        let ended = async {
            while handshakes() < 2 {
                assert_eq!(client.get("/").await.status, 200);
            }
        };
        ended.await;
        assert_eq!(handshakes(), 2);
    });
}

#[test]
fn an_ended_certificate_ends_its_http1_connections() {
    an_ended_certificate_ends_its_connections(Http::One);
}

#[test]
fn an_ended_certificate_ends_its_http2_connections() {
    an_ended_certificate_ends_its_connections(Http::Two);
}

/// Exchanges of the client's sidecar that were reset for what they held.
fn resets(mesh: &Mesh) -> u64 {
    let labels = [r#"reason="held-most-memory""#];
    mesh.client.metric("outrigger_refusals_total", &labels)
}

/// Rounds at 95 % of the memory until one was reset, as the control thread calls for them.
async fn shed(mesh: &Mesh) {
    while resets(mesh) == 0 {
        round(mesh).await;
    }
}

async fn round(mesh: &Mesh) {
    mesh.client.worker.shed(Instant::now());
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// `/greedy` never reads its request, `/flow` answers without end, others answer when they may.
async fn stalling(mesh: &Mesh, version: Http) -> (App, Rc<Semaphore>, mpsc::Receiver<()>) {
    let open = Rc::new(Semaphore::new(0));
    let (arrived, arrivals) = mpsc::channel(8);
    let (gate, tasks) = (Rc::clone(&open), mesh.tasks.clone());
    let app = App::start(mesh, version, move |request| {
        let (gate, arrived, tasks) = (Rc::clone(&gate), arrived.clone(), tasks.clone());
        async move {
            match request.uri().path() {
                "/greedy" => pending().await,
                "/flow" => Response::new(endless(&tasks)),
                _ => {
                    arrived.send(()).await.unwrap();
                    let _pass = gate.acquire().await.unwrap();
                    answer(200, "modest")
                }
            }
        }
    })
    .await;
    (app, open, arrivals)
}

/// A request whose body nobody takes goes, with the reason; those that wait beside it live.
fn the_request_that_holds_the_most_is_reset(version: Http) {
    run(async {
        let mesh = Mesh::new();
        let (app, open, mut arrivals) = stalling(&mesh, version).await;
        let outbound = plainly(&mesh, &app).await;
        let mut modest = Client::connect(&mesh, outbound, version).await;
        let mut greedy = Client::connect(&mesh, outbound, version).await;
        let modest = modest.send(request("POST", "/modest", full("small")));
        let rounds = async {
            arrivals.recv().await.unwrap();
            let greedy = greedy.begin(request("POST", "/greedy", endless(&mesh.tasks)));
            let (reply, ()) = tokio::join!(greedy, shed(&mesh));
            let reply = reply.unwrap();
            let reason = "held-most-memory; the request held the most memory; by all";
            let told = reply.headers()["x-outrigger-reason"].to_str().unwrap();
            assert_eq!((reply.status().as_u16(), told), (503, reason));
            open.add_permits(1);
        };
        let (reply, ()) = tokio::join!(modest, rounds);
        assert_eq!((reply.status, reply.text()), (200, "modest"));
        assert_eq!(resets(&mesh), 1);
    });
}

#[test]
fn the_http1_request_that_holds_the_most_is_reset() {
    the_request_that_holds_the_most_is_reset(Http::One);
}

#[test]
fn the_http2_request_that_holds_the_most_is_reset() {
    the_request_that_holds_the_most_is_reset(Http::Two);
}

/// An answer that its client does not read is broken off, so that it looks whole to nobody.
fn the_answer_that_holds_the_most_is_reset(version: Http) {
    run(async {
        let mesh = Mesh::new();
        let (app, open, mut arrivals) = stalling(&mesh, version).await;
        let outbound = plainly(&mesh, &app).await;
        let mut modest = Client::connect(&mesh, outbound, version).await;
        let mut greedy = Client::connect(&mesh, outbound, version).await;
        let modest = modest.get("/modest");
        let rounds = async {
            arrivals.recv().await.unwrap();
            let reply = greedy.begin(get("/flow")).await.unwrap();
            assert_eq!(reply.status(), 200);
            shed(&mesh).await;
            let mut body = reply.into_body();
            let broken = async {
                while let Some(piece) = http_body_util::BodyExt::frame(&mut body).await {
                    piece?;
                }
                Ok::<_, hyper::Error>(())
            };
            assert!(broken.await.is_err(), "it must not end as if it were whole");
            open.add_permits(1);
        };
        let (reply, ()) = tokio::join!(modest, rounds);
        assert_eq!((reply.status, reply.text()), (200, "modest"));
        assert_eq!(resets(&mesh), 1);
    });
}

#[test]
fn the_http1_answer_that_holds_the_most_is_reset() {
    the_answer_that_holds_the_most_is_reset(Http::One);
}

#[test]
fn the_http2_answer_that_holds_the_most_is_reset() {
    the_answer_that_holds_the_most_is_reset(Http::Two);
}

#[test]
fn the_opaque_connection_that_holds_the_most_is_reset() {
    run(async {
        let mesh = Mesh::new();
        let address = server(&mesh, async |mut stream| {
            until(&mut stream, "\n").await;
            let _all = stream.write_all(&vec![b'x'; 100_000_000]).await;
        })
        .await;
        mesh.client
            .knows(&[service("db:80", vec![plain(address)]).speaks(Protocol::Tcp)]);
        let outbound = mesh.outbound("db:80").await;
        let mut modest = TcpStream::connect(outbound).await.unwrap();
        // How much of the last piece a full socket leaves is the kernel's choice: one of several
        // leaves enough.
        let mut greedy = Vec::new();
        while resets(&mesh) == 0 {
            let mut one = TcpStream::connect(outbound).await.unwrap();
            say(&mut one, "go\n").await;
            greedy.push(one);
            for _ in 0..100 {
                round(&mesh).await;
            }
        }
        say(&mut modest, "go\n").await;
        until(&mut modest, "xxxxxxxxxx").await;
        assert_eq!(resets(&mesh), 1);
    });
}
