//! A control plane that is killed and started again under load, and a sidecar that is, without it.
//! `up` ends with its control plane, so here it runs in a process of its own, beside sidecars that
//! the test starts itself.

use std::{
    collections::BTreeMap,
    env, fs,
    io::Read,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use outrigger_compiler::Membership;
use outrigger_controller::{
    controller::{Controller, Options, Root},
    source::Directory,
};
use outrigger_model::{MeshSettings, SpiffeId, TrustDomain, WorkloadName};
use outrigger_tests::{eventually, free_port, http1::call};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::{
    bed::{App, Bed},
    change::{SUBSETS, weights},
    load::{Load, gets, split},
};

const PATH: &str = "/api/v1/products";
/// Ports of a sidecar that lead to a service with sidecars, and to one without.
const MESHED: u16 = 20_001;
const PLAIN: u16 = 20_002;
/// Renewed twice in the test; on a busy machine a control plane may be away for seconds.
const LEAF_LIFETIME: Duration = Duration::from_secs(15);
/// Tells the process that is a control plane what it is to be one for.
const CONTROL_PLANE: &str = "OUTRIGGER_TEST_CONTROL_PLANE";
/// Its workloads and their service accounts.
const WORKLOADS: [(&str, &str); 3] = [
    ("products-v1", "products"),
    ("products-v2", "products"),
    ("client", "client"),
];

#[test]
fn a_control_plane_is_killed_and_started_again_under_load() {
    let bed = Bed::new();
    bed.service("products", "products", "http");
    bed.write("rule", SUBSETS);
    bed.write("weights", &weights(100));
    let apps = ["v1", "v2"].map(|version| {
        let name = format!("products-{version}");
        bed.app(&name, "products", "product", version)
    });
    let client = bed.workload("client", "client", "v1", None, &[]);
    let mut control_plane = ControlPlane::start(&bed, SocketAddr::from(([127, 0, 0, 1], 0)));
    let address = control_plane.facts.address;

    let mut processes = Processes(Vec::new());
    for (app, version) in apps.iter().zip(["v1", "v2"]) {
        let port = app.port.to_string();
        let shop = ["shop", "product", "--port", &port, "--version", version];
        processes.start(&shop.map(PathBuf::from));
        let name = format!("products-{version}");
        processes.sidecar(&bed, &control_plane, &name, app.sidecar, Some(*app));
    }
    processes.sidecar(&bed, &control_plane, "client", client, None);
    let products = SocketAddr::from((client, MESHED));
    for sidecar in [client, apps[0].sidecar, apps[1].sidecar] {
        eventually("a sidecar is ready", || ready(sidecar));
    }

    let load = Load::start(products, PATH, 2);
    load.more(50);
    for (of_v1, version) in [(0, "v2"), (100, "v1")] {
        let before = serial(client);
        control_plane.kill();
        // What it misses it is told when it is back.
        bed.write("weights", &weights(of_v1));
        load.more(200);
        control_plane = ControlPlane::start(&bed, address);
        eventually("the split follows the edit", || {
            let versions = split(&gets(products, PATH, 10, 1));
            versions.get(version) == Some(&10)
        });
        eventually("certificates are renewed", || serial(client) != before);
    }
    load.more(50);
    load.end_without_failure();
}

/// DESIGN §4: without a control plane a sidecar works on, after a restart from local disk.
#[test]
fn a_sidecar_is_killed_and_started_again_without_a_control_plane() {
    let bed = Bed::new();
    bed.service("products", "products", "http");
    let app = bed.app("products-v1", "products", "product", "v1");
    let client = bed.workload("client", "client", "v1", None, &[]);
    let mut processes = Processes(Vec::new());
    let outside = free_port();
    bed.write("outside", &outside_service(outside));
    for port in [app.port, outside].map(|port| port.to_string()) {
        let shop = ["shop", "product", "--port", &port, "--version", "v1"];
        processes.start(&shop.map(PathBuf::from));
    }
    let mut control_plane = ControlPlane::start(&bed, SocketAddr::from(([127, 0, 0, 1], 0)));
    let address = control_plane.facts.address;
    processes.sidecar(&bed, &control_plane, "products-v1", app.sidecar, Some(app));
    let sidecar = processes.sidecar(&bed, &control_plane, "client", client, None);
    let status = |port| call(SocketAddr::from((client, port)), "GET", PATH, &[]).status;
    let config = || call(SocketAddr::from((client, 15_020)), "GET", "/config", &[]).json();
    eventually("sidecars are ready", || ready(client) && ready(app.sidecar));
    assert_eq!((status(MESHED), status(PLAIN)), (200, 200));
    let kept = bed.state().join("client.state/resources");
    eventually("what is used is on disk", || {
        let content = fs::read(&kept).unwrap_or_default();
        let content = String::from_utf8_lossy(&content);
        content.contains("outside.example.com:80") && content.contains("products.shop")
    });

    control_plane.kill();
    processes.again(sidecar);
    eventually("it listens", || listens(client, PLAIN));
    assert_eq!(status(PLAIN), 200, "the first request, from local disk");
    let reply = call(SocketAddr::from((client, MESHED)), "GET", PATH, &[]);
    assert_eq!(
        reply.status, 503,
        "its key was in memory alone: no mTLS, and no plain text"
    );
    assert!(!reply.reason().is_empty());
    let not_ready = call(SocketAddr::from((client, 15_020)), "GET", "/ready", &[]);
    assert_eq!(not_ready.status, 503);
    assert_eq!(not_ready.json()["missing"], json!(["certificate"]));
    assert_eq!(config()["control_plane"]["connected"], false);
    assert!(config()["control_plane"]["restored_from_disk"].is_string());

    control_plane = ControlPlane::start(&bed, address);
    eventually("it is ready again", || ready(client));
    eventually("mTLS is back", || status(MESHED) == 200);

    // An altered file is as good as none.
    control_plane.kill();
    processes.kill(sidecar);
    let mut altered = fs::read(&kept).unwrap();
    *altered.last_mut().unwrap() ^= 1;
    fs::write(&kept, altered).unwrap();
    processes.again(sidecar);
    eventually("it listens", || listens(client, PLAIN));
    assert_eq!(config()["control_plane"]["restored_from_disk"], Value::Null);
    assert_eq!(status(PLAIN), 503);
}

/// A service without sidecars.
fn outside_service(port: u16) -> String {
    format!(
        r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: outside, namespace: shop}}
spec:
  hosts: [outside.example.com]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints:
  - address: 127.0.0.1
    labels: {{security.istio.io/tlsMode: disabled}}
    ports: {{http: {port}}}
"#
    )
}

/// What a control plane is to work on.
#[derive(Serialize, Deserialize)]
struct Task {
    folder: PathBuf,
    state: PathBuf,
    listen: SocketAddr,
}

/// What it says of itself, in a file of its state folder.
#[derive(Serialize, Deserialize)]
struct Facts {
    address: SocketAddr,
    identity: String,
    root: String,
    tokens: BTreeMap<String, String>,
}

impl Facts {
    fn path(state: &Path) -> PathBuf {
        state.join("facts.json")
    }
}

/// A control plane in a process of its own: this program, told to run one test. Killed when dropped.
struct ControlPlane {
    process: Child,
    facts: Facts,
}

impl ControlPlane {
    fn start(bed: &Bed, listen: SocketAddr) -> Self {
        let task = Task {
            folder: bed.manifests(),
            state: bed.state(),
            listen,
        };
        let facts = Facts::path(&task.state);
        // Of the one before. An error says that there was none.
        fs::remove_file(&facts).ok();
        let process = Command::new(env::current_exe().unwrap())
            .args(["mesh::restart::a_control_plane_serves", "--exact"])
            .env(CONTROL_PLANE, serde_json::to_string(&task).unwrap())
            // It ends when this does, however that ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the control plane serves", || facts.exists());
        let facts = serde_json::from_slice(&fs::read(facts).unwrap()).unwrap();
        Self { process, facts }
    }

    /// Nobody is told: the kernel takes the process away.
    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // An error says that it has ended.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// As a process of its own: a control plane, until it is killed or its parent ends. As any test: one
/// on an empty folder, which starts and takes connections.
#[test]
fn a_control_plane_serves() {
    let own = tempfile::tempdir().unwrap();
    let task = match env::var(CONTROL_PLANE) {
        Ok(task) => serde_json::from_str(&task).unwrap(),
        Err(_) => Task {
            folder: own.path().to_owned(),
            state: own.path().join("state"),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        },
    };
    let runtime = Runtime::new().unwrap();
    let (running, _) = runtime.block_on(async {
        let (directory, first) = Directory::open(&task.folder, None).unwrap();
        let options = Options {
            state_dir: task.state.clone(),
            root: Root::State,
            listen: task.listen,
            metrics: None,
            leaf_lifetime: LEAF_LIFETIME,
            settings: MeshSettings::defaults(TrustDomain::parse("cluster.local").unwrap()),
            membership: Membership::All,
        };
        Controller::start(options, directory, first).await.unwrap()
    });
    let token = |(name, account): (&str, &str)| {
        let identity: SpiffeId = format!("spiffe://cluster.local/ns/shop/sa/{account}")
            .parse()
            .unwrap();
        let workload: WorkloadName = format!("shop/{name}").parse().unwrap();
        let token = running.mint_token(&identity, &workload).unwrap();
        (name.to_owned(), token.expose().to_owned())
    };
    let facts = Facts {
        address: running.address(),
        identity: running.identity().to_string(),
        root: running.root_pem(),
        tokens: WORKLOADS.map(token).into(),
    };
    assert!(std::net::TcpStream::connect(facts.address).is_ok());
    let path = Facts::path(&task.state);
    let beside = path.with_extension("new");
    write(&beside, &serde_json::to_string(&facts).unwrap());
    fs::rename(beside, path).unwrap();
    if env::var(CONTROL_PLANE).is_ok() {
        // Its end is that of who started this.
        std::io::stdin().read_to_end(&mut Vec::new()).ok();
    }
    runtime.block_on(running.shutdown());
}

/// With how each was started. Ended when dropped.
struct Processes(Vec<(Child, Vec<PathBuf>)>);

fn spawn(arguments: &[PathBuf]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.args(arguments).spawn().unwrap()
}

impl Processes {
    fn start(&mut self, arguments: &[PathBuf]) -> usize {
        self.0.push((spawn(arguments), arguments.to_vec()));
        self.0.len() - 1
    }

    fn kill(&mut self, index: usize) {
        let (child, _) = &mut self.0[index];
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Killed if it still runs, and started as it was.
    fn again(&mut self, index: usize) {
        self.kill(index);
        let (child, arguments) = &mut self.0[index];
        *child = spawn(arguments);
    }

    fn sidecar(
        &mut self,
        bed: &Bed,
        control_plane: &ControlPlane,
        name: &str,
        address: Ipv4Addr,
        app: Option<App>,
    ) -> usize {
        let account = if app.is_some() { "products" } else { "client" };
        let facts = &control_plane.facts;
        let file = |ending: &str| bed.state().join(format!("{name}.{ending}"));
        write(&file("token"), &facts.tokens[name]);
        write(&file("root"), &facts.root);
        let inbound = app.map(|app| {
            let application = SocketAddr::from((Ipv4Addr::LOCALHOST, app.port));
            json!({"listen": SocketAddr::from((address, app.port)), "port": app.port, "application": application})
        });
        let outbound = [
            (MESHED, "products.shop.svc.cluster.local:80"),
            (PLAIN, "outside.example.com:80"),
        ];
        let outbound = outbound.map(|(port, authority)| {
            json!({"listen": SocketAddr::from((address, port)), "authority": authority})
        });
        fs::create_dir_all(file("state")).unwrap();
        let bootstrap = json!({
            "workload": format!("shop/{name}"),
            "service_account": account,
            "trust_domain": "cluster.local",
            "control_plane": facts.address,
            "control_plane_identity": facts.identity,
            "root_file": file("root"),
            "token_file": file("token"),
            "admin": SocketAddr::from((address, 15_020)),
            "state_dir": file("state"),
            "outbound": outbound,
            "inbound": Vec::from_iter(inbound),
            "log": "error",
        });
        write(&file("json"), &bootstrap.to_string());
        self.start(&["proxy".into(), file("json")])
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for (child, _) in &mut self.0 {
            // An error says that it has ended.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

fn ready(sidecar: Ipv4Addr) -> bool {
    let admin = SocketAddr::from((sidecar, 15_020));
    listens(sidecar, 15_020) && call(admin, "GET", "/ready", &[]).status == 200
}

fn listens(sidecar: Ipv4Addr, port: u16) -> bool {
    std::net::TcpStream::connect((sidecar, port)).is_ok()
}

/// Of the certificate in force.
fn serial(sidecar: Ipv4Addr) -> Value {
    let page = call(SocketAddr::from((sidecar, 15_020)), "GET", "/certs", &[]);
    page.json()["chain"][0]["serial"].clone()
}
