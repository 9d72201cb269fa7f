//! What goes wrong: refusals, broken peers, stale connections, retries, upgrades.

use super::rig::{Habit, Rig};
use crate::reason::Reason;

const GET: &str = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
const OK_2: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const POST: &str = "POST / HTTP/1.1\r\nHost: h\r\ncontent-length: 3\r\n\r\nabc";

fn refusal(status: &str, text: &str, close: bool) -> String {
    let close = if close { "connection: close\r\n" } else { "" };
    let length = text.len() + 1;
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: {length}\r\nx-outrigger-reason: {text}\r\n{close}\r\n{text}\n"
    )
}

#[tokio::test]
async fn a_doubtful_head_is_answered_and_ends_the_connection() {
    for (head, status, slug) in [
        ("GET / HTTP/1.1\nHost: h\n\n", "400 Bad Request", "bare-lf"),
        ("GET / HTTP/1.1\r\n\r\n", "400 Bad Request", "host-missing"),
        (
            "GET / HTTP/2.0\r\n\r\n",
            "505 HTTP Version Not Supported",
            "http-version",
        ),
        (
            "CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n",
            "501 Not Implemented",
            "connect-not-supported",
        ),
    ] {
        let rig = Rig::new(Habit::Once).await;
        let (served, seen) = rig
            .run_tcp(async |mut client, _| {
                client.send([head, GET].concat()).await; // what follows is never looked at
                client.expect(&refusal(status, slug, true)).await;
                client.expect_end().await;
            })
            .await;
        assert_eq!(served.requests, 0);
        assert_eq!(served.refused.map(Reason::slug), Some(slug));
        assert!(seen.is_empty());
    }
}

#[tokio::test]
async fn the_mesh_refuses_and_the_connection_lives() {
    let rig = Rig::new(Habit::Refuse).await;
    rig.run(async |mut client, _| {
        let text = "no-route; none matches";
        client.send(POST).await;
        client.expect(&refusal("404 Not Found", text, false)).await;
        client.send("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        let whole = refusal("404 Not Found", text, false);
        client
            .expect(whole.strip_suffix(&format!("{text}\n")).unwrap())
            .await;
        // A body that has not arrived ends it, and lingers.
        client
            .send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc")
            .await;
        client.expect(&refusal("404 Not Found", text, true)).await;
        client.expect_end().await;
    })
    .await;
}

#[tokio::test]
async fn a_broken_body_is_the_clients_doing() {
    let head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (body, slug) in [("5\nhello", "bare-lf"), ("zz\r\n", "bad-chunk-size")] {
        let rig = Rig::new(Habit::Retry).await;
        let (_, seen) = rig
            .run_tcp(async |mut client, _| {
                client.send([head, body].concat()).await;
                client.expect(&refusal("400 Bad Request", slug, true)).await;
                client.expect_end().await;
            })
            .await;
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert!(seen[0].starts_with("Downstream"), "{seen:?}");
    }
}

#[tokio::test]
async fn a_truncated_body_never_looks_whole_upstream() {
    let rig = Rig::new(Habit::Once).await;
    let (_, seen) = rig
        .run_tcp(async |mut client, rig| {
            client
                .send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await;
            client.send("5\r\nhel").await;
            let mut server = rig.accept().await;
            server
                .expect("POST / HTTP/1.1\r\nHost: h\r\ntransfer-encoding: chunked\r\n\r\n")
                .await;
            server.expect("3\r\nhel\r\n").await;
            client.close_write().await;
            assert_eq!(server.rest().await, "");
            client.expect_end().await;
        })
        .await;
    assert_eq!(seen, ["ClientGone", "client gone 3/0"]);
}

#[tokio::test]
async fn a_server_that_breaks_http_is_a_bad_gateway() {
    let many = "HTTP/1.1 102 Wait\r\n\r\n".repeat(17);
    for answer in [
        "HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 101 Surprise\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "SSH-2.0-OpenSSH\r\n",
        &many,
    ] {
        let rig = Rig::new(Habit::Once).await;
        let (_, seen) = rig
            .run_tcp(async |mut client, rig| {
                let mut server = rig.carried(&mut client, GET).await;
                server.send(answer).await;
                server.close_write().await;
                let got = async {
                    let passed = "HTTP/1.1 102 Wait\r\n\r\n".repeat(16);
                    if answer == many {
                        client.expect(&passed).await;
                    }
                    client
                        .expect(&refusal("502 Bad Gateway", "upstream-protocol", false))
                        .await;
                };
                got.await;
                server.expect_end().await;
            })
            .await;
        assert!(
            ["Protocol", "Reset"].contains(&seen[0].as_str()),
            "{seen:?}"
        );
    }
}

#[tokio::test]
async fn a_truncated_answer_is_cut_not_ended() {
    for (head, out) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
            "content-length: 9\r\n\r\nabc",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ),
    ] {
        let rig = Rig::new(Habit::Once).await;
        let (_, seen) = rig
            .run_tcp(async |mut client, rig| {
                let mut server = rig.carried(&mut client, GET).await;
                server.send(head).await;
                drop(server);
                client.expect(&["HTTP/1.1 200 OK\r\n", out].concat()).await;
                client.expect_end().await;
            })
            .await;
        assert_eq!(seen, ["upstream reset 0/3"]);
    }
}

#[tokio::test]
async fn a_broken_chunk_is_never_passed_on_as_an_end() {
    let rig = Rig::new(Habit::Once).await;
    let (_, seen) = rig
        .run_tcp(async |mut client, rig| {
            let mut server = rig.carried(&mut client, GET).await;
            server
                .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n\n")
                .await;
            assert!(!client.rest().await.ends_with("0\r\n\r\n"));
            server.expect_end().await;
        })
        .await;
    assert!(seen[0].starts_with("upstream reset"), "{seen:?}");
}

#[tokio::test]
async fn bytes_beyond_the_answer_cost_the_connection() {
    let rig = Rig::new(Habit::Once).await;
    rig.run(async |mut client, rig| {
        let mut server = rig.carried(&mut client, GET).await;
        server
            .send([OK_2, "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"].concat())
            .await;
        client.expect(OK_2).await;
        server.expect_end().await;
        let mut second = rig.carried(&mut client, GET).await;
        second.send(OK_2).await;
        client.expect(OK_2).await;
    })
    .await;
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_replaced_unseen() {
    let rig = Rig::new(Habit::Once).await;
    let (_, seen) = rig
        .run(async |mut client, rig| {
            let mut server = rig.carried(&mut client, GET).await;
            server.send(OK_2).await;
            client.expect(OK_2).await;
            drop(server);
            let mut server = rig.carried(&mut client, POST).await;
            server.send(OK_2).await;
            client.expect(OK_2).await;
        })
        .await;
    assert_eq!(seen, ["complete 0/2", "complete 3/2"]);
}

#[tokio::test]
async fn a_reset_on_a_used_connection_replays_what_is_idempotent() {
    for (request, replaced) in [(GET, true), (POST, false)] {
        let rig = Rig::new(Habit::Once).await;
        let (_, seen) = rig
            .run(async |mut client, rig| {
                let mut server = rig.carried(&mut client, GET).await;
                server.send(OK_2).await;
                client.expect(OK_2).await;
                client.send(request).await;
                server.expect(request).await;
                drop(server); // after the request arrived: it may have been processed
                if replaced {
                    let mut server = rig.accept().await;
                    server.expect(request).await;
                    server.send(OK_2).await;
                    client.expect(OK_2).await;
                } else {
                    let answer = refusal("503 Service Unavailable", "upstream-reset", false);
                    client.expect(&answer).await;
                    assert!(rig.no_connection().await);
                }
            })
            .await;
        assert_eq!(seen.contains(&"Reset".to_owned()), !replaced, "{seen:?}");
    }
}

#[tokio::test]
async fn a_retry_sends_the_whole_body_again() {
    let rig = Rig::new(Habit::Retry).await;
    let (_, seen) = rig
        .run(async |mut client, rig| {
            client
                .send("POST / HTTP/1.1\r\nHost: h\r\ncontent-length: 3\r\n\r\nab")
                .await;
            let mut first = rig.accept().await;
            first
                .expect("POST / HTTP/1.1\r\nHost: h\r\ncontent-length: 3\r\n\r\nab")
                .await;
            drop(first);
            let mut second = rig.accept().await;
            second
                .expect("POST / HTTP/1.1\r\nHost: h\r\ncontent-length: 3\r\n\r\nab")
                .await;
            client.send("c").await;
            second.expect("c").await;
            second
                .send("HTTP/1.1 503 No\r\ncontent-length: 3\r\n\r\nbad")
                .await;
            second.expect(POST).await; // a short answer to discard saves the connection
            second.send(OK_2).await;
            client.expect(OK_2).await;
        })
        .await;
    assert_eq!(seen, ["retry Reset", "retry 503", "complete 3/2"]);
}

#[tokio::test]
async fn a_body_too_large_to_keep_is_not_replayed() {
    let rig = Rig::new(Habit::Retry).await;
    let (_, seen) = rig
        .run_tcp(async |mut client, rig| {
            client
                .send("POST / HTTP/1.1\r\nHost: h\r\ncontent-length: 100000\r\n\r\n")
                .await;
            client.send(vec![b'x'; 70_000]).await;
            let mut server = rig.accept().await;
            server
                .expect("POST / HTTP/1.1\r\nHost: h\r\ncontent-length: 100000\r\n\r\n")
                .await;
            server.expect(&"x".repeat(70_000)).await;
            drop(server);
            let answer = refusal("503 Service Unavailable", "upstream-reset", true);
            client.expect(&answer).await;
        })
        .await;
    assert_eq!(seen[0], "Reset");
}

#[tokio::test]
async fn a_try_out_of_time_closes_its_connection() {
    let rig = Rig::new(Habit::Hurried).await;
    let (_, seen) = rig
        .run(async |mut client, rig| {
            let mut server = rig.carried(&mut client, GET).await;
            client
                .expect(&refusal("504 Gateway Timeout", "request-timeout", false))
                .await;
            server.expect_end().await;
        })
        .await;
    assert_eq!(seen[0], "Timeout");
}

#[tokio::test]
async fn a_client_that_leaves_costs_the_upstream_connection() {
    let rig = Rig::new(Habit::Once).await;
    let (_, seen) = rig
        .run_tcp(async |mut client, rig| {
            let mut server = rig.carried(&mut client, GET).await;
            server
                .send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
                .await;
            client.expect("HTTP/1.1 200 OK\r\n").await;
            drop(client);
            use tokio::io::AsyncWriteExt;
            let piece = vec![0; 65_536];
            while server.0.write_all(&piece).await.is_ok() {}
        })
        .await;
    assert!(seen[0].starts_with("client gone"), "{seen:?}");
}

/// Whatever it sent ahead, be it more than is read ahead: its request is given up at once.
#[tokio::test]
async fn a_client_that_resets_behind_bytes_sent_ahead_is_noticed() {
    for ahead in [1, 20_000, 100_000] {
        let rig = Rig::new(Habit::Once).await;
        let (_, seen) = rig
            .run_tcp(async |mut client, rig| {
                let mut server = rig.accept_after(&mut client, GET).await;
                server.expect(GET).await;
                client.send("G".repeat(ahead)).await;
                tokio::task::yield_now().await;
                client.0.set_zero_linger().unwrap();
                drop(client);
                server.expect_end().await;
            })
            .await;
        assert_eq!(seen, ["ClientGone", "client gone 0/0"], "{ahead}");
    }
}

/// What is sent ahead is bounded, and none of it is lost.
#[tokio::test]
async fn requests_sent_ahead_beyond_the_bound_are_answered() {
    let rig = Rig::new(Habit::Once).await;
    let big = format!(
        "GET /b HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n",
        "x".repeat(60_000)
    );
    rig.run_tcp(async |mut client, rig| {
        let mut server = rig.accept_after(&mut client, GET).await;
        server.expect(GET).await;
        client.send([big.as_str(), &big, GET].concat()).await;
        for next in [big.as_str(), &big, GET] {
            tokio::task::yield_now().await;
            server.send(OK_2).await;
            client.expect(OK_2).await;
            server.expect(next).await;
        }
        server.send(OK_2).await;
        client.expect(OK_2).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_head_times_out_and_silence_ends_the_connection() {
    let rig = Rig::new(Habit::Once).await;
    let (client, server) = tokio::io::duplex(1024);
    let mut client = super::rig::Script(client);
    client.send("GET / HT").await;
    let begun = tokio::time::Instant::now();
    let io = crate::io::Io::Memory(server);
    let (served, ()) = tokio::join!(super::super::serve(io, &rig.drain, &rig.path), async {
        let answer = refusal("408 Request Timeout", "request-head-timeout", true);
        assert_eq!(client.patient_rest().await, answer);
        drop(client);
    });
    assert_eq!(served.refused, Some(Reason::RequestHeadTimeout));
    assert!(begun.elapsed() < std::time::Duration::from_secs(30));

    let (client, server) = tokio::io::duplex(1024);
    let begun = tokio::time::Instant::now();
    let io = crate::io::Io::Memory(server);
    let served = super::super::serve(io, &rig.drain, &rig.path).await;
    assert_eq!(served.requests, 0);
    assert_eq!(begun.elapsed().as_secs(), 3600);
    drop(client);
}

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Key: k\r\n\
    connection: upgrade\r\nupgrade: websocket\r\n\r\n";

#[tokio::test]
async fn a_length_of_zero_is_no_body_to_an_upgrade() {
    let rig = Rig::new(Habit::Once).await;
    rig.run_tcp(async |mut client, rig| {
        let head = "GET /ws HTTP/1.1\r\nHost: h\r\ncontent-length: 0\r\n\
            connection: upgrade\r\nupgrade: websocket\r\n\r\n";
        let mut server = rig.accept_after(&mut client, head).await;
        assert!(server.head().await.contains("upgrade: websocket"));
        let go = "HTTP/1.1 101 Go\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
        server.send(go).await;
        client.expect(go).await;
        client.send("ping").await;
        server.expect("ping").await;
    })
    .await;
}

#[tokio::test]
async fn a_websocket_is_relayed_with_half_close() {
    let rig = Rig::new(Habit::Once).await;
    let (_, seen) = rig
        .run_tcp(async |mut client, rig| {
            let mut server = rig.accept_after(&mut client, UPGRADE).await;
            client.send("early").await; // must wait for the 101
            server.expect(UPGRADE).await;
            server
                .send("HTTP/1.1 101 Go\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhi")
                .await;
            client
                .expect("HTTP/1.1 101 Go\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nhi")
                .await;
            server.expect("early").await;
            client.send("ping").await;
            server.expect("ping").await;
            client.close_write().await;
            server.expect_end().await;
            server.send("last words").await;
            drop(server);
            client.expect("last words").await;
            client.expect_end().await;
        })
        .await;
    assert_eq!(seen, ["complete 9/12"]);
}

/// Whichever side breaks off: the other must not take it for an end.
#[tokio::test]
async fn a_broken_websocket_is_broken_on_both_sides() {
    use tokio::io::AsyncReadExt;
    for by_client in [true, false] {
        let rig = Rig::new(Habit::Once).await;
        let (_, seen) = rig
            .run_tcp(async |mut client, rig| {
                let mut server = rig.accept_after(&mut client, UPGRADE).await;
                server.expect(UPGRADE).await;
                server
                    .send("HTTP/1.1 101 Go\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhi")
                    .await;
                client
                    .expect(
                        "HTTP/1.1 101 Go\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nhi",
                    )
                    .await;
                let (broken, mut other) = if by_client {
                    (client, server)
                } else {
                    (server, client)
                };
                broken.0.set_zero_linger().unwrap();
                drop(broken);
                let read = other.0.read_to_end(&mut Vec::new()).await;
                let kind = read.map_err(|error| error.kind());
                assert_eq!(kind, Err(std::io::ErrorKind::ConnectionReset));
            })
            .await;
        let end = if by_client {
            "client gone"
        } else {
            "upstream reset"
        };
        assert_eq!(seen, [format!("{end} 0/2")]);
    }
}

#[tokio::test]
async fn a_refused_upgrade_ends_both_connections_and_smuggles_nothing() {
    for answer in ["HTTP/1.1 200 OK", "HTTP/1.1 426 Upgrade Required"] {
        let rig = Rig::new(Habit::Once).await;
        let (served, _) = rig
            .run_tcp(async |mut client, rig| {
                let smuggled = "GET /admin HTTP/1.1\r\nHost: h\r\n\r\n";
                client.send([UPGRADE, smuggled].concat()).await;
                let mut server = rig.accept().await;
                server.expect(UPGRADE).await;
                server
                    .send([answer, "\r\ncontent-length: 0\r\n\r\n"].concat())
                    .await;
                let head = [answer, "\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"].concat();
                client.expect(&head).await;
                client.expect_end().await;
                server.expect_end().await;
            })
            .await;
        assert_eq!(served.requests, 1);
    }
}
