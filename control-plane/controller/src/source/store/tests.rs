//! What is in force after files appear, break, change and go.

use super::*;

struct Folder {
    store: Store,
    files: BTreeMap<Arc<str>, Content>,
}

impl Folder {
    fn new() -> Self {
        Self {
            store: Store::default(),
            files: BTreeMap::new(),
        }
    }

    fn write(&mut self, path: &str, text: &str) -> Seen {
        self.files.insert(path.into(), Ok(text.to_owned()));
        self.look()
    }

    fn remove(&mut self, path: &str) -> Seen {
        self.files.remove(path);
        self.look()
    }

    fn look(&mut self) -> Seen {
        let scan = Scan {
            files: self.files.clone(),
            ..Scan::default()
        };
        Seen::of(self.store.update(scan, None))
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Seen {
    changes: Vec<String>,
    problems: Vec<String>,
    in_force: usize,
}

impl Seen {
    fn of(update: Update) -> Self {
        let changes = update.changes.iter().map(|(key, change)| match change {
            Change::Added(_) => format!("+{}", key.name),
            Change::Changed(_, fields) => {
                let fields: Vec<_> = fields.iter().map(ToString::to_string).collect();
                format!("{}: {}", key.name, fields.join(", "))
            }
            Change::Removed => format!("-{}", key.name),
        });
        Self {
            changes: changes.collect(),
            problems: update.diagnostics.iter().map(ToString::to_string).collect(),
            in_force: update.manifests.len(),
        }
    }

    fn check(&self, changes: &[&str], problems: &[&str], in_force: usize) {
        assert_eq!(self.changes, changes, "{self:?}");
        assert_eq!(self.problems.len(), problems.len(), "{self:?}");
        for (problem, expected) in self.problems.iter().zip(problems) {
            assert!(
                problem.contains(expected),
                "{problem:?} has no {expected:?}"
            );
        }
        assert_eq!(self.in_force, in_force, "{self:?}");
    }
}

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  ports:\n  - port: {port}\n"
    )
}

#[test]
fn edits_are_differences() {
    let mut folder = Folder::new();
    folder
        .write("a.yaml", &service("orders", 80))
        .check(&["+orders"], &[], 1);
    folder.look().check(&[], &[], 1);
    folder.write("a.yaml", &service("orders", 81)).check(
        &["orders: spec.ports[0].port 80 → 81"],
        &[],
        1,
    );
    // The same object a line lower: it is handed on, so that what names its line is right.
    let moved = format!("# note\n{}", service("orders", 81));
    folder.write("a.yaml", &moved).check(&["orders: "], &[], 1);
    let two = format!("{moved}---\n{}", service("payments", 80));
    folder.write("a.yaml", &two).check(&["+payments"], &[], 2);
    folder
        .write("a.yaml", &service("payments", 80))
        .check(&["-orders", "payments: "], &[], 1);
    folder.remove("a.yaml").check(&["-payments"], &[], 0);
}

#[test]
fn what_cannot_be_read_keeps_what_it_held() {
    let mut folder = Folder::new();
    for (number, path) in ["a.yaml", "sub/b.yaml", "sub/c/d.yaml"].iter().enumerate() {
        folder.write(path, &service(&format!("orders-{number}"), 80));
    }
    let scan = |unreadable: &[&str]| Scan {
        files: [("a.yaml".into(), folder.files["a.yaml"].clone())].into(),
        unreadable: unreadable.iter().map(|path| (*path).into()).collect(),
        ..Scan::default()
    };
    let (hidden, gone) = (scan(&["sub"]), scan(&[]));
    let seen = Seen::of(folder.store.update(hidden, None));
    assert_eq!((seen.changes.len(), seen.in_force), (0, 3));
    let seen = Seen::of(folder.store.update(gone, None));
    assert_eq!(seen.changes, ["-orders-1", "-orders-2"]);
}

#[test]
fn a_broken_file_keeps_what_it_held() {
    let mut folder = Folder::new();
    folder
        .write("b.yaml", "kind: [")
        .check(&[], &["nothing in it is used until it parses"], 0);
    folder.write("a.yaml", &service("orders", 80));
    let half = "apiVersion: v1\nkind: Service\nmetadata: {name: or";
    let seen = folder.write("a.yaml", half);
    seen.check(&[], &["a.yaml:3:", "b.yaml:1:"], 1);
    assert!(seen.problems[0].contains("stays in force"), "{seen:?}");
    folder.look().check(&[], &["a.yaml:3:", "b.yaml:1:"], 1);
    folder.write("a.yaml", &service("orders", 82)).check(
        &["orders: spec.ports[0].port 80 → 82"],
        &["b.yaml"],
        1,
    );
    folder
        .files
        .insert("a.yaml".into(), Err("cannot read".to_owned()));
    folder.look().check(&[], &["cannot read", "b.yaml"], 1);
    folder.remove("a.yaml").check(&["-orders"], &["b.yaml"], 0);
}

#[test]
fn of_duplicates_the_first_by_path_is_in_force() {
    let mut folder = Folder::new();
    folder.write("b.yaml", &service("orders", 80));
    let seen = folder.write("a.yaml", &service("orders", 81));
    seen.check(
        &["orders: spec.ports[0].port 80 → 81"],
        &["b.yaml:1:1: error: Service/shop/orders: it is also in a.yaml:1:1"],
        1,
    );
    folder
        .remove("a.yaml")
        .check(&["orders: spec.ports[0].port 81 → 80"], &[], 1);
    let twice = format!("{}---\n{}", service("orders", 80), service("orders", 90));
    folder
        .write("b.yaml", &twice)
        .check(&[], &["b.yaml:8:1: error"], 1);
}

#[test]
fn kinds_not_used_are_listed_once() {
    let mut folder = Folder::new();
    let one = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n";
    let text = format!("{one}---\n{one}---\nkind: Nothing\n");
    folder
        .write("a.yaml", &text)
        .check(&[], &["apiVersion", "apps/v1 Deployment is not used"], 0);
}

struct Rename(u32);

impl Transform for Rename {
    fn transform(&mut self, manifests: &mut [Manifest]) -> Vec<Diagnostic> {
        self.0 += 1;
        for manifest in manifests.iter_mut() {
            let added = Node::from_json(&serde_json::json!({"added": 1}));
            if let outrigger_compiler::document::Value::Map(entries) = &mut manifest.node.value {
                entries.extend(added.entries().iter().cloned());
            }
        }
        vec![note(None, format!("seen {}", manifests.len()))]
    }
}

#[test]
fn a_transform_sees_all_and_is_no_change_by_itself() {
    let mut transform = Rename(0);
    let mut store = Store::default();
    let mut look = || {
        let mut scan = Scan::default();
        scan.files
            .insert("a.yaml".into(), Ok(service("orders", 80)));
        let update = store.update(scan, Some(&mut transform));
        let added = update.manifests[0].node.get("added").is_some();
        assert!(added);
        Seen::of(update)
    };
    look().check(&["+orders"], &["seen 1"], 1);
    look().check(&[], &["seen 1"], 1);
    assert_eq!(transform.0, 2);
}
