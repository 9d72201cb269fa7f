//! What is tried again, and with which bytes.

use super::*;

/// An upstream that treats the first request in one way and echoes the length of later ones.
async fn flaky(first: fn(&mut SendResponse<Bytes>)) -> Server {
    Server::new(PLAIN, move |number, request, mut respond| async move {
        let mut body = request.into_body();
        if number == 1 {
            // Part of the body has been read: it must be sent again.
            body.data().await.unwrap().unwrap();
            first(&mut respond);
            return;
        }
        let bytes = drain(&mut body).await.unwrap();
        let trailers = body.trailers().await.unwrap();
        let response = Response::builder()
            .header("x-length", bytes.len())
            .header("x-trailers", trailers.map_or(0, |trailers| trailers.len()))
            .body(())
            .unwrap();
        respond.send_response(response, true).unwrap();
    })
    .await
}

#[test]
fn a_status_is_retried_with_the_same_body_and_trailers() {
    local(async {
        let server = flaky(|respond| answer_with(respond, 503, b"not now")).await;
        let mut path = server.path();
        path.attempts_max = 2;
        path.retry_status = Some(503);
        let served = Served::new(path).await;
        let (response, mut stream) = served.send(post()).await;
        let body = Bytes::from(vec![7; 40_000]);
        send_all(&mut stream, body, false).await;
        let mut trailers = HeaderMap::new();
        trailers.insert("checksum", "1".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
        let answer = read(response.await.unwrap()).await.unwrap();
        assert_eq!(answer.head.headers["x-length"], "40000");
        assert_eq!(answer.head.headers["x-trailers"], "1");
        assert_eq!(server.requests.get(), 2);
        assert_eq!(served.path().delivered().await.request_bytes, 40_000);
    });
}

#[test]
fn a_refused_stream_and_a_reset_are_told_apart() {
    for (code, kind) in [
        (
            h2::Reason::REFUSED_STREAM,
            AttemptFailureKind::RefusedStream,
        ),
        (h2::Reason::CANCEL, AttemptFailureKind::Reset),
    ] {
        local(async move {
            let first: fn(&mut SendResponse<Bytes>) = match code {
                h2::Reason::REFUSED_STREAM => |r| r.send_reset(h2::Reason::REFUSED_STREAM),
                _ => |r| r.send_reset(h2::Reason::CANCEL),
            };
            let server = flaky(first).await;
            let mut path = server.path();
            path.attempts_max = 2;
            let served = Served::new(path).await;
            let answer = served.post("again").await.unwrap();
            assert_eq!(answer.head.headers["x-length"], "5");
            assert_eq!(*served.path().failures.borrow(), [kind]);
        });
    }
}

#[test]
fn a_body_too_large_to_keep_is_not_sent_twice() {
    local(async {
        let server = flaky(|respond| answer_with(respond, 503, b"")).await;
        let mut path = server.path();
        path.attempts_max = 2;
        path.retry_status = Some(503);
        let served = Served::new(path).await;
        let request = Request::post("http://shop/")
            .header("content-length", 65_537)
            .body(())
            .unwrap();
        let (response, mut stream) = served.send(request).await;
        stream.send_data(Bytes::from_static(b"x"), false).unwrap();
        assert_eq!(response.await.unwrap().status(), 503);
        assert_eq!(server.requests.get(), 1);
    });
}

#[test]
fn a_timeout_resets_the_stream_and_the_next_try_goes_on() {
    local(async {
        let server = Server::new(PLAIN, |number, _request, mut respond| async move {
            if number == 1 {
                let reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                assert_eq!(reset.unwrap(), h2::Reason::CANCEL);
            } else {
                answer_with(&mut respond, 200, b"second");
            }
        })
        .await;
        let mut path = server.path();
        path.attempts_max = 2;
        path.timeout = Some(Duration::from_millis(200));
        let served = Served::new(path).await;
        let answer = served.post("x").await.unwrap();
        assert_eq!(answer.body, b"second");
        assert_eq!(answer.trailers, None);
        let failures = served.path().failures.borrow();
        assert_eq!(*failures, [AttemptFailureKind::Timeout]);
        assert_eq!(server.connections.get(), 1);
    });
}

#[test]
fn a_refused_connection_fails_all_who_wait_with_one_dial() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let served = Served::new(Path::new(endpoint(address, |_| {}))).await;
        let answer = served.post("x").await.unwrap();
        assert_eq!(answer.head.status, 503);
        let reason = answer.head.headers["x-outrigger-reason"].to_str().unwrap();
        assert_eq!(reason, "upstream-reset; connection refused");
        let failures = served.path().failures.borrow();
        assert_eq!(*failures, [AttemptFailureKind::Connect]);
    });
}

#[test]
fn a_server_that_does_not_speak_http2_was_sent_nothing() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn_local(async move {
            use tokio::io::AsyncWriteExt;
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n";
            stream.write_all(answer).await.unwrap();
        });
        let served = Served::new(Path::new(endpoint(address, |_| {}))).await;
        served.post("x").await.unwrap();
        let failures = served.path().failures.borrow();
        assert_eq!(*failures, [AttemptFailureKind::Connect]);
    });
}

/// A handler that gives its first attempt up from outside, as a hedge would.
struct GivesUp {
    path: Path,
    arrived: Rc<Notify>,
}

impl Handler for GivesUp {
    async fn handle<E: Exchange>(&self, exchange: &mut E) {
        let edit = RequestEdit::default();
        tokio::select! {
            _ = exchange.attempt(&self.path.endpoint, &edit, Deadline::NONE) => unreachable!(),
            () = self.arrived.notified() => {}
        }
        assert!(exchange.can_replay());
        self.path.handle(exchange).await;
    }
}

#[test]
fn a_dropped_attempt_is_reset_upstream_and_loses_no_byte() {
    local(async {
        let arrived = Rc::new(Notify::new());
        let arrival = Rc::clone(&arrived);
        let (code, seen) = tokio::sync::oneshot::channel();
        let code = Rc::new(RefCell::new(Some(code)));
        let server = Server::new(PLAIN, move |number, request, mut respond| {
            let (arrival, code) = (Rc::clone(&arrival), Rc::clone(&code));
            async move {
                let mut body = request.into_body();
                if number == 1 {
                    body.data().await.unwrap().unwrap();
                    arrival.notify_one();
                    let reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                    code.take().unwrap().send(reset.unwrap()).unwrap();
                    return;
                }
                assert_eq!(drain(&mut body).await.unwrap(), b"first second");
                answer_with(&mut respond, 200, b"whole");
            }
        })
        .await;
        let (near, far) = tokio::io::duplex(64 * 1024);
        let path = server.path();
        let handler = Rc::new(GivesUp { path, arrived });
        let context = Context {
            limits: Rc::new(Limits::DEFAULT),
            drain: Drain::default(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn_local(async move {
            crate::http2::server::serve(Io::Memory(far), &context, &handler).await;
        });
        let (client, connection) = h2::client::handshake(near).await.unwrap();
        tasks.spawn_local(async move {
            connection.await.ok();
        });
        let mut client = client.ready().await.unwrap();
        let (response, mut stream) = client.send_request(post(), false).unwrap();
        stream
            .send_data(Bytes::from_static(b"first "), false)
            .unwrap();
        assert_eq!(seen.await.unwrap(), h2::Reason::CANCEL);
        stream
            .send_data(Bytes::from_static(b"second"), true)
            .unwrap();
        let answer = read(response.await.unwrap()).await.unwrap();
        assert_eq!(answer.body, b"whole");
    });
}
