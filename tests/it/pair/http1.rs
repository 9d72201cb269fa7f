//! HTTP/1.1 through the pair: framing, keep-alive, what each side sees.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, time::Duration};

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    mesh::{Mesh, run},
    peer::{self, App, Client, Http, answer, full, get, read, request},
    wire::{self, rest, say, until},
};

/// The client's address for `orders`, served by `application` behind a sidecar.
async fn through(mesh: &Mesh, application: SocketAddr) -> SocketAddr {
    mesh.through(application, |plan| plan).await
}

async fn pair(app: impl AsyncFnOnce(&Mesh) -> App) -> (Mesh, App, SocketAddr) {
    let mesh = Mesh::new();
    let app = app(&mesh).await;
    let outbound = through(&mesh, app.address).await;
    (mesh, app, outbound)
}

/// Answers with the body that came.
async fn echo(mesh: &Mesh) -> App {
    App::start(mesh, Http::One, async |request| {
        answer(200, read(request.into_body()).await)
    })
    .await
}

#[test]
fn requests_share_connections_all_the_way() {
    run(async {
        let (mesh, app, outbound) = pair(async |mesh| App::answering(mesh, 200).await).await;
        let mut client = Client::connect(&mesh, outbound, Http::One).await;
        for number in 0..20 {
            let mut request = get(&format!("/{number}"));
            let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
            let headers = request.headers_mut();
            headers.insert("traceparent", trace.parse().unwrap());
            let reply = client.send(request).await;
            assert_eq!(
                (reply.status, reply.text()),
                (200, format!("/{number}").as_str())
            );
            assert_eq!(reply.reason(), "");
        }
        assert_eq!(app.by_connection(), [20]);
        let hit = &app.hits()[0];
        let who =
            "By=spiffe://cluster.local/ns/shop/sa/orders;URI=spiffe://cluster.local/ns/shop/sa/web";
        assert_eq!(hit.header("x-forwarded-client-cert"), Some(who));
        let trace = hit.header("traceparent").unwrap();
        assert!(
            trace.starts_with("00-0af7651916cd43dd8448eb211c80319c-"),
            "{trace}"
        );
        assert_eq!(hit.header("host"), Some("orders"));
        assert_eq!(mesh.server.metric("outrigger_tls_handshakes_total", &[]), 1);
    });
}

#[test]
fn bodies_of_both_framings_arrive_as_sent() {
    run(async {
        let (mesh, _, outbound) = pair(echo).await;
        let mut client = Client::connect(&mesh, outbound, Http::One).await;
        let sized = client
            .send(request("POST", "/", full("twelve bytes")))
            .await;
        assert_eq!((sized.status, sized.text()), (200, "twelve bytes"));
        let pieces = (0..50).map(|n| Bytes::from(vec![n; 1000]));
        let body = peer::pieces(&mesh, pieces);
        let chunked = client.send(request("POST", "/", body)).await;
        let expected: Vec<u8> = (0..50).flat_map(|n| vec![n; 1000]).collect();
        assert_eq!(chunked.body, expected);
    });
}

#[test]
fn trailers_pass_both_ways() {
    run(async {
        let mesh = Mesh::new();
        let (seen, mut requests) = mpsc::channel(1);
        let app = wire::server(&mesh, move |mut stream| {
            let seen = seen.clone();
            async move {
                let head = until(&mut stream, "\r\n\r\n").await;
                let body = until(&mut stream, "\r\n\r\n").await;
                seen.send((head, body)).await.unwrap();
                let head =
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n";
                say(&mut stream, head).await;
                say(&mut stream, "3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n").await;
            }
        });
        let outbound = through(&mesh, app.await).await;
        let mut client = TcpStream::connect(outbound).await.unwrap();
        let head = "POST /t HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\nTrailer: x-end\r\nTE: trailers\r\n\r\n";
        say(&mut client, head).await;
        say(&mut client, "5\r\nhello\r\n0\r\nx-end: yes\r\n\r\n").await;
        let (head, body) = requests.recv().await.unwrap();
        assert!(
            head.to_ascii_lowercase()
                .contains("transfer-encoding: chunked"),
            "{head}"
        );
        assert!(body.starts_with("5\r\nhello\r\n0\r\n"), "{body}");
        assert!(body.contains("x-end: yes"), "{body}");
        let answer = until(&mut client, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let body = until(&mut client, "x-sum: 6\r\n\r\n").await;
        assert!(body.starts_with("3\r\nabc\r\n0\r\n"), "{body}");
    });
}

#[test]
fn answers_without_body_leave_the_connection_in_step() {
    run(async {
        let mesh = Mesh::new();
        let app = wire::server(&mesh, async |mut stream| {
            for answer in [
                "HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n",
                "HTTP/1.1 204 No Content\r\n\r\n",
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 999\r\nETag: \"a\"\r\n\r\n",
                "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            ] {
                until(&mut stream, "\r\n\r\n").await;
                say(&mut stream, answer).await;
            }
        });
        let outbound = through(&mesh, app.await).await;
        let mut client = TcpStream::connect(outbound).await.unwrap();
        say(&mut client, "HEAD /a HTTP/1.1\r\nHost: o\r\n\r\n").await;
        let head = until(&mut client, "\r\n\r\n").await.to_ascii_lowercase();
        assert!(head.contains("content-length: 999"), "{head}");
        say(&mut client, "GET /b HTTP/1.1\r\nHost: o\r\n\r\n").await;
        let none = until(&mut client, "\r\n\r\n").await.to_ascii_lowercase();
        assert!(
            none.starts_with("http/1.1 204") && !none.contains("content-length"),
            "{none}"
        );
        say(&mut client, "GET /c HTTP/1.1\r\nHost: o\r\n\r\n").await;
        let same = until(&mut client, "\r\n\r\n").await;
        assert!(
            same.starts_with("HTTP/1.1 304") && same.contains("\"a\""),
            "{same}"
        );
        say(&mut client, "GET /d HTTP/1.1\r\nHost: o\r\n\r\n").await;
        let hints = until(&mut client, "\r\n\r\n").await;
        assert!(
            hints.starts_with("HTTP/1.1 103") && hints.contains("</a>"),
            "{hints}"
        );
        let last = until(&mut client, "\r\n\r\nok").await;
        assert!(last.starts_with("HTTP/1.1 200"), "{last}");
    });
}

#[test]
fn a_client_that_expects_100_waits_for_the_application() {
    run(async {
        let mesh = Mesh::new();
        let app = wire::server(&mesh, async |mut stream| {
            let head = until(&mut stream, "\r\n\r\n").await.to_ascii_lowercase();
            assert!(head.contains("expect: 100-continue"), "{head}");
            say(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n").await;
            until(&mut stream, "body").await;
            say(
                &mut stream,
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            )
            .await;
            until(&mut stream, "\r\n\r\n").await;
            say(
                &mut stream,
                "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n",
            )
            .await;
        });
        let outbound = through(&mesh, app.await).await;
        let head =
            "POST / HTTP/1.1\r\nHost: o\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
        let mut client = TcpStream::connect(outbound).await.unwrap();
        say(&mut client, head).await;
        assert_eq!(
            until(&mut client, "\r\n\r\n").await,
            "HTTP/1.1 100 Continue\r\n\r\n"
        );
        say(&mut client, "body").await;
        let answer = until(&mut client, "ok").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        say(&mut client, head).await;
        let refused = rest(&mut client).await;
        assert!(refused.starts_with("HTTP/1.1 417"), "{refused}");
        assert!(
            refused.to_ascii_lowercase().contains("connection: close"),
            "{refused}"
        );
    });
}

#[test]
fn a_websocket_carries_bytes_both_ways_after_the_upgrade() {
    run(async {
        let mesh = Mesh::new();
        let app = wire::server(&mesh, async |mut stream| {
            let head = until(&mut stream, "\r\n\r\n").await.to_ascii_lowercase();
            assert!(head.contains("upgrade: websocket"), "{head}");
            assert!(head.contains("connection: upgrade"), "{head}");
            let accept = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n";
            say(&mut stream, &format!("{accept}\u{1}first")).await;
            until(&mut stream, "ping").await;
            say(&mut stream, "pong").await;
            assert_eq!(rest(&mut stream).await, "bye");
            say(&mut stream, "end").await;
        });
        let outbound = through(&mesh, app.await).await;
        let mut client = TcpStream::connect(outbound).await.unwrap();
        let head = "GET /ws HTTP/1.1\r\nHost: o\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
        say(&mut client, head).await;
        let answer = until(&mut client, "\r\n\r\n").await.to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 101"), "{answer}");
        assert!(answer.contains("upgrade: websocket"), "{answer}");
        until(&mut client, "\u{1}first").await;
        say(&mut client, "ping").await;
        until(&mut client, "pong").await;
        say(&mut client, "bye").await;
        client.shutdown().await.unwrap();
        assert_eq!(rest(&mut client).await, "end");
    });
}

#[test]
fn large_bodies_arrive_whole_both_ways() {
    run(async {
        const LENGTH: usize = 64 * 1024 * 1024;
        let (mesh, _, outbound) = pair(async |mesh| {
            App::start(mesh, Http::One, async |request| {
                // Streamed back as it comes: nobody holds it whole.
                let body = request.into_body().map_err(|error| panic!("{error}"));
                Response::new(UnsyncBoxBody::new(body))
            })
            .await
        })
        .await;
        let mut client = Client::connect(&mesh, outbound, Http::One).await;
        let piece = Bytes::from(vec![42; 64 * 1024]);
        let pieces = std::iter::repeat_n(piece, LENGTH / (64 * 1024));
        let body = peer::pieces(&mesh, pieces);
        let response = client.begin(request("POST", "/", body)).await;
        let mut body = response.unwrap().into_body();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.iter().all(|byte| *byte == 42));
            length += data.len();
        }
        assert_eq!(length, LENGTH);
    });
}

#[test]
fn an_application_that_does_not_read_stops_the_client() {
    run(async {
        let mesh = Mesh::new();
        let (read_on, reading) = oneshot::channel::<()>();
        let reading = Rc::new(RefCell::new(Some(reading)));
        let app = wire::server(&mesh, move |mut stream| {
            let reading = Rc::clone(&reading);
            async move {
                let reading = reading.borrow_mut().take().unwrap();
                reading.await.unwrap();
                until(&mut stream, "\r\n\r\n").await;
                let mut sink = vec![0; 256 * 1024];
                let mut left: usize = 32 * 1024 * 1024;
                while left > 0 {
                    left -= stream.read(&mut sink).await.unwrap();
                }
                say(
                    &mut stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                )
                .await;
            }
        });
        let outbound = through(&mesh, app.await).await;
        let mut client = TcpStream::connect(outbound).await.unwrap();
        let head = "PUT /big HTTP/1.1\r\nHost: o\r\nContent-Length: 33554432\r\n\r\n";
        say(&mut client, head).await;
        let piece = vec![7; 64 * 1024];
        let mut sent = 0;
        while let Ok(written) = timeout(Duration::from_millis(300), client.write(&piece)).await {
            sent += written.unwrap();
        }
        // The kernel's buffers of three connections, and at most two of each sidecar.
        assert!(
            sent < 24 * 1024 * 1024,
            "took {sent} bytes that nobody reads"
        );
        read_on.send(()).unwrap();
        client.write_all(&vec![7; 33_554_432 - sent]).await.unwrap();
        assert!(until(&mut client, "ok").await.starts_with("HTTP/1.1 200"));
    });
}
