//! How many connections there are, and when they go.

use std::num::NonZeroU32;

use futures_util::future::join_all;

use super::*;

/// An upstream that answers only once so many requests are there together.
async fn gathering(streams_max: u32, together: u32) -> Server {
    let arrived = Rc::new(Cell::new(0));
    let all = Rc::new(Notify::new());
    let options = ServerOptions {
        streams_max,
        ..PLAIN
    };
    Server::new(options, move |_, _request, mut respond| {
        arrived.set(arrived.get() + 1);
        let (arrived, all) = (Rc::clone(&arrived), Rc::clone(&all));
        async move {
            let notified = all.notified();
            if arrived.get() == together {
                all.notify_waiters();
            } else {
                notified.await;
            }
            answer_with(&mut respond, 200, b"");
        }
    })
    .await
}

async fn get_together(path: Path, count: usize) -> (Served, Vec<u16>) {
    let served = Served::new(path).await;
    let mut responses = Vec::new();
    for _ in 0..count {
        let (response, mut stream) = served.send(post()).await;
        stream.send_data(Bytes::new(), true).unwrap();
        responses.push(response);
    }
    let answers = join_all(responses).await;
    let statuses = answers
        .into_iter()
        .map(|answer| answer.unwrap().status().as_u16())
        .collect();
    (served, statuses)
}

#[test]
fn requests_share_a_connection_that_was_dialled_once() {
    local(async {
        let server = gathering(100, 20).await;
        let (_served, statuses) = get_together(server.path(), 20).await;
        assert_eq!(statuses, [200; 20]);
        assert_eq!(server.connections.get(), 1);
    });
}

#[test]
fn more_streams_than_the_peer_takes_open_another_connection() {
    local(async {
        let server = gathering(2, 5).await;
        let (_served, statuses) = get_together(server.path(), 5).await;
        assert_eq!(statuses, [200; 5]);
        assert_eq!(server.connections.get(), 3);
    });
}

#[test]
fn without_a_further_connection_a_request_waits_for_a_stream() {
    local(async {
        let options = ServerOptions {
            streams_max: 1,
            ..PLAIN
        };
        let server = Server::new(options, |_, _request, mut respond| async move {
            tokio::task::yield_now().await;
            answer_with(&mut respond, 200, b"");
        })
        .await;
        let path = Path::new(server.endpoint(|limits| limits.connections_max = 1));
        let (_served, statuses) = get_together(path, 5).await;
        assert_eq!(statuses, [200; 5]);
        assert_eq!(server.connections.get(), 1);
    });
}

#[test]
fn who_waits_too_long_for_a_stream_is_told() {
    local(async {
        let options = ServerOptions {
            streams_max: 1,
            ..PLAIN
        };
        let server = Server::new(options, |_, request, _respond| async move {
            // Never answers, keeps its stream.
            drain(&mut request.into_body()).await.ok();
            std::future::pending::<()>().await;
        })
        .await;
        let path = Path::new(server.endpoint(|limits| {
            limits.connections_max = 1;
            limits.pending_timeout = Duration::from_millis(50);
        }));
        let served = Served::new(path).await;
        let (_held, _stream) = served.send(post()).await;
        // The first must hold the stream before the second asks for one.
        let answer = loop {
            if server.requests.get() == 1 {
                break served.post("x").await.unwrap();
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(answer.head.status, 503);
        let failures = served.path().failures.borrow();
        assert_eq!(*failures, [AttemptFailureKind::PendingTimeout]);
    });
}

#[test]
fn a_connection_carries_no_more_than_its_share() {
    local(async {
        let server = Server::new(PLAIN, |_, _request, mut respond| async move {
            answer_with(&mut respond, 200, b"");
        })
        .await;
        let endpoint = server.endpoint(|limits| {
            limits.requests_per_connection =
                RequestsPerConnection::AtMost(NonZeroU32::new(2).unwrap());
        });
        let served = Served::new(Path::new(Rc::clone(&endpoint))).await;
        for _ in 0..6 {
            assert_eq!(served.post("x").await.unwrap().head.status, 200);
        }
        assert_eq!(server.connections.get(), 3);
        // Their permits come back with them.
        while endpoint.pool().connections() > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn an_idle_connection_is_closed_and_gives_its_permit_back() {
    local(async {
        let server = Server::echo().await;
        let endpoint = server
            .endpoint(|limits| limits.idle_timeout = Lifetime::AtMost(Duration::from_secs(90)));
        let served = Served::new(Path::new(Rc::clone(&endpoint))).await;
        served.post("x").await.unwrap();
        served.path().delivered().await;
        let pool = endpoint.pool();
        pool.sweep(
            Instant::now() + Duration::from_secs(89),
            Lifetime::Unlimited,
        );
        assert_eq!(pool.connections(), 1);
        pool.sweep(
            Instant::now() + Duration::from_secs(91),
            Lifetime::Unlimited,
        );
        while pool.connections() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(served.post("y").await.unwrap().body, b"y");
    });
}

#[test]
fn a_connection_that_says_goaway_is_replaced_without_a_failure() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Rc::new(Cell::new(0));
        let opened = Rc::clone(&connections);
        let mut tasks = JoinSet::new();
        tasks.spawn_local(async move {
            let mut inner = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                opened.set(opened.get() + 1);
                inner.spawn_local(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    let mut served = 0;
                    while let Some(Ok((_request, mut respond))) = connection.accept().await {
                        served += 1;
                        if served == 3 {
                            connection.graceful_shutdown();
                        }
                        answer_with(&mut respond, 200, b"");
                    }
                });
            }
        });
        let served = Served::new(Path::new(endpoint(address, |_| {}))).await;
        for _ in 0..20 {
            assert_eq!(served.post("x").await.unwrap().head.status, 200);
        }
        assert!(connections.get() > 1);
        assert!(served.path().failures.borrow().is_empty());
    });
}

#[test]
fn an_endpoint_that_leaves_lets_its_streams_finish() {
    local(async {
        let server = Server::echo().await;
        let endpoint = server.endpoint(|_| {});
        let served = Served::new(Path::new(Rc::clone(&endpoint))).await;
        let (response, mut stream) = served.send(post()).await;
        let mut body = response.await.unwrap().into_body();
        endpoint.retire();
        stream
            .send_data(Bytes::from_static(b"still"), true)
            .unwrap();
        assert_eq!(drain(&mut body).await.unwrap(), b"still");
        while endpoint.pool().connections() > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_connection_that_closed_while_idle_is_not_used_again() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn_local(async move {
            let mut inner = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                inner.spawn_local(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
                    answer_with(&mut respond, 200, b"once");
                    // Flushes, then closes without GOAWAY.
                    let accept = connection.accept();
                    timeout(Duration::from_millis(20), accept).await.ok();
                });
            }
        });
        let endpoint = endpoint(address, |_| {});
        let served = Served::new(Path::new(Rc::clone(&endpoint))).await;
        for _ in 0..3 {
            assert_eq!(served.post("x").await.unwrap().body, b"once");
            while endpoint.pool().connections() > 0 {
                tokio::task::yield_now().await;
            }
        }
        assert!(served.path().failures.borrow().is_empty());
    });
}
