//! Real sidecars, real applications: two services of the example shop, one calling the other.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
};

use outrigger_tests::{
    Folder, Workload, eventually, free_address, free_port,
    http1::{Reply, call},
    is_gone, signal, sum,
};
use rustix::process::Signal;
use serde_json::Value;

use crate::outrigger::up;

fn service(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{selector: {{app: {name}}}, ports: [{{name: http-web, port: 80}}]}}\n"
    )
}

/// An instance of the shop's `role` behind a sidecar.
fn instance(name: &str, app: &str, role: &str, version: &str, own: Ipv4Addr) -> String {
    let port = free_port();
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata:\n  name: {name}\n  namespace: shop\n  annotations:\n    outrigger.dev/exec: outrigger shop {role} --port {port} --version {version}\nspec:\n  address: {own}\n  ports: {{http-web: {port}}}\n  labels: {{app: {app}, version: {version}}}\n  serviceAccount: {app}\n"
    )
}

/// A workload without an application: a client with a sidecar.
fn client(own: Ipv4Addr) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: client, namespace: shop}}\nspec: {{address: {own}, serviceAccount: client}}\n"
    )
}

fn get(address: SocketAddr, path: &str) -> Reply {
    call(address, "GET", path, &[])
}

/// The workload that an event is about.
fn workload(event: &Value) -> Workload {
    serde_json::from_value(event["workload"].clone()).unwrap()
}

const PRODUCTS: &str = "product-service.shop.svc.cluster.local:80";

#[test]
fn requests_go_through_two_sidecars_and_edits_take_effect() {
    let folder = Folder::new();
    let own = free_address();
    folder
        .write("services.yaml", &service("product-service"))
        .write(
            "products.yaml",
            &instance(
                "product-v1",
                "product-service",
                "product",
                "v1",
                free_address(),
            ),
        )
        .write("client.yaml", &client(own));
    let metrics = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let mut mesh = up(&folder, &["--metrics", &metrics.to_string()]);
    mesh.ready().unwrap();
    assert_eq!(get(metrics, "/live").status, 200);
    let page = get(metrics, "/metrics");
    assert_eq!(page.status, 200);
    let handshakes = "outrigger_control_handshakes_total";
    assert!(sum(&page.text(), handshakes, &["result=\"ok\""]) > 0);
    let client = mesh.workload("client").unwrap();
    assert_eq!(client.identity, "spiffe://cluster.local/ns/shop/sa/client");
    assert_eq!(client.forward_proxy, SocketAddr::from((own, 15_001)));
    assert_eq!(client.admin, format!("http://{own}:15020"));
    assert_eq!(client.inbound, []);
    let products = client.outbound(PRODUCTS).unwrap();
    assert_eq!(products, SocketAddr::from((own, 20_001)));
    let reply = get(products, "/api/v1/products");
    assert_eq!(
        (reply.status, reply.version()),
        (200, "v1"),
        "{}",
        reply.reason()
    );

    // Plain text on the inbound address is refused: it went over mutual TLS above.
    let inbound = mesh.workload("product-v1").unwrap().inbound[0];
    assert_eq!(get(inbound, "/api/v1/products").status, 403);

    // A broken file is said, with its place, and changes nothing.
    folder.write("broken.yaml", "kind: Service\nmetadata: {");
    let warning = mesh
        .until_that(|event| event["file"] == "broken.yaml")
        .unwrap();
    assert_eq!(
        (&warning["event"], &warning["line"]),
        (&"warning".into(), &2.into())
    );
    assert_eq!(get(products, "/api/v1/products").status, 200);
    folder.remove("broken.yaml");

    // An edit reaches the sidecar that uses what it changed.
    folder.write(
        "route.yaml",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: p, namespace: shop}\nspec:\n  hosts: [product-service]\n  http:\n  - match: [{uri: {prefix: /api}}]\n    route: [{destination: {host: product-service}}]\n",
    );
    let config = mesh.until("config").unwrap();
    assert_eq!(config["object"], "VirtualService/shop/p");
    assert_eq!(config["change"], "added");
    assert_eq!(
        (&config["sidecars"], &config["of"]),
        (&1.into(), &1.into()),
        "{config}"
    );
    assert_eq!(get(products, "/api/v1/products").status, 200);
    assert_eq!(get(products, "/elsewhere").status, 404);

    mesh.signal(Signal::INT).unwrap();
    assert!(mesh.ended().unwrap().success());
    let left = fs::read_dir(folder.state()).unwrap();
    let left = left.filter(|entry| entry.as_ref().unwrap().path().is_dir());
    assert_eq!(left.count(), 0, "the folder of the run is removed");
}

#[test]
fn workloads_and_services_come_and_go() {
    let folder = Folder::new();
    folder
        .write("services.yaml", &service("product-service"))
        .write("client.yaml", &client(free_address()));
    let mut mesh = up(&folder, &[]);
    mesh.ready().unwrap();
    let client = mesh.workload("client").unwrap();
    let products = client.outbound(PRODUCTS).unwrap();
    let reply = get(products, "/api/v1/products");
    assert_eq!(reply.status, 503);
    assert!(!reply.reason().is_empty());

    folder.write(
        "v1.yaml",
        &instance(
            "product-v1",
            "product-service",
            "product",
            "v1",
            free_address(),
        ),
    );
    let added = mesh.until("workload").unwrap();
    assert_eq!(
        (&added["change"], &added["workload"]["name"]),
        (&"added".into(), &"product-v1".into())
    );
    eventually("the new endpoint answers", || {
        get(products, "/api/v1/products").status == 200
    });

    folder.write("more.yaml", &service("other"));
    let changed = mesh
        .until_that(|event| event["workload"]["name"] == "client")
        .unwrap();
    let client = workload(&changed);
    let other = client.outbound("other.shop.svc.cluster.local:80").unwrap();
    assert_eq!(client.outbound(PRODUCTS).unwrap(), products, "ports stay");
    eventually("the new listener takes connections", || {
        TcpStream::connect(other).is_ok()
    });

    folder.remove("v1.yaml");
    let removed = mesh
        .until_that(|event| event["change"] == "removed" && event["event"] == "workload")
        .unwrap();
    assert_eq!(removed["workload"]["name"], "product-v1");
    assert_eq!(get(products, "/api/v1/products").status, 503);
    mesh.signal(Signal::TERM).unwrap();
    assert!(mesh.ended().unwrap().success());
}

#[test]
fn children_are_restarted_and_do_not_outlive_it() {
    let folder = Folder::new();
    folder
        .write("services.yaml", &service("product-service"))
        .write(
            "v1.yaml",
            &instance(
                "product-v1",
                "product-service",
                "product",
                "v1",
                free_address(),
            ),
        );
    let mut mesh = up(&folder, &[]);
    mesh.until("ready").unwrap();
    for pid in mesh.children() {
        signal(pid, Signal::KILL).unwrap();
        let exit = mesh.until("child_exit").unwrap();
        assert_eq!(exit["workload"], "shop/product-v1");
        assert!(
            exit["status"].as_str().unwrap().contains("SIGKILL"),
            "{exit}"
        );
        assert_eq!(exit["expected"], false);
        assert!(exit["restart_in_ms"].as_u64().is_some());
        mesh.until("child_start").unwrap();
    }
    let token = fs::read_dir(folder.state())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.is_dir())
        .unwrap()
        .join("shop.product-v1/token");
    let mode = fs::metadata(&token).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o400);

    let pids = mesh.children();
    mesh.signal(Signal::KILL).unwrap();
    eventually("its children end with it", || {
        pids.iter().all(|pid| is_gone(*pid))
    });
}

#[test]
fn it_stops_by_itself() {
    let folder = Folder::new();
    folder.write("client.yaml", &client(free_address()));
    let mesh = up(&folder, &["--for", "1500ms"]);
    assert!(mesh.ended().unwrap().success());
}
