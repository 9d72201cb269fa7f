//! What a hostile or slow peer can make the engine hold (SECURITY-NOTES T6).

use super::*;

/// Waits until a count stands still while everybody else has had many turns; the count.
async fn standstill(count: &Cell<usize>) -> usize {
    loop {
        let before = count.get();
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        if before == count.get() && before > 0 {
            return before;
        }
    }
}

/// Opens streams to reset them, until the server has enough of it; how many.
async fn open_and_reset(client: &SendRequest<Bytes>, opened_max: u32) -> u32 {
    let mut opened = 0;
    while let Ok(mut client) = client.clone().ready().await {
        let Ok((response, mut stream)) = client.send_request(post(), false) else {
            break;
        };
        opened += 1;
        assert!(opened < opened_max, "never sent away");
        tokio::task::yield_now().await;
        stream.send_reset(h2::Reason::CANCEL);
        drop(response);
    }
    opened
}

#[test]
fn a_slow_reader_holds_the_sender_back() {
    local(async {
        let sent = Rc::new(Cell::new(0_usize));
        let counter = Rc::clone(&sent);
        let server = Server::new(PLAIN, move |_, _request, mut respond| {
            let counter = Rc::clone(&counter);
            async move {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                for _ in 0..1000 {
                    send_all(&mut stream, Bytes::from(vec![1; 10_000]), false).await;
                    counter.set(counter.get() + 10_000);
                }
                stream.send_data(Bytes::new(), true).unwrap();
            }
        })
        .await;
        let served = Served::new(server.path()).await;
        let (response, mut stream) = served.send(post()).await;
        stream.send_data(Bytes::new(), true).unwrap();
        let response = response.await.unwrap();
        // Nothing is read: the sender stops once every window and buffer on the way is full.
        let before = standstill(&sent).await;
        // Client window, our send buffer, our window, one frame, and the server's send buffer.
        assert!(before < 1_000_000, "{before} bytes sent");
        let answer = read(response).await.unwrap();
        assert_eq!(answer.body.len(), 10_000_000);
    });
}

#[test]
fn a_slow_upstream_holds_the_client_back() {
    local(async {
        let go = Rc::new(Notify::new());
        let gone = Rc::clone(&go);
        let server = Server::new(PLAIN, move |_, request, mut respond| {
            let go = Rc::clone(&go);
            async move {
                go.notified().await;
                let body = drain(&mut request.into_body()).await.unwrap();
                let response = Response::builder().header("x-length", body.len());
                let response = response.body(()).unwrap();
                respond.send_response(response, true).unwrap();
            }
        })
        .await;
        let mut served = Served::new(server.path()).await;
        let (response, mut stream) = served.send(post()).await;
        let sent = Rc::new(Cell::new(0_usize));
        let counter = Rc::clone(&sent);
        served.engine.tasks.spawn_local(async move {
            for _ in 0..500 {
                send_all(&mut stream, Bytes::from(vec![1; 10_000]), false).await;
                counter.set(counter.get() + 10_000);
            }
            stream.send_data(Bytes::new(), true).unwrap();
        });
        let before = standstill(&sent).await;
        assert!(before < 1_000_000, "{before} bytes sent");
        gone.notify_one();
        assert_eq!(response.await.unwrap().headers()["x-length"], "5000000");
    });
}

#[test]
fn a_client_that_opens_streams_to_reset_them_is_sent_away() {
    local(async {
        let server = Server::new(PLAIN, |_, _request, _respond| std::future::pending()).await;
        let served = Served::new(server.path()).await;
        open_and_reset(&served.client, 1000).await;
        served.engine.ended.notified().await;
    });
}

#[test]
fn cancelling_some_of_many_is_no_abuse() {
    local(async {
        let server = Server::echo().await;
        let served = Served::new(server.path()).await;
        for turn in 0..600 {
            if turn % 3 == 0 {
                let (response, mut stream) = served.send(post()).await;
                stream.send_reset(h2::Reason::CANCEL);
                drop(response);
            } else {
                assert_eq!(served.post("x").await.unwrap().body, b"x");
            }
        }
    });
}

#[test]
fn clients_that_do_not_read_stop_nobody_else() {
    local(async {
        let server = Server::new(PLAIN, |_, request, mut respond| async move {
            if request.method() == http::Method::GET {
                answer_with(&mut respond, 200, b"small");
                return;
            }
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            send_all(&mut stream, Bytes::from(vec![1; 1_000_000]), true).await;
        })
        .await;
        let path = Rc::new(server.path());
        let stalled = Served::over(Engine::serve_within(Limits::DEFAULT, Rc::clone(&path))).await;
        let mut held = Vec::new();
        for _ in 0..40 {
            let (response, mut stream) = stalled.send(post()).await;
            stream.send_data(Bytes::new(), true).unwrap();
            held.push(response.await.unwrap());
        }
        let other = Served::over(Engine::serve_within(Limits::DEFAULT, path)).await;
        assert_eq!(other.get("/").await.body, b"small");
        assert_eq!(server.connections.get(), 1);
        drop(held);
    });
}

/// A handler that never ends.
struct Stuck;

impl Handler for Stuck {
    async fn handle<E: Exchange>(&self, _exchange: &mut E) {
        std::future::pending().await
    }
}

#[test]
fn streams_reset_while_they_are_worked_on_still_count() {
    local(async {
        let (client, connection, mut tasks) = served_by(Stuck).await;
        let ended = tasks.spawn_local(async move {
            let error = connection.await.unwrap_err();
            assert_eq!(error.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM));
        });
        // 100 places, 20 resets of streams that wait for one; the rest is what crossed.
        let opened = open_and_reset(&client, 300).await;
        assert!(opened > 100, "sent away after {opened}");
        while !ended.is_finished() {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_stream_on_which_nothing_moves_is_ended() {
    let limits = Limits {
        stream_idle: Duration::from_millis(100),
        ..Limits::DEFAULT
    };
    // Before the head: a timeout of the attempt.
    local({
        let limits = limits.clone();
        async move {
            let server = Server::new(PLAIN, |_, _request, mut respond| async move {
                let reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                assert_eq!(reset.unwrap(), h2::Reason::CANCEL);
            })
            .await;
            let served = Served::within(limits, server.path()).await;
            assert_eq!(served.post("x").await.unwrap().head.status, 503);
            let failures = served.path().failures.borrow();
            assert_eq!(*failures, [AttemptFailureKind::Timeout]);
        }
    });
    // Inside the body: the end of the delivery. What moves goes on, however long it takes.
    local(async move {
        let idle = limits.stream_idle;
        let came = Rc::new(Notify::new());
        let comes = Rc::clone(&came);
        let sent = Rc::new(Cell::new(0));
        let counter = Rc::clone(&sent);
        let server = Server::new(PLAIN, move |_, _request, mut respond| {
            let (came, sent) = (Rc::clone(&comes), Rc::clone(&counter));
            async move {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                let begun = Instant::now();
                while begun.elapsed() < 3 * idle {
                    stream.send_data(Bytes::from_static(b"x"), false).unwrap();
                    sent.set(sent.get() + 1);
                    came.notified().await;
                }
                let reset = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
                assert_eq!(reset.unwrap(), h2::Reason::CANCEL);
            }
        })
        .await;
        let served = Served::within(limits, server.path()).await;
        let (response, mut stream) = served.send(post()).await;
        stream.send_data(Bytes::new(), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let error = loop {
            match body.data().await.unwrap() {
                Ok(bytes) => {
                    let capacity = body.flow_control();
                    capacity.release_capacity(bytes.len()).unwrap();
                    came.notify_one();
                }
                Err(error) => break error,
            }
        };
        assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
        let delivery = served.path().delivered().await;
        assert_eq!(delivery.end, DeliveryEnd::Idle);
        assert_eq!(delivery.response_bytes, sent.get());
    });
}

/// The one failure of a request to an upstream that answers like this.
async fn failure_after(answer: fn(&mut SendResponse<Bytes>)) -> AttemptFailureKind {
    let server = Server::new(PLAIN, move |_, _request, mut respond| async move {
        answer(&mut respond);
    })
    .await;
    let served = Served::new(server.path()).await;
    assert_eq!(served.post("x").await.unwrap().head.status, 503);
    let failures = served.path().failures.borrow();
    assert_eq!(failures.len(), 1);
    failures[0]
}

#[test]
fn an_upstream_that_passes_a_limit_is_not_passed_on() {
    local(async {
        let many_fields = failure_after(|respond| {
            let many = (0..101).fold(Response::builder(), |builder, _| builder.header("x", "y"));
            respond.send_response(many.body(()).unwrap(), true).unwrap();
        });
        assert_eq!(many_fields.await, AttemptFailureKind::Protocol);
        let large_field = failure_after(|respond| {
            let large = Response::builder().header("x", "y".repeat(66_000));
            respond
                .send_response(large.body(()).unwrap(), true)
                .unwrap();
        });
        assert_eq!(large_field.await, AttemptFailureKind::Protocol);
        let interim = failure_after(|respond| {
            for _ in 0..17 {
                let interim = Response::builder().status(103).body(()).unwrap();
                respond.send_informational(interim).unwrap();
            }
            answer_with(respond, 200, b"");
        });
        assert_eq!(interim.await, AttemptFailureKind::Protocol);
    });
}

#[test]
fn too_many_trailers_break_the_answer() {
    local(async {
        let server = Server::new(PLAIN, |_, _request, mut respond| async move {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            let mut trailers = HeaderMap::new();
            (0..101).for_each(|_| {
                trailers.append("x", "y".parse().unwrap());
            });
            stream.send_trailers(trailers).unwrap();
        })
        .await;
        let served = Served::new(server.path()).await;
        let error = served.post("x").await.unwrap_err();
        assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR));
        let delivery = served.path().delivered().await;
        assert_eq!(delivery.end, DeliveryEnd::UpstreamReset);
    });
}
