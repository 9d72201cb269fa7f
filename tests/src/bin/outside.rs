//! Outside suites through a pair of sidecars: h2spec (HTTP/2 conformance) and gRPC interop.
//!
//! `outside OUTRIGGER SUITES_FOLDER`: both must pass whole. The suites install themselves; what
//! is missing fails.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail, ensure};
use outrigger_tests::{Mesh, free_port};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(binary), Some(suites)) = (arguments.next(), arguments.next()) else {
        bail!("usage: outside OUTRIGGER SUITES_FOLDER");
    };
    let binary = binary
        .canonicalize()
        .with_context(|| format!("no {}", binary.display()))?;
    let web = free_port()?;
    let grpc = free_port()?;
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("outside.yaml"), manifests(web, grpc))?;
    let mesh = Mesh::start(&binary, folder.path(), &[])?;
    let client = mesh.workload("client")?;
    let address = |host: &str| {
        let found = client.outbound.get(host);
        found
            .map(ToString::to_string)
            .with_context(|| format!("no outbound listener for {host}"))
    };
    let web_address = address("web.outside.svc.cluster.local:80")?;
    suite(&suites.join("h2spec"), &[&web_address], 145)?;
    let grpc_address = address("interop.outside.svc.cluster.local:80")?;
    suite(
        &suites.join("grpc-interop"),
        &[&grpc_address, "--serve", &grpc.to_string()],
        14,
    )
}

/// Runs a suite; its last line must say that exactly `cases` passed and none failed.
fn suite(script: &Path, arguments: &[&str], cases: u32) -> anyhow::Result<()> {
    let output = Command::new(script)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {}", script.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    show(&text);
    let expected = format!("{cases} passed, 0 failed");
    ensure!(
        output.status.success() && text.lines().last() == Some(&expected),
        "{}: expected {expected}; {}",
        script.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[expect(
    clippy::print_stdout,
    reason = "what a suite says is this program's output"
)]
fn show(text: &str) {
    print!("{text}");
}

fn manifests(web: u16, grpc: u16) -> String {
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: outside}}
spec:
  selector: {{app: web}}
  ports: [{{name: http, port: 80, targetPort: http}}]
---
apiVersion: v1
kind: Service
metadata: {{name: interop, namespace: outside}}
spec:
  selector: {{app: interop}}
  ports: [{{name: grpc, port: 80, targetPort: grpc}}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata:
  name: web
  namespace: outside
  annotations:
    outrigger.dev/exec: outrigger shop product --port {web} --version v1
spec:
  address: 127.8.0.1
  labels: {{app: web}}
  ports: {{http: {web}}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: interop, namespace: outside}}
spec:
  address: 127.8.0.2
  labels: {{app: interop}}
  ports: {{grpc: {grpc}}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: client, namespace: outside}}
spec:
  address: 127.8.0.3
  labels: {{app: client}}
"#
    )
}
