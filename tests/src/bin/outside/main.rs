//! Outside suites on real meshes: h2spec (HTTP/2 conformance) and gRPC interop through a pair of
//! sidecars, Prometheus and an OpenTelemetry Collector on what a mesh tells of itself.
//!
//! `outside OUTRIGGER SUITES_FOLDER [protocols|observed]`: all must pass whole; a third argument
//! picks one half. The suites install themselves; what is missing fails.

mod observed;

use std::{
    io,
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, bail, ensure};
use outrigger_tests::{Folder, Mesh, free_port};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(binary), Some(suites)) = (arguments.next(), arguments.next()) else {
        bail!("usage: outside OUTRIGGER SUITES_FOLDER [protocols|observed]");
    };
    let binary = binary
        .canonicalize()
        .with_context(|| format!("no {}", binary.display()))?;
    match arguments.next().as_deref().and_then(Path::to_str) {
        None => {
            protocols(&binary, &suites)?;
            observed::check(&binary, &suites)
        }
        Some("protocols") => protocols(&binary, &suites),
        Some("observed") => observed::check(&binary, &suites),
        Some(other) => bail!("no half of the suites is called {other}"),
    }
}

/// What the sidecars carry.
fn protocols(binary: &Path, suites: &Path) -> anyhow::Result<()> {
    let (web, grpc, served) = (free_port(), free_port(), free_port());
    let folder = Folder::new();
    folder.write("outside.yaml", &manifests(web, grpc));
    let mesh = Mesh::start(binary, &folder, &[])?;
    let client = mesh.workload("client")?;
    let web_address = client.outbound("web.outside.svc.cluster.local:80")?;
    suite(&suites.join("h2spec"), &[&web_address.to_string()], 145)?;
    let grpc_address = client.outbound("interop.outside.svc.cluster.local:80")?;
    forward(grpc, served)?;
    suite(
        &suites.join("grpc-interop"),
        &[&grpc_address.to_string(), "--serve", &served.to_string()],
        14,
    )
}

/// The suite's server listens on every address, where a sidecar's own address has the same port
/// already: this stands in for it on 127.0.0.1 and passes bytes on, until the program ends.
fn forward(from: u16, to: u16) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", from))?;
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else {
                continue;
            };
            let (Ok(client_half), Ok(server_half)) = (client.try_clone(), server.try_clone())
            else {
                continue;
            };
            thread::spawn(move || relay(client, server));
            thread::spawn(move || relay(server_half, client_half));
        }
    });
    Ok(())
}

/// Copies until the end, and passes the end on. A break shows as the suite's failure.
fn relay(mut from: TcpStream, mut to: TcpStream) {
    if io::copy(&mut from, &mut to).is_ok() {
        drop(to.shutdown(Shutdown::Write));
    }
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
  ports: [{{name: http2, port: 80, targetPort: http}}]
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
