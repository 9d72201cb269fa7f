//! What a route changes on the way, on real connections of both versions, and what it answers itself.

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use outrigger_model::{
    FieldEdit, FieldName, FieldValue, Filters, HostRewrite, Hostname, HttpAction, HttpRule,
    HttpTarget, NewField, Origin, PathMatch, PathRewrite, PathText, Port, Protocol, QueryMatch,
    Redirect, RedirectStatus, Scheme, TextMatch, Weight,
};
use std::net::SocketAddr;

use super::{
    mesh::{Mesh, run},
    peer::{App, Client, Content, Http, Reply, answer, empty, request},
    plan::{ServicePlan, backend, prefix, rule},
};

/// Answers with what came: the target, then every field, one a line.
async fn mirror(mesh: &Mesh, version: Http) -> App {
    App::start(mesh, version, async |request: Request<Incoming>| {
        let mut text = format!("{}\n", request.uri().path_and_query().unwrap());
        if let Some(authority) = request.uri().authority() {
            text.push_str(&format!("host: {authority}\n"));
        }
        for (name, value) in request.headers() {
            text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
        }
        let mut response: Response<Content> = answer(200, text);
        let headers = response.headers_mut();
        headers.append("set-cookie", HeaderValue::from_static("a=1"));
        headers.insert("x-inner", HeaderValue::from_static("secret"));
        headers.insert("server", HeaderValue::from_static("app"));
        response
    })
    .await
}

async fn through(mesh: &Mesh, app: &App, version: Http, rules: Vec<HttpRule>) -> SocketAddr {
    let change = |mut plan: ServicePlan| {
        plan.http = rules;
        match version {
            Http::One => plan,
            Http::Two => plan.speaks(Protocol::Http2),
        }
    };
    mesh.through(app.address, change).await
}

fn name(text: &str) -> FieldName {
    FieldName::parse(text).unwrap()
}

fn field(field: &str, value: &str) -> NewField {
    NewField {
        name: name(field),
        value: FieldValue::parse(value).unwrap(),
    }
}

fn path(text: &str) -> PathText {
    PathText::parse(text).unwrap()
}

/// A rule for a path and what is below it.
fn on(path: &str, filters: Filters) -> HttpRule {
    let mut rule = rule(
        "HTTPRoute/shop/r spec.rules[0]",
        vec![(1, backend("orders:80", None))],
    );
    let mut condition = prefix(path);
    condition.path = PathMatch::Elements(path.to_owned());
    rule.matches = vec![condition];
    rule.filters = filters;
    rule
}

fn asked(target: &str, fields: &[(&'static str, &'static str)]) -> Request<Content> {
    let mut request = request("GET", target, empty());
    for (name, value) in fields {
        request
            .headers_mut()
            .append(*name, HeaderValue::from_static(value));
    }
    request
}

/// Values of a field as the application saw it, in order.
fn seen<'a>(reply: &'a Reply, name: &str) -> Vec<&'a str> {
    let lines = reply.text().lines();
    let fields = lines.filter_map(|line| line.split_once(": "));
    fields
        .filter(|(field, _)| *field == name)
        .map(|(_, value)| value)
        .collect()
}

const BOTH: [Http; 2] = [Http::One, Http::Two];

#[test]
fn fields_are_set_added_and_removed_both_ways() {
    run(async {
        for version in BOTH {
            let mesh = Mesh::new();
            let app = mirror(&mesh, version).await;
            let filters = Filters {
                request: FieldEdit {
                    set: vec![field("X-Set", "new")],
                    add: vec![field("X-Add", "two")],
                    remove: vec![name("X-Gone")],
                },
                response: FieldEdit {
                    set: vec![field("server", "mesh")],
                    add: vec![field("Set-Cookie", "b=2")],
                    remove: vec![name("x-inner")],
                },
                ..Filters::default()
            };
            let outbound = through(&mesh, &app, version, vec![on("/a", filters)]).await;
            let mut client = Client::connect(&mesh, outbound, version).await;
            // Twice: the second request finds the connections of the first.
            for _ in 0..2 {
                let fields = [
                    ("x-set", "old"),
                    ("x-set", "older"),
                    ("x-add", "one"),
                    ("x-gone", "1"),
                    ("x-kept", "1"),
                ];
                let reply = client.send(asked("/a?q=1", &fields)).await;
                assert_eq!(reply.status, 200, "{version:?} {reply:?}");
                assert_eq!(reply.text().lines().next(), Some("/a?q=1"));
                assert_eq!(seen(&reply, "x-set"), ["new"], "{version:?}");
                assert_eq!(seen(&reply, "x-add"), ["one", "two"], "{version:?}");
                assert_eq!(seen(&reply, "x-gone"), [""; 0], "{version:?}");
                assert_eq!(seen(&reply, "x-kept"), ["1"], "{version:?}");
                let cookies = reply.headers.get_all("set-cookie").iter();
                let cookies: Vec<_> = cookies.map(|value| value.to_str().unwrap()).collect();
                assert_eq!(cookies, ["a=1", "b=2"], "{version:?}");
                assert_eq!(reply.header("server"), Some("mesh"));
                assert_eq!(reply.header("x-inner"), None);
            }
        }
    });
}

#[test]
fn path_and_host_are_rewritten() {
    run(async {
        for version in BOTH {
            let mesh = Mesh::new();
            let app = mirror(&mesh, version).await;
            let rewrite = |path, host: Option<&str>| Filters {
                path,
                host: host.map_or(HostRewrite::Keep, |host| {
                    HostRewrite::To(Hostname::parse(host).unwrap())
                }),
                ..Filters::default()
            };
            let by_prefix = PathRewrite::Prefix {
                matched: path("/old"),
                replacement: path("/new"),
            };
            let mut own = on("/backend", rewrite(PathRewrite::Full(path("/rule")), None));
            if let HttpAction::Forward(shares) = &mut own.action {
                shares[0].filters = rewrite(PathRewrite::Full(path("/own")), None);
            }
            let rules = vec![
                on("/old", rewrite(by_prefix, None)),
                on(
                    "/whole",
                    rewrite(PathRewrite::Full(path("/one")), Some("inner.example")),
                ),
                own,
            ];
            let outbound = through(&mesh, &app, version, rules).await;
            let mut client = Client::connect(&mesh, outbound, version).await;
            for (target, expected, host) in [
                ("/old/a?x=/old", "/new/a?x=/old", "orders"),
                ("/old", "/new", "orders"),
                ("/whole/a/b?c", "/one?c", "inner.example"),
                ("/backend", "/own", "orders"),
            ] {
                let reply = client.send(asked(target, &[])).await;
                assert_eq!(reply.text().lines().next(), Some(expected), "{version:?}");
                assert_eq!(seen(&reply, "host"), [host], "{version:?} {target}");
            }
            assert_eq!(client.get("/older").await.status, 404);
        }
    });
}

#[test]
fn redirects_are_answered_by_the_mesh() {
    run(async {
        for version in BOTH {
            let mesh = Mesh::new();
            let app = mirror(&mesh, version).await;
            let mut away = on("/away", Filters::default());
            away.action = HttpAction::Redirect(Redirect {
                scheme: Scheme::Https,
                host: HostRewrite::Keep,
                port: Port::new(8443_u16).unwrap(),
                path: PathRewrite::Prefix {
                    matched: path("/away"),
                    replacement: path("/there"),
                },
                status: RedirectStatus::Permanent,
            });
            let rest = on("/stay", Filters::default());
            let outbound = through(&mesh, &app, version, vec![away, rest]).await;
            let mut client = Client::connect(&mesh, outbound, version).await;
            // A gRPC client is told in HTTP's words too.
            for kind in ["text/plain", "application/grpc"] {
                let mut request = request("POST", "/away/x?q=1", super::peer::full("body"));
                let headers = request.headers_mut();
                headers.insert("content-type", HeaderValue::from_static(kind));
                let reply = client.send(request).await;
                let location = reply.header("location");
                assert_eq!(
                    (reply.status, location),
                    (308, Some("https://orders:8443/there/x?q=1")),
                    "{version:?} {kind}"
                );
                assert_eq!(
                    reply.reason(),
                    "redirect; by HTTPRoute/shop/r spec.rules[0]"
                );
            }
            let head = client.send(request("HEAD", "/away", empty())).await;
            assert_eq!((head.status, head.body), (308, Bytes::new()));
            assert_eq!(app.count(), 0);
            // The connection goes on.
            assert_eq!(client.get("/stay").await.status, 200);
        }
    });
}

#[test]
fn query_parameters_choose_the_rule() {
    run(async {
        for version in BOTH {
            let mesh = Mesh::new();
            let app = mirror(&mesh, version).await;
            let mut chosen = on("/", Filters::default());
            chosen.matches[0].path = PathMatch::Any;
            chosen.matches[0].query = vec![QueryMatch {
                name: "animal".to_owned(),
                value: TextMatch::Exact("sea cow".to_owned()),
            }];
            let outbound = through(&mesh, &app, version, vec![chosen]).await;
            let mut client = Client::connect(&mesh, outbound, version).await;
            for (target, status) in [
                ("/?animal=sea%20cow", 200),
                ("/x?a&animal=sea%20cow&b", 200),
                ("/?animal=sea", 404),
                ("/", 404),
            ] {
                assert_eq!(
                    client.get(target).await.status,
                    status,
                    "{version:?} {target}"
                );
            }
        }
    });
}

#[test]
fn a_backend_that_is_none_takes_its_share() {
    run(async {
        let mesh = Mesh::new();
        let app = mirror(&mesh, Http::One).await;
        let mut split = on("/", Filters::default());
        split.matches.clear();
        if let HttpAction::Forward(shares) = &mut split.action {
            let mut invalid = shares[0].clone();
            invalid.weight = Weight::new(1_u32).unwrap();
            invalid.target = HttpTarget::Invalid {
                reason: Origin::new("no service has host x"),
            };
            shares.push(invalid);
        }
        let outbound = through(&mesh, &app, Http::One, vec![split]).await;
        let mut client = Client::connect(&mesh, outbound, Http::One).await;
        let mut refused = 0;
        for _ in 0..400 {
            let reply = client.get("/").await;
            if reply.status == 500 {
                refused += 1;
                let reason =
                    "backend-invalid; no service has host x; by HTTPRoute/shop/r spec.rules[0]";
                assert_eq!(reply.reason(), reason);
            } else {
                assert_eq!(reply.status, 200);
            }
        }
        // 200 expected, standard deviation 10: five of them, from a fixed seed.
        assert!((150..=250).contains(&refused), "{refused} of 400");
        assert_eq!(app.count(), 400 - refused);
    });
}

#[test]
fn grpc_clients_are_told_in_their_words() {
    run(async {
        let mesh = Mesh::new();
        let app = mirror(&mesh, Http::Two).await;
        let mut invalid = on("/shop.Orders", Filters::default());
        if let HttpAction::Forward(shares) = &mut invalid.action {
            shares[0].target = HttpTarget::Invalid {
                reason: Origin::new("no service has host x"),
            };
        }
        let outbound = through(&mesh, &app, Http::Two, vec![invalid]).await;
        let mut client = Client::connect(&mesh, outbound, Http::Two).await;
        for (method, status, reason) in [
            ("/shop.Orders/Place", "14", "backend-invalid; "),
            ("/shop.Users/Get", "12", "no-route; "),
        ] {
            let mut call = request("POST", method, empty());
            let headers = call.headers_mut();
            headers.insert("content-type", HeaderValue::from_static("application/grpc"));
            headers.remove("host");
            let reply = client.send(call).await;
            assert_eq!(
                (reply.status, reply.header("grpc-status")),
                (200, Some(status))
            );
            assert!(reply.reason().starts_with(reason), "{reply:?}");
        }
        assert_eq!(app.count(), 0);
    });
}
