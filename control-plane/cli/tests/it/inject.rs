//! Sidecars into files and out of them.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

const SETTINGS: &str = r#"{"image": "outrigger/proxy:1", "controlPlane": "outrigger.o.svc:15012",
    "controlPlaneIdentity": "spiffe://cluster.local/ns/o/sa/outrigger"}"#;

const WEB: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  ports:
  - port: 80
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  template:
    metadata:
      labels:
        app: web
    spec:
      containers:
      - name: web
        image: web:1
";

fn outrigger(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .current_dir(folder)
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_file_gets_sidecars_and_loses_them_again() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("web.yaml", WEB);
    write("injector.json", SETTINGS);
    let inject = ["inject", "web.yaml", "--settings", "injector.json"];
    let output = outrigger(folder.path(), &inject);
    let (injected, said) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert!(said.contains("Deployment web: injected"), "{said}");
    assert!(injected.contains("name: outrigger-proxy"), "{injected}");
    assert!(injected.contains("image: outrigger/proxy:1"), "{injected}");

    write("injected.yaml", &injected);
    let output = outrigger(folder.path(), &["uninject", "injected.yaml"]);
    let bare = text(&output.stdout);
    assert!(!bare.contains("outrigger"), "{bare}");
    assert!(bare.contains("image: web:1"), "{bare}");
}

#[test]
fn what_cannot_be_used_is_said_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let many = "labels:\n        app: web\n      annotations:\n        outrigger.dev/workers: many";
    write("web.yaml", &WEB.replace("labels:\n        app: web", many));
    write("injector.json", SETTINGS);
    write("broken.json", &SETTINGS.replace("image", "imaeg"));
    for (arguments, expected) in [
        (
            ["inject", "web.yaml", "--settings", "injector.json"],
            "web.yaml: Deployment web: annotation outrigger.dev/workers of the pod is \"many\": write 1 to 64",
        ),
        (
            ["inject", "web.yaml", "--settings", "broken.json"],
            "unknown field `imaeg`",
        ),
        (
            ["inject", "none.yaml", "--settings", "injector.json"],
            "cannot read none.yaml",
        ),
    ] {
        let output = outrigger(folder.path(), &arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected), "{said:?} has no {expected:?}");
        assert!(output.stdout.is_empty());
    }
}
