//! Which backend a request goes to, and the mesh's own answer where there is none.

use http::Request;
use outrigger_model::{HttpAction, Origin, Protocol};

use super::{
    mesh::{Mesh, run},
    peer::{App, Client, Http, answer, empty, get, once},
    plan::{backend, meshed, plain, policy, prefix, rule, service},
};

#[test]
fn the_forward_proxy_knows_services_by_their_authority() {
    run(async {
        let mesh = Mesh::new();
        let app = App::answering(&mesh, 200).await;
        let endpoints = vec![mesh.behind(app.address).await];
        mesh.client.knows(&[service("orders.shop:8080", endpoints)]);
        let proxy = mesh.forward_proxy().await;
        let mut client = Client::connect(&mesh, proxy, Http::One).await;
        let request = |uri: &str, host: &str| {
            let request = Request::builder().uri(uri).header("host", host);
            request.body(empty()).unwrap()
        };
        // The absolute form's authority counts, not Host (RFC 9112 §3.2.2), in any case.
        let reply = client
            .send(request("http://Orders.SHOP:8080/a?b=c", "elsewhere"))
            .await;
        assert_eq!((reply.status, reply.text()), (200, "/a"));
        assert_eq!(app.hits()[0].header("host"), Some("Orders.SHOP:8080"));
        mesh.client.knows_no("nobody:80");
        let reply = client.send(request("http://nobody/", "nobody")).await;
        reply.assert_refused(502, "no-service; ");
        assert_eq!(app.count(), 1);
    });
}

#[test]
fn the_first_request_waits_until_its_service_is_known() {
    run(async {
        let mut mesh = Mesh::new();
        let app = App::answering(&mesh, 200).await;
        let proxy = mesh.forward_proxy().await;
        let mut client = Client::connect(&mesh, proxy, Http::One).await;
        let request = Request::builder()
            .uri("http://orders:80/late")
            .header("host", "orders")
            .body(empty())
            .unwrap();
        let asking = client.send(request);
        let answering = async {
            let asked = mesh.client.demanded.recv().await.unwrap();
            assert_eq!(asked.to_string(), "orders:80");
            let plan = service("orders:80", vec![plain(app.address)]);
            mesh.client.knows(&[plan]);
        };
        let (reply, ()) = tokio::join!(asking, answering);
        assert_eq!(reply.text(), "/late");
    });
}

#[test]
fn weights_split_requests() {
    run(async {
        let mesh = Mesh::new();
        let (v1, v2) = (
            App::answering(&mesh, 200).await,
            App::answering(&mesh, 200).await,
        );
        let mut plan = service("orders:80", Vec::new());
        let (one, two) = (
            backend("orders:80", Some("v1")),
            backend("orders:80", Some("v2")),
        );
        plan.http = vec![rule("split", vec![(90, one.clone()), (10, two.clone())])];
        let (in_1, in_2) = (
            mesh.inbound(v1.address).await,
            mesh.inbound(v2.address).await,
        );
        let identity = &mesh.server.identity;
        plan.targets = vec![
            (one, policy(), vec![meshed(in_1, identity)]),
            (two, policy(), vec![meshed(in_2, identity)]),
        ];
        let outbound = mesh.known(plan).await;
        let mut client = Client::connect(&mesh, outbound, Http::One).await;
        for _ in 0..1000 {
            assert_eq!(client.get("/").await.status, 200);
        }
        // 100 expected, standard deviation 9.5: four of them, from a fixed seed.
        assert_eq!(v1.count() + v2.count(), 1000);
        assert!((62..=138).contains(&v2.count()), "{} of 1000", v2.count());
        let split = mesh
            .client
            .metric("outrigger_requests_total", &[r#"subset="v2""#]);
        assert_eq!(usize::try_from(split), Ok(v2.count()));
    });
}

#[test]
fn refusals_name_what_decided() {
    run(async {
        let mesh = Mesh::new();
        let app = App::answering(&mesh, 200).await;
        let mut plan = service("orders:80", vec![plain(app.address)]);
        let whole = backend("orders:80", None);
        let ruled = |origin: &str, path: &str, to| {
            let mut rule = rule(origin, vec![(1, to)]);
            rule.matches = vec![prefix(path)];
            rule
        };
        let mut invalid = ruled(
            "VirtualService/shop/bad spec.http[2]",
            "/bad",
            whole.clone(),
        );
        invalid.action = HttpAction::Invalid {
            reason: Origin::new("weights sum to 0"),
        };
        let gone = backend("orders:80", Some("v9"));
        let empty = backend("orders:80", Some("v8"));
        plan.http = vec![
            ruled("VirtualService/shop/x spec.http[0]", "/gone", gone),
            ruled(
                "VirtualService/shop/x spec.http[1]",
                "/empty",
                empty.clone(),
            ),
            invalid,
            ruled("ok", "/ok", whole),
        ];
        plan.targets.push((empty, policy(), Vec::new()));
        let outbound = mesh.known(plan).await;
        let mut client = Client::connect(&mesh, outbound, Http::One).await;
        for (path, status, reason) in [
            ("/ok", 200, ""),
            (
                "/gone",
                503,
                "no-endpoint; shop/orders:80 subset v9; by VirtualService/shop/x spec.http[0]",
            ),
            (
                "/empty",
                503,
                "no-endpoint; shop/orders:80 subset v8 has no endpoint; by VirtualService/shop/x spec.http[1]",
            ),
            (
                "/bad",
                500,
                "route-invalid; weights sum to 0; by VirtualService/shop/bad spec.http[2]",
            ),
            ("/other", 404, "no-route; no rule of shop/orders:80 matches"),
        ] {
            let reply = client.get(path).await;
            assert_eq!((reply.status, reply.reason()), (status, reason), "{path}");
        }
        assert_eq!(app.count(), 1);
        let counted = mesh
            .client
            .metric("outrigger_requests_total", &[r#"reason="no-endpoint""#]);
        assert_eq!(counted, 2);
    });
}

#[test]
fn an_application_cannot_speak_in_the_meshs_name() {
    run(async {
        let mesh = Mesh::new();
        let app = App::start(&mesh, Http::One, async |request| {
            assert!(request.headers().get("x-outrigger-attempt").is_none());
            http::Response::builder()
                .header("x-outrigger-reason", "no-route")
                .header("X_Outrigger_Reason", "no-route")
                .body(empty())
                .unwrap()
        })
        .await;
        let outbound = mesh.through(app.address, |plan| plan).await;
        let mut request = get("/");
        let headers = request.headers_mut();
        headers.insert("x-outrigger-attempt", "7".parse().unwrap());
        headers.insert(
            "x-forwarded-client-cert",
            "URI=spiffe://evil".parse().unwrap(),
        );
        let reply = once(&mesh, outbound, request).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.reason(), "");
        let proven = app.hits()[0]
            .header("x-forwarded-client-cert")
            .unwrap()
            .to_owned();
        assert!(
            !proven.contains("evil") && proven.contains("/sa/web"),
            "{proven}"
        );
    });
}

/// DEF-33: what rules decide on is what the application gets.
#[test]
fn rules_see_the_path_that_is_sent() {
    run(async {
        let mesh = Mesh::new();
        for version in [Http::One, Http::Two] {
            let app = App::start(&mesh, version, |request| {
                let path = request.uri().path_and_query();
                let path = path.map_or("", |path| path.as_str()).to_owned();
                async move { answer(200, path) }
            })
            .await;
            let plan = |authority: &str| service(authority, vec![plain(app.address)]);
            let plan = |authority: &str| match version {
                Http::One => plan(authority),
                Http::Two => plan(authority).speaks(Protocol::Http2),
            };
            let ruled = plan("orders:80").rule(|rule| rule.matches = vec![prefix("/api/v1")]);
            mesh.client.knows(&[ruled, plan("any:80")]);
            let outbound = mesh.outbound("orders:80").await;
            let mut client = Client::connect(&mesh, outbound, version).await;
            for (asked, status, said) in [
                ("/api/v1/a?b=../c", 200, "/api/v1/a?b=../c"),
                ("/api//v1/./a?q", 200, "/api/v1/a?q"),
                ("/x/%2e./api/v1/%61", 200, "/api/v1/a"),
                ("/api/v1/../../admin", 404, "no-route"),
                ("/api/v1/%2Fadmin", 400, "path-ambiguous"),
                ("/api/v1/%zz", 400, "path-ambiguous"),
            ] {
                let reply = client.get(asked).await;
                let (text, reason) = (reply.text().to_owned(), reply.reason());
                let told = if status == 200 { text.as_str() } else { reason };
                assert_eq!(reply.status, status, "{asked}: {told}");
                assert!(told.starts_with(said), "{asked}: {told}");
            }
            // No rule looks at paths: not a byte changes.
            let outbound = mesh.outbound("any:80").await;
            let mut client = Client::connect(&mesh, outbound, version).await;
            let reply = client.get("/a//b/../%2F%61").await;
            assert_eq!((reply.status, reply.text()), (200, "/a//b/../%2F%61"));
        }
    });
}
