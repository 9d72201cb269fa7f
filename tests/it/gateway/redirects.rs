//! Redirects: status, and the location's scheme, host, port and path.

use super::decide::{Decision, World, get, route};

#[test]
fn locations_follow_the_filter_and_what_was_addressed() {
    let check = |port: &str, redirect: &str, target: &str, status: u16, location: &str| {
        let rules = format!(
            "{{matches: [{{path: {{value: /old}}}}], \
             filters: [{{type: RequestRedirect, requestRedirect: {{{redirect}}}}}]}}"
        );
        let world = World::new(&route("HTTPRoute", "away", "name: echo", &rules));
        let expected = Decision::Redirect(status, location.to_owned());
        world.check(port, &get(target), &expected);
        world.check(port, &get("/new"), &Decision::NoRoute);
    };
    check(
        "echo:80",
        "hostname: example.org",
        "/old/a?b",
        302,
        "http://example.org/old/a?b",
    );
    check(
        "echo:80",
        "hostname: example.org, statusCode: 301",
        "/old",
        301,
        "http://example.org/old",
    );
    for status in [301_u16, 302, 303, 307, 308] {
        let redirect = format!("statusCode: {status}");
        check("echo:80", &redirect, "/old", status, "http://echo/old");
    }
    // The port: named, else the named scheme's own, else the one that was addressed.
    check("echo:80", "port: 8083", "/old", 302, "http://echo:8083/old");
    check(
        "echo:8080",
        "statusCode: 302",
        "/old",
        302,
        "http://echo:8080/old",
    );
    check("echo:8080", "scheme: http", "/old", 302, "http://echo/old");
    check(
        "echo:8080",
        "scheme: https",
        "/old",
        302,
        "https://echo/old",
    );
    check(
        "echo:80",
        "scheme: https, port: 443",
        "/old",
        302,
        "https://echo/old",
    );
    check(
        "echo:80",
        "scheme: https, port: 8443",
        "/old",
        302,
        "https://echo:8443/old",
    );
    check(
        "echo:80",
        "scheme: http, port: 443",
        "/old",
        302,
        "http://echo:443/old",
    );
    check(
        "echo:80",
        "scheme: https, hostname: example.org, statusCode: 301",
        "/old",
        301,
        "https://example.org/old",
    );
    // The path.
    let prefix = "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}";
    check(
        "echo:80",
        prefix,
        "/old/lemon",
        302,
        "http://echo/new/lemon",
    );
    check("echo:80", prefix, "/old", 302, "http://echo/new");
    let full = "hostname: example.org, path: {type: ReplaceFullPath, replaceFullPath: /whole}";
    check(
        "echo:80",
        full,
        "/old/x?q=1",
        302,
        "http://example.org/whole?q=1",
    );
}
