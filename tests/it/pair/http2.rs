//! HTTP/2 and gRPC through the pair.

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use outrigger_model::{Protocol, RetryConditions, Timeout};
use std::{net::SocketAddr, time::Duration};

use super::{
    mesh::{Mesh, nowhere, run},
    peer::{App, Client, Content, Http, answer, full, pieces, read, request},
    plan::{ServicePlan, retry, service},
};

async fn through(
    mesh: &Mesh,
    app: &App,
    change: impl FnOnce(ServicePlan) -> ServicePlan,
) -> SocketAddr {
    let speaking = |plan: ServicePlan| change(plan.speaks(Protocol::Grpc));
    mesh.through(app.address, speaking).await
}

/// An application that answers with the body as it comes.
async fn streaming_echo(mesh: &Mesh) -> App {
    App::start(mesh, Http::Two, async |request: Request<Incoming>| {
        let body = request.into_body().map_err(|error| panic!("{error}"));
        Response::new(UnsyncBoxBody::new(body))
    })
    .await
}

/// A gRPC answer: messages, then the status in trailers.
fn grpc(body: impl Into<Bytes>, status: &'static str) -> Response<Content> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().unwrap());
    let body = Full::new(body.into()).with_trailers(async { Some(Ok(trailers)) });
    Response::builder()
        .header("content-type", "application/grpc")
        .body(body.boxed_unsync())
        .unwrap()
}

/// A gRPC call; `body` as it is.
fn call(body: Content) -> Request<Content> {
    let mut request = request("POST", "/shop.Orders/Place", body);
    let headers = request.headers_mut();
    headers.insert("content-type", "application/grpc".parse().unwrap());
    headers.insert("te", "trailers".parse().unwrap());
    headers.remove("host");
    request
}

async fn echo(mesh: &Mesh) -> App {
    App::start(mesh, Http::Two, async |request: Request<Incoming>| {
        grpc(read(request.into_body()).await, "0")
    })
    .await
}

#[test]
fn unary_calls_share_one_connection_and_end_with_their_status() {
    run(async {
        let mesh = Mesh::new();
        let app = echo(&mesh).await;
        let outbound = through(&mesh, &app, |plan| plan).await;
        let mut client = Client::connect(&mesh, outbound, Http::Two).await;
        for number in 0..20_u8 {
            let reply = client.send(call(full(vec![0, 0, 0, 0, 1, number]))).await;
            assert_eq!(
                (reply.status, &*reply.body),
                (200, &[0, 0, 0, 0, 1, number][..])
            );
            let status = reply.trailers.unwrap();
            assert_eq!(status["grpc-status"], "0");
        }
        assert_eq!(app.by_connection(), [20]);
        let hit = &app.hits()[0];
        assert_eq!(hit.header("te"), Some("trailers"));
        assert!(
            hit.header("x-forwarded-client-cert")
                .unwrap()
                .ends_with("/sa/web")
        );
        assert_eq!(mesh.server.metric("outrigger_tls_handshakes_total", &[]), 1);
    });
}

#[test]
fn streams_pass_message_by_message_in_both_directions() {
    run(async {
        let mesh = Mesh::new();
        let app = streaming_echo(&mesh).await;
        let outbound = through(&mesh, &app, |plan| plan).await;
        let mut client = Client::connect(&mesh, outbound, Http::Two).await;
        let (mut send, body) = http_body_util::channel::Channel::<Bytes>::new(1);
        let mut response = client.begin(call(body.boxed_unsync())).await.unwrap();
        for number in 0..50_u8 {
            // Each message comes back before the next is sent.
            send.send_data(Bytes::from(vec![number; 100]))
                .await
                .unwrap();
            let mut got = Vec::new();
            while got.len() < 100 {
                let frame = response.frame().await.unwrap().unwrap();
                got.extend_from_slice(&frame.into_data().unwrap());
            }
            assert_eq!(got, vec![number; 100]);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-end", "yes".parse().unwrap());
        send.send_trailers(trailers).await.unwrap();
        drop(send);
        let last = response.frame().await.unwrap().unwrap();
        assert_eq!(last.into_trailers().unwrap()["x-end"], "yes");
    });
}

#[test]
fn a_large_body_passes_both_ways_at_once() {
    run(async {
        const LENGTH: usize = 32 * 1024 * 1024;
        let mesh = Mesh::new();
        let app = streaming_echo(&mesh).await;
        let outbound = through(&mesh, &app, |plan| plan).await;
        let mut client = Client::connect(&mesh, outbound, Http::Two).await;
        let piece = Bytes::from(vec![9; 64 * 1024]);
        let body = pieces(&mesh, std::iter::repeat_n(piece, LENGTH / (64 * 1024)));
        let mut response = client.begin(request("POST", "/", body)).await.unwrap();
        let mut length = 0;
        while let Some(frame) = response.frame().await {
            length += frame.unwrap().into_data().unwrap().len();
        }
        assert_eq!(length, LENGTH);
    });
}

/// To HTTP it is a success, so the status alone would hide it: log and metric say both.
#[test]
fn a_refusal_of_a_call_is_told_in_header_log_and_metric() {
    run(async {
        let mesh = Mesh::new();
        let app = echo(&mesh).await;
        let outbound = through(&mesh, &app, |mut plan| {
            plan.targets[0].2.clear();
            plan
        })
        .await;
        let mut client = Client::connect(&mesh, outbound, Http::Two).await;
        let reply = client.send(call(full("x"))).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("content-type"), Some("application/grpc"));
        assert_eq!(reply.header("grpc-status"), Some("14"));
        assert!(
            reply
                .header("grpc-message")
                .unwrap()
                .starts_with("no-endpoint")
        );
        assert!(reply.reason().starts_with("no-endpoint; "), "{reply:?}");
        assert!(reply.body.is_empty());
        let line = mesh.client.logged(&[r#""protocol":"grpc""#]).await;
        for part in [
            r#""status":200"#,
            r#""grpc_status":14"#,
            r#""reason":"no-endpoint""#,
            r#""path":"/shop.Orders/Place""#,
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        let labels = [
            r#"protocol="grpc""#,
            r#"response_code="200""#,
            r#"grpc_response_status="14""#,
            r#"reason="no-endpoint""#,
        ];
        let count = |name, labels: &[&str]| mesh.client.metric(name, labels);
        assert_eq!(
            count("outrigger_requests_total", &labels),
            1,
            "{}",
            mesh.client.telemetry.page()
        );
        assert_eq!(count("outrigger_requests_total", &[]), 1);
        let refused = [r#"direction="outbound""#, r#"reason="no-endpoint""#];
        assert_eq!(count("outrigger_refusals_total", &refused), 1);
        let failed = [r#"outcome="failure""#];
        assert_eq!(
            count("outrigger_request_duration_seconds_count", &failed),
            1
        );
    });
}

/// The other side's refusal: an application that is down behind a live sidecar.
#[test]
fn the_endpoints_sidecar_refuses_a_call_and_both_sides_say_so() {
    run(async {
        let mesh = Mesh::new();
        let speaking = |plan: ServicePlan| plan.speaks(Protocol::Grpc);
        let outbound = mesh.through(nowhere().await, speaking).await;
        let mut client = Client::connect(&mesh, outbound, Http::Two).await;
        let reply = client.send(call(full("x"))).await;
        assert_eq!(
            (reply.status, reply.header("grpc-status")),
            (200, Some("14"))
        );
        assert!(
            reply.reason().starts_with("application-unavailable"),
            "{reply:?}"
        );
        let labels = [
            r#"protocol="grpc""#,
            r#"response_code="200""#,
            r#"grpc_response_status="14""#,
            r#"reason="application-unavailable""#,
        ];
        for side in [&mesh.client, &mesh.server] {
            let line = side.logged(&[r#""protocol":"grpc""#]).await;
            for part in [
                r#""status":200"#,
                r#""grpc_status":14"#,
                r#""reason":"application-unavailable""#,
            ] {
                assert!(line.contains(part), "{part} in {line}");
            }
            let page = side.telemetry.page();
            assert_eq!(
                side.metric("outrigger_requests_total", &labels),
                1,
                "{page}"
            );
        }
    });
}

#[test]
fn a_refusal_of_a_call_is_a_grpc_status() {
    run(async {
        let mesh = Mesh::new();
        let app = App::start(&mesh, Http::Two, async |_| std::future::pending().await).await;
        let outbound = through(&mesh, &app, |plan| plan).await;
        let mut client = Client::connect(&mesh, outbound, Http::Two).await;
        let mut timed = call(full("x"));
        timed
            .headers_mut()
            .insert("grpc-timeout", "100m".parse().unwrap());
        let reply = client.send(timed).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("grpc-status"), Some("4"));
        assert!(
            reply.reason().starts_with("request-timeout"),
            "{}",
            reply.reason()
        );
        mesh.client
            .knows(&[service("orders:80", Vec::new()).speaks(Protocol::Grpc)]);
        let reply = client.send(call(full("x"))).await;
        assert_eq!(
            (reply.status, reply.header("grpc-status")),
            (200, Some("14"))
        );
        assert!(
            reply.reason().starts_with("no-endpoint"),
            "{}",
            reply.reason()
        );
        // Not gRPC: the status of HTTP.
        let reply = client.get("/").await;
        assert_eq!(reply.status, 503);
    });
}

#[test]
fn calls_are_retried_on_their_status_with_their_body() {
    run(async {
        let mesh = Mesh::new();
        let turn = std::cell::Cell::new(0);
        let app = App::start(&mesh, Http::Two, move |request: Request<Incoming>| {
            turn.set(turn.get() + 1);
            let fail = turn.get() % 3 != 0;
            async move {
                let body = read(request.into_body()).await;
                if fail {
                    let mut refused = answer(200, "");
                    let headers = refused.headers_mut();
                    headers.insert("content-type", "application/grpc".parse().unwrap());
                    headers.insert("grpc-status", "14".parse().unwrap());
                    return refused;
                }
                grpc(body, "0")
            }
        })
        .await;
        let unavailable = RetryConditions {
            grpc_statuses: [14].into(),
            ..RetryConditions::default()
        };
        let outbound = through(&mesh, &app, |plan| {
            plan.rule(|rule| rule.retry = retry(2, unavailable))
        })
        .await;
        let mut client = Client::connect(&mesh, outbound, Http::Two).await;
        for _ in 0..4 {
            let reply = client.send(call(full("order"))).await;
            assert_eq!(reply.text(), "order");
            assert_eq!(reply.trailers.unwrap()["grpc-status"], "0");
        }
        assert_eq!(app.count(), 12);
        assert_eq!(mesh.client.metric("outrigger_retries_total", &[]), 8);
    });
}

#[test]
fn a_per_try_timeout_counts_for_streams_too() {
    run(async {
        let mesh = Mesh::new();
        let app = App::start(&mesh, Http::Two, async |_| std::future::pending().await).await;
        let outbound = through(&mesh, &app, |plan| {
            plan.rule(|rule| {
                rule.retry = retry(2, super::plan::on_5xx());
                rule.retry.per_try_timeout = Timeout::After(Duration::from_millis(60));
            })
        })
        .await;
        let mut client = Client::connect(&mesh, outbound, Http::Two).await;
        let reply = client.get("/").await;
        reply.assert_refused(504, "retries-exhausted; 3 tries");
        assert_eq!(app.count(), 3);
    });
}

#[test]
fn a_stream_past_its_deadline_ends_with_its_status_and_its_bytes_counted() {
    run(async {
        let mesh = Mesh::new();
        let (kept, mut streams) = tokio::sync::mpsc::channel(1);
        let app = App::start(&mesh, Http::Two, move |_| {
            let kept = kept.clone();
            async move {
                let (mut send, body) = http_body_util::channel::Channel::<Bytes>::new(1);
                send.send_data("message".into()).await.unwrap();
                kept.send(send).await.unwrap();
                Response::builder()
                    .header("content-type", "application/grpc")
                    .body(body.boxed_unsync())
                    .unwrap()
            }
        })
        .await;
        let outbound = through(&mesh, &app, |plan| {
            plan.rule(|rule| rule.timeout = Timeout::After(Duration::from_millis(300)))
        })
        .await;
        let mut client = Client::connect(&mesh, outbound, Http::Two).await;
        let reply = client.send(call(full("x"))).await;
        let _open = streams.recv().await.unwrap();
        assert_eq!((reply.status, reply.text()), (200, "message"));
        assert_eq!(reply.trailers.unwrap()["grpc-status"], "4");
        let late = ["reason=\"request-timeout\"", "response_code=\"200\""];
        assert_eq!(mesh.client.metric("outrigger_requests_total", &late), 1);
        let bytes = mesh
            .client
            .metric("outrigger_response_body_bytes_total", &[]);
        assert_eq!(bytes, 7);
    });
}

#[test]
fn a_try_tells_what_is_left_of_the_callers_deadline() {
    run(async {
        let mesh = Mesh::new();
        let app = echo(&mesh).await;
        let outbound = through(&mesh, &app, |plan| plan).await;
        let mut client = Client::connect(&mesh, outbound, Http::Two).await;
        let mut timed = call(full("x"));
        let headers = timed.headers_mut();
        headers.insert("grpc-timeout", "10S".parse().unwrap());
        client.send(timed).await;
        client.send(call(full("x"))).await;
        let told: Vec<_> = app
            .hits()
            .iter()
            .map(|hit| hit.header("grpc-timeout").map(str::to_owned))
            .collect();
        let left = told[0].as_deref().unwrap().strip_suffix('u').unwrap();
        let left: u32 = left.parse().unwrap();
        assert!((1..10_000_000).contains(&left), "{told:?}");
        assert_eq!(told[1], None);
    });
}
