//! The control plane in the node's namespace, a sidecar and the capture rules in each pod.

use std::{
    fs::{self, File},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};
use outrigger_compiler::Membership;
use outrigger_controller::{
    controller::{Controller, Options, Root},
    source::Directory,
};
use outrigger_model::{MeshSettings, ServiceAccount, SpiffeId, TrustDomain, WorkloadName};
use outrigger_tests::{PATIENCE, sum, wait_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    client,
    ground::{Ground, Namespace, Process, enter},
};

/// The sidecar's user and group.
pub(crate) const SIDECAR: u32 = 1337;
const TRUST_DOMAIN: &str = "cluster.local";
const CONTROL_PLANE: &str = "10.77.0.1:15012";

/// Services and workloads; addresses as [`super::ground`] gives them.
const MANIFESTS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.10
  selector: {app: web, ip: v4}
  ports:
  - {name: http-web, port: 80, targetPort: 8080}
  - {name: grpc-orders, port: 82, targetPort: 8082}
  - {name: tcp-banner, port: 5432}
  - {name: mirror, port: 90, targetPort: 9090}
---
apiVersion: v1
kind: Service
metadata: {name: web6, namespace: shop}
spec:
  clusterIP: fd00:96::10
  selector: {app: web, ip: v6}
  ports:
  - {name: http-web, port: 80, targetPort: 8080}
  - {name: grpc-orders, port: 82, targetPort: 8082}
  - {name: tcp-banner, port: 5432}
  - {name: mirror, port: 90, targetPort: 9090}
---
apiVersion: v1
kind: Service
metadata: {name: dual, namespace: shop}
spec:
  clusterIP: 10.96.0.20
  clusterIPs: [10.96.0.20, "fd00:96::20"]
  selector: {app: web}
  ports: [{name: http-web, port: 80, targetPort: 8080}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: client, namespace: shop}
spec: {address: 10.77.0.2, labels: {app: client}, serviceAccount: client}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: web, namespace: shop}
spec: {address: 10.77.0.3, labels: {app: web, ip: v4}, serviceAccount: web}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: web-six, namespace: shop}
spec: {address: "fd00:77::3", labels: {app: web, ip: v6}, serviceAccount: web}
"#;

/// A control plane and two pods in its mesh.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) client: Pod,
    pub(crate) web: Pod,
    _control: DropGuard,
}

/// A pod's sidecar.
#[derive(Debug)]
pub(crate) struct Pod {
    sidecar: Option<Process>,
    bootstrap: PathBuf,
    log: PathBuf,
    address: IpAddr,
}

impl Mesh {
    /// Starts all and waits for readiness. Files go into `folder`.
    pub(crate) fn start(ground: &Ground, proxy: &Path, folder: &Path) -> anyhow::Result<Self> {
        let control = control_plane(&ground.node, folder)?;
        let mut mesh = Self {
            client: Pod::new(folder, "client", &ground.client)?,
            web: Pod::new(folder, "web", &ground.web)?,
            _control: control,
        };
        for (pod, namespace) in [
            (&mut mesh.client, &ground.client),
            (&mut mesh.web, &ground.web),
        ] {
            pod.start(namespace, proxy)?;
            pod.await_ready(&ground.node)?;
        }
        Ok(mesh)
    }
}

/// Runs the control plane on a thread in the node's namespace, until dropped. Writes the roots and
/// both tokens.
fn control_plane(node: &Namespace, folder: &Path) -> anyhow::Result<DropGuard> {
    let manifests = folder.join("manifests");
    fs::create_dir(&manifests)?;
    fs::write(manifests.join("mesh.yaml"), MANIFESTS)?;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let (report, started) = mpsc::sync_channel(1);
    let (namespace, folder) = (node.path(), folder.to_owned());
    thread::spawn(move || {
        let result = serve(&namespace, &folder, &stopped, &report);
        if let Err(error) = result {
            report.send(Err(error)).ok();
        }
    });
    started.recv_timeout(Duration::from_secs(30))??;
    Ok(stop.drop_guard())
}

fn serve(
    namespace: &Path,
    folder: &Path,
    stop: &CancellationToken,
    report: &mpsc::SyncSender<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    enter(namespace)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (directory, first) = Directory::open(&folder.join("manifests"), None)?;
        let problems: Vec<_> = first.diagnostics.iter().map(ToString::to_string).collect();
        ensure!(problems.is_empty(), "{problems:?}");
        let options = Options {
            state_dir: folder.join("control"),
            root: Root::State,
            listen: CONTROL_PLANE.parse()?,
            metrics: None,
            leaf_lifetime: Duration::from_secs(3600),
            settings: MeshSettings::defaults(TrustDomain::parse(TRUST_DOMAIN)?),
            membership: Membership::All,
        };
        let (running, _events) = Controller::start(options, directory, first).await?;
        fs::write(folder.join("root.pem"), running.root_pem())?;
        for name in ["client", "web"] {
            let workload: WorkloadName = format!("shop/{name}").parse()?;
            let identity = SpiffeId {
                trust_domain: TrustDomain::parse(TRUST_DOMAIN)?,
                namespace: workload.namespace.clone(),
                service_account: ServiceAccount::parse(name)?,
            };
            let token = running.mint_token(&identity, &workload)?;
            fs::write(folder.join(format!("{name}.token")), token.expose())?;
        }
        report.send(Ok(())).ok();
        stop.cancelled().await;
        running.shutdown().await;
        Ok(())
    })
}

impl Pod {
    fn new(folder: &Path, name: &str, namespace: &Namespace) -> anyhow::Result<Self> {
        let bootstrap = serde_json::json!({
            "workload": format!("shop/{name}"),
            "service_account": name,
            "trust_domain": TRUST_DOMAIN,
            "control_plane": CONTROL_PLANE,
            "control_plane_identity": format!("spiffe://{TRUST_DOMAIN}/ns/outrigger-system/sa/outrigger"),
            "root_file": folder.join("root.pem"),
            "token_file": folder.join(format!("{name}.token")),
            "admin": "[::]:15020",
            "health": "[::]:15021",
            "pod_address": namespace.v4(),
            "capture": {"outbound": "[::]:15001", "inbound": "[::]:15006"},
            "probes": [
                {"name": "app/livez", "http": {"port": 8080, "path": "/live"}},
                {"name": "app/readyz", "tcp": {"port": 5432}},
                {"name": "app/startupz", "tcp": {"port": 4444}},
            ],
            "workers": 2,
            "log": "info",
        });
        let path = folder.join(format!("{name}.json"));
        fs::write(&path, bootstrap.to_string())?;
        Ok(Self {
            sidecar: None,
            bootstrap: path,
            log: folder.join(format!("{name}.log")),
            address: namespace.v4(),
        })
    }

    pub(crate) fn start(&mut self, namespace: &Namespace, proxy: &Path) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let sidecar = namespace.spawn(Some(SIDECAR), proxy, &[&self.bootstrap], log)?;
        self.sidecar = Some(sidecar);
        Ok(())
    }

    /// Asks over the network, as the kubelet does.
    pub(crate) fn await_ready(&mut self, from: &Namespace) -> anyhow::Result<()> {
        let mut last = String::new();
        // Nothing tells a stranger of a sidecar's readiness: it is asked for, as by the kubelet.
        let ready = wait_until("the sidecar is ready", PATIENCE, || {
            if let Some(sidecar) = &mut self.sidecar {
                ensure!(sidecar.is_running()?, "the sidecar ended");
            }
            last = match self.health(from, "/ready") {
                Ok(answer) => answer,
                Err(error) => format!("{error:#}"),
            };
            Ok(last.starts_with("HTTP/1.1 200"))
        });
        ready.with_context(|| format!("{last}; {}", self.log()))
    }

    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        let mut sidecar = self.sidecar.take().context("no sidecar")?;
        sidecar.kill()
    }

    pub(crate) fn health(&self, from: &Namespace, path: &str) -> anyhow::Result<String> {
        let address = SocketAddr::new(self.address, 15_021);
        client::get(from, address, &address.to_string(), path)
    }

    /// The sum of a metric's series that have all of these labels.
    pub(crate) fn metric(
        &self,
        from: &Namespace,
        name: &str,
        labels: &[&str],
    ) -> anyhow::Result<u64> {
        let address = SocketAddr::new(self.address, 15_020);
        let page = client::get(from, address, &address.to_string(), "/metrics")?;
        Ok(sum(&page, name, labels))
    }

    /// The sidecar's own words, for a failure's report.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}
