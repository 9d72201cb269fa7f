//! What a person can put right: said, with exit status 2, before anything starts.

use std::net::TcpListener;

use outrigger_tests::{Folder, free_address, free_port};

use crate::outrigger::run;

fn entry(name: &str, spec: &str, exec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}, annotations: {{outrigger.dev/exec: {exec:?}}}}}\nspec: {{{spec}}}\n"
    )
}

#[track_caller]
fn check(manifests: &str, arguments: &[&str], expected: &str) {
    let folder = Folder::new();
    folder.write("mesh.yaml", manifests);
    let output = run(&folder, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(expected), "{said:?} has no {expected:?}");
    assert!(output.stdout.is_empty());
    assert!(!folder.state().exists(), "something was started");
}

#[test]
fn arguments() {
    let good = entry("a", &format!("address: {}", free_address()), "sleep 600");
    check(&good, &["--for", "30"], "write a time above zero");
    check(&good, &["--for", "soon"], "invalid value 'soon'");
    check(&good, &["--leaf-lifetime", "48h"], "1s to 24h");
    check(&good, &["--workers", "0"], "--workers");
    check(&good, &["--log", "loud"], "--log");
    check(&good, &["--ca-cert", "x.pem"], "--ca-key");
    check(&good, &["--trust-domain", "Not_One"], "--trust-domain");
    check(&good, &["--otlp-endpoint", "4317"], "http://host:port");
    check(&good, &["--report", "xml"], "--report");
}

#[test]
fn folders() {
    check("", &[], "no WorkloadEntry");
    check("kind: [", &[], "mesh.yaml:1:7");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .args(["up", "/no/such/folder"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("no folder /no/such/folder; give one with manifests in it"),
        "{said}"
    );
}

#[test]
fn workloads() {
    let (first, second) = (free_address(), free_address());
    let port = free_port();
    let two =
        |one: String, two: String| entry("a", &one, "sleep 600") + &entry("b", &two, "sleep 600");
    check(
        &two(
            format!("address: {first}, ports: {{x: {port}}}"),
            format!("address: {second}, ports: {{x: {port}}}"),
        ),
        &[],
        "is that of default/a",
    );
    check(
        &two(format!("address: {first}"), format!("address: {first}")),
        &[],
        "is that of default/a",
    );
    let alone = format!("address: {first}");
    check(
        &entry("a", &alone, "no-such-program-anywhere x"),
        &[],
        "cannot be found",
    );
    check(&entry("a", &alone, "sleep '600"), &[], "holds no command");
}

#[test]
fn ports_in_use() {
    let own = free_address();
    let held = TcpListener::bind((own, 15_001)).unwrap();
    let spec = format!("address: {own}");
    check(
        &entry("a", &spec, "sleep 600"),
        &[],
        "15001: the port is in use",
    );
    drop(held);
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let spec = format!("address: {own}, ports: {{x: {port}}}");
    check(
        &entry("a", &spec, "sleep 600"),
        &[],
        "its application cannot listen",
    );
    drop(held);
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let metrics = held.local_addr().unwrap().to_string();
    let folder = Folder::new();
    folder.write(
        "mesh.yaml",
        &entry("a", &format!("address: {own}"), "sleep 600"),
    );
    let output = run(&folder, &["--metrics", &metrics]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains(&format!("cannot listen on {metrics}")),
        "{said}"
    );
}
