//! Requests and answers over the wire: framing both ways, reuse, pipelining, interim answers.

use super::rig::{Habit, Rig};

const GET: &str = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
const OK_2: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn two_requests_share_both_connections() {
    let rig = Rig::new(Habit::Once).await;
    let (served, seen) = rig
        .run(async |mut client, rig| {
            client.send(GET).await;
            let mut server = rig.accept().await;
            server.expect(GET).await;
            server
                .send("HTTP/1.1 200 OK\r\nX: 1\r\nContent-Length: 2\r\n\r\nok")
                .await;
            client
                .expect("HTTP/1.1 200 OK\r\nX: 1\r\ncontent-length: 2\r\n\r\nok")
                .await;
            client.send(GET).await;
            server.expect(GET).await;
            server.send(OK_2).await;
            client.expect(OK_2).await;
            assert!(rig.no_connection().await);
        })
        .await;
    assert_eq!((served.requests, served.refused), (2, None));
    assert_eq!(seen, ["complete 0/2", "complete 0/2"]);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let rig = Rig::new(Habit::Once).await;
    let (served, _) = rig
        .run(async |mut client, rig| {
            let post = "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";
            client.send([GET, post, GET].concat()).await;
            let mut server = rig.accept().await;
            server.expect(GET).await;
            server
                .send("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1")
                .await;
            server
                .expect("POST /b HTTP/1.1\r\nHost: h\r\ncontent-length: 3\r\n\r\nabc")
                .await;
            server
                .send("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n2")
                .await;
            server.expect(GET).await;
            server
                .send("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n3")
                .await;
            for n in ["1", "2", "3"] {
                client
                    .expect(&format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{n}"))
                    .await;
            }
        })
        .await;
    assert_eq!(served.requests, 3);
}

#[tokio::test]
async fn bytes_one_by_one_are_the_same_request() {
    let rig = Rig::new(Habit::Once).await.set("traceparent", "00-x");
    rig.run(async |mut client, rig| {
        let play_client = async {
            client
                .trickle("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await;
            client
                .trickle("5;x=y\r\nhello\r\n0\r\nX-Sum: 1\r\nHost: evil\r\n\r\n")
                .await;
            client
                .expect("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                .await;
            let chunks = "1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\nX-T: 2\r\n\r\n";
            client.expect(chunks).await;
        };
        let play_server = async {
            let mut server = rig.accept().await;
            let head = "POST / HTTP/1.1\r\nHost: h\r\ntransfer-encoding: chunked\r\n\
                traceparent: 00-x\r\n\r\n";
            server.expect(head).await;
            let mut body = String::new();
            while !body.ends_with("\r\n\r\n") {
                let mut byte = [0];
                tokio::io::AsyncReadExt::read_exact(&mut server.0, &mut byte)
                    .await
                    .unwrap();
                body.push(char::from(byte[0]));
            }
            // Chunk sizes are ours and depend on arrival; the bytes and the trailer do not.
            let data: String = body
                .split("\r\n")
                .skip(1)
                .step_by(2)
                .take_while(|s| !s.contains(':'))
                .collect();
            assert_eq!(data, "hello");
            assert!(body.ends_with("0\r\nX-Sum: 1\r\n\r\n"), "{body}");
            server
                .trickle("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await;
            for piece in ["a", "b", "c"] {
                server.send(format!("1\r\n{piece}\r\n")).await;
            }
            server
                .send("0\r\nX-T: 2\r\nContent-Length: 9\r\n\r\n")
                .await;
        };
        tokio::join!(play_client, play_server);
    })
    .await;
}

#[tokio::test]
async fn head_204_and_304_carry_no_body() {
    let rig = Rig::new(Habit::Once).await;
    rig.run(async |mut client, rig| {
        client.send("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        let mut server = rig.accept().await;
        server.expect("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        server
            .send("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
            .await;
        client
            .expect("HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n")
            .await;
        for (answer, expected) in [
            (
                "HTTP/1.1 204 No\r\nContent-Length: 7\r\n\r\n",
                "HTTP/1.1 204 No\r\n\r\n",
            ),
            (
                "HTTP/1.1 304 Same\r\nContent-Length: 7\r\n\r\n",
                "HTTP/1.1 304 Same\r\ncontent-length: 7\r\n\r\n",
            ),
        ] {
            client.send(GET).await;
            server.expect(GET).await;
            server.send(answer).await;
            client.expect(expected).await;
        }
        assert!(rig.no_connection().await);
    })
    .await;
}

#[tokio::test]
async fn an_http10_client_gets_no_chunks_and_a_close() {
    let rig = Rig::new(Habit::Once).await;
    let (_, seen) = rig
        .run_tcp(async |mut client, rig| {
            client
                .send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
                .await;
            let mut server = rig.accept().await;
            let host = rig.path.endpoint.address;
            server
                .expect(&format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"))
                .await;
            server
                .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await;
            server
                .send("3\r\nabc\r\n2;e\r\nde\r\n0\r\nT: 1\r\n\r\n")
                .await;
            assert_eq!(
                client.rest().await,
                "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabcde"
            );
        })
        .await;
    assert_eq!(seen, ["complete 0/5"]);
}

#[tokio::test]
async fn a_close_delimited_answer_becomes_chunks() {
    let rig = Rig::new(Habit::Once).await;
    rig.run(async |mut client, rig| {
        client.send(GET).await;
        let mut server = rig.accept().await;
        server.expect(GET).await;
        server.send("HTTP/1.0 200 OK\r\n\r\nabc").await;
        drop(server);
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        client
            .expect(&[head, "3\r\nabc\r\n0\r\n\r\n"].concat())
            .await;
        client.send(GET).await; // the client's connection lives on, the server's does not
        let mut server = rig.accept().await;
        server.expect(GET).await;
        server.send(OK_2).await;
        client.expect(OK_2).await;
    })
    .await;
}

#[tokio::test]
async fn expect_continue_is_the_servers_to_answer() {
    let rig = Rig::new(Habit::Once).await;
    let (_, seen) = rig
        .run(async |mut client, rig| {
            let head = "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n";
            client
                .send([head, "Content-Length: 3\r\n\r\n"].concat())
                .await;
            let mut server = rig.accept().await;
            server
                .expect(&[head, "content-length: 3\r\n\r\n"].concat())
                .await;
            server.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            client.expect("HTTP/1.1 100 Continue\r\n\r\n").await;
            client.send("abc").await;
            server.expect("abc").await;
            server
                .send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
                .await;
            server.send(OK_2).await;
            client
                .expect(&["HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", OK_2].concat())
                .await;
        })
        .await;
    assert_eq!(seen, ["complete 3/2"]);
}

#[tokio::test]
async fn an_unmet_expectation_ends_both_connections() {
    let rig = Rig::new(Habit::Once).await;
    rig.run_tcp(async |mut client, rig| {
        let head = "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n";
        client
            .send([head, "Content-Length: 3\r\n\r\n"].concat())
            .await;
        let mut server = rig.accept().await;
        server
            .expect(&[head, "content-length: 3\r\n\r\n"].concat())
            .await;
        server
            .send("HTTP/1.1 417 No\r\ncontent-length: 0\r\n\r\n")
            .await;
        let answer = "HTTP/1.1 417 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        client.expect(answer).await;
        server.expect_end().await;
        client.expect_end().await;
    })
    .await;
}

#[tokio::test]
async fn an_early_answer_arrives_while_the_body_is_on_its_way() {
    let rig = Rig::new(Habit::Once).await;
    let (_, seen) = rig
        .run_tcp(async |mut client, rig| {
            client
                .send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\nabcd")
                .await;
            let mut server = rig.accept().await;
            server
                .expect("POST / HTTP/1.1\r\nHost: h\r\ncontent-length: 8\r\n\r\nabcd")
                .await;
            server
                .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
                .await;
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
            client.expect(&[head, "1\r\nx\r\n"].concat()).await;
            client.send("efgh").await;
            server.expect("efgh").await;
            server.send("0\r\n\r\n").await;
            client.expect("0\r\n\r\n").await;
            client.expect_end().await;
            server.expect_end().await;
        })
        .await;
    assert_eq!(seen, ["complete 8/1"]);
}

#[tokio::test]
async fn an_answer_before_the_body_lingers_until_the_client_has_it() {
    let rig = Rig::new(Habit::Once).await;
    rig.run_tcp(async |mut client, rig| {
        client
            .send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000\r\n\r\nabcd")
            .await;
        let mut server = rig.accept().await;
        server
            .expect("POST / HTTP/1.1\r\nHost: h\r\ncontent-length: 10000000\r\n\r\nabcd")
            .await;
        server
            .send("HTTP/1.1 413 Big\r\ncontent-length: 0\r\n\r\n")
            .await;
        drop(server);
        client.send(vec![b'x'; 100_000]).await; // discarded, not reset
        let answer = "HTTP/1.1 413 Big\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        client.expect(answer).await;
        client.expect_end().await;
    })
    .await;
}

#[tokio::test]
async fn a_half_closed_client_gets_its_answer() {
    let rig = Rig::new(Habit::Once).await;
    rig.run_tcp(async |mut client, rig| {
        client.send(GET).await;
        client.close_write().await;
        let mut server = rig.accept().await;
        server.expect(GET).await;
        server.send(OK_2).await;
        client.expect(OK_2).await;
        client.expect_end().await;
    })
    .await;
}

#[tokio::test]
async fn bodies_of_a_mebibyte_pass_both_ways_at_once() {
    let rig = Rig::new(Habit::Once).await;
    let body: Vec<u8> = (0..1_u32 << 20)
        .map(|n| u8::try_from(n * 31 % 251).unwrap())
        .collect();
    let length = body.len();
    let (_, seen) = rig
        .run_tcp(async |client, rig| {
            let head = format!("POST / HTTP/1.1\r\nHost: h\r\ncontent-length: {length}\r\n\r\n");
            let (mut client_read, mut client_write) = client.0.into_split();
            let server = rig.accept();
            let sending = async {
                use tokio::io::AsyncWriteExt;
                let all = [head.as_bytes(), &body].concat();
                client_write.write_all(&all).await.unwrap();
                client_write.shutdown().await.unwrap(); // so that the end is an end
            };
            let echoing = async {
                let mut server = server.await;
                server.expect(&head).await;
                server
                    .send(format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
                    ))
                    .await;
                let (read, mut write) = server.0.split();
                let exactly = u64::try_from(length).unwrap();
                let mut read = tokio::io::AsyncReadExt::take(read, exactly);
                tokio::io::copy(&mut read, &mut write).await.ok();
            };
            let receiving = async {
                use tokio::io::AsyncReadExt;
                let mut all = Vec::new();
                client_read.read_to_end(&mut all).await.unwrap();
                let start = all.len() - length;
                assert!(all[start..] == body[..], "the body came back changed");
            };
            tokio::join!(sending, echoing, receiving);
        })
        .await;
    assert_eq!(seen, [format!("complete {length}/{length}")]);
}

#[tokio::test]
async fn an_old_connection_says_it_is_the_last_request() {
    let mut limits = super::rig::limits();
    let two = std::num::NonZeroU32::new(2).unwrap();
    limits.requests_per_connection = outrigger_model::RequestsPerConnection::AtMost(two);
    let rig = Rig::with_limits(Habit::Once, limits).await;
    rig.run(async |mut client, rig| {
        let mut server = rig.carried(&mut client, GET).await;
        server.send(OK_2).await;
        client.expect(OK_2).await;
        client.send(GET).await;
        server
            .expect("GET /a HTTP/1.1\r\nHost: h\r\nconnection: close\r\n\r\n")
            .await;
        server.send(OK_2).await;
        client.expect(OK_2).await;
        server.expect_end().await;
    })
    .await;
}

/// RFC 9112 §9.3: a server that says how long it waits is left a second before.
#[tokio::test]
async fn a_connection_is_not_used_up_to_the_edge_that_its_server_announced() {
    for (announced, kept) in [
        ("timeout=60", true),
        ("max=9, Timeout = \"60\"", true),
        ("timeout=1", false),
        ("timeout=0, max=100", false),
        ("timeout=soon", true),
    ] {
        let rig = Rig::new(Habit::Once).await;
        rig.run_tcp(async |mut client, rig| {
            let mut server = rig.accept_after(&mut client, GET).await;
            server.expect(GET).await;
            server
                .send(format!(
                    "HTTP/1.1 200 OK\r\nKeep-Alive: {announced}\r\ncontent-length: 2\r\n\r\nok"
                ))
                .await;
            client.expect(OK_2).await;
            client.send(GET).await;
            let mut server = if kept { server } else { rig.accept().await };
            server.expect(GET).await;
            server.send(OK_2).await;
            client.expect(OK_2).await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_drain_ends_the_connection_with_the_answer_at_hand() {
    let rig = Rig::new(Habit::Once).await;
    rig.run_tcp(async |mut client, rig| {
        let mut server = rig.carried(&mut client, GET).await;
        rig.drain.cancel();
        server.send(OK_2).await;
        client
            .expect("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
            .await;
        client.expect_end().await;
    })
    .await;
}

#[tokio::test]
async fn a_drain_still_answers_what_arrives_in_its_first_moment() {
    let rig = Rig::new(Habit::Once).await;
    rig.run_tcp(async |mut client, rig| {
        let mut server = rig.carried(&mut client, GET).await;
        server.send(OK_2).await;
        client.expect(OK_2).await;
        rig.drain.cancel();
        client.send(GET).await;
        server.expect(GET).await;
        server.send(OK_2).await;
        client
            .expect("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
            .await;
        client.expect_end().await;
    })
    .await;
    // And an idle one ends by itself.
    let rig = Rig::new(Habit::Once).await;
    rig.drain.cancel();
    let (served, _) = rig
        .run_tcp(async |mut client, _| client.expect_end().await)
        .await;
    assert_eq!(served.requests, 0);
}

/// An idle connection is a future of this size and no buffer; ten thousand are 40 MB at most.
#[tokio::test]
async fn the_future_of_a_connection_stays_small() {
    let rig = Rig::new(Habit::Once).await;
    let (_client, io) = tokio::io::duplex(1);
    let serving = super::super::serve(crate::io::Io::Memory(io), &rig.drain, &rig.path);
    let size = size_of_val(&serving);
    assert!(size <= 4_096, "{size} bytes");
}
