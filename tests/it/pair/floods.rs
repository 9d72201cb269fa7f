//! HTTP/2 clients that make work without requests (DEF-07, DEF-08), and busy ones that do not.

use std::{future::poll_fn, net::SocketAddr};

use bytes::Bytes;
use http::Request;
use outrigger_model::Protocol;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use super::{
    mesh::{Mesh, run},
    peer::{App, Client, Http, answer},
    plan::{plain, service},
};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const UNKNOWN: u8 = 0xbb;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// RFC 9113 §7.
const ENHANCE_YOUR_CALM: u32 = 0xb;

/// GET, http, `/`, and the authority `orders` (RFC 7541).
const GET: &[u8] = b"\x82\x86\x84\x41\x06orders";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn times(count: usize, frame: &[u8]) -> Vec<u8> {
    frame.repeat(count)
}

/// A served request, so that its stream is known and closed; then `flood`.
struct Attack {
    name: &'static str,
    flood: Vec<u8>,
}

fn attacks() -> Vec<Attack> {
    let attack = |name, flood| Attack { name, flood };
    let head = |stream| frame(HEADERS, END_HEADERS, stream, GET);
    let rapid = (0..2_000).flat_map(|n| {
        let stream = 3 + 2 * n;
        let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        [head(stream), reset].concat()
    });
    let open = frame(HEADERS, 0, 3, GET);
    vec![
        attack("ping", times(5_000, &frame(PING, 0, 0, &[7; 8]))),
        attack("settings", times(5_000, &frame(SETTINGS, 0, 0, &[]))),
        attack("unknown", times(5_000, &frame(UNKNOWN, 0, 0, b"?"))),
        attack(
            "priority",
            times(300, &frame(PRIORITY, 0, 5, &[0, 0, 0, 0, 1])),
        ),
        attack(
            "window",
            times(300, &frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
        ),
        attack(
            "reset",
            times(300, &frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())),
        ),
        attack(
            "empty data",
            [head(3), times(2, &frame(DATA, 0, 3, &[]))].concat(),
        ),
        attack("rapid reset", rapid.collect()),
        attack(
            "continuation",
            [open, times(5_000, &frame(CONTINUATION, 0, 3, &[]))].concat(),
        ),
    ]
}

/// The next frame: its kind, stream and payload; `None` at the end.
async fn next(stream: &mut TcpStream) -> Option<(u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload).await.ok()?;
    let about = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some((head[3], about, payload))
}

/// Sends `flood` after a request that was answered; the code of the GOAWAY that ended it.
async fn attacked(address: SocketAddr, flood: &[u8]) -> u32 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let begin = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(SETTINGS, 0, 0, &[]),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, GET),
    ];
    stream.write_all(&begin.concat()).await.unwrap();
    loop {
        let (kind, about, _) = next(&mut stream).await.expect("an answer");
        if (kind, about) == (HEADERS, 1) {
            break;
        }
    }
    // The sidecar need not take all of it.
    let _all = stream.write_all(flood).await;
    loop {
        let (kind, _, payload) = next(&mut stream).await.expect("GOAWAY before the end");
        if kind == GOAWAY {
            let code = payload[4..8].try_into().unwrap();
            while next(&mut stream).await.is_some() {}
            return u32::from_be_bytes(code);
        }
    }
}

#[test]
fn floods_end_their_connection_by_name_and_no_other() {
    run(async {
        let mesh = Mesh::new();
        let app = App::start(&mesh, Http::Two, async |_| answer(200, "/")).await;
        mesh.client
            .knows(&[service("orders:80", vec![plain(app.address)])]);
        let outbound = mesh.outbound("orders:80").await;
        let mut modest = Client::connect(&mesh, outbound, Http::Two).await;
        for (n, attack) in (1..).zip(attacks()) {
            let code = attacked(outbound, &attack.flood).await;
            assert_eq!(code, ENHANCE_YOUR_CALM, "{}", attack.name);
            let floods = mesh
                .client
                .metric("outrigger_refusals_total", &[r#"reason="http2-flood""#]);
            assert_eq!(floods, n, "{}", attack.name);
            assert_eq!(modest.get("/").await.status, 200, "{}", attack.name);
        }
    });
}

/// Through both sidecars: hundreds of small requests, windows so small that each answer takes
/// many updates, a PING for each, and every tenth answer given up.
#[test]
fn a_busy_client_is_none() {
    run(async {
        let mut mesh = Mesh::new();
        let body = Bytes::from(vec![b'x'; 8_000]);
        let app = App::start(&mesh, Http::Two, move |_| {
            let body = body.clone();
            async move { answer(200, body) }
        })
        .await;
        let port = outrigger_model::Port::new(app.address.port()).unwrap();
        mesh.server
            .port(port, Protocol::Http2, outrigger_model::MtlsMode::Strict);
        let inbound = mesh.inbound(app.address).await;
        let plan = service(
            "orders:80",
            vec![super::plan::meshed(inbound, &mesh.server.identity)],
        );
        mesh.client.knows(&[plan]);
        let outbound = mesh.outbound("orders:80").await;
        let stream = TcpStream::connect(outbound).await.unwrap();
        let (client, mut connection) = h2::client::Builder::new()
            .initial_window_size(1_000)
            .handshake::<_, Bytes>(stream)
            .await
            .unwrap();
        let mut pings = connection.ping_pong().unwrap();
        mesh.tasks.spawn_local(async move {
            connection.await.unwrap();
        });
        for _ in 0..20 {
            let mut streams = JoinSet::new();
            for n in 0..20 {
                let mut client = client.clone().ready().await.unwrap();
                let request = Request::get("http://orders/").body(()).unwrap();
                let (response, _) = client.send_request(request, true).unwrap();
                streams.spawn_local(async move {
                    let mut body = response.await.unwrap().into_body();
                    let mut read = 0;
                    while let Some(piece) = body.data().await {
                        let piece = piece.unwrap();
                        read += piece.len();
                        body.flow_control().release_capacity(piece.len()).unwrap();
                        if n % 10 == 0 {
                            return;
                        }
                    }
                    assert_eq!(read, 8_000);
                });
            }
            pings.ping(h2::Ping::opaque()).await.unwrap();
            while let Some(done) = streams.join_next().await {
                done.unwrap();
            }
        }
        let mut client = client.ready().await.unwrap();
        poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
        for side in [&mesh.client, &mesh.server] {
            let floods = side.metric("outrigger_refusals_total", &[r#"reason="http2-flood""#]);
            assert_eq!(floods, 0);
        }
        assert_eq!(app.count(), 400);
    });
}
