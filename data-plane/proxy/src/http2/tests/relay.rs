//! What goes through arrives as it was: bodies, trailers, early answers, resets.

use super::*;

#[test]
fn unary_and_headers() {
    local(async {
        let server = Server::new(PLAIN, |_, request, mut respond| async move {
            let seen = |name: &str| request.headers().contains_key(name);
            assert_eq!(request.uri().to_string(), "http://shop/a?b=c");
            assert!(!seen("x-outrigger-reason") && !seen("host"));
            let response = Response::builder()
                .header("x-outrigger-reason", "spoofed")
                .header("x-own", "kept")
                .body(())
                .unwrap();
            respond.send_response(response, true).unwrap();
        })
        .await;
        let served = Served::new(server.path()).await;
        let answer = served.get("/a?b=c").await;
        assert_eq!(answer.head.status, 200);
        assert_eq!(answer.head.headers["x-own"], "kept");
        assert!(!answer.head.headers.contains_key("x-outrigger-reason"));
        let delivery = served.path().delivered().await;
        assert_eq!(delivery.end, DeliveryEnd::Complete);
    });
}

#[test]
fn streams_both_ways_with_trailers() {
    local(async {
        let server = Server::echo().await;
        let served = Served::new(server.path()).await;
        let request = Request::post("http://shop/chat")
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
        let (response, mut stream) = served.send(request).await;
        let response = response.await.unwrap();
        assert_eq!(response.headers()["x-te"], "trailers");
        let mut body = response.into_body();
        // Each message is answered before the next is sent: both directions are open at once.
        for message in ["one", "two", "three"] {
            stream.send_data(Bytes::from(message), false).unwrap();
            let echoed = body.data().await.unwrap().unwrap();
            assert_eq!(&echoed[..], message.as_bytes());
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "5".parse().unwrap());
        trailers.insert("x_outrigger-reason", "spoofed".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
        assert!(body.data().await.is_none());
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "5");
        assert_eq!(trailers.len(), 1);
        let delivery = served.path().delivered().await;
        assert_eq!(delivery.grpc_status, Some(5));
        assert_eq!((delivery.request_bytes, delivery.response_bytes), (11, 11));
        assert_eq!(delivery.end, DeliveryEnd::Complete);
    });
}

#[test]
fn big_bodies_arrive_whole() {
    local(async {
        let server = Server::echo().await;
        let served = Served::new(server.path()).await;
        let (response, mut stream) = served.send(post()).await;
        let sent: Bytes = (0..8_000_000_u32).map(|i| i.to_le_bytes()[1]).collect();
        let expected = sent.clone();
        let read = async { read(response.await.unwrap()).await.unwrap() };
        let ((), answer) = tokio::join!(send_all(&mut stream, sent, true), read);
        assert!(answer.body == expected);
    });
}

#[test]
fn an_early_answer_ends_the_request() {
    local(async {
        let server = Server::new(PLAIN, |_, _request, mut respond| async move {
            answer_with(&mut respond, 413, b"too large");
            // The request's handle goes with this task: h2 sends RST_STREAM NO_ERROR.
        })
        .await;
        let served = Served::new(server.path()).await;
        let (response, mut stream) = served.send(post()).await;
        stream
            .send_data(Bytes::from_static(b"some"), false)
            .unwrap();
        let answer = read(response.await.unwrap()).await.unwrap();
        assert_eq!(answer.head.status, 413);
        assert_eq!(answer.body, b"too large");
        let delivery = served.path().delivered().await;
        assert_eq!(delivery.end, DeliveryEnd::Complete);
    });
}

#[test]
fn interim_responses_are_passed_on() {
    local(async {
        let server = Server::new(PLAIN, |_, request, mut respond| async move {
            let interim = Response::builder().status(100).body(()).unwrap();
            respond.send_informational(interim).unwrap();
            let body = drain(&mut request.into_body()).await.unwrap();
            assert_eq!(body, b"after 100");
            answer_with(&mut respond, 200, b"");
        })
        .await;
        let served = Served::new(server.path()).await;
        let (mut response, mut stream) = served.send(post()).await;
        let interim = std::future::poll_fn(|cx| response.poll_informational(cx)).await;
        assert_eq!(interim.unwrap().unwrap().status(), 100);
        stream
            .send_data(Bytes::from_static(b"after 100"), true)
            .unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    });
}

#[test]
fn a_client_reset_reaches_the_upstream() {
    local(async {
        let (code, seen) = tokio::sync::oneshot::channel();
        let code = Rc::new(RefCell::new(Some(code)));
        let server = Server::new(PLAIN, move |_, _request, mut respond| {
            let code = Rc::clone(&code);
            async move {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                let reset = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
                code.take().unwrap().send(reset.unwrap()).unwrap();
            }
        })
        .await;
        let served = Served::new(server.path()).await;
        let (response, mut stream) = served.send(post()).await;
        response.await.unwrap();
        stream.send_reset(h2::Reason::CANCEL);
        assert_eq!(seen.await.unwrap(), h2::Reason::CANCEL);
        let delivery = served.path().delivered().await;
        assert_eq!(delivery.end, DeliveryEnd::DownstreamClosed);
    });
}

#[test]
fn a_client_reset_before_the_answer_reaches_the_upstream() {
    local(async {
        let (code, seen) = tokio::sync::oneshot::channel();
        let code = Rc::new(RefCell::new(Some(code)));
        let arrived = Rc::new(Notify::new());
        let arrival = Rc::clone(&arrived);
        let server = Server::new(PLAIN, move |_, _request, mut respond| {
            let code = Rc::clone(&code);
            arrival.notify_one();
            async move {
                let reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                code.take().unwrap().send(reset.unwrap()).unwrap();
            }
        })
        .await;
        let served = Served::new(server.path()).await;
        let (response, mut stream) = served.send(post()).await;
        arrived.notified().await;
        stream.send_reset(h2::Reason::CANCEL);
        drop(response);
        assert_eq!(seen.await.unwrap(), h2::Reason::CANCEL);
        served.path().delivered().await;
        let failures = served.path().failures.borrow();
        assert!(matches!(failures[..], [AttemptFailureKind::ClientGone]));
    });
}

#[test]
fn an_upstream_reset_reaches_the_client_with_a_code_that_does_not_mislead() {
    // What the upstream says inside a response, and what the client hears.
    for (said, heard) in [
        (h2::Reason::CANCEL, h2::Reason::CANCEL),
        (h2::Reason::INTERNAL_ERROR, h2::Reason::INTERNAL_ERROR),
        (h2::Reason::REFUSED_STREAM, h2::Reason::INTERNAL_ERROR),
        (h2::Reason::ENHANCE_YOUR_CALM, h2::Reason::ENHANCE_YOUR_CALM),
    ] {
        local(async move {
            let go = Rc::new(Notify::new());
            let gone = Rc::clone(&go);
            let server = Server::new(PLAIN, move |_, _request, mut respond| {
                let go = Rc::clone(&go);
                async move {
                    let mut stream = respond.send_response(Response::new(()), false).unwrap();
                    stream
                        .send_data(Bytes::from_static(b"half"), false)
                        .unwrap();
                    go.notified().await;
                    stream.send_reset(said);
                }
            })
            .await;
            let served = Served::new(server.path()).await;
            let (response, _stream) = served.send(post()).await;
            let mut body = response.await.unwrap().into_body();
            assert_eq!(&body.data().await.unwrap().unwrap()[..], b"half");
            gone.notify_one();
            let error = body.data().await.unwrap().unwrap_err();
            assert_eq!(error.reason(), Some(heard));
            let delivery = served.path().delivered().await;
            assert_eq!(delivery.end, DeliveryEnd::UpstreamReset);
        });
    }
}

#[test]
fn declared_lengths_are_held_in_both_directions() {
    for (declared, fits) in [(3, false), (4, true), (5, false)] {
        local(async move {
            let server = Server::echo().await;
            let served = Served::new(server.path()).await;
            let request = Request::post("http://shop/")
                .header("content-length", declared)
                .body(())
                .unwrap();
            let (response, mut stream) = served.send(request).await;
            stream.send_data(Bytes::from_static(b"four"), true).unwrap();
            let answered = async { read(response.await?).await }.await;
            assert_eq!(answered.is_ok(), fits, "request of {declared}");

            let server = Server::new(PLAIN, move |_, _request, mut respond| async move {
                let response = Response::builder()
                    .header("content-length", declared)
                    .body(())
                    .unwrap();
                let mut stream = respond.send_response(response, false).unwrap();
                stream.send_data(Bytes::from_static(b"four"), true).unwrap();
            })
            .await;
            let served = Served::new(server.path()).await;
            let answered = served.post("x").await;
            // Either the client is told, or the mesh answers in the upstream's place.
            let whole = answered.is_ok_and(|answer| answer.head.status == 200);
            assert_eq!(whole, fits, "response of {declared}");
        });
    }
}

#[test]
fn a_reset_without_error_completes_an_answer_only_at_its_declared_length() {
    for (declared, fits) in [(4, true), (5, false)] {
        local(async move {
            let go = Rc::new(Notify::new());
            let gone = Rc::clone(&go);
            let server = Server::new(PLAIN, move |_, _request, mut respond| {
                let go = Rc::clone(&go);
                async move {
                    let response = Response::builder().header("content-length", declared);
                    let response = response.body(()).unwrap();
                    let mut stream = respond.send_response(response, false).unwrap();
                    stream
                        .send_data(Bytes::from_static(b"four"), false)
                        .unwrap();
                    go.notified().await;
                    stream.send_reset(h2::Reason::NO_ERROR);
                }
            })
            .await;
            let served = Served::new(server.path()).await;
            let (response, _stream) = served.send(post()).await;
            let mut body = response.await.unwrap().into_body();
            assert_eq!(&body.data().await.unwrap().unwrap()[..], b"four");
            gone.notify_one();
            let rest = body.data().await;
            assert_eq!(rest.is_none_or(|end| end.is_ok()), fits, "{declared}");
        });
    }
}
