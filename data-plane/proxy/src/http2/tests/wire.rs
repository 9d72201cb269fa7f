//! Heads that h2's own client would not send, written byte by byte (T4): none reaches an
//! application.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

pub(super) const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
const GOAWAY: u8 = 7;
pub(super) const END_STREAM_AND_HEADERS: u8 = 5;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Fields as HPACK literals without indexing and without Huffman code.
pub(super) fn block(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        block.push(u8::try_from(name.len()).unwrap());
        block.extend(name.as_bytes());
        block.push(u8::try_from(value.len()).unwrap());
        block.extend(*value);
    }
    block
}

/// A client that writes frames.
pub(super) struct Wire {
    pub(super) io: DuplexStream,
    next: u32,
}

impl Wire {
    pub(super) async fn new(io: DuplexStream) -> Self {
        Self::with_settings(io, &[]).await
    }

    pub(super) async fn with_settings(mut io: DuplexStream, settings: &[u8]) -> Self {
        io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        io.write_all(&frame(SETTINGS, 0, 0, settings))
            .await
            .unwrap();
        Self { io, next: 1 }
    }

    /// The next frame: its kind, flags, stream and payload; `None` at the end.
    pub(super) async fn frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.io.read_exact(&mut payload).await.ok()?;
        let about = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some((head[3], head[4], about, payload))
    }

    /// Sends a request of these fields.
    async fn ask(&mut self, fields: &[(&str, &[u8])]) -> Answered {
        self.ask_in(&block(fields)).await
    }

    /// Sends a request whose head is this block.
    pub(super) async fn ask_in(&mut self, block: &[u8]) -> Answered {
        let stream = self.next;
        self.next += 2;
        let head = frame(HEADERS, END_STREAM_AND_HEADERS, stream, block);
        self.io.write_all(&head).await.unwrap();
        loop {
            let (kind, _, about, payload) = self.frame().await.unwrap();
            match kind {
                GOAWAY => return Answered::ConnectionEnded,
                RST_STREAM if about == stream => return Answered::Reset,
                HEADERS if about == stream => return Answered::Status(status(&payload)),
                _ => {}
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answered {
    Status(u16),
    Reset,
    ConnectionEnded,
}

/// `:status`, which is first: from the static table (RFC 7541, appendix A), or its digits with
/// Huffman code (`01 xxxxxx` is 5 bits for 0, 1, 2; 6 bits for 3 to 9).
fn status(block: &[u8]) -> u16 {
    match block {
        [0x88, ..] => 200,
        [0x8c, ..] => 400,
        // Index 8, Huffman, two bytes: 501 is 011011 00000 00001.
        [0x48, 0x82, 0x6c, 0x01, ..] => 501,
        other => panic!("a status not expected: {other:02x?}"),
    }
}

pub(super) const GOOD: [(&str, &[u8]); 4] = [
    (":method", b"GET"),
    (":scheme", b"http"),
    (":authority", b"shop"),
    (":path", b"/"),
];

/// The good head with one field replaced, or left out.
fn with<'a>(name: &str, value: Option<&'a [u8]>) -> Vec<(&'a str, &'a [u8])> {
    GOOD.into_iter()
        .filter_map(|(own, default)| match value {
            _ if own != name => Some((own, default)),
            Some(value) => Some((own, value)),
            None => None,
        })
        .collect()
}

/// The good head and one more field at the end.
fn and<'a>(name: &'a str, value: &'a [u8]) -> Vec<(&'a str, &'a [u8])> {
    let mut fields = GOOD.to_vec();
    fields.push((name, value));
    fields
}

type Fields = Vec<(&'static str, &'static [u8])>;

fn bad_pseudo_headers() -> Vec<Fields> {
    vec![
        with(":method", None),
        with(":scheme", None),
        with(":path", None),
        with(":authority", None),
        with(":method", Some(b"")),
        with(":method", Some(b"G ET")),
        with(":method", Some(b"CONNECT")),
        with(":scheme", Some(b"gopher")),
        with(":scheme", Some(b"")),
        with(":path", Some(b"")),
        with(":path", Some(b"*")),
        with(":path", Some(b"shop")),
        with(":path", Some(b"http://other/")),
        with(":path", Some(b"/a b")),
        with(":path", Some(b"/\r\nx: y")),
        with(":path", Some(b"/\xc3\xa9")),
        with(":path", Some(b"/\0")),
        with(":authority", Some(b"")),
        with(":authority", Some(b"a b")),
        with(":authority", Some(b"user@shop")),
        with(":authority", Some(b"shop/path")),
        with(":authority", Some(b"shop:http")),
        with(":authority", Some(b"shop\r\nx: y")),
    ]
}

fn bad_fields() -> Vec<Fields> {
    let early = {
        let mut fields = and("x", b"y");
        fields.swap(0, 4);
        fields
    };
    vec![
        and(":path", b"/again"),
        and(":method", b"GET"),
        and(":authority", b"other"),
        and(":status", b"200"),
        and(":protocol", b"websocket"),
        and(":unknown", b"x"),
        early,
        and("host", b"other"),
        and("Upper", b"case"),
        and("connection", b"close"),
        and("keep-alive", b"1"),
        and("proxy-connection", b"close"),
        and("transfer-encoding", b"chunked"),
        and("upgrade", b"h2c"),
        and("te", b"gzip"),
        and("te", b"trailers, gzip"),
        and("content-length", b"1"),
        and("content-length", b"+0"),
        and("content-length", b"0, 0"),
        and("x", b"a\r\nb: c"),
        and("x", b"a\0"),
        and("x\ny", b"a"),
        and("x y", b"a"),
        and("", b"a"),
    ]
}

#[test]
fn no_malformed_head_reaches_an_application() {
    local(async {
        let server = Server::echo().await;
        for fields in bad_pseudo_headers().into_iter().chain(bad_fields()) {
            let (io, engine) = Engine::serve(server.path());
            let mut wire = Wire::new(io).await;
            let answered = wire.ask(&fields).await;
            let shown = format!("{fields:?}: {answered:?}");
            assert_ne!(answered, Answered::Status(200), "{shown}");
            assert_eq!(server.requests.get(), 0, "{shown}");
            assert!(engine.path.deliveries.borrow().is_empty(), "{shown}");
            // h2 ends the connection for octets that no method, name or value may have.
            if answered != Answered::ConnectionEnded {
                assert_eq!(wire.ask(&GOOD).await, Answered::Status(200), "{shown}");
                server.requests.set(0);
            }
        }
    });
}

/// An upstream that answers the first stream of its first `refusing` connections by a GOAWAY that
/// says it was not processed, and serves on later ones.
async fn leaving(refusing: u32) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn_local(async move {
        for _ in 0..refusing {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut preface = [0; 24];
            stream.read_exact(&mut preface).await.unwrap();
            stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
            loop {
                let mut head = [0; 9];
                stream.read_exact(&mut head).await.unwrap();
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let mut payload = vec![0; usize::try_from(length).unwrap()];
                stream.read_exact(&mut payload).await.unwrap();
                if head[3] == HEADERS {
                    break;
                }
            }
            // Last stream 0, NO_ERROR.
            stream
                .write_all(&frame(GOAWAY, 0, 0, &[0; 8]))
                .await
                .unwrap();
            tokio::io::copy(&mut stream, &mut tokio::io::sink())
                .await
                .ok();
        }
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_request, mut respond))) = connection.accept().await {
            answer_with(&mut respond, 200, b"served");
        }
    });
    (address, tasks)
}

#[test]
fn what_a_goaway_left_out_is_sent_again_once_without_a_failure() {
    for (refusing, expected) in [
        (1, (200, &[][..])),
        (2, (503, &[AttemptFailureKind::RefusedStream][..])),
    ] {
        local(async move {
            let (address, _tasks) = leaving(refusing).await;
            let served = Served::new(Path::new(endpoint(address, |_| {}))).await;
            let answer = served.post("x").await.unwrap();
            let failures = served.path().failures.borrow();
            assert_eq!((answer.head.status.as_u16(), &failures[..]), expected);
        });
    }
}
