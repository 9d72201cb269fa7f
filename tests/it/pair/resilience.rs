//! Timeouts, retries and ejection, counted at the applications.

use std::{cell::Cell, rc::Rc, time::Duration};

use outrigger_model::{EjectionThreshold, Percent, RetryBudget, RetryConditions, Timeout};
use tokio::{sync::mpsc, time::Instant};

use super::{
    mesh::{Mesh, nowhere, run},
    peer::{App, Client, Http, answer, full, get, once, request},
    plan::{ServicePlan, at_most, on_5xx, plain, retry, service},
    wire,
};

/// `retryOn: connect-failure`.
fn on_connect_failure() -> RetryConditions {
    RetryConditions {
        connect_failure: true,
        ..RetryConditions::default()
    }
}

/// An application that takes a request and never answers.
async fn silent(mesh: &Mesh) -> App {
    App::start(mesh, Http::One, async |_| std::future::pending().await).await
}

/// An application that answers by number of the request, from 0.
async fn in_turn(mesh: &Mesh, statuses: &'static [u16]) -> App {
    let turn = Rc::new(Cell::new(0));
    App::start(mesh, Http::One, move |_| {
        let status = statuses[turn.get() % statuses.len()];
        turn.set(turn.get() + 1);
        async move { answer(status, "") }
    })
    .await
}

#[test]
fn a_route_timeout_ends_the_request() {
    run(async {
        let mesh = Mesh::new();
        let app = silent(&mesh).await;
        let change = |plan: ServicePlan| {
            plan.rule(|rule| {
                rule.timeout = Timeout::After(Duration::from_millis(150));
                rule.retry = retry(3, on_5xx());
            })
        };
        let outbound = mesh.through(app.address, change).await;
        let begun = Instant::now();
        let reply = once(&mesh, outbound, get("/")).await;
        reply.assert_refused(504, "request-timeout; ");
        assert!(reply.reason().ends_with("; by all"), "{}", reply.reason());
        assert!(begun.elapsed() >= Duration::from_millis(150));
        assert_eq!(app.count(), 1);
    });
}

#[test]
fn a_per_try_timeout_is_retried_as_often_as_told() {
    run(async {
        let mesh = Mesh::new();
        let app = silent(&mesh).await;
        let change = |plan: ServicePlan| {
            plan.rule(|rule| {
                rule.retry = retry(3, on_5xx());
                rule.retry.per_try_timeout = Timeout::After(Duration::from_millis(60));
            })
        };
        let outbound = mesh.through(app.address, change).await;
        let reply = once(&mesh, outbound, get("/")).await;
        assert_eq!(reply.status, 504);
        let reason = "retries-exhausted; 4 tries, the last: per-try-timeout: ";
        assert!(reply.reason().starts_with(reason), "{}", reply.reason());
        assert_eq!(app.count(), 4);
        let attempts: Vec<_> = app
            .hits()
            .iter()
            .map(|hit| hit.header("x-outrigger-attempt").map(str::to_owned))
            .collect();
        let told = |number: &str| Some(number.to_owned());
        assert_eq!(attempts, [None, told("2"), told("3"), told("4")]);
        assert_eq!(mesh.client.metric("outrigger_retries_total", &[]), 3);
    });
}

#[test]
fn a_retry_goes_to_an_endpoint_not_tried_yet() {
    run(async {
        let mesh = Mesh::new();
        let (bad, good) = (
            App::answering(&mesh, 503).await,
            App::answering(&mesh, 200).await,
        );
        let plan = service("orders:80", vec![plain(bad.address), plain(good.address)])
            .rule(|rule| rule.retry = retry(2, on_5xx()));
        let outbound = mesh.known(plan).await;
        let mut client = Client::connect(&mesh, outbound, Http::One).await;
        for _ in 0..40 {
            assert_eq!(client.get("/").await.status, 200);
        }
        assert_eq!(good.count(), 40);
        // Round robin offers it about every other time, and never twice for one request.
        assert!((15..=40).contains(&bad.count()), "{}", bad.count());
        let retries = mesh.client.metric("outrigger_retries_total", &[]);
        assert_eq!(usize::try_from(retries), Ok(bad.count()));
        assert_eq!(mesh.client.metric("outrigger_requests_total", &[]), 40);
    });
}

#[test]
fn the_last_answer_is_passed_on_when_retries_are_used_up() {
    run(async {
        let mesh = Mesh::new();
        let app = App::answering(&mesh, 503).await;
        let plan = service("orders:80", vec![plain(app.address)])
            .rule(|rule| rule.retry = retry(2, on_5xx()));
        let outbound = mesh.known(plan).await;
        let reply = once(&mesh, outbound, get("/mine")).await;
        assert_eq!(
            (reply.status, reply.text(), reply.reason()),
            (503, "/mine", "")
        );
        assert_eq!(app.count(), 3);
    });
}

#[test]
fn what_may_have_happened_is_not_repeated_for_post() {
    run(async {
        let mesh = Mesh::new();
        let (seen, mut heads) = mpsc::channel(16);
        // Reads the request and hangs up.
        let address = wire::server(&mesh, move |mut stream| {
            let seen = seen.clone();
            async move {
                let head = wire::until(&mut stream, "\r\n\r\n").await;
                seen.send(head).await.unwrap();
            }
        });
        let only_reset = RetryConditions {
            reset: true,
            ..RetryConditions::default()
        };
        let mut plan = service("orders:80", vec![plain(address.await)]);
        plan.http[0].retry = retry(2, RetryConditions::default());
        plan.http[0].retry.on_idempotent = only_reset.clone();
        let outbound = mesh.known(plan.clone()).await;
        let mut tries = async |method: &str, plan: &ServicePlan| {
            mesh.client.knows(std::slice::from_ref(plan));
            let body = if method == "POST" { "x" } else { "" };
            let reply = once(&mesh, outbound, request(method, "/", full(body))).await;
            assert_eq!(reply.status, 503, "{}", reply.reason());
            let mut count = 0;
            while heads.try_recv().is_ok() {
                count += 1;
            }
            (count, reply.reason().to_owned())
        };
        let (count, reason) = tries("POST", &plan).await;
        assert_eq!(count, 1);
        assert!(
            reason.starts_with("upstream-reset; ") && reason.contains("not-idempotent"),
            "{reason}"
        );
        assert_eq!(tries("GET", &plan).await.0, 3);
        plan.http[0].retry = retry(2, only_reset);
        let (count, reason) = tries("POST", &plan).await;
        assert_eq!(count, 3);
        assert!(
            reason.starts_with("retries-exhausted; 3 tries, the last: upstream-reset"),
            "{reason}"
        );
    });
}

#[test]
fn a_body_is_sent_again_only_while_all_of_it_is_kept() {
    run(async {
        let mesh = Mesh::new();
        let app = App::start(&mesh, Http::One, async |request| {
            let body = super::peer::read(request.into_body()).await;
            answer(503, body.len().to_string())
        })
        .await;
        let plan = service("orders:80", vec![plain(app.address)])
            .rule(|rule| rule.retry = retry(2, on_5xx()));
        let outbound = mesh.known(plan).await;
        let send = async |length: usize| {
            let before = app.count();
            let body = full(vec![1; length]);
            let reply = once(&mesh, outbound, request("PUT", "/", body)).await;
            assert_eq!(
                (reply.status, reply.text()),
                (503, length.to_string().as_str())
            );
            app.count() - before
        };
        assert_eq!(send(64 * 1024).await, 3);
        assert_eq!(send(64 * 1024 + 1).await, 1);
    });
}

#[test]
fn retries_stay_within_their_budget() {
    run(async {
        let mesh = Mesh::new();
        let app = App::answering(&mesh, 503).await;
        let plan = service("orders:80", vec![plain(app.address)]).rule(|rule| {
            rule.retry = retry(1, on_5xx());
            rule.retry.budget = RetryBudget {
                percent: Percent::new(20).unwrap(),
                min_per_second: 0,
            };
        });
        let outbound = mesh.known(plan).await;
        let mut client = Client::connect(&mesh, outbound, Http::One).await;
        for _ in 0..100 {
            assert_eq!(client.get("/").await.status, 503);
        }
        assert!((115..=120).contains(&app.count()), "{}", app.count());
    });
}

#[test]
fn failures_in_a_row_eject_and_a_live_probe_brings_back() {
    run(async {
        let mesh = Mesh::new();
        let good = App::answering(&mesh, 200).await;
        let healed = Rc::new(Cell::new(false));
        let sees = Rc::clone(&healed);
        let sick = App::start(&mesh, Http::One, move |_| {
            let status = if sees.get() { 200 } else { 500 };
            async move { answer(status, "") }
        })
        .await;
        let plan =
            service("orders:80", vec![plain(good.address), plain(sick.address)]).policy(|policy| {
                policy.outlier.consecutive_5xx = EjectionThreshold::After(at_most(5));
                policy.outlier.base_ejection = Duration::from_millis(500);
            });
        let outbound = mesh.known(plan).await;
        let mut client = Client::connect(&mesh, outbound, Http::One).await;
        let mut failed = 0;
        while failed < 5 {
            failed += usize::from(client.get("/").await.status == 500);
        }
        assert_eq!(mesh.client.metric("outrigger_ejections_total", &[]), 1);
        for _ in 0..10 {
            assert_eq!(client.get("/").await.status, 200);
        }
        assert_eq!(sick.count(), 5);
        healed.set(true);
        let before = sick.count();
        let deadline = Instant::now() + Duration::from_secs(5);
        while sick.count() < before + 10 {
            assert!(Instant::now() < deadline, "it does not come back");
            assert_eq!(client.get("/").await.status, 200);
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn nothing_listens_and_the_next_endpoint_serves() {
    run(async {
        let mesh = Mesh::new();
        let app = App::answering(&mesh, 200).await;
        let nowhere = nowhere().await;
        let plan = service("orders:80", vec![plain(app.address), plain(nowhere)])
            .rule(|rule| rule.retry = retry(2, on_connect_failure()));
        let outbound = mesh.known(plan).await;
        let mut client = Client::connect(&mesh, outbound, Http::One).await;
        for _ in 0..10 {
            // Nothing was sent, so a POST may go again as well.
            let reply = client.send(request("POST", "/", full("x"))).await;
            assert_eq!(reply.status, 200, "{}", reply.reason());
        }
        let alone = service("orders:80", vec![plain(nowhere)]);
        mesh.client.knows(&[alone]);
        let reply = client.get("/").await;
        reply.assert_refused(503, "connect-failed; ");
        let meshed = service("orders:80", vec![mesh.behind(nowhere).await]);
        mesh.client.knows(&[meshed]);
        let reply = client.get("/").await;
        assert_eq!(reply.status, 503);
        assert_eq!(
            reply.reason(),
            "application-unavailable; application: connection refused"
        );
        let named = ["reason=\"application-unavailable\""];
        assert_eq!(mesh.client.metric("outrigger_requests_total", &named), 1);
    });
}

#[test]
fn what_a_peers_sidecar_says_was_never_processed_is_tried_elsewhere() {
    run(async {
        let mesh = Mesh::new();
        let app = App::answering(&mesh, 200).await;
        let nowhere = nowhere().await;
        let endpoints = vec![mesh.behind(app.address).await, mesh.behind(nowhere).await];
        let plan = service("orders:80", endpoints)
            .rule(|rule| rule.retry = retry(2, on_connect_failure()));
        let outbound = mesh.known(plan).await;
        let mut client = Client::connect(&mesh, outbound, Http::One).await;
        for _ in 0..10 {
            let reply = client.send(request("POST", "/", full("x"))).await;
            assert_eq!((reply.status, reply.reason()), (200, ""));
        }
        let causes = ["cause=\"connect\""];
        assert!(mesh.client.metric("outrigger_retries_total", &causes) >= 3);
        // A plain endpoint that says the same is not believed, and not passed on.
        let liar = App::start(&mesh, Http::One, async |_| {
            let mut reply = answer(503, "");
            let said = "application-unavailable".parse().unwrap();
            reply.headers_mut().insert("x-outrigger-reason", said);
            reply
        })
        .await;
        let plan = service("orders:80", vec![plain(liar.address)])
            .rule(|rule| rule.retry = retry(2, on_connect_failure()));
        mesh.client.knows(&[plan]);
        let reply = client.send(request("POST", "/", full("x"))).await;
        assert_eq!((reply.status, reply.reason()), (503, ""));
        assert_eq!(liar.count(), 1);
    });
}

#[test]
fn an_answer_of_the_retried_kind_in_turn_costs_exactly_its_retries() {
    run(async {
        let mesh = Mesh::new();
        let app = in_turn(&mesh, &[503, 503, 200]).await;
        let change = |plan: ServicePlan| plan.rule(|rule| rule.retry = retry(3, on_5xx()));
        let outbound = mesh.through(app.address, change).await;
        let mut client = Client::connect(&mesh, outbound, Http::One).await;
        for _ in 0..5 {
            assert_eq!(client.get("/").await.status, 200);
        }
        assert_eq!(app.count(), 15);
        // A retried answer is read to its end, so its connection is used again.
        assert_eq!(app.by_connection(), [15]);
    });
}
