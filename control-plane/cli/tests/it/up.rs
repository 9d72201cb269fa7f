//! Real sidecars, real applications: two services of the example shop, one calling the other.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
};

use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::outrigger::{DEADLINE, Folder, address, eventually, free_port, is_gone};

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

/// Status and head of a GET.
fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    (status.unwrap_or(0), answer)
}

fn workload<'a>(ready: &'a Value, name: &str) -> &'a Value {
    let workloads = ready["workloads"].as_array().unwrap();
    workloads
        .iter()
        .find(|workload| workload["name"] == name)
        .unwrap()
}

fn outbound(workload: &Value, host: &str) -> SocketAddr {
    workload["outbound"][host]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

const PRODUCTS: &str = "product-service.shop.svc.cluster.local:80";

#[test]
fn requests_go_through_two_sidecars_and_edits_take_effect() {
    let folder = Folder::new();
    let own = address();
    folder
        .write("services.yaml", &service("product-service"))
        .write(
            "products.yaml",
            &instance("product-v1", "product-service", "product", "v1", address()),
        )
        .write("client.yaml", &client(own));
    let metrics = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let mut up = folder.up(&["--metrics", &metrics.to_string()]);
    let ready = up.until("ready");
    assert_eq!(get(metrics, "/live").0, 200);
    let (status, page) = get(metrics, "/metrics");
    assert_eq!(status, 200);
    assert!(
        page.contains("outrigger_control_handshakes_total{result=\"ok\"}"),
        "{page}"
    );
    let client = workload(&ready, "client");
    assert_eq!(
        client["identity"],
        "spiffe://cluster.local/ns/shop/sa/client"
    );
    assert_eq!(client["forward_proxy"], format!("{own}:15001"));
    assert_eq!(client["admin"], format!("http://{own}:15020"));
    assert_eq!(client["inbound"], serde_json::json!([]));
    let products = outbound(client, PRODUCTS);
    assert_eq!(products, SocketAddr::from((own, 20_001)));
    let (status, answer) = get(products, "/api/v1/products");
    assert_eq!(status, 200, "{answer}");
    assert!(answer.contains("x-shop-version: v1"), "{answer}");

    // Plain text on the inbound address is refused: it went over mutual TLS above.
    let inbound = workload(&ready, "product-v1")["inbound"][0]
        .as_str()
        .unwrap();
    let mut stream = TcpStream::connect(inbound).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
        .write_all(b"GET /api/v1/products HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    // Reset or closed without an answer are both a refusal.
    stream.read_to_end(&mut answer).ok();
    assert!(!answer.windows(6).any(|part| part == b" 200 O"));

    // A broken file is said, with its place, and changes nothing.
    folder.write("broken.yaml", "kind: Service\nmetadata: {");
    let warning = up.until_that(|event| event["file"] == "broken.yaml");
    assert_eq!(
        (&warning["event"], &warning["line"]),
        (&"warning".into(), &2.into())
    );
    assert_eq!(get(products, "/api/v1/products").0, 200);
    folder.remove("broken.yaml");

    // An edit reaches the sidecar that uses what it changed.
    folder.write(
        "route.yaml",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: p, namespace: shop}\nspec:\n  hosts: [product-service]\n  http:\n  - match: [{uri: {prefix: /api}}]\n    route: [{destination: {host: product-service}}]\n",
    );
    let config = up.until("config");
    assert_eq!(config["object"], "VirtualService/shop/p");
    assert_eq!(config["change"], "added");
    assert_eq!(
        (&config["sidecars"], &config["of"]),
        (&1.into(), &1.into()),
        "{config}"
    );
    assert_eq!(get(products, "/api/v1/products").0, 200);
    assert_eq!(get(products, "/elsewhere").0, 404);

    up.signal(Signal::INT);
    assert!(up.ended().success());
    let left = fs::read_dir(folder.state()).unwrap();
    let left = left.filter(|entry| entry.as_ref().unwrap().path().is_dir());
    assert_eq!(left.count(), 0, "the folder of the run is removed");
}

#[test]
fn workloads_and_services_come_and_go() {
    let folder = Folder::new();
    folder
        .write("services.yaml", &service("product-service"))
        .write("client.yaml", &client(address()));
    let mut up = folder.up(&[]);
    let ready = up.until("ready");
    let products = outbound(workload(&ready, "client"), PRODUCTS);
    let (status, answer) = get(products, "/api/v1/products");
    assert_eq!(status, 503, "{answer}");
    assert!(answer.contains("x-outrigger-reason"), "{answer}");

    folder.write(
        "v1.yaml",
        &instance("product-v1", "product-service", "product", "v1", address()),
    );
    let added = up.until("workload");
    assert_eq!(
        (&added["change"], &added["workload"]["name"]),
        (&"added".into(), &"product-v1".into())
    );
    eventually("the new endpoint answers", || {
        get(products, "/api/v1/products").0 == 200
    });

    folder.write("more.yaml", &service("other"));
    let changed = up.until_that(|event| event["workload"]["name"] == "client");
    let other = outbound(&changed["workload"], "other.shop.svc.cluster.local:80");
    assert_eq!(
        outbound(&changed["workload"], PRODUCTS),
        products,
        "ports stay"
    );
    eventually("the new listener takes connections", || {
        TcpStream::connect(other).is_ok()
    });

    folder.remove("v1.yaml");
    let removed =
        up.until_that(|event| event["change"] == "removed" && event["event"] == "workload");
    assert_eq!(removed["workload"]["name"], "product-v1");
    assert_eq!(get(products, "/api/v1/products").0, 503);
    up.signal(Signal::TERM);
    assert!(up.ended().success());
}

#[test]
fn children_are_restarted_and_do_not_outlive_it() {
    let folder = Folder::new();
    folder
        .write("services.yaml", &service("product-service"))
        .write(
            "v1.yaml",
            &instance("product-v1", "product-service", "product", "v1", address()),
        );
    let mut up = folder.up(&[]);
    up.until("ready");
    for pid in up.pids.clone() {
        rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        let exit = up.until("child_exit");
        assert_eq!(exit["workload"], "shop/product-v1");
        assert!(
            exit["status"].as_str().unwrap().contains("SIGKILL"),
            "{exit}"
        );
        assert_eq!(exit["expected"], false);
        assert!(exit["restart_in_ms"].as_u64().is_some());
        up.until("child_start");
    }
    let token = fs::read_dir(folder.state())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.is_dir())
        .unwrap()
        .join("shop.product-v1/token");
    let mode = fs::metadata(&token).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o400);

    let pids = up.pids.clone();
    up.signal(Signal::KILL);
    eventually("its children end with it", || {
        pids.iter().all(|pid| is_gone(*pid))
    });
}

#[test]
fn it_stops_by_itself() {
    let folder = Folder::new();
    folder.write("client.yaml", &client(address()));
    let up = folder.up(&["--for", "1500ms"]);
    assert!(up.ended().success());
}
