//! What is more than short requests: gRPC, WebSocket, opaque TCP, bodies larger than any buffer.

mod servers;

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    thread,
};

use h2::client;
use outrigger_shop::pb::{ChargeRequest, payments_client::PaymentsClient};
use outrigger_tests::{PATIENCE, free_port, http1::Connection};
use tokio::runtime::Runtime;

use super::bed::Bed;
use servers::{CHUNK, chunk};

/// 1 GiB.
const TRANSFER_CHUNKS: u64 = 16_384;
/// 64 MiB.
const BODY_CHUNKS: u64 = 1024;
/// What 64 MiB bodies both ways may add to the resident memory of a sidecar.
const GROWTH_KIB_MAX: u64 = 12 * 1024;

#[test]
fn grpc_websocket_tcp_and_large_bodies_go_through() {
    let mut bed = Bed::new();
    let ports = [free_port(), free_port(), free_port()];
    let [http, tcp, grpc] = ports;
    let named = [("http", http), ("tcp", tcp), ("grpc", grpc)];
    bed.workload("own", "own", "v1", None, &named);
    bed.service("web", "own", "http");
    bed.service("raw", "own", "tcp");
    bed.service("echo", "own", "grpc");
    bed.service("payments", "payments", "grpc");
    let payments = bed.app("payments-v1", "payments", "payments", "v1");
    thread::spawn(move || servers::http(http));
    thread::spawn(move || servers::tcp(tcp));
    thread::spawn(move || servers::grpc(grpc));
    bed.start(&[]);

    unary(&bed);
    let stats = payments.stats();
    let charges = &stats.paths["/outrigger.shop.v1.Payments/Charge"];
    assert_eq!((charges.requests, charges.outcomes["grpc-9"]), (20, 1));
    Runtime::new().unwrap().block_on(streaming(&bed));
    web_socket(&bed);
    large_bodies(&bed);
    transfer(&bed);
    bed.end();
}

/// Nineteen charges and one that is declined: the status comes through as it is.
fn unary(bed: &Bed) {
    Runtime::new().unwrap().block_on(async {
        let address = format!("http://{}", bed.outbound("payments"));
        let mut client = PaymentsClient::connect(address).await.unwrap();
        for number in 0..20 {
            let token = if number == 7 { "declined" } else { "visa" };
            let answer = client.charge(ChargeRequest {
                order_id: format!("order-{number}"),
                amount_cents: 1200,
                card_token: token.to_owned(),
            });
            match answer.await {
                Ok(reply) => assert_eq!(reply.into_inner().version, "v1"),
                Err(status) => {
                    assert_eq!(
                        (number, status.code()),
                        (7, tonic::Code::FailedPrecondition)
                    );
                }
            }
        }
    });
}

/// Both directions of one stream at once: each message is answered before the next is sent, and
/// the trailers come last.
async fn streaming(bed: &Bed) {
    let stream = tokio::net::TcpStream::connect(bed.outbound("echo"))
        .await
        .unwrap();
    let (mut client, connection) = client::handshake(stream).await.unwrap();
    let exchange = async {
        let request = http::Request::post("http://echo/test.Echo/Stream")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (response, mut sender) = client.send_request(request, false).unwrap();
        let mut body = response.await.unwrap().into_body();
        for number in 0..100_u32 {
            // A gRPC message: not compressed, its length, itself.
            let mut message = vec![0, 0, 0, 0, 4];
            message.extend(number.to_be_bytes());
            sender.send_data(message.clone().into(), false).unwrap();
            let mut answer = Vec::new();
            while answer.len() < message.len() {
                let data = body.data().await.unwrap().unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                answer.extend_from_slice(&data);
            }
            assert_eq!(answer, message);
        }
        sender.send_data(bytes::Bytes::new(), true).unwrap();
        assert!(body.data().await.is_none());
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        assert_eq!(trailers["messages"], "100");
    };
    let exchange = tokio::time::timeout(PATIENCE, exchange);
    tokio::select! {
        done = exchange => done.unwrap(),
        ended = connection => panic!("the connection ended first: {ended:?}"),
    }
}

/// After 101 the bytes belong to the two ends.
fn web_socket(bed: &Bed) {
    let mut connection = Connection::open(bed.outbound("web")).unwrap();
    let upgrade = "GET /socket HTTP/1.1\r\nhost: web\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    connection
        .stream
        .get_mut()
        .write_all(upgrade.as_bytes())
        .unwrap();
    let reply = connection.head().unwrap();
    assert_eq!(reply.status, 101, "{}", reply.reason());
    assert_eq!(reply.header("upgrade"), "websocket");
    assert_eq!(
        reply.header("sec-websocket-accept"),
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    );
    for length in [1_u8, 5, 125] {
        // A masked text frame of the client; its echo has the same bytes.
        let mut frame = vec![0x81, 0x80 | length, 1, 2, 3, 4];
        frame.extend((0..length).map(|byte| byte ^ 0x5a));
        connection.stream.get_mut().write_all(&frame).unwrap();
        let mut answer = vec![0; frame.len()];
        connection.stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, frame);
    }
}

/// 64 MiB up and down at once, and no sidecar keeps them.
fn large_bodies(bed: &Bed) {
    let pids = ["client", "own"].map(|workload| bed.sidecar_pid(workload));
    let before = pids.map(peak_kib);
    let mut connection = Connection::open(bed.outbound("web")).unwrap();
    let mut up = connection.stream.get_ref().try_clone().unwrap();
    let sending = thread::spawn(move || {
        let length = BODY_CHUNKS * u64::try_from(CHUNK).unwrap();
        write!(
            up,
            "POST /echo HTTP/1.1\r\nhost: web\r\ncontent-length: {length}\r\n\r\n"
        )
        .unwrap();
        for number in 0..BODY_CHUNKS {
            up.write_all(&chunk(number)).unwrap();
        }
    });
    let reply = connection.head().unwrap();
    assert_eq!(reply.status, 200, "{}", reply.reason());
    let mut came = Vec::new();
    let mut number = 0;
    while let Some(part) = connection.chunk().unwrap() {
        came.extend(part);
        while came.len() >= CHUNK {
            let rest = came.split_off(CHUNK);
            assert!(came == chunk(number), "chunk {number} came changed");
            came = rest;
            number += 1;
        }
    }
    assert_eq!((number, came.len()), (BODY_CHUNKS, 0));
    sending.join().unwrap();
    for (before, pid) in before.into_iter().zip(pids) {
        let grown = peak_kib(pid) - before;
        assert!(grown <= GROWTH_KIB_MAX, "{grown} KiB more at the peak");
    }
}

/// 1 GiB one way, then its end, then the answer: how much came intact.
fn transfer(bed: &Bed) {
    let mut stream = TcpStream::connect(bed.outbound("raw")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut block = chunk(0);
    for number in 0..TRANSFER_CHUNKS {
        servers::number(&mut block, number);
        stream.write_all(&block).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, format!("{TRANSFER_CHUNKS} intact"));
}

/// The most resident memory that a process has had.
fn peak_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let figure = line.and_then(|line| line.split_whitespace().next());
    figure.unwrap().parse().unwrap()
}
