//! A folder of manifests, the mesh that runs on it, and the applications in it.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::Command,
    sync::atomic::{AtomicU8, AtomicU16, Ordering},
};

use outrigger_shop::stats::Stats;
use outrigger_tests::{Mesh, Workload};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    PATIENCE,
    client::{Reply, call},
};

/// One test's mesh, in the namespace `shop`. Dropped, it ends.
pub(crate) struct Bed {
    /// First: it ends before its folders go.
    mesh: Option<Mesh>,
    folder: TempDir,
    state: TempDir,
}

/// An application of the shop that the mesh runs.
#[derive(Clone, Copy)]
pub(crate) struct App {
    pub(crate) port: u16,
    /// The address of its sidecar.
    pub(crate) sidecar: Ipv4Addr,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            state: tempfile::tempdir().unwrap(),
            mesh: None,
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn state(&self) -> &Path {
        self.state.path()
    }

    /// Writes a manifest file at one stroke, as careful editors do.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(format!("{name}.yaml"));
        let beside = path.with_extension("new");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, path).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.folder.path().join(format!("{name}.yaml"))).unwrap();
    }

    /// Takes a manifest of the example shop as it is.
    pub(crate) fn write_example(&self, name: &str) {
        let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop/mesh");
        let text = fs::read_to_string(shop.join(format!("{name}.yaml"))).unwrap();
        self.write(name, &text);
    }

    /// A Service at port 80 for the workloads labelled `app: NAME`; `protocol` is Istio's prefix of
    /// the port's name.
    pub(crate) fn service(&self, name: &str, app: &str, protocol: &str) {
        let text = format!(
            r#"
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec:
  selector: {{app: {app}}}
  ports: [{{name: {protocol}-main, port: 80, targetPort: {protocol}}}]
"#
        );
        self.write(&format!("service-{name}"), &text);
    }

    /// A workload whose application the mesh starts.
    pub(crate) fn app(&self, name: &str, app: &str, role: &str, version: &str) -> App {
        let port = free_port();
        let protocol = if role == "payments" { "grpc" } else { "http" };
        let exec = format!("outrigger shop {role} --port {port} --version {version}");
        let sidecar = self.workload(name, app, version, Some(&exec), &[(protocol, port)]);
        App { port, sidecar }
    }

    /// A workload with these ports of 127.0.0.1; without `exec` its application is the test's own.
    /// Returns the address of its sidecar.
    pub(crate) fn workload(
        &self,
        name: &str,
        app: &str,
        version: &str,
        exec: Option<&str>,
        ports: &[(&str, u16)],
    ) -> Ipv4Addr {
        let annotations = exec.map_or_else(String::new, |exec| {
            format!("  annotations: {{outrigger.dev/exec: \"{exec}\"}}\n")
        });
        let ports: Vec<_> = ports
            .iter()
            .map(|(name, port)| format!("{name}: {port}"))
            .collect();
        let address = free_address();
        let text = format!(
            r#"
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata:
  name: {name}
  namespace: shop
{annotations}spec:
  address: {}
  labels: {{app: {app}, version: {version}}}
  serviceAccount: {app}
  ports: {{{}}}
"#,
            address,
            ports.join(", ")
        );
        self.write(name, &text);
        address
    }

    /// Adds the sidecar that requests are sent through, and waits for the mesh to be ready.
    pub(crate) fn start(&mut self, arguments: &[&str]) {
        self.workload("client", "client", "v1", None, &[]);
        let state = self.state.path().to_str().unwrap();
        let mut all = vec!["--state-dir", state, "--drain-time", "5s"];
        all.extend(arguments);
        let binary = Path::new(env!("CARGO_BIN_EXE_outrigger"));
        self.mesh = Some(Mesh::start(binary, self.folder.path(), &all).unwrap());
    }

    fn mesh(&self) -> &Mesh {
        self.mesh.as_ref().expect("it was started")
    }

    pub(crate) fn sidecar(&self, workload: &str) -> &Workload {
        self.mesh().workload(workload).unwrap()
    }

    /// Where the client's sidecar takes traffic for a service.
    pub(crate) fn outbound(&self, service: &str) -> SocketAddr {
        let destination = format!("{service}.shop.svc.cluster.local:80");
        let client = self.sidecar("client");
        *client.outbound.get(&destination).unwrap_or_else(|| {
            panic!("no listener for {destination}: {:?}", client.outbound);
        })
    }

    /// The next event that `wanted` accepts.
    pub(crate) fn event(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mesh = self.mesh.as_mut().expect("it was started");
        mesh.wait_for(PATIENCE, wanted).unwrap()
    }

    /// Waits until an edit of this object is in force in every sidecar that uses it.
    pub(crate) fn in_force(&mut self, object: &str) {
        self.event(|event| {
            event["event"] == "config"
                && event["object"] == object
                && event["sidecars"] == event["of"]
        });
    }

    /// Waits until a workload came or went; its processes are up, or gone.
    pub(crate) fn workload_event(&mut self, change: &str, name: &str) {
        self.event(|event| {
            event["event"] == "workload"
                && event["change"] == change
                && event["workload"]["name"] == name
        });
    }

    /// Process of the mesh itself, with its control plane.
    pub(crate) fn pid(&self) -> u32 {
        self.mesh().pid()
    }

    /// The events read so far.
    pub(crate) fn seen(&self) -> &[Value] {
        self.mesh().seen()
    }

    /// Process of a workload's sidecar, as started last.
    pub(crate) fn sidecar_pid(&self, workload: &str) -> u32 {
        let workload = format!("shop/{workload}");
        let starts = self.seen().iter().rev();
        let last = starts
            .filter(|event| event["event"] == "child_start")
            .find(|event| event["role"] == "sidecar" && event["workload"] == workload.as_str());
        let pid = last.expect("its start was reported")["pid"].as_u64();
        u32::try_from(pid.unwrap()).unwrap()
    }

    /// A page of a sidecar's admin address.
    pub(crate) fn admin(&self, workload: &str, path: &str) -> Reply {
        let base = &self.sidecar(workload).admin;
        let address = base.strip_prefix("http://").unwrap().parse().unwrap();
        call(address, "GET", path, &[])
    }

    /// The sum of a sidecar's metric over the series that have all of these labels.
    pub(crate) fn metric(&self, workload: &str, name: &str, labels: &[&str]) -> u64 {
        let page = self.admin(workload, "/metrics").text();
        let series = page.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        });
        series
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    }

    /// Ends the mesh: in good order, and no process of it is left.
    pub(crate) fn end(&mut self) {
        let mesh = self.mesh.take().expect("it was started");
        let (events, status) = mesh.end().unwrap();
        assert!(status.success(), "{status}");
        assert_eq!(events.last().unwrap()["event"], "stopped");
        let starts = events
            .iter()
            .filter(|event| event["event"] == "child_start");
        for start in starts {
            let pid = start["pid"].as_u64().unwrap();
            assert!(is_gone(pid), "it is left: {start}");
        }
    }
}

impl App {
    /// Tells it what to do wrong from the next request on.
    pub(crate) fn fault(self, fault: &str) {
        let reply = call(self.address(), "POST", "/_control", fault.as_bytes());
        assert_eq!(reply.status, 200, "{}", reply.text());
    }

    pub(crate) fn stats(self) -> Stats {
        let reply = call(self.address(), "GET", "/_stats", &[]);
        serde_json::from_slice(&reply.body).unwrap()
    }

    /// Counts from zero.
    pub(crate) fn reset(self) {
        assert_eq!(call(self.address(), "DELETE", "/_stats", &[]).status, 200);
    }

    pub(crate) fn requests(self) -> u64 {
        self.stats().requests
    }

    fn address(self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }
}

/// Sends a signal by its name, as in `KILL`.
pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill")
        .args([format!("-{name}"), pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// Whether a process is no more, or only waits for its new parent to collect it.
fn is_gone(pid: u64) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.starts_with(" Z")),
        Err(_) => true,
    }
}

/// An address of this process' own, outside 127.1.0.0/16, where `up` gives addresses by itself.
fn free_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(127, 0x40 | (high & 0x3f), low, last)
}

/// A port of 127.0.0.1 that nobody has, below those that the system gives to clients: nobody takes
/// it by chance before the application does.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let [.., high, low] = std::process::id().to_be_bytes();
    let first = u16::from_be_bytes([high, low]).wrapping_mul(61) % 9_000;
    loop {
        let port = 10_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 9_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
