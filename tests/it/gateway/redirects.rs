//! Redirects: status, and the location's scheme, host, port and path.

use super::decide::{Decision, World, get, route};

#[track_caller]
fn check(port: &str, redirect: &str, target: &str, expected: (u16, &str)) {
    let rules = format!(
        "{{matches: [{{path: {{value: /old}}}}], \
         filters: [{{type: RequestRedirect, requestRedirect: {{{redirect}}}}}]}}"
    );
    let world = World::new(&route("HTTPRoute", "away", "name: echo", &rules));
    let (status, location) = expected;
    let expected = Decision::Redirect(status, location.to_owned());
    world.check(port, &get(target), &expected);
    world.check(port, &get("/new"), &Decision::NoRoute);
}

#[test]
fn status_and_host() {
    let org = "hostname: example.org";
    check(
        "echo:80",
        org,
        "/old/a?b",
        (302, "http://example.org/old/a?b"),
    );
    let moved = "hostname: example.org, statusCode: 301";
    check("echo:80", moved, "/old", (301, "http://example.org/old"));
    for status in [301_u16, 302, 303, 307, 308] {
        let redirect = format!("statusCode: {status}");
        check("echo:80", &redirect, "/old", (status, "http://echo/old"));
    }
}

/// The port: named, else the named scheme's own, else the one that was addressed.
#[test]
fn scheme_and_port() {
    for (port, redirect, location) in [
        ("echo:80", "port: 8083", "http://echo:8083/old"),
        ("echo:8080", "statusCode: 302", "http://echo:8080/old"),
        ("echo:8080", "scheme: http", "http://echo/old"),
        ("echo:8080", "scheme: https", "https://echo/old"),
        ("echo:80", "scheme: https, port: 443", "https://echo/old"),
        (
            "echo:80",
            "scheme: https, port: 8443",
            "https://echo:8443/old",
        ),
        ("echo:80", "scheme: http, port: 443", "http://echo:443/old"),
        (
            "echo:80",
            "scheme: https, hostname: a.example",
            "https://a.example/old",
        ),
    ] {
        check(port, redirect, "/old", (302, location));
    }
}

#[test]
fn path() {
    let prefix = "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}";
    check(
        "echo:80",
        prefix,
        "/old/lemon",
        (302, "http://echo/new/lemon"),
    );
    check("echo:80", prefix, "/old", (302, "http://echo/new"));
    let full = "hostname: example.org, path: {type: ReplaceFullPath, replaceFullPath: /whole}";
    check(
        "echo:80",
        full,
        "/old/x?q=1",
        (302, "http://example.org/whole?q=1"),
    );
}
