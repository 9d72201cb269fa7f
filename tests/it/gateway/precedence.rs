//! Precedence against a naive model: every match that holds, sorted by the criteria of the Gateway
//! API's documentation, one by one.

use std::cmp::Reverse;

use outrigger_policy::RequestView;
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::decide::{Request, World, get};

#[derive(Debug, Clone)]
struct Match {
    exact: bool,
    path: &'static str,
    method: Option<&'static str>,
    headers: Vec<&'static str>,
    query: Vec<&'static str>,
}

#[derive(Debug, Clone)]
struct Route {
    name: &'static str,
    namespace: &'static str,
    second: u8,
    rules: Vec<Vec<Match>>,
}

const PATHS: [&str; 6] = ["/", "/a", "/a/", "/a/b", "/ab", "/a/b/c"];
const NAMES: [&str; 3] = ["p", "q", "r"];

fn one_match() -> impl Strategy<Value = Match> {
    let names = || proptest::sample::subsequence(NAMES.to_vec(), 0..=2);
    (
        any::<bool>(),
        select(PATHS.to_vec()),
        option::of(select(vec!["GET", "POST"])),
        names(),
        names(),
    )
        .prop_map(|(exact, path, method, headers, query)| Match {
            exact,
            path,
            method,
            headers,
            query,
        })
}

fn routes() -> impl Strategy<Value = Vec<Route>> {
    let route = (
        select(vec!["x", "x-y", "z"]),
        0..3_u8,
        vec(vec(one_match(), 1..3), 1..4),
    );
    vec(route, 1..4).prop_map(|routes| {
        let mut routes: Vec<Route> = routes
            .into_iter()
            .map(|(name, second, rules)| Route {
                name,
                namespace: "mesh",
                second,
                rules,
            })
            .collect();
        routes.sort_by_key(|route| route.name);
        routes.dedup_by_key(|route| route.name);
        routes
    })
}

fn request() -> impl Strategy<Value = Request> {
    let names = || proptest::sample::subsequence(NAMES.to_vec(), 0..=3);
    let paths = select(vec![
        "/", "/a", "/a/", "/a/b", "/ab", "/a/b/c", "/a/b/c/d", "/other",
    ]);
    (paths, select(vec!["GET", "POST"]), names(), names()).prop_map(
        |(path, method, headers, query)| {
            let query: Vec<String> = query.iter().map(|name| format!("{name}=1")).collect();
            let request = get(&format!("{path}?{}", query.join("&"))).method(method);
            let with = |request: Request, name: &&str| request.with(name, "1");
            headers.iter().fold(request, with)
        },
    )
}

fn yaml(routes: &[Route]) -> String {
    let named = |names: &[&str]| {
        let entries: Vec<String> = names
            .iter()
            .map(|name| format!("{{name: {name}, value: '1'}}"))
            .collect();
        entries.join(", ")
    };
    let one = |one: &Match| {
        let kind = if one.exact { "Exact" } else { "PathPrefix" };
        let method = one
            .method
            .map_or(String::new(), |method| format!("method: {method}, "));
        format!(
            "{{path: {{type: {kind}, value: {}}}, {method}headers: [{}], queryParams: [{}]}}",
            one.path,
            named(&one.headers),
            named(&one.query),
        )
    };
    let documents = routes.iter().map(|route| {
        let rules = route.rules.iter().map(|matches| {
            let matches: Vec<String> = matches.iter().map(one).collect();
            let matches = matches.join(", ");
            format!("{{matches: [{matches}], backendRefs: [{{name: echo-v1, port: 80}}]}}")
        });
        let rules: Vec<String> = rules.collect();
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: \
             {{name: {}, namespace: {}, creationTimestamp: '2026-01-01T00:00:0{}Z'}}, \
             spec: {{parentRefs: [{{group: '', kind: Service, name: echo}}], rules: [{}]}}}}",
            route.name,
            route.namespace,
            route.second,
            rules.join(", ")
        )
    });
    documents.collect::<Vec<_>>().join("\n---\n")
}

fn holds(one: &Match, request: &Request) -> bool {
    let path = request.path();
    let elements = |text: &str| -> Vec<String> {
        let parts = text.split('/').filter(|part| !part.is_empty());
        parts.map(str::to_owned).collect()
    };
    let path_holds = if one.exact {
        path == one.path
    } else {
        elements(path).starts_with(&elements(one.path))
    };
    let has_header = |name: &&str| {
        let mut found = false;
        request.visit_header(name, &mut |value| found |= value == b"1");
        found
    };
    let query = request.query().unwrap_or_default();
    let has_parameter = |name: &&str| query.split('&').any(|part| part == format!("{name}=1"));
    path_holds
        && one.method.is_none_or(|method| method == request.method())
        && one.headers.iter().all(has_header)
        && one.query.iter().all(has_parameter)
}

/// The rule that decides, `HTTPRoute/mesh/x spec.rules[0]`.
fn naive(routes: &[Route], request: &Request) -> Option<String> {
    let mut candidates = Vec::new();
    for route in routes {
        for (number, rule) in route.rules.iter().enumerate() {
            for (place, one) in rule.iter().enumerate() {
                if !holds(one, request) {
                    continue;
                }
                // A prefix's trailing `/` is ignored, so it does not make it longer.
                let prefix = one.path.trim_end_matches('/').len().max(1);
                let precedence = (
                    one.exact,
                    if one.exact { 0 } else { prefix },
                    one.method.is_some(),
                    one.headers.len(),
                    one.query.len(),
                );
                let age = (route.second, format!("{}/{}", route.namespace, route.name));
                let name = format!(
                    "HTTPRoute/{}/{} spec.rules[{number}]",
                    route.namespace, route.name
                );
                candidates.push((Reverse(precedence), age, number, place, name));
            }
        }
    }
    candidates.sort();
    candidates.into_iter().next().map(|(.., name)| name)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_most_exact_match_decides_then_the_oldest_route(
        routes in routes(), requests in vec(request(), 1..12)
    ) {
        let world = World::new(&yaml(&routes));
        for request in requests {
            let decided = world.deciding("echo:80", &request);
            prop_assert_eq!(decided, naive(&routes, &request), "{:?}", request);
        }
    }
}
