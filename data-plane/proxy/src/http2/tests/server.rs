//! Accepted connections: what is refused, how they end.

use super::*;

async fn refused(request: Request<()>, expected: Reason) -> Answer {
    let server = Server::echo().await;
    let served = Served::new(server.path()).await;
    let mut client = served.client.clone().ready().await.unwrap();
    let (response, _) = client.send_request(request, true).unwrap();
    let answer = read(response.await.unwrap()).await.unwrap();
    assert_eq!(*served.path().rejected.borrow(), [expected]);
    assert_eq!(server.requests.get(), 0);
    // The connection goes on.
    assert_eq!(served.post("next").await.unwrap().body, b"next");
    answer
}

#[test]
fn ambiguous_requests_are_answered_and_not_passed_on() {
    local(async {
        let request = Request::get("http://a/").header("host", "b").body(());
        let answer = refused(request.unwrap(), Reason::BadRequest("host-mismatch")).await;
        assert_eq!(answer.head.status, 400);
        assert_eq!(answer.head.headers["x-outrigger-reason"], "host-mismatch");
        assert_eq!(answer.body, b"host-mismatch\n");

        let request = Request::connect("shop:80").body(()).unwrap();
        let answer = refused(request, Reason::NotImplemented("connect-not-supported")).await;
        assert_eq!(answer.head.status, 501);

        let many = (0..101).fold(Request::head("http://a/"), |builder, _| {
            builder.header("x", "y")
        });
        let answer = refused(many.body(()).unwrap(), Reason::HeadTooLarge).await;
        assert_eq!(answer.head.status, 431);
        assert_eq!(answer.head.headers["content-length"], "15");
        assert!(answer.body.is_empty());
    });
}

#[test]
fn a_refusal_speaks_grpc_to_grpc() {
    local(async {
        let request = Request::post("http://u@a/")
            .header("content-type", "application/grpc")
            .body(());
        let answer = refused(request.unwrap(), Reason::BadRequest("host-invalid")).await;
        assert_eq!(answer.head.status, 200);
        assert_eq!(answer.head.headers["grpc-status"], "13");
        assert_eq!(answer.head.headers["grpc-message"], "host-invalid");
        assert!(answer.body.is_empty());
    });
}

#[test]
fn a_head_over_the_limit_is_431() {
    local(async {
        let server = Server::echo().await;
        let served = Served::new(server.path()).await;
        // Beyond twice the limit h2 answers by itself, without a reason.
        for (bytes, reason) in [(66_000, Some("head-too-large")), (140_000, None)] {
            let mut client = served.client.clone().ready().await.unwrap();
            let request = Request::get("http://a/")
                .header("x", "v".repeat(bytes))
                .body(())
                .unwrap();
            let (response, _) = client.send_request(request, true).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), 431);
            let told = response.headers().get("x-outrigger-reason");
            assert_eq!(told.map(|value| value.to_str().unwrap()), reason);
        }
        assert_eq!(*served.path().rejected.borrow(), [Reason::HeadTooLarge]);
        assert_eq!(served.post("next").await.unwrap().body, b"next");
    });
}

#[test]
fn a_drain_finishes_what_is_in_flight() {
    local(async {
        let server = Server::echo().await;
        let served = Served::new(server.path()).await;
        let (response, mut stream) = served.send(post()).await;
        let mut body = response.await.unwrap().into_body();
        served.engine.drain.begin();
        // GOAWAY has arrived when no stream can be opened any more.
        loop {
            let Ok(mut client) = served.client.clone().ready().await else {
                break;
            };
            let request = Request::get("http://shop/").body(()).unwrap();
            let Ok((response, _)) = client.send_request(request, true) else {
                break;
            };
            // Those that crossed it are served.
            if let Err(error) = response.await {
                assert!(error.is_go_away(), "{error}");
            }
        }
        stream.send_data(Bytes::from_static(b"rest"), true).unwrap();
        assert_eq!(drain(&mut body).await.unwrap(), b"rest");
        served.engine.ended.notified().await;
        let deliveries = served.path().deliveries.borrow();
        let complete = |delivery: &Delivery| delivery.end == DeliveryEnd::Complete;
        assert!(deliveries.iter().all(complete));
    });
}

/// A handler that ends without an answer, or panics.
struct Broken;

impl Handler for Broken {
    async fn handle<E: Exchange>(&self, exchange: &mut E) {
        assert!(exchange.authority() != "panic", "on purpose");
    }
}

#[test]
fn a_stream_that_nobody_ended_is_reset_alone() {
    local(async {
        let (client, connection, mut tasks) = served_by(Broken).await;
        tasks.spawn_local(async move {
            connection.await.ok();
        });
        for host in ["silent", "panic", "silent"] {
            let request = Request::get(format!("http://{host}/")).body(()).unwrap();
            let mut client = client.clone().ready().await.unwrap();
            let (response, _) = client.send_request(request, true).unwrap();
            let error = response.await.unwrap_err();
            assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR), "{host}");
        }
    });
}
