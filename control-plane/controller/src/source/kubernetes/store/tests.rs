//! Lists, events and kinds in any order.

use outrigger_compiler::{Kind, Node, Provenance, read};
use serde_json::json;

use super::*;

fn service(name: &str, port: u16) -> Item<Arc<Object>> {
    let object = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "a"},
        "spec": {"ports": [{"port": port}]},
    });
    let uid = name.into();
    let reading = read(&Node::from_json(&object), &Provenance::Api { uid });
    let value = Arc::new(reading.objects.into_iter().next().unwrap());
    Item {
        key: ("a".into(), name.into()),
        value,
    }
}

fn names(update: &Update) -> Vec<(String, &'static str)> {
    let changes = update.changes.iter();
    changes
        .map(|(key, change)| {
            let what = match change {
                Change::Added(_) => "added",
                Change::Changed(..) => "changed",
                Change::Removed => "removed",
            };
            (key.name.to_string(), what)
        })
        .collect()
}

fn check(update: &Update, expected: &[(&str, &str)]) {
    let found = names(update);
    let found: Vec<_> = found
        .iter()
        .map(|(name, what)| (name.as_str(), *what))
        .collect();
    assert_eq!(found, expected);
}

fn listed() -> Store {
    let mut store = Store::default();
    store.join(Kind::Service);
    assert!(!store.is_listed());
    let items = vec![service("x", 1), service("y", 1), service("z", 1)];
    store.take(Kind::Service, Event::Listed(items));
    assert!(store.is_listed());
    let update = store.update();
    check(&update, &[("x", "added"), ("y", "added"), ("z", "added")]);
    check(&store.update(), &[]);
    store
}

#[test]
fn a_list_replaces_by_difference() {
    let mut store = listed();
    let items = vec![service("w", 1), service("x", 2), service("y", 1)];
    store.take(Kind::Service, Event::Listed(items));
    check(
        &store.update(),
        &[("w", "added"), ("x", "changed"), ("z", "removed")],
    );
}

#[test]
fn what_comes_again_is_no_news() {
    let mut store = listed();
    for _ in 0..2 {
        store.take(Kind::Service, Event::Put(service("x", 1)));
        let all = vec![service("x", 1), service("y", 1), service("z", 1)];
        store.take(Kind::Service, Event::Listed(all));
        store.take(
            Kind::Service,
            Event::Deleted(("a".into(), "unknown".into())),
        );
    }
    check(&store.update(), &[]);
}

#[test]
fn a_kind_that_is_not_served_any_more_leaves_nothing() {
    let mut store = listed();
    store.take(Kind::Service, Event::Put(service("x", 2)));
    store.leave(Kind::Service);
    check(
        &store.update(),
        &[("x", "removed"), ("y", "removed"), ("z", "removed")],
    );
    // What was still on its way is of no use.
    store.take(Kind::Service, Event::Put(service("x", 3)));
    check(&store.update(), &[]);
}

#[test]
fn a_kind_that_joins_later_does_not_undo_the_others() {
    let mut store = listed();
    store.join(Kind::VirtualService);
    assert!(!store.is_listed());
    store.join(Kind::Service);
    check(&store.update(), &[]);
    store.take(Kind::VirtualService, Event::Listed(Vec::new()));
    assert!(store.is_listed());
}

#[test]
fn trouble_is_said_and_forgets_nothing() {
    let mut store = listed();
    let trouble = Trouble {
        reason: "forbidden",
        message: "no".to_owned(),
    };
    store.take(Kind::Service, Event::Trouble(Some(trouble)));
    let update = store.update();
    check(&update, &[]);
    assert!(
        update.diagnostics[0]
            .message
            .contains("the 3 known stay in force")
    );
    store.take(Kind::Service, Event::Trouble(None));
    assert_eq!(store.update().diagnostics, []);
}
