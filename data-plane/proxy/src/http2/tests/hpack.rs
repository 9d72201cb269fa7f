//! The dynamic tables of header compression stay at 4 KiB, whatever a peer asks for (DEF-09).

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    wire::{Answered, END_STREAM_AND_HEADERS, GOOD, HEADERS, SETTINGS, Wire, block, frame},
    *,
};

/// SETTINGS_HEADER_TABLE_SIZE (RFC 9113 §6.5.2).
const TABLE_SIZE: [u8; 2] = [0, 1];

/// A block that begins with a change of the table's size (RFC 7541 §6.3) to 31 + `beyond`.
fn resized(beyond: u16, fields: &[u8]) -> Vec<u8> {
    let [high, low] = [beyond >> 7, beyond & 0x7f].map(|part| u8::try_from(part).unwrap());
    [&[0x3f, low | 0x80, high], fields].concat()
}

const TO_4096: u16 = 4096 - 31;

#[test]
fn a_client_is_told_the_size_and_held_to_it() {
    for (beyond, expected) in [
        (TO_4096, Answered::Status(200)),
        (TO_4096 + 1, Answered::ConnectionEnded),
        (16_000, Answered::ConnectionEnded),
    ] {
        local(async move {
            let server = Server::echo().await;
            let (io, _engine) = Engine::serve(server.path());
            let mut wire = Wire::new(io).await;
            let (kind, _, _, settings) = wire.frame().await.unwrap();
            assert_eq!(kind, SETTINGS);
            let size = settings
                .chunks(6)
                .find(|setting| setting[..2] == TABLE_SIZE);
            assert_eq!(size.unwrap()[2..], 4096_u32.to_be_bytes());
            let asked = wire.ask_in(&resized(beyond, &block(&GOOD))).await;
            assert_eq!(asked, expected, "{beyond}");
        });
    }
}

/// A client that offers 4 GiB for what we send gets no table larger than 4 KiB: our blocks never
/// enlarge it, and what is 4 KiB back is not there any more.
#[test]
fn a_client_cannot_make_us_keep_more() {
    local(async {
        let server = Server::new(PLAIN, |n, _request, mut respond| async move {
            let value = format!("{n:0>200}");
            let response = Response::builder().header("x-filler", value);
            respond
                .send_response(response.body(()).unwrap(), true)
                .unwrap();
        })
        .await;
        let (io, _engine) = Engine::serve(server.path());
        let offer = [&TABLE_SIZE[..], &u32::MAX.to_be_bytes()].concat();
        let mut wire = Wire::with_settings(io, &offer).await;
        for _ in 0..100 {
            // The status comes first in its block: a change of the table's size would stand before.
            let answered = wire.ask_in(&block(&GOOD)).await;
            assert_eq!(answered, Answered::Status(200));
        }
    });
}

#[test]
fn an_upstream_is_held_to_it() {
    for (beyond, expected) in [(TO_4096, 200), (TO_4096 + 1, 503)] {
        local(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let mut tasks = JoinSet::new();
            tasks.spawn_local(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut preface = [0; 24];
                stream.read_exact(&mut preface).await.unwrap();
                stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
                let mut head = [0; 9];
                while head[3] != HEADERS {
                    stream.read_exact(&mut head).await.unwrap();
                    let length = u64::from(u32::from_be_bytes([0, head[0], head[1], head[2]]));
                    let mut payload = (&mut stream).take(length);
                    tokio::io::copy(&mut payload, &mut tokio::io::sink())
                        .await
                        .unwrap();
                }
                // 0x88 is `:status: 200`.
                let answer = frame(
                    HEADERS,
                    END_STREAM_AND_HEADERS,
                    1,
                    &resized(beyond, &[0x88]),
                );
                stream.write_all(&answer).await.unwrap();
                tokio::io::copy(&mut stream, &mut tokio::io::sink())
                    .await
                    .ok();
            });
            let served = Served::new(Path::new(endpoint(address, |_| {}))).await;
            assert_eq!(served.get("/").await.head.status.as_u16(), expected);
            if expected == 503 {
                let failures = served.path().failures.borrow();
                assert_eq!(*failures, [AttemptFailureKind::Protocol]);
            }
        });
    }
}
