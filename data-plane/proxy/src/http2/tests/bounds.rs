//! What a hostile or slow peer can make the engine hold (SECURITY-NOTES T6).

use super::*;

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
        let mut before = usize::MAX;
        while before != sent.get() {
            before = sent.get();
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
        }
        // Client window, our send buffer, our window, one frame, and the server's send buffer.
        assert!(before > 0 && before < 1_000_000, "{before} bytes sent");
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
        let mut before = usize::MAX;
        while before != sent.get() {
            before = sent.get();
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
        }
        assert!(before > 0 && before < 1_000_000, "{before} bytes sent");
        gone.notify_one();
        assert_eq!(response.await.unwrap().headers()["x-length"], "5000000");
    });
}

#[test]
fn a_client_that_opens_streams_to_reset_them_is_sent_away() {
    local(async {
        let server = Server::new(PLAIN, |_, _request, _respond| std::future::pending()).await;
        let served = Served::new(server.path()).await;
        let mut opened = 0;
        while let Ok(mut client) = served.client.clone().ready().await {
            let Ok((response, mut stream)) = client.send_request(post(), false) else {
                break;
            };
            opened += 1;
            assert!(opened < 1000, "never sent away");
            tokio::task::yield_now().await;
            stream.send_reset(h2::Reason::CANCEL);
            drop(response);
        }
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
