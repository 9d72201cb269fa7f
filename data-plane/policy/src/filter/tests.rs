//! Tables of what filters make of heads, paths and locations.

use outrigger_model::{
    FieldEdit, FieldName, FieldValue, Filters, HostRewrite, Hostname, NewField, PathRewrite,
    PathText, Port, Redirect, RedirectStatus, Scheme,
};

use super::{Changes, location};
use crate::request::RequestView;

struct Target(&'static str);

impl RequestView for Target {
    fn method(&self) -> &str {
        "GET"
    }
    fn path(&self) -> &str {
        self.0.split_once('?').map_or(self.0, |(path, _)| path)
    }
    fn query(&self) -> Option<&str> {
        Some(self.0.split_once('?')?.1)
    }
    fn visit_header(&self, _: &str, _: &mut dyn FnMut(&[u8])) {}
}

fn fields(fields: &[(&str, &str)]) -> Vec<NewField> {
    let field = |(name, value): &(&str, &str)| NewField {
        name: FieldName::parse(name).unwrap(),
        value: FieldValue::parse(value).unwrap(),
    };
    fields.iter().map(field).collect()
}

fn edit(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> Filters {
    Filters {
        request: FieldEdit {
            set: fields(set),
            add: fields(add),
            remove: remove
                .iter()
                .map(|name| FieldName::parse(name).unwrap())
                .collect(),
        },
        ..Filters::default()
    }
}

fn path(text: &str) -> PathText {
    PathText::parse(text).unwrap()
}

#[test]
fn nothing_to_change_is_no_change() {
    assert_eq!(
        Changes::compile(&Filters::default(), &Filters::default()),
        None
    );
}

#[test]
fn a_rules_edit_comes_before_its_backends() {
    let check = |rule: Filters, backend: Filters, dropped: &[&str], put: &[(&str, &str)]| {
        let changes = Changes::compile(&rule, &backend).unwrap();
        for name in ["a", "b", "c"] {
            let drops = changes.request.drops(name.to_uppercase().as_bytes());
            assert_eq!(drops, dropped.contains(&name), "{name}: {changes:?}");
        }
        assert_eq!(changes.request.put().collect::<Vec<_>>(), put);
        assert!(changes.response.is_empty());
    };
    let none = Filters::default;
    check(edit(&[("A", "1")], &[], &[]), none(), &["a"], &[("a", "1")]);
    check(edit(&[], &[("a", "1")], &[]), none(), &[], &[("a", "1")]);
    check(edit(&[], &[], &["a"]), none(), &["a"], &[]);
    // Within one filter: set, add, remove.
    check(
        edit(&[("a", "1")], &[("a", "2"), ("b", "3")], &["b"]),
        none(),
        &["a", "b"],
        &[("a", "1"), ("a", "2")],
    );
    // The backend sets what the rule had added, adds to what it set, removes what it wrote.
    check(
        edit(&[("a", "1"), ("c", "1")], &[("b", "1")], &[]),
        edit(&[("b", "2")], &[("a", "2")], &["c"]),
        &["a", "b", "c"],
        &[("a", "1"), ("b", "2"), ("a", "2")],
    );
}

/// The table of `ReplacePrefixMatch` in the Gateway API's documentation, and more.
#[test]
fn prefixes_are_replaced_by_elements() {
    let check = |target: &'static str, matched: &str, replacement: &str, expected: &str| {
        let filters = Filters {
            path: PathRewrite::Prefix {
                matched: path(matched),
                replacement: path(replacement),
            },
            ..Filters::default()
        };
        let changes = Changes::compile(&filters, &Filters::default()).unwrap();
        let target = changes.target(&Target(target)).unwrap();
        assert_eq!(&*target, expected);
    };
    check("/foo/bar", "/foo", "/xyz", "/xyz/bar");
    check("/foo", "/foo", "/xyz", "/xyz");
    check("/foo/", "/foo", "/xyz", "/xyz/");
    check("/foo/bar", "/foo", "", "/bar");
    check("/foo/", "/foo", "", "/");
    check("/foo", "/foo", "", "/");
    check("/foo?q=1", "/foo", "", "/?q=1");
    check("/foo/a?q=/b?c", "/foo", "/x", "/x/a?q=/b?c");
    check("/", "", "/xyz", "/xyz/");
    check("/a", "", "/xyz", "/xyz/a");
    check("/a?", "/a", "/b", "/b?");
}

#[test]
fn the_whole_path_is_replaced_and_the_query_stays() {
    let filters = Filters {
        path: PathRewrite::Full(path("/one")),
        host: HostRewrite::To(Hostname::parse("elsewhere.example").unwrap()),
        ..Filters::default()
    };
    let changes = Changes::compile(&filters, &Filters::default()).unwrap();
    let target = changes.target(&Target("/full/one/two?a=b"));
    assert_eq!(target.as_deref(), Some("/one?a=b"));
    assert_eq!(changes.authority(), Some("elsewhere.example"));
    // A backend's own goes before the rule's.
    let own = Filters {
        path: PathRewrite::Full(path("/two")),
        ..Filters::default()
    };
    let changes = Changes::compile(&filters, &own).unwrap();
    assert_eq!(changes.target(&Target("/x")).as_deref(), Some("/two"));
    assert_eq!(changes.authority(), Some("elsewhere.example"));
}

#[test]
fn locations() {
    let check = |authority: &str, scheme, host: Option<&str>, port: u16, expected: &str| {
        let redirect = Redirect {
            scheme,
            host: host.map_or(HostRewrite::Keep, |host| {
                HostRewrite::To(Hostname::parse(host).unwrap())
            }),
            port: Port::new(port).unwrap(),
            path: PathRewrite::Keep,
            status: RedirectStatus::Found,
        };
        assert_eq!(location(&redirect, authority, &Target("/a?b")), expected);
    };
    let org = Some("example.org");
    check("echo", Scheme::Http, None, 80, "http://echo/a?b");
    check("echo:8080", Scheme::Http, None, 80, "http://echo/a?b");
    check("echo", Scheme::Http, None, 8083, "http://echo:8083/a?b");
    check("echo", Scheme::Http, None, 443, "http://echo:443/a?b");
    check("echo", Scheme::Https, None, 443, "https://echo/a?b");
    check("echo", Scheme::Https, org, 443, "https://example.org/a?b");
    check("echo", Scheme::Http, org, 80, "http://example.org/a?b");
    check("[::1]:8080", Scheme::Http, None, 80, "http://[::1]/a?b");
    check("[::1]", Scheme::Http, None, 81, "http://[::1]:81/a?b");
}

#[test]
fn what_is_shown_holds_no_values() {
    let mut filters = edit(
        &[("authorization", "secret")],
        &[("x-a", "secret")],
        &["x-b"],
    );
    filters.path = PathRewrite::Full(path("/one"));
    let changes = Changes::compile(&filters, &Filters::default()).unwrap();
    let shown = changes.to_string();
    assert!(!shown.contains("secret"), "{shown}");
    assert!(
        shown.starts_with("request without authorization, request without x-b, "),
        "{shown}"
    );
}
