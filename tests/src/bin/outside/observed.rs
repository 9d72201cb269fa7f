//! What a mesh tells of itself, read by the programs that people read it with: Prometheus and an
//! OpenTelemetry Collector.
//!
//! A client's and a server's sidecar carry [`REQUESTS`] real requests. Then each request must be
//! one trace in the Collector, of the client's span and the server's below it; and the pages of
//! both sidecars and of the control plane must pass promtool's lint and be scraped by a real
//! Prometheus. One complaint is known ([`KNOWN`]): a name that is not ours to choose.

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use outrigger_tests::{Folder, Mesh, free_port, http1::Connection, sum, wait_until};

use super::show;

/// Requests through the mesh, each traced.
const REQUESTS: usize = 40;
/// How long the Collector listens: the requests, a second in which spans gather, and much room.
const LISTEN: &str = "20";
/// The Collector is built from its sources when it is run for the first time.
const BUILD_MAX: Duration = Duration::from_secs(30 * 60);
/// For what takes a second.
const PATIENCE: Duration = Duration::from_secs(15);
const PATH: &str = "/api/v1/products";
/// What promtool says of each sidecar's page: the name is Istio's, which dashboards and canary
/// controllers ask for. Outrigger's own histogram is in seconds.
const KNOWN: &str =
    r#"istio_request_duration_milliseconds use base unit "seconds" instead of "milliseconds""#;

/// Runs both suites on a mesh of their own.
///
/// # Errors
/// When one complains, or a span or a count is not what the requests made.
pub(crate) fn check(binary: &Path, suites: &Path) -> anyhow::Result<()> {
    let (collector, page, web) = (free_port(), free_port(), free_port());
    let folder = Folder::new();
    folder.write("observed.yaml", &manifests(web));
    let arguments = [
        "--otlp-endpoint",
        &format!("http://127.0.0.1:{collector}"),
        "--metrics",
        &format!("127.0.0.1:{page}"),
    ];
    let mesh = Mesh::start(binary, &folder, &arguments)?;
    let outbound = mesh.workload("client")?.outbound.values().next();
    let outbound = *outbound.context("no outbound listener")?;
    let pages = [
        format!("{}/metrics", mesh.workload("client")?.admin),
        format!("{}/metrics", mesh.workload("web")?.admin),
        format!("http://127.0.0.1:{page}/metrics"),
    ];

    let sink = Sink::start(suites, collector)?;
    for _ in 0..REQUESTS {
        get(outbound, PATH)?;
    }
    for page in &pages[..2] {
        counted(page, "outrigger_requests_total", &[])?;
        counted(page, "istio_requests_total", &[])?;
        counted(page, "outrigger_spans_total", &[r#"result="exported""#])?;
    }
    traced(&sink.end()?)?;
    linted(&suites.join("metrics-check"), &pages)
}

/// Every page is scraped; the lint says nothing but [`KNOWN`], once of each sidecar.
fn linted(script: &Path, pages: &[String; 3]) -> anyhow::Result<()> {
    let output = Command::new(script)
        .args(pages)
        .env("PROM_PORT", free_port().to_string())
        .output()
        .with_context(|| format!("cannot run {}", script.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    show(&format!("{said}{complaints}"));
    let [client, server, _] = pages;
    let expected = [
        format!("FAIL lint {client}"),
        format!("FAIL lint {server}"),
        "4 passed, 2 failed".to_owned(),
    ];
    let complaints: Vec<_> = complaints.lines().filter(|line| !line.is_empty()).collect();
    ensure!(
        said.lines().eq(expected.iter().map(String::as_str)) && complaints == [KNOWN, KNOWN],
        "Prometheus complains of something else than {KNOWN:?}"
    );
    Ok(())
}

/// Waits until the series of a page with these labels sum up to the requests made, and no more.
fn counted(page: &str, name: &str, labels: &[&str]) -> anyhow::Result<()> {
    let rest = page.strip_prefix("http://").context("a page over HTTP")?;
    let (address, path) = rest.split_once('/').context("a page has a path")?;
    let address = address.parse()?;
    let what = format!("{page}: {name} is {REQUESTS}");
    wait_until(&what, PATIENCE, || {
        let counted = usize::try_from(sum(&get(address, &format!("/{path}"))?, name, labels))?;
        ensure!(counted <= REQUESTS, "{page}: {name} is {counted}");
        Ok(counted == REQUESTS)
    })
}

/// A running `trace-sink`. Its own deadline ends it.
struct Sink(Child);

impl Sink {
    /// Runs it and waits until it listens.
    fn start(suites: &Path, port: u16) -> anyhow::Result<Self> {
        let other = free_port().to_string();
        let least = (2 * REQUESTS).to_string();
        let mut child = Command::new(suites.join("trace-sink"))
            .args([&port.to_string(), &other, LISTEN, &least])
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run trace-sink")?;
        wait_until("trace-sink listens", BUILD_MAX, || {
            if let Some(status) = child.try_wait()? {
                bail!("trace-sink ended before it listened: {status}");
            }
            Ok(TcpStream::connect(("127.0.0.1", port)).is_ok())
        })?;
        Ok(Self(child))
    }

    /// Waits for its end; its log, in which every span is written out.
    fn end(self) -> anyhow::Result<String> {
        let output = self.0.wait_with_output()?;
        let text = String::from_utf8(output.stdout)?;
        show(&text);
        ensure!(
            output.status.success() && text.lines().last() == Some("1 passed, 0 failed"),
            "trace-sink failed"
        );
        let log = text.split_once("(log ").and_then(|(_, rest)| {
            let (path, _) = rest.split_once(')')?;
            Some(path.to_owned())
        });
        let log = log.context("trace-sink names its log")?;
        fs::read_to_string(&log).with_context(|| format!("cannot read {log}"))
    }
}

/// A span as the Collector wrote it out.
#[derive(Debug, Default)]
struct Span {
    service: String,
    id: String,
    parent: String,
}

/// Each request is one trace: the client's sidecar at its root, the server's below it.
fn traced(log: &str) -> anyhow::Result<()> {
    let mut traces: BTreeMap<String, Vec<Span>> = BTreeMap::new();
    let mut service = String::new();
    let mut trace = String::new();
    for line in log.lines() {
        let Some((key, value)) = line.trim().split_once(':') else {
            continue;
        };
        let value = value.trim();
        match key.trim() {
            "-> service.name" => value.clone_into(&mut service),
            "Trace ID" => {
                value.clone_into(&mut trace);
                let service = service.clone();
                let span = Span {
                    service,
                    ..Span::default()
                };
                traces.entry(trace.clone()).or_default().push(span);
            }
            field @ ("Parent ID" | "ID") => {
                let span = traces.get_mut(&trace).and_then(|spans| spans.last_mut());
                let span = span.context("a span begins with its trace")?;
                let place = if field == "ID" {
                    &mut span.id
                } else {
                    &mut span.parent
                };
                value.clone_into(place);
            }
            _ => {}
        }
    }
    ensure!(traces.len() == REQUESTS, "{} traces", traces.len());
    for (trace, spans) in &traces {
        let of = |service: &str| spans.iter().find(|span| span.service == service);
        let (Some(client), Some(server)) = (of("Str(client)"), of("Str(web)")) else {
            bail!("trace {trace} lacks a sidecar: {spans:?}");
        };
        ensure!(
            spans.len() == 2 && client.parent.is_empty() && server.parent == client.id,
            "trace {trace} is not one request: {spans:?}"
        );
    }
    show(&format!(
        "{REQUESTS} requests: {REQUESTS} traces, each of both sidecars\n"
    ));
    Ok(())
}

/// The body of a successful answer.
fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let reply = Connection::open(address)?.exchange("GET", path, &[])?;
    ensure!(
        reply.status == 200,
        "{path}: {} {}",
        reply.status,
        reply.text()
    );
    Ok(reply.text())
}

fn manifests(web: u16) -> String {
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: observed}}
spec:
  selector: {{app: web}}
  ports: [{{name: http, port: 80, targetPort: http}}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata:
  name: web
  namespace: observed
  annotations:
    outrigger.dev/exec: outrigger shop product --port {web} --version v1
spec:
  address: 127.8.1.1
  labels: {{app: web}}
  ports: {{http: {web}}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: client, namespace: observed}}
spec:
  address: 127.8.1.2
  labels: {{app: client}}
"#
    )
}
