//! A folder of manifests, the mesh that runs on it, and the applications in it.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use outrigger_shop::stats::Stats;
use outrigger_tests::{
    Folder, Mesh, Workload, free_address, free_port,
    http1::{Reply, call},
    sum,
};
use rustix::process::Signal;
use serde_json::Value;

use crate::outrigger::up;

/// One test's mesh, in the namespace `shop`. Dropped, it ends.
pub(crate) struct Bed {
    /// First: it ends before its folder goes.
    mesh: Option<Mesh>,
    folder: Folder,
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
            mesh: None,
            folder: Folder::new(),
        }
    }

    pub(crate) fn manifests(&self) -> PathBuf {
        self.folder.manifests()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.state()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        self.folder.write(&format!("{name}.yaml"), text);
    }

    pub(crate) fn remove(&self, name: &str) {
        self.folder.remove(&format!("{name}.yaml"));
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
        let mut mesh = up(&self.folder, arguments);
        mesh.ready().unwrap();
        self.mesh = Some(mesh);
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
        self.sidecar("client").outbound(&destination).unwrap()
    }

    /// The next event that `wanted` accepts.
    pub(crate) fn event(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mesh = self.mesh.as_mut().expect("it was started");
        mesh.until_that(wanted).unwrap()
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

    /// Sends a signal to the mesh itself, with its control plane.
    pub(crate) fn signal(&self, signal: Signal) {
        self.mesh().signal(signal).unwrap();
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
        sum(&self.admin(workload, "/metrics").text(), name, labels)
    }

    /// Ends the mesh: in good order, and no process of it is left.
    pub(crate) fn end(&mut self) {
        let mesh = self.mesh.take().expect("it was started");
        let status = mesh.end().unwrap();
        assert!(status.success(), "{status}");
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
