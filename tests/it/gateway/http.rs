//! HTTPRoutes: whose requests, to whom, with which changes.

use outrigger_compiler::{ConditionKind, Reason};

use super::decide::{Decision, V1, V2, World, get, route, to};

#[test]
fn without_routes_a_service_is_itself() {
    let world = World::new("");
    world.check("echo:80", &get("/"), &to("echo:80"));
    world.check("echo:8080", &get("/any"), &to("echo:8080"));
}

#[test]
fn a_route_without_matches_takes_every_request() {
    let world = World::new(&route(
        "HTTPRoute",
        "all",
        "name: echo, port: 80",
        &format!("{{{V1}}}"),
    ));
    world.check("echo:80", &get("/"), &to("echo-v1:8080"));
    world.check("echo:80", &get("/x").method("DELETE"), &to("echo-v1:8080"));
    world.check("echo:8080", &get("/"), &to("echo:8080"));
}

#[test]
fn prefixes_match_by_elements_and_headers_go_before_none() {
    let rules = format!(
        "{{matches: [{{path: {{type: PathPrefix, value: /}}}}, {{headers: [{{name: version, value: one}}]}}], {V1}}}, \
         {{matches: [{{path: {{type: PathPrefix, value: /v2}}}}, {{headers: [{{name: version, value: two}}]}}], {V2}}}"
    );
    let world = World::new(&route(
        "HTTPRoute",
        "matching",
        "name: echo, port: 80",
        &rules,
    ));
    let (one, two) = (to("echo-v1:8080"), to("echo-v2:8080"));
    for (request, expected) in [
        (get("/"), &one),
        (get("/example"), &one),
        (get("/").with("Version", "one"), &one),
        (get("/v2"), &two),
        (get("/v2/"), &two),
        (get("/v2/example"), &two),
        (get("/v2example"), &one),
        (get("/foo/v2/example"), &one),
        (get("/").with("VERSION", "two"), &two),
        (get("/").with("version", "Two"), &one),
    ] {
        world.check("echo:80", &request, expected);
    }
}

#[test]
fn what_no_rule_matches_is_not_found() {
    let rule = |path: &str, to: &str| {
        format!("{{matches: [{{path: {{type: Exact, value: {path}}}}}], {to}}}")
    };
    let rules = format!("{}, {}", rule("/v1", V1), rule("/v2", V2));
    let world = World::new(&route("HTTPRoute", "split", "name: echo", &rules));
    for port in ["echo:80", "echo:8080"] {
        world.check(port, &get("/v1"), &to("echo-v1:8080"));
        world.check(port, &get("/v2"), &to("echo-v2:8080"));
        world.check(port, &get("/"), &Decision::NoRoute);
        world.check(port, &get("/v1/"), &Decision::NoRoute);
        world.check(port, &get("/V1"), &Decision::NoRoute);
    }
}

#[test]
fn query_parameters_combine_with_other_conditions() {
    let rule = |matches: &str, to: &str| format!("{{matches: [{matches}], {to}}}");
    let animal = |value: &str| format!("queryParams: [{{name: animal, value: {value}}}]");
    let path = |value: &str| format!("path: {{value: {value}}}");
    let rules = [
        rule(&format!("{{{}}}", animal("whale")), V1),
        rule(&format!("{{{}}}", animal("dolphin")), V2),
        rule(&format!("{{{}, {}}}", path("/path1"), animal("whale")), V2),
        rule(
            &format!(
                "{{headers: [{{name: version, value: one}}], {}}}",
                animal("whale")
            ),
            V2,
        ),
        rule(&format!("{{{}}}", path("/path5")), V1),
        rule(&format!("{{{}}}", animal("hydra")), V2),
    ];
    let world = World::new(&route(
        "HTTPRoute",
        "query",
        "name: echo, port: 80",
        &rules.join(", "),
    ));
    let (one, two) = (to("echo-v1:8080"), to("echo-v2:8080"));
    for (request, expected) in [
        (get("/?animal=whale"), &one),
        (get("/?animal=dolphin"), &two),
        (get("/?animal=whale&otherparam=irrelevant"), &one),
        (get("/?color=blue&animal=dolphin"), &two),
        (get("/?animal=dog"), &Decision::NoRoute),
        (get("/?animal=whaledolphin"), &Decision::NoRoute),
        (get("/?Animal=whale"), &Decision::NoRoute),
        (get("/"), &Decision::NoRoute),
        (get("/path1?animal=whale"), &two),
        (get("/?animal=whale").with("version", "one"), &two),
        // A longer path goes before a parameter.
        (get("/path5?animal=hydra"), &one),
    ] {
        world.check("echo:80", &request, expected);
    }
}

#[test]
fn weights_are_shares_and_zero_is_none() {
    let refs = "backendRefs: [{name: echo-v1, port: 8080, weight: 70}, \
                {name: echo-v2, port: 8080, weight: 30}, {name: echo, port: 8080, weight: 0}]";
    let world = World::new(&route(
        "HTTPRoute",
        "weights",
        "name: echo, port: 80",
        &format!("{{{refs}}}"),
    ));
    let shares = vec![
        (70, "echo-v1:8080".to_owned()),
        (30, "echo-v2:8080".to_owned()),
    ];
    world.check("echo:80", &get("/"), &Decision::Split(shares));
}

#[test]
fn header_changes_of_rules_and_of_backends_are_the_same() {
    let edits = "requestHeaderModifier: {set: [{name: X-Header-Set, value: new}], \
                 add: [{name: X-Header-Add, value: more}, {name: X-Header-Only, value: one}], \
                 remove: [X-Header-Remove]}";
    let filter = format!("filters: [{{type: RequestHeaderModifier, {edits}}}]");
    let of_rule = format!("{{{filter}, {V1}}}");
    let of_backend = format!("{{backendRefs: [{{name: echo-v1, port: 8080, {filter}}}]}}");
    for rules in [of_rule, of_backend] {
        let world = World::new(&route(
            "HTTPRoute",
            "headers",
            "name: echo, port: 80",
            &rules,
        ));
        let request = get("/x")
            .with("x-header-set", "old")
            .with("X-HEADER-ADD", "first")
            .with("x-header-remove", "gone")
            .with("Other", "kept");
        let seen = world.seen("echo:80", &request);
        let expected = [
            ("other", "kept"),
            ("x-header-add", "first,more"),
            ("x-header-only", "one"),
            ("x-header-set", "new"),
        ];
        assert!(
            seen.fields
                .iter()
                .map(|(n, v)| (n.as_str(), v.as_str()))
                .eq(expected),
            "{seen:?}"
        );
        assert_eq!((seen.target.as_str(), seen.authority), ("/x", None));
    }
}

#[test]
fn paths_are_rewritten_beside_headers() {
    let rewrite = |prefix: &str, path: &str| {
        format!(
            "{{matches: [{{path: {{value: {prefix}}}}}], \
             filters: [{{type: URLRewrite, urlRewrite: {{path: {{{path}}}}}}}, \
             {{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-set, value: rewritten}}]}}}}], {V1}}}"
        )
    };
    let rules = [
        rewrite(
            "/prefix/one",
            "type: ReplacePrefixMatch, replacePrefixMatch: /one",
        ),
        rewrite("/strip", "type: ReplacePrefixMatch, replacePrefixMatch: /"),
        rewrite("/full", "type: ReplaceFullPath, replaceFullPath: /whole"),
    ];
    let world = World::new(&route(
        "HTTPRoute",
        "rewrite",
        "name: echo, port: 80",
        &rules.join(", "),
    ));
    for (target, expected) in [
        ("/prefix/one/two", "/one/two"),
        ("/prefix/one", "/one"),
        ("/strip/three?a=b", "/three?a=b"),
        ("/strip", "/"),
        ("/full/one/two?q", "/whole?q"),
    ] {
        let seen = world.seen("echo:80", &get(target));
        assert_eq!(seen.target, expected);
        assert_eq!(seen.fields["x-set"], "rewritten");
    }
}

/// A filter that marks answers, so that a test sees who decided.
fn marking(value: &str) -> String {
    format!(
        "filters: [{{type: ResponseHeaderModifier, \
         responseHeaderModifier: {{set: [{{name: X-Header-Set, value: {value}}}]}}}}]"
    )
}

#[test]
fn a_parent_may_be_one_port_by_number_or_name() {
    let rules = |value: &str| format!("{{{}, {V1}}}", marking(value));
    let world = World::new(&format!(
        "{}{}{}",
        route(
            "HTTPRoute",
            "by-number",
            "name: echo-v1, port: 80",
            &rules("number")
        ),
        route(
            "HTTPRoute",
            "by-name",
            "name: echo, sectionName: http-alt",
            &rules("name")
        ),
        route("HTTPRoute", "every", "name: echo-v2", &rules("every")),
    ));
    for (service, expected) in [
        ("echo-v1:80", Some("number")),
        ("echo-v1:8080", None),
        ("echo:8080", Some("name")),
        ("echo:80", None),
        ("echo-v2:80", Some("every")),
        ("echo-v2:8080", Some("every")),
    ] {
        let answered = world.answered("mesh", service);
        let found = answered.get("x-header-set").map(String::as_str);
        assert_eq!(found, expected, "{service}");
    }
}

#[test]
fn a_consumer_route_is_for_clients_of_its_namespace_alone() {
    let world = World::new(&format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, \
         metadata: {{name: mine, namespace: consumer}}, \
         spec: {{parentRefs: [{{group: '', kind: Service, name: echo-v1, namespace: mesh}}], \
         rules: [{{{}, backendRefs: [{{name: echo-v1, namespace: mesh, port: 80}}]}}]}}}}",
        marking("consumer")
    ));
    let marked = |namespace| world.answered(namespace, "echo-v1:80");
    assert_eq!(marked("consumer")["x-header-set"], "consumer");
    assert!(marked("mesh").is_empty());
    assert!(marked("other").is_empty());
    world.check_from("consumer", "echo-v1:80", &get("/"), &to("echo-v1:80"));
    let route = "HTTPRoute/consumer/mine";
    world.check_condition(route, ConditionKind::Accepted, true, Reason::Accepted);
    world.check_condition(
        route,
        ConditionKind::ResolvedRefs,
        true,
        Reason::ResolvedRefs,
    );
}

#[test]
fn a_consumer_route_goes_before_the_producers() {
    let producer = route("HTTPRoute", "theirs", "name: echo", &format!("{{{V1}}}"));
    let world = World::new(&format!(
        "{producer}\
         {{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, \
         metadata: {{name: mine, namespace: consumer}}, \
         spec: {{parentRefs: [{{group: '', kind: Service, name: echo, namespace: mesh, port: 80}}], \
         rules: [{{matches: [{{path: {{value: /only}}}}], backendRefs: [{{name: echo, namespace: mesh, port: 80}}]}}]}}}}"
    ));
    world.check_from("consumer", "echo:80", &get("/only"), &to("echo:80"));
    // They are not merged: what the consumer's rules leave open is not found.
    world.check_from("consumer", "echo:80", &get("/"), &Decision::NoRoute);
    world.check_from("consumer", "echo:8080", &get("/"), &to("echo-v1:8080"));
    world.check_from("mesh", "echo:80", &get("/only"), &to("echo-v1:8080"));
}

#[test]
fn a_reference_into_another_namespace_needs_its_grant() {
    let far = "{apiVersion: v1, kind: Service, metadata: {name: far, namespace: other}, spec: {ports: [{port: 80}]}}\n---\n";
    let refs = "backendRefs: [{name: far, namespace: other, port: 80}, {name: echo-v1, port: 80, weight: 3}]";
    let route = route(
        "HTTPRoute",
        "across",
        "name: echo, port: 80",
        &format!("{{{refs}}}"),
    );
    let grant = |kind: &str, from: &str, to: &str| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {{name: g, namespace: other}}, \
             spec: {{from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: {from}}}], \
             to: [{{group: '', kind: {to}}}]}}}}"
        )
    };
    let shares =
        |first: &str| Decision::Split(vec![(1, first.to_owned()), (3, "echo-v1:80".to_owned())]);
    for (grant, is_allowed) in [
        (grant("HTTPRoute", "mesh", "Service"), true),
        (grant("HTTPRoute", "mesh", "Service, name: far"), true),
        (grant("HTTPRoute", "mesh", "Service, name: near"), false),
        (grant("HTTPRoute", "other", "Service"), false),
        (grant("GRPCRoute", "mesh", "Service"), false),
        (grant("HTTPRoute", "mesh", "Secret"), false),
        (String::new(), false),
    ] {
        let world = World::new(&format!("{far}{route}{grant}"));
        let expected = if is_allowed { "other/far:80" } else { "500" };
        world.check("echo:80", &get("/"), &shares(expected));
        let reason = if is_allowed {
            Reason::ResolvedRefs
        } else {
            Reason::RefNotPermitted
        };
        let kind = ConditionKind::ResolvedRefs;
        world.check_condition("HTTPRoute/mesh/across", kind, is_allowed, reason);
    }
}

#[test]
fn backends_that_are_none_take_their_share_of_500() {
    for (backend, reason) in [
        ("{name: nobody, port: 80}", Reason::BackendNotFound),
        ("{name: echo, port: 81}", Reason::BackendNotFound),
        (
            "{name: echo, kind: Bucket, group: storage.example}",
            Reason::InvalidKind,
        ),
    ] {
        let rules = format!("{{backendRefs: [{backend}, {{name: echo-v1, port: 80}}]}}");
        let world = World::new(&route("HTTPRoute", "half", "name: echo, port: 80", &rules));
        let shares = vec![(1, "500".to_owned()), (1, "echo-v1:80".to_owned())];
        world.check("echo:80", &get("/"), &Decision::Split(shares));
        world.check_condition(
            "HTTPRoute/mesh/half",
            ConditionKind::ResolvedRefs,
            false,
            reason,
        );
        world.check_condition(
            "HTTPRoute/mesh/half",
            ConditionKind::Accepted,
            true,
            Reason::Accepted,
        );
    }
    for nothing in [
        "{}",
        "{backendRefs: []}",
        "{backendRefs: [{name: echo, port: 80, weight: 0}]}",
    ] {
        let world = World::new(&route("HTTPRoute", "none", "name: echo, port: 80", nothing));
        world.check(
            "echo:80",
            &get("/"),
            &Decision::Split(vec![(1, "500".to_owned())]),
        );
    }
}

#[test]
fn what_is_not_supported_answers_500_and_says_so() {
    let mirror = "{matches: [{path: {value: /mirror}}], \
        filters: [{type: RequestMirror, requestMirror: {backendRef: {name: echo, port: 80}}}], \
        backendRefs: [{name: echo-v1, port: 80}]}";
    let fine = format!("{{{V1}}}");
    let half = World::new(&route(
        "HTTPRoute",
        "r",
        "name: echo",
        &format!("{mirror}, {fine}"),
    ));
    half.check("echo:80", &get("/mirror"), &Decision::Invalid);
    half.check("echo:80", &get("/"), &to("echo-v1:8080"));
    let name = "HTTPRoute/mesh/r";
    half.check_condition(name, ConditionKind::Accepted, true, Reason::Accepted);
    half.check_condition(
        name,
        ConditionKind::PartiallyInvalid,
        true,
        Reason::UnsupportedValue,
    );
    let whole = World::new(&route("HTTPRoute", "r", "name: echo", mirror));
    whole.check_condition(
        name,
        ConditionKind::Accepted,
        false,
        Reason::UnsupportedValue,
    );
    assert_eq!(whole.condition(name, ConditionKind::PartiallyInvalid), None);
    // A match that cannot be used takes nothing from anybody.
    let regex = format!("{{matches: [{{path: {{type: RegularExpression, value: '('}}}}], {V2}}}");
    let world = World::new(&route(
        "HTTPRoute",
        "r",
        "name: echo",
        &format!("{regex}, {fine}"),
    ));
    world.check("echo:80", &get("/("), &to("echo-v1:8080"));
    world.check_condition(
        name,
        ConditionKind::PartiallyInvalid,
        true,
        Reason::UnsupportedValue,
    );
}

#[test]
fn parents_that_are_none_do_not_accept() {
    for parent in [
        "name: nobody",
        "name: echo, port: 81",
        "name: echo, sectionName: nothing",
    ] {
        let world = World::new(&route("HTTPRoute", "r", parent, &format!("{{{V1}}}")));
        let (name, kind) = ("HTTPRoute/mesh/r", ConditionKind::Accepted);
        world.check_condition(name, kind, false, Reason::NoMatchingParent);
        world.check("echo:80", &get("/"), &to("echo:80"));
    }
}

#[test]
fn a_virtual_service_decides_only_where_no_route_is_attached() {
    let virtual_service = "{apiVersion: networking.istio.io/v1, kind: VirtualService, \
        metadata: {name: echo, namespace: mesh}, \
        spec: {hosts: [echo], http: [{route: [{destination: {host: echo-v2, port: {number: 80}}}]}]}}\n---\n";
    let attached = route(
        "HTTPRoute",
        "r",
        "name: echo, port: 80",
        &format!("{{{V1}}}"),
    );
    let world = World::new(&format!("{virtual_service}{attached}"));
    world.check("echo:80", &get("/"), &to("echo-v1:8080"));
    world.check("echo:8080", &get("/"), &to("echo-v2:80"));
}
