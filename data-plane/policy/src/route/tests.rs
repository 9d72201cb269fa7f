//! Which rule a request takes.

use std::time::Duration;

use outrigger_model::{
    Backoff, DestinationName, Filters, HeaderMatch, HeaderTest, HttpMatch, MethodMatch, PathMatch,
    Percent, QueryMatch, Ratio, RetryBudget, RetryConditions, TextMatch, Weight,
};

use super::*;

struct Request {
    method: &'static str,
    path: &'static str,
    query: Option<&'static str>,
    headers: Vec<(&'static str, &'static [u8])>,
}

impl RequestView for Request {
    fn method(&self) -> &str {
        self.method
    }
    fn path(&self) -> &str {
        self.path
    }
    fn query(&self) -> Option<&str> {
        self.query
    }
    fn visit_header(&self, name_lowercase: &str, visit: &mut dyn FnMut(&[u8])) {
        for (name, value) in &self.headers {
            if name.eq_ignore_ascii_case(name_lowercase) {
                visit(value);
            }
        }
    }
}

fn get(path: &'static str) -> Request {
    Request {
        method: "GET",
        path,
        query: None,
        headers: Vec::new(),
    }
}

fn with(headers: &[(&'static str, &'static str)]) -> Request {
    Request {
        headers: headers.iter().map(|(n, v)| (*n, v.as_bytes())).collect(),
        ..get("/")
    }
}

fn backend(name: &str, weight: u32) -> WeightedBackend {
    WeightedBackend {
        weight: Weight::new(weight).unwrap(),
        backend: Backend {
            destination: name.parse::<DestinationName>().unwrap(),
            subset: None,
        },
    }
}

fn rule(matches: Vec<HttpMatch>, weight: u32) -> HttpRule {
    HttpRule {
        origin: Origin::new("VirtualService/shop/orders spec.http[0]"),
        matches,
        action: HttpAction::Forward(vec![backend("shop/orders:80", weight).into()]),
        filters: Filters::default(),
        timeout: Timeout::After(Duration::from_secs(5)),
        retry: RetryPolicy {
            attempts: 2,
            per_try_timeout: Timeout::Disabled,
            on: RetryConditions::default(),
            on_idempotent: RetryConditions::default(),
            backoff: Backoff {
                base: Duration::from_millis(25),
                max: Duration::from_millis(250),
                jitter: Ratio::ONE,
            },
            budget: RetryBudget {
                percent: Percent::new(20).unwrap(),
                min_per_second: 10,
            },
        },
    }
}

fn table(http: Vec<HttpRule>) -> Result<HttpTable, RouteError> {
    HttpTable::compile(&RouteTable {
        name: "shop/orders:80".parse().unwrap(),
        http,
        tcp: Vec::new(),
    })
}

fn path(path: PathMatch) -> HttpMatch {
    HttpMatch {
        path,
        method: MethodMatch::Any,
        headers: Vec::new(),
        query: Vec::new(),
    }
}

fn method(text: TextMatch) -> HttpMatch {
    HttpMatch {
        method: MethodMatch::Text(text),
        ..path(PathMatch::Any)
    }
}

fn header(name: &str, test: HeaderTest) -> HttpMatch {
    HttpMatch {
        headers: vec![HeaderMatch {
            name: name.into(),
            test,
        }],
        ..path(PathMatch::Any)
    }
}

#[track_caller]
fn check(one: HttpMatch, request: &Request, expected: bool) {
    let table = table(vec![rule(vec![one.clone()], 1)]).unwrap();
    assert_eq!(table.find(request).is_some(), expected, "{one:?}");
}

#[test]
fn paths() {
    let exact = || path(PathMatch::Exact("/a".into()));
    check(exact(), &get("/a"), true);
    check(exact(), &get("/A"), false);
    check(exact(), &get("/a/"), false);
    let prefix = || path(PathMatch::Prefix("/api/v1".into()));
    check(prefix(), &get("/api/v1"), true);
    check(prefix(), &get("/api/v1/x"), true);
    check(prefix(), &get("/api/v10"), true);
    check(prefix(), &get("/api"), false);
    let elements = || path(PathMatch::Elements("/api/v1".into()));
    check(elements(), &get("/api/v1"), true);
    check(elements(), &get("/api/v1/"), true);
    check(elements(), &get("/api/v1/x"), true);
    check(elements(), &get("/api/v10"), false);
    check(elements(), &get("/api/V1"), false);
    check(elements(), &get("/x/api/v1"), false);
    check(elements(), &get("/api"), false);
    let regex = |text: &str| path(PathMatch::Regex(text.into()));
    check(regex("/a|/b"), &get("/a"), true);
    check(regex("/a|/b"), &get("/b"), true);
    check(regex("/a|/b"), &get("/ab"), false);
    check(regex("/a|/b"), &get("x/b"), false);
    check(regex("/items/[0-9]+"), &get("/items/17"), true);
    check(regex("/items/[0-9]+"), &get("/items/17\n"), false);
    check(regex("(?i)/ITEMS/.*"), &get("/items/17"), true);
    check(regex(r"/\d"), &get("/٣"), false);
    check(regex("/é.*"), &get("/été"), true);
    check(regex(".*"), &get("/"), true);
    check(regex(""), &get("/"), false);
    check(path(PathMatch::Any), &get("*"), true);
}

#[test]
fn methods() {
    check(method(TextMatch::Exact("GET".into())), &get("/"), true);
    check(method(TextMatch::Exact("get".into())), &get("/"), false);
    check(method(TextMatch::Prefix("G".into())), &get("/"), true);
    check(method(TextMatch::Regex("GET|HEAD".into())), &get("/"), true);
    check(method(TextMatch::Regex("GE".into())), &get("/"), false);
}

#[test]
fn headers() {
    let value = |text| HeaderTest::Value(text);
    let exact = |text: &str| header("x-user", value(TextMatch::Exact(text.into())));
    check(exact("jo"), &with(&[("X-User", "jo")]), true);
    check(exact("jo"), &with(&[("x-user", "Jo")]), false);
    check(exact("jo"), &with(&[]), false);
    check(exact(""), &with(&[]), false);
    check(exact(""), &with(&[("x-user", "")]), true);
    let two = with(&[("x-user", "jo"), ("x-other", "z"), ("x-user", "al")]);
    check(exact("jo"), &two, false);
    check(exact("jo,al"), &two, true);
    let any = || header("x-user", HeaderTest::Present);
    check(any(), &two, true);
    check(any(), &with(&[("x-user", "")]), true);
    check(any(), &with(&[]), false);
    let regex = |text: &str| header("x-user", value(TextMatch::Regex(text.into())));
    check(regex("j.+l"), &two, true);
    check(regex("j."), &two, false);
    let binary = Request {
        headers: vec![("x-user", b"j\xff")],
        ..get("/")
    };
    check(regex("j."), &binary, true);
}

#[test]
fn query_parameters() {
    let parameter = |value: TextMatch| HttpMatch {
        query: vec![QueryMatch {
            name: "animal".into(),
            value,
        }],
        ..path(PathMatch::Any)
    };
    let asked = |query| Request { query, ..get("/") };
    let exact = |text: &str| parameter(TextMatch::Exact(text.into()));
    let whale = || exact("whale");
    check(whale(), &asked(Some("animal=whale")), true);
    check(whale(), &asked(Some("a=b&animal=whale&c")), true);
    check(whale(), &asked(Some("animal=whale&animal=dog")), true);
    check(whale(), &asked(Some("animal=dog&animal=whale")), false);
    check(whale(), &asked(Some("animal=whaledog")), false);
    check(whale(), &asked(Some("Animal=whale")), false);
    check(whale(), &asked(Some("animal")), false);
    check(whale(), &asked(Some("")), false);
    check(whale(), &asked(None), false);
    check(whale(), &asked(Some("%61nimal=%77hale")), true);
    check(exact("a b=?"), &asked(Some("animal=a%20b=%3F")), true);
    check(exact("100%"), &asked(Some("animal=100%")), true);
    check(exact("%zz"), &asked(Some("animal=%zz")), true);
    check(exact("a+b"), &asked(Some("animal=a+b")), true);
    let regex = parameter(TextMatch::Regex("w.+e|dog".into()));
    check(regex.clone(), &asked(Some("animal=whale")), true);
    check(regex, &asked(Some("animal=whales")), false);
}

#[test]
fn empty_fields_keep_their_commas() {
    let exact = |text: &str| header("x", HeaderTest::Value(TextMatch::Exact(text.into())));
    let request = with(&[("x", ""), ("x", "a")]);
    check(exact(",a"), &request, true);
    check(exact("a"), &request, false);
}

#[test]
fn all_conditions_of_a_match_and_any_match_of_a_rule() {
    let both = HttpMatch {
        method: MethodMatch::Text(TextMatch::Exact("GET".into())),
        ..header("x-a", HeaderTest::Present)
    };
    check(both.clone(), &with(&[("x-a", "1")]), true);
    check(both.clone(), &get("/"), false);
    let either = vec![both, path(PathMatch::Exact("/b".into()))];
    let table = table(vec![rule(either, 1)]).unwrap();
    assert!(table.find(&get("/b")).is_some());
    assert!(table.find(&get("/c")).is_none());
}

#[test]
fn the_first_rule_that_matches_decides() {
    let first = rule(vec![path(PathMatch::Prefix("/a".into()))], 1);
    let always = rule(vec![path(PathMatch::Any)], 1);
    let table = table(vec![first.clone(), first.clone(), always, first]).unwrap();
    assert_eq!(table.find(&get("/a")).unwrap().index, 0);
    assert_eq!(table.find(&get("/z")).unwrap().index, 2);
    assert_eq!(table.rules().len(), 3, "nothing reaches the fourth");
}

#[test]
fn a_table_without_rules_matches_nothing() {
    assert!(table(Vec::new()).unwrap().find(&get("/")).is_none());
}

#[test]
fn bad_expressions_are_refused_with_their_origin() {
    let check = |pattern: &str, part: &str| {
        let one = path(PathMatch::Regex(pattern.into()));
        let error = table(vec![rule(vec![one], 1)]).unwrap_err().to_string();
        assert!(error.starts_with("VirtualService/shop/orders spec.http[0]: "));
        assert!(error.contains(part), "{error}");
    };
    check(&"a".repeat(1_025), "longer than 1024 characters");
    check("(?:a{100}){100}[^b]{999}", "larger than 262144 bytes");
    check("a)|(?:b", "unopened group");
    check("(?x)a #", "unclosed group");
    check("(", "unclosed group");
    check("(?=a)", "look-around");
    check(r"(a)\1", "backreferences");
}

#[test]
fn weights_that_sum_to_zero_are_refused() {
    let error = table(vec![rule(Vec::new(), 0)]).unwrap_err();
    assert!(matches!(error, RouteError::Backends { .. }));
}

#[test]
fn tcp_takes_the_first_rule() {
    let rule = |weight| TcpRule {
        origin: Origin::default_behavior(),
        backends: vec![backend("shop/db:5432", weight)],
    };
    let compile = |tcp| {
        TcpTable::compile(&RouteTable {
            name: "shop/db:5432".parse().unwrap(),
            http: Vec::new(),
            tcp,
        })
    };
    let table = compile(vec![rule(1)]).unwrap();
    assert_eq!(table.find().unwrap().backends.items().len(), 1);
    assert!(compile(Vec::new()).unwrap().find().is_none());
    assert!(compile(vec![rule(0)]).is_err());
}
