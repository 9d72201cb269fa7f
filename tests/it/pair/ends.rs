//! Requests and connections that end otherwise than they should, and what is left of them: nothing.

use std::{cell::Cell, rc::Rc, time::Duration};

use http::{Request, Response};
use http_body_util::{BodyExt, channel::Channel};
use hyper::body::Incoming;
use outrigger_model::{EndpointState, RequestsPerConnection, Timeout};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::mpsc, time::Instant};

use super::{
    mesh::{Mesh, run},
    peer::{App, Client, Gated, Http, answer, full, get, once, request},
    plan::{at_most, eject_after, on_5xx, plain, retry, service},
    wire::{self, rest, say, until},
};

/// Waits for what other tasks will bring about.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn a_streaming_answer_is_in_flight_to_its_end(version: Http) {
    run(async {
        let mesh = Mesh::new();
        let (streams, mut senders) = mpsc::channel(4);
        let app = App::start(&mesh, version, move |_| {
            let streams = streams.clone();
            async move {
                let (sender, body) = Channel::<bytes::Bytes>::new(1);
                streams.send(sender).await.unwrap();
                Response::new(body.boxed_unsync())
            }
        })
        .await;
        let outbound = mesh
            .through(app.address, |plan| {
                plan.policy(|policy| policy.limits.requests_max = 1)
            })
            .await;
        let mut client = Client::connect(&mesh, outbound, version).await;
        let held = client.begin(get("/")).await.unwrap();
        let mut sender = senders.recv().await.unwrap();
        sender.send_data("first".into()).await.unwrap();
        let mut other = Client::connect(&mesh, outbound, version).await;
        other.get("/").await.assert_refused(503, "requests-full; ");
        drop(sender);
        assert_eq!(
            held.into_body().collect().await.unwrap().to_bytes(),
            "first"
        );
        let next = other.begin(get("/")).await.unwrap();
        assert_eq!(next.status(), 200);
    });
}

#[test]
fn a_streaming_http1_answer_is_in_flight_to_its_end() {
    a_streaming_answer_is_in_flight_to_its_end(Http::One);
}

#[test]
fn a_streaming_http2_answer_is_in_flight_to_its_end() {
    a_streaming_answer_is_in_flight_to_its_end(Http::Two);
}

fn a_client_that_leaves_frees_its_place(version: Http) {
    run(async {
        let mesh = Mesh::new();
        let first = Rc::new(Cell::new(true));
        let app = App::start(&mesh, version, move |_| {
            let hang = first.replace(false);
            async move {
                if hang {
                    std::future::pending::<()>().await;
                }
                answer(200, "ok")
            }
        })
        .await;
        let outbound = mesh
            .through(app.address, |plan| {
                plan.policy(|policy| {
                    policy.limits.requests_max = 1;
                    policy.limits.connections_max = 1;
                    // Whoever leaves says nothing about the endpoint.
                    eject_after(policy, 1);
                })
            })
            .await;
        match version {
            Http::One => {
                // By a reset: an end alone may be a client that waits for its answer.
                let mut leaving = TcpStream::connect(outbound).await.unwrap();
                say(&mut leaving, "GET / HTTP/1.1\r\nHost: o\r\n\r\n").await;
                eventually("it arrives", || app.count() == 1).await;
                leaving.set_zero_linger().unwrap();
            }
            Http::Two => {
                let mut leaving = Client::connect(&mesh, outbound, version).await;
                let call = leaving.begin(get("/"));
                tokio::pin!(call);
                tokio::select! {
                    _ = &mut call => panic!("it hangs"),
                    () = eventually("it arrives", || app.count() == 1) => {}
                }
            }
        }
        eventually("its place is free", || {
            mesh.client.metric("outrigger_requests_total", &[]) == 1
        })
        .await;
        let gone = ["reason=\"client-gone\"", "response_code=\"0\""];
        assert_eq!(mesh.client.metric("outrigger_requests_total", &gone), 1);
        assert_eq!(mesh.client.metric("outrigger_refusals_total", &[]), 0);
        let reply = Client::connect(&mesh, outbound, version)
            .await
            .get("/")
            .await;
        assert_eq!((reply.status, reply.reason()), (200, ""));
    });
}

#[test]
fn a_client_that_leaves_inside_its_request_is_no_refusal() {
    run(async {
        let mesh = Mesh::new();
        let app = App::answering(&mesh, 200).await;
        let outbound = mesh.through(app.address, |plan| plan).await;
        let head = "POST / HTTP/1.1\r\nHost: o\r\nContent-Length: 100\r\n\r\nhalf";
        let mut leaving = TcpStream::connect(outbound).await.unwrap();
        say(&mut leaving, head).await;
        drop(leaving);
        let gone = ["reason=\"client-gone\"", "response_code=\"0\""];
        eventually("it is recorded", || {
            mesh.client.metric("outrigger_requests_total", &gone) == 1
        })
        .await;
        let chunked = "POST / HTTP/1.1\r\nHost: o\r\nTransfer-Encoding: chunked\r\n\r\nxx\r\n";
        let mut broken = TcpStream::connect(outbound).await.unwrap();
        say(&mut broken, chunked).await;
        let answer = rest(&mut broken).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        let refused = |reason| mesh.client.metric("outrigger_refusals_total", &[reason]);
        assert_eq!(refused("client-gone"), 0);
        assert_eq!(refused("bad-chunk-size"), 1);
    });
}

#[test]
fn a_client_that_closed_half_gets_an_answer_that_takes_its_time() {
    run(async {
        let mesh = Mesh::new();
        let app = wire::server(&mesh, async |mut stream| {
            until(&mut stream, "\r\n\r\n").await;
            // The application's own time, longer than a moment's grace.
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            say(
                &mut stream,
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            )
            .await;
        })
        .await;
        let outbound = mesh.through(app, |plan| plan).await;
        let mut client = TcpStream::connect(outbound).await.unwrap();
        say(&mut client, "GET / HTTP/1.1\r\nHost: o\r\n\r\n").await;
        client.shutdown().await.unwrap();
        let answer = rest(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    });
}

#[test]
fn a_route_timeout_does_not_end_a_websocket() {
    run(async {
        let mesh = Mesh::new();
        let limit = Duration::from_millis(300);
        let app = wire::server(&mesh, move |mut stream| async move {
            until(&mut stream, "\r\n\r\n").await;
            let accept = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            say(&mut stream, accept).await;
            until(&mut stream, "ping").await;
            tokio::time::sleep(2 * limit).await;
            say(&mut stream, "pong").await;
        })
        .await;
        let outbound = mesh
            .through(app, |plan| {
                plan.rule(|rule| rule.timeout = Timeout::After(limit))
            })
            .await;
        let mut client = TcpStream::connect(outbound).await.unwrap();
        let head = "GET /ws HTTP/1.1\r\nHost: o\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
        say(&mut client, head).await;
        until(&mut client, "\r\n\r\n").await;
        say(&mut client, "ping").await;
        until(&mut client, "pong").await;
    });
}

#[test]
fn a_refused_head_is_recorded_with_its_reason() {
    run(async {
        let mesh = Mesh::new();
        let app = App::answering(&mesh, 200).await;
        let outbound = mesh.through(app.address, |plan| plan).await;
        let mut client = TcpStream::connect(outbound).await.unwrap();
        say(&mut client, "GET / HTTP/1.1\nHost: o\n\n").await;
        let answer = rest(&mut client).await;
        assert!(answer.contains("x-outrigger-reason: bare-lf"), "{answer}");
        let labels = ["reason=\"bare-lf\"", "response_code=\"400\""];
        assert_eq!(mesh.client.metric("outrigger_requests_total", &labels), 1);
        let refused = mesh.client.metric("outrigger_refusals_total", &["bare-lf"]);
        assert_eq!(refused, 1);
    });
}

#[test]
fn finding_the_protocol_out_says_nothing_of_an_endpoints_health() {
    run(async {
        let mesh = Mesh::new();
        let (accepted, mut accepts) = mpsc::channel(16);
        let app = wire::server(&mesh, move |mut stream| {
            let accepted = accepted.clone();
            async move {
                accepted.send(()).await.unwrap();
                let mut byte = [0];
                while tokio::io::AsyncReadExt::read(&mut stream, &mut byte)
                    .await
                    .is_ok_and(|read| read == 1)
                {
                    if byte == *b"!" {
                        let refusal =
                            "HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                        say(&mut stream, refusal).await;
                    }
                }
            }
        })
        .await;
        let plan = service("orders:80", vec![plain(app)])
            .speaks(outrigger_model::Protocol::Detect)
            .policy(|policy| eject_after(policy, 3));
        let outbound = mesh.known(plan).await;
        for _ in 0..3 {
            let mut client = TcpStream::connect(outbound).await.unwrap();
            // The connection that waits for a server to speak is there before the request.
            accepts.recv().await.unwrap();
            let head = "GET / HTTP/1.1\r\nHost: o\r\nConnection: close\r\nX-End: !\r\n\r\n";
            say(&mut client, head).await;
            assert!(rest(&mut client).await.starts_with("HTTP/1.1 500"));
            accepts.recv().await.unwrap();
        }
        assert_eq!(mesh.client.metric("outrigger_ejections_total", &[]), 1);
    });
}

#[test]
fn an_http1_client_that_leaves_frees_its_place() {
    a_client_that_leaves_frees_its_place(Http::One);
}

#[test]
fn an_http2_client_that_leaves_frees_its_place() {
    a_client_that_leaves_frees_its_place(Http::Two);
}

#[test]
fn a_broken_answer_is_not_passed_off_as_whole() {
    run(async {
        let mesh = Mesh::new();
        let app = wire::server(&mesh, async |mut stream| {
            let head = until(&mut stream, "\r\n\r\n").await;
            let answer = match head.contains("/sized") {
                true => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
                false => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            };
            say(&mut stream, answer).await;
        })
        .await;
        let outbound = mesh.through(app, |plan| plan).await;
        for path in ["/sized", "/chunked"] {
            let mut client = Client::connect(&mesh, outbound, Http::One).await;
            assert!(client.try_send(get(path)).await.is_err(), "{path}");
        }
        let broken = [
            "reason=\"upstream-reset-in-response\"",
            "response_code=\"200\"",
        ];
        let failed = ["outcome=\"failure\""];
        for side in [&mesh.client, &mesh.server] {
            eventually("both sidecars count failures", || {
                side.metric("outrigger_requests_total", &broken) == 2
                    && side.metric("outrigger_request_duration_seconds_count", &failed) == 2
            })
            .await;
        }
    });
}

#[test]
fn an_endpoint_whose_answers_break_off_is_ejected() {
    run(async {
        let mesh = Mesh::new();
        let app = wire::server(&mesh, async |mut stream| {
            until(&mut stream, "\r\n\r\n").await;
            let half = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf";
            say(&mut stream, half).await;
        })
        .await;
        let outbound = mesh
            .through(app, |plan| plan.policy(|policy| eject_after(policy, 3)))
            .await;
        for _ in 0..3 {
            let mut client = Client::connect(&mesh, outbound, Http::One).await;
            assert!(client.try_send(get("/")).await.is_err());
        }
        eventually("it is ejected", || {
            mesh.client.metric("outrigger_ejections_total", &[]) == 1
        })
        .await;
        let reply = once(&mesh, outbound, get("/")).await;
        reply.assert_refused(503, "no-endpoint; ");
    });
}

#[test]
fn a_kept_connection_that_the_application_closed_costs_no_request() {
    run(async {
        let mesh = Mesh::new();
        let app = wire::server(&mesh, async |mut stream| {
            until(&mut stream, "\r\n\r\n").await;
            // Does not say that it closes.
            say(
                &mut stream,
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            )
            .await;
        })
        .await;
        let outbound = mesh.through(app, |plan| plan).await;
        let mut client = Client::connect(&mesh, outbound, Http::One).await;
        for number in 0..20 {
            let method = ["GET", "POST"][number % 2];
            let reply = client.send(request(method, "/", full(""))).await;
            assert_eq!((reply.status, reply.reason()), (200, ""), "{number}");
        }
    });
}

#[test]
fn a_draining_endpoint_gets_nothing_new_while_another_is_ready() {
    run(async {
        let mesh = Mesh::new();
        let (stays, goes) = (
            App::answering(&mesh, 200).await,
            App::answering(&mesh, 200).await,
        );
        let mut draining = plain(goes.address);
        draining.state = EndpointState::Draining;
        let outbound = mesh
            .known(service(
                "orders:80",
                vec![plain(stays.address), draining.clone()],
            ))
            .await;
        let mut client = Client::connect(&mesh, outbound, Http::One).await;
        for _ in 0..10 {
            assert_eq!(client.get("/").await.status, 200);
        }
        assert_eq!((stays.count(), goes.count()), (10, 0));
        mesh.client.knows(&[service("orders:80", vec![draining])]);
        assert_eq!(client.get("/").await.status, 200);
        assert_eq!(goes.count(), 1);
    });
}

fn a_try_that_timed_out_gives_its_connection_up(version: Http) {
    run(async {
        let mesh = Mesh::new();
        let turn = Rc::new(Cell::new(0));
        let app = App::start(&mesh, version, move |_: Request<Incoming>| {
            turn.set(turn.get() + 1);
            let hang = turn.get() % 3 != 0;
            async move {
                if hang {
                    std::future::pending::<()>().await;
                }
                answer(200, "ok")
            }
        })
        .await;
        let outbound = mesh
            .through(app.address, |plan| {
                plan.policy(|policy| policy.limits.connections_max = 1)
                    .rule(|rule| {
                        rule.retry = retry(2, on_5xx());
                        rule.retry.per_try_timeout = Timeout::After(Duration::from_millis(100));
                    })
            })
            .await;
        let mut client = Client::connect(&mesh, outbound, version).await;
        for _ in 0..3 {
            let reply = client.get("/").await;
            assert_eq!((reply.status, reply.reason()), (200, ""));
        }
        assert_eq!(app.count(), 9);
    });
}

#[test]
fn an_http1_try_that_timed_out_gives_its_connection_up() {
    a_try_that_timed_out_gives_its_connection_up(Http::One);
}

#[test]
fn an_http2_try_that_timed_out_gives_its_stream_up() {
    a_try_that_timed_out_gives_its_connection_up(Http::Two);
}

#[test]
fn an_http2_connection_carries_no_more_requests_than_told() {
    run(async {
        let mesh = Mesh::new();
        let app = App::start(&mesh, Http::Two, async |_| answer(200, "")).await;
        let plan = service("orders:80", vec![plain(app.address)]).policy(|policy| {
            policy.limits.requests_per_connection = RequestsPerConnection::AtMost(at_most(2));
        });
        let outbound = mesh.known(plan).await;
        let mut client = Client::connect(&mesh, outbound, Http::Two).await;
        for _ in 0..7 {
            assert_eq!(client.get("/").await.status, 200);
        }
        assert_eq!(app.by_connection(), [2, 2, 2, 1]);
    });
}

#[test]
fn ended_connections_leave_no_count_behind() {
    run(async {
        let mesh = Mesh::new();
        let gated = Gated::start(&mesh, Http::One, "").await;
        let app = &gated.app;
        let outbound = mesh.through(app.address, |plan| plan).await;
        gated.open(4);
        for _ in 0..4 {
            once(&mesh, outbound, get("/")).await;
        }
        let mut silent = TcpStream::connect(outbound).await.unwrap();
        say(&mut silent, "GET / HTTP").await;
        drop(silent);
        let mut waiting = TcpStream::connect(outbound).await.unwrap();
        say(&mut waiting, "GET / HTTP/1.1\r\nHost: o\r\n\r\n").await;
        eventually("it arrives", || app.count() == 5).await;
        waiting.set_zero_linger().unwrap();
        drop(waiting);
        let active = || mesh.client.metric("outrigger_connections_active", &[]);
        eventually("connections end", || active() == 0).await;
        assert_eq!(mesh.client.worker.shared.limits.downstream.used(), 0);
        assert_eq!(
            mesh.client.metric("outrigger_pool_pending_requests", &[]),
            0
        );
    });
}

#[test]
fn names_of_a_service_are_normalised() {
    run(async {
        let mesh = Mesh::new();
        let app = App::answering(&mesh, 200).await;
        mesh.client
            .knows(&[service("orders.shop:80", vec![plain(app.address)])]);
        let proxy = mesh.forward_proxy().await;
        for authority in [
            "orders.shop",
            "orders.shop:80",
            "ORDERS.shop:80",
            "orders.shop.:80",
            "orders.shop.",
            "orders.shop:080",
        ] {
            let mut stream = TcpStream::connect(proxy).await.unwrap();
            let head = format!(
                "GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n"
            );
            say(&mut stream, &head).await;
            let answer = rest(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{authority}: {answer}");
        }
    });
}

#[test]
fn when_all_endpoints_are_ejected_the_answer_says_so() {
    run(async {
        let mesh = Mesh::new();
        let app = App::answering(&mesh, 500).await;
        let outbound = mesh
            .through(app.address, |plan| {
                plan.policy(|policy| eject_after(policy, 1))
            })
            .await;
        let mut client = Client::connect(&mesh, outbound, Http::One).await;
        assert_eq!(client.get("/").await.status, 500);
        let reply = client.get("/").await;
        let reason = "no-endpoint; shop/orders:80: 1 of 1 endpoints are ejected, none takes requests; by DestinationRule/shop/it";
        assert_eq!((reply.status, reply.reason()), (503, reason));
        assert_eq!(app.count(), 1);
    });
}

#[test]
fn an_idle_connection_of_one_worker_gives_way_to_a_request_of_another() {
    run(async {
        let mesh = Mesh::new();
        let app = App::answering(&mesh, 200).await;
        let outbound = mesh
            .through(app.address, |plan| {
                plan.policy(|policy| policy.limits.connections_max = 1)
            })
            .await;
        let (other, beside) = mesh.another_worker(9).await;
        for worker in [&mesh.client.worker, &other] {
            worker.tasks.spawn_local(Rc::clone(worker).sweep());
        }
        for turn in 0..6 {
            let address = if turn % 2 == 0 { outbound } else { beside };
            let reply = once(&mesh, address, get("/")).await;
            assert_eq!(reply.status, 200, "{turn}: {}", reply.reason());
        }
    });
}

#[test]
fn bounds_hold_across_workers() {
    run(async {
        let mesh = Mesh::new();
        let app = App::start(&mesh, Http::One, async |_| std::future::pending().await).await;
        let outbound = mesh
            .through(app.address, |plan| {
                plan.policy(|policy| policy.limits.requests_max = 1)
            })
            .await;
        let (_other, beside) = mesh.another_worker(9).await;
        let mut waiting = TcpStream::connect(outbound).await.unwrap();
        say(&mut waiting, "GET / HTTP/1.1\r\nHost: o\r\n\r\n").await;
        eventually("it arrives", || app.count() == 1).await;
        let reply = once(&mesh, beside, get("/")).await;
        reply.assert_refused(503, "requests-full; ");
        drop(waiting);
    });
}
