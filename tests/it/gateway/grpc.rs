//! GRPCRoutes: methods, headers, weights, and what they do to HTTPRoutes.

use outrigger_compiler::{ConditionKind, Reason};

use super::decide::{Decision, V1, World, get, route, to};

const PARENT: &str = "name: echo, port: 7070";
const ONE: &str = "backendRefs: [{name: echo-v1, port: 7070}]";
const TWO: &str = "backendRefs: [{name: echo-v2, port: 7070}]";

#[test]
fn weights_are_shares() {
    let refs = "backendRefs: [{name: echo-v1, port: 7070, weight: 70}, {name: echo-v2, port: 7070, weight: 30}, \
                {name: echo, port: 7070, weight: 0}]";
    let world = World::new(&route(
        "GRPCRoute",
        "weights",
        PARENT,
        &format!("{{{refs}}}"),
    ));
    let shares = vec![
        (70, "echo-v1:7070".to_owned()),
        (30, "echo-v2:7070".to_owned()),
    ];
    world.check(
        "echo:7070",
        &get("/proto.Echo/Echo"),
        &Decision::Split(shares),
    );
    world.check("echo:80", &get("/"), &to("echo:80"));
}

#[test]
fn headers_choose_rules_and_are_changed() {
    let rule = |case: &str, edit: &str, to: &str| {
        format!(
            "{{matches: [{{headers: [{{name: x-test-case, value: {case}}}]}}], \
             filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{{edit}}}}}], {to}}}"
        )
    };
    let rules = [
        rule("set", "set: [{name: x-a, value: new}]", ONE),
        rule("add", "add: [{name: x-a, value: more}]", ONE),
        rule("remove", "remove: [x-a]", TWO),
    ];
    let world = World::new(&route("GRPCRoute", "headers", PARENT, &rules.join(", ")));
    let call = |case: &str| {
        get("/proto.Echo/Echo")
            .with("x-test-case", case)
            .with("X-A", "old")
    };
    for (case, expected) in [
        ("set", Some("new")),
        ("add", Some("old,more")),
        ("remove", None),
    ] {
        let seen = world.seen("echo:7070", &call(case));
        assert_eq!(
            seen.fields.get("x-a").map(String::as_str),
            expected,
            "{case}"
        );
    }
    world.check("echo:7070", &call("remove"), &to("echo-v2:7070"));
    world.check("echo:7070", &call("other"), &Decision::NoRoute);
}

#[test]
fn methods_are_matched_by_service_by_method_and_by_both() {
    let rule = |method: &str, port: u16| {
        format!(
            "{{matches: [{{method: {{{method}}}}}], backendRefs: [{{name: echo-v1, port: {port}}}]}}"
        )
    };
    let rules = [
        rule("method: Get", 80),
        rule("service: shop.Orders", 8080),
        rule("service: shop.Orders, method: Get", 7070),
    ];
    let world = World::new(&route("GRPCRoute", "methods", PARENT, &rules.join(", ")));
    world.check("echo:7070", &get("/shop.Orders/Get"), &to("echo-v1:7070"));
    world.check("echo:7070", &get("/shop.Orders/List"), &to("echo-v1:8080"));
    world.check("echo:7070", &get("/shop.Users/Get"), &to("echo-v1:80"));
    world.check("echo:7070", &get("/shop.OrdersX/List"), &Decision::NoRoute);
    world.check("echo:7070", &get("/shop.Orders/get"), &to("echo-v1:8080"));
    world.check("echo:7070", &get("/a/shop.Orders/Get"), &Decision::NoRoute);
    let regex = rule(
        "type: RegularExpression, service: 'shop\\..+', method: 'Get|List'",
        80,
    );
    let world = World::new(&route("GRPCRoute", "regex", PARENT, &regex));
    world.check("echo:7070", &get("/shop.Users/List"), &to("echo-v1:80"));
    world.check("echo:7070", &get("/shop.Users/Lists"), &Decision::NoRoute);
    world.check("echo:7070", &get("/shopX/Get"), &Decision::NoRoute);
}

#[test]
fn an_http_route_beside_it_does_not_count() {
    let grpc = route("GRPCRoute", "grpc", PARENT, &format!("{{{ONE}}}"));
    let http = route("HTTPRoute", "http", "name: echo", &format!("{{{V1}}}"));
    let world = World::new(&format!("{grpc}{http}"));
    world.check("echo:7070", &get("/any"), &to("echo-v1:7070"));
    world.check("echo:80", &get("/any"), &to("echo-v1:8080"));
    // It decides for other ports, so its parent takes it.
    world.check_condition(
        "HTTPRoute/mesh/http",
        ConditionKind::Accepted,
        true,
        Reason::Accepted,
    );
    let http = route("HTTPRoute", "http", PARENT, &format!("{{{V1}}}"));
    let world = World::new(&format!("{grpc}{http}"));
    world.check_condition(
        "HTTPRoute/mesh/http",
        ConditionKind::Accepted,
        false,
        Reason::Conflicted,
    );
    world.check_condition(
        "GRPCRoute/mesh/grpc",
        ConditionKind::Accepted,
        true,
        Reason::Accepted,
    );
}
