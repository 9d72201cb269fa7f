//! The test's own applications: an HTTP echo that also upgrades, a TCP receiver that checks what
//! comes, a gRPC echo.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
};

use bytes::Bytes;
use tokio::task::JoinSet;

/// Bytes of one piece of a body or transfer.
pub(super) const CHUNK: usize = 64 * 1024;

/// A piece that tells its place and has no repetition within.
pub(super) fn chunk(place: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = Vec::with_capacity(CHUNK);
    while block.len() < CHUNK {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.extend(state.to_be_bytes());
    }
    number(&mut block, place);
    block
}

/// Writes a piece's place into it.
pub(super) fn number(block: &mut [u8], place: u64) {
    block[..8].copy_from_slice(&place.to_be_bytes());
}

fn listen(port: u16) -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap()
}

/// Echoes bodies in chunks as they come; `GET` with an upgrade becomes an echo of bytes.
pub(super) fn http(port: u16) {
    for stream in listen(port).incoming() {
        thread::spawn(move || http_connection(stream.unwrap()));
    }
}

fn http_connection(stream: TcpStream) {
    let mut out = stream.try_clone().unwrap();
    let mut stream = BufReader::new(stream);
    let mut length = 0;
    let mut upgrade = false;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        upgrade |= line.starts_with("upgrade:");
        if line.is_empty() {
            break;
        }
    }
    if upgrade {
        let accept = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                      sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        out.write_all(accept.as_bytes()).unwrap();
        // Its end is the client's, with or without an error.
        std::io::copy(&mut stream, &mut out).ok();
        return;
    }
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    out.write_all(head.as_bytes()).unwrap();
    let mut body = stream.take(length);
    let mut part = vec![0; 16 * 1024];
    loop {
        let read = body.read(&mut part).unwrap();
        write!(out, "{read:x}\r\n").unwrap();
        out.write_all(&part[..read]).unwrap();
        out.write_all(b"\r\n").unwrap();
        if read == 0 {
            return;
        }
    }
}

/// Takes pieces until their end, and answers how many came intact and in order.
pub(super) fn tcp(port: u16) {
    for stream in listen(port).incoming() {
        let mut stream = stream.unwrap();
        thread::spawn(move || {
            let mut expected = chunk(0);
            let mut came = vec![0; CHUNK];
            let mut place = 0;
            while stream.read_exact(&mut came).is_ok() {
                number(&mut expected, place);
                if came != expected {
                    break;
                }
                place += 1;
            }
            write!(stream, "{place} intact").unwrap();
        });
    }
}

/// Echoes each piece of each stream, and counts the messages in the trailers.
pub(super) fn grpc(port: u16) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap();
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections.spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let mut streams = JoinSet::new();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    streams.spawn(echo(request.into_body(), respond));
                }
            });
        }
    });
}

async fn echo(mut body: h2::RecvStream, mut respond: h2::server::SendResponse<Bytes>) {
    let head = http::Response::builder().header("content-type", "application/grpc");
    let mut sender = respond
        .send_response(head.body(()).unwrap(), false)
        .unwrap();
    let mut bytes = 0;
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        bytes += data.len();
        sender.send_data(data, false).unwrap();
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers.insert("messages", (bytes / 9).to_string().parse().unwrap());
    sender.send_trailers(trailers).unwrap();
}
