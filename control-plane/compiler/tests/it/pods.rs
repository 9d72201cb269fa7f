//! Pods, Nodes and Namespaces: who answers at the endpoints of a slice, and what sidecars of pods do.

use outrigger_compiler::{Change, Compiler, ObjectKey};
use outrigger_model::{
    Authority, Endpoint, InboundPolicy, MtlsMode, Namespace, Peer, Protocol, Resource,
};

use crate::yaml::{compile, objects};

const CLUSTER: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-a}}}
---
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop, creationTimestamp: '2026-01-02T00:00:00Z'}
spec:
  clusterIPs: [10.96.0.1, 'fd00:96::1']
  ipFamilies: [IPv4, IPv6]
  selector: {app: orders}
  ports: [{name: http, port: 80, targetPort: web}, {name: grpc, port: 81, targetPort: 9090}]
---
apiVersion: v1
kind: Service
metadata: {name: orders-headless, namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z'}
spec: {clusterIP: None, selector: {app: orders}, ports: [{port: 8080, targetPort: web}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: orders-4, namespace: shop, labels: {kubernetes.io/service-name: orders}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: grpc, port: 9090}]
endpoints:
- {addresses: [10.0.0.1], nodeName: n1, targetRef: {kind: Pod, name: meshed, namespace: shop}}
- {addresses: [10.0.0.2], nodeName: n1, zone: eu-b, targetRef: {kind: Pod, name: plain, namespace: shop}}
- {addresses: [10.0.0.3], targetRef: {kind: Pod, name: unknown, namespace: shop}}
- {addresses: [10.0.0.9], targetRef: {kind: Pod, name: plain, namespace: shop}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: orders-6, namespace: shop, labels: {kubernetes.io/service-name: orders}}
addressType: IPv6
ports: [{name: http, port: 8080}, {name: grpc, port: 9090}]
endpoints:
- {addresses: ['fd00::1'], nodeName: n1, targetRef: {kind: Pod, name: meshed, namespace: shop}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: headless, namespace: shop, labels: {kubernetes.io/service-name: orders-headless}}
addressType: IPv4
ports: [{name: '', port: 8080}]
endpoints:
- {addresses: [10.0.0.1], nodeName: n1, targetRef: {kind: Pod, name: meshed, namespace: shop}}
---
apiVersion: v1
kind: Pod
metadata: {name: meshed, namespace: shop, labels: {app: orders, version: v1}, annotations: {outrigger.dev/status: injected}}
spec:
  serviceAccountName: orders
  nodeName: n1
  containers:
  - {name: app, ports: [{name: web, containerPort: 8080}, {containerPort: 7000}, {name: udp, containerPort: 53, protocol: UDP}]}
  initContainers:
  - {name: outrigger-proxy, ports: [{name: metrics, containerPort: 15020}]}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: plain, namespace: shop, labels: {app: orders, version: v2}}
spec: {containers: [{name: app}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.2}]}
";

fn resource(compiler: &Compiler, kind: &str, name: &str) -> Option<Resource> {
    let mut all = compiler.resources().iter();
    let found = all.find(|(key, _)| key.kind().as_str() == kind && key.to_string() == name)?;
    Some(Resource::clone(&found.1.default))
}

fn endpoints(compiler: &Compiler, name: &str) -> Vec<Endpoint> {
    match resource(compiler, "EndpointShard", name) {
        Some(Resource::EndpointShard(shard)) => shard.endpoints,
        None => Vec::new(),
        other => panic!("{other:?}"),
    }
}

fn policy(compiler: &Compiler, name: &str) -> InboundPolicy {
    match resource(compiler, "InboundPolicy", name) {
        Some(Resource::InboundPolicy(policy)) => policy,
        other => panic!("{other:?}"),
    }
}

fn resolve(compiler: &Compiler, authority: &str) -> Option<String> {
    let authority = Authority::parse(authority, None).unwrap();
    let namespace = Namespace::parse("client").unwrap();
    let found = compiler.aliases().resolve(&namespace, &authority);
    found.map(|name| name.to_string())
}

#[test]
fn a_pod_says_who_answers_and_a_node_where() {
    let compiler = compile(CLUSTER);
    let found = endpoints(&compiler, "shop/orders:80/0");
    let addresses: Vec<_> = found.iter().map(|one| one.address.to_string()).collect();
    // The second family is the same pods again; an address whose Pod is unknown, or has another
    // address by now, is left out.
    assert_eq!(addresses, ["10.0.0.1:8080", "10.0.0.2:8080"]);
    let Peer::Meshed(identity) = &found[0].peer else {
        panic!("{found:?}");
    };
    let expected = "spiffe://cluster.local/ns/shop/sa/orders";
    assert_eq!(identity.to_string(), expected);
    assert_eq!(found[1].peer, Peer::Plain);
    assert_eq!(
        (&*found[0].locality.region, &*found[0].locality.zone),
        ("eu", "eu-a")
    );
    assert_eq!(&*found[1].locality.zone, "eu-b");
    let said: Vec<_> = compiler
        .diagnostics()
        .iter()
        .map(|one| one.message.clone())
        .collect();
    assert!(
        said.iter()
            .any(|one| one.contains("no Pod unknown has address 10.0.0.3")),
        "{said:?}"
    );
}

#[test]
fn labels_of_pods_make_subsets() {
    let rule = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders, namespace: shop}
spec: {host: orders, subsets: [{name: v2, labels: {version: v2}}]}
";
    let compiler = compile(&format!("{CLUSTER}---{rule}"));
    let found = endpoints(&compiler, "shop/orders:80/0");
    let subsets: Vec<_> = found.iter().map(|one| one.subsets.len()).collect();
    assert_eq!(subsets, [0, 1]);
}

#[test]
fn the_sidecar_of_a_pod_gets_its_policy_and_others_none() {
    let compiler = compile(CLUSTER);
    let policy = policy(&compiler, "shop/meshed");
    let ports: Vec<_> = policy
        .ports
        .iter()
        .map(|port| (port.port.get(), port.protocol, port.mtls))
        .collect();
    let strict = MtlsMode::Strict;
    let expected = [
        (7000, Protocol::Detect, strict),
        (8080, Protocol::Http, strict),
        (9090, Protocol::Grpc, strict),
    ];
    assert_eq!(ports, expected);
    assert_eq!(resource(&compiler, "InboundPolicy", "shop/plain"), None);
    assert_eq!(compiler.workloads().count(), 1);
}

#[test]
fn a_namespace_may_take_plain_text() {
    let mut compiler = compile(CLUSTER);
    let mut annotate = |value: &str| {
        let text = format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: shop, annotations: {{outrigger.dev/mtls: {value}}}}}}}"
        );
        let update = compiler.apply(objects(&text).into_iter().map(Change::Upsert));
        let changed: Vec<_> = update.changed.iter().map(ToString::to_string).collect();
        (changed, policy(&compiler, "shop/meshed").default_mtls)
    };
    let changed = vec!["shop/meshed".to_owned()];
    assert_eq!(
        annotate("permissive"),
        (changed.clone(), MtlsMode::Permissive)
    );
    assert_eq!(annotate("off"), (changed, MtlsMode::Strict));
    assert_eq!(annotate("strict"), (Vec::new(), MtlsMode::Strict));
}

#[test]
fn addresses_mean_services_and_those_of_pods_the_oldest() {
    let mut compiler = compile(CLUSTER);
    let check = |compiler: &Compiler, authority: &str, expected: Option<&str>| {
        assert_eq!(
            resolve(compiler, authority).as_deref(),
            expected,
            "{authority}"
        );
    };
    check(&compiler, "10.96.0.1:80", Some("shop/orders:80"));
    check(&compiler, "[fd00:96::1]:81", Some("shop/orders:81"));
    check(&compiler, "10.96.0.1:8080", None);
    check(
        &compiler,
        "10.0.0.1:8080",
        Some("shop/orders-headless:8080"),
    );
    check(&compiler, "10.0.0.2:8080", Some("shop/orders:80"));
    check(&compiler, "[fd00::1]:9090", Some("shop/orders:81"));
    check(&compiler, "10.0.0.3:8080", None);
    let gone = objects(CLUSTER);
    let gone = gone
        .iter()
        .find(|object| object.key().name.as_str() == "orders-headless");
    let update = compiler.apply([Change::Delete(ObjectKey::clone(gone.unwrap().key()))]);
    assert!(update.aliases);
    check(&compiler, "10.0.0.1:8080", Some("shop/orders:80"));
}

#[test]
fn a_pod_that_is_over_leaves_nothing() {
    let mut compiler = compile(CLUSTER);
    let over = "
apiVersion: v1
kind: Pod
metadata: {name: meshed, namespace: shop, annotations: {outrigger.dev/status: injected}}
spec: {containers: []}
status: {phase: Succeeded}
";
    let update = compiler.apply(objects(over).into_iter().map(Change::Upsert));
    assert!(update.workloads && update.aliases);
    assert_eq!(resource(&compiler, "InboundPolicy", "shop/meshed"), None);
    assert_eq!(endpoints(&compiler, "shop/orders:80/0").len(), 1);
}

#[test]
fn a_workload_entry_does_not_decide_over_a_pod_of_its_name() {
    let entry = "
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: meshed, namespace: shop}
spec: {address: 10.9.9.9, serviceAccount: other}
";
    let mut compiler = compile(&format!("{CLUSTER}---{entry}"));
    let identity = |compiler: &Compiler| {
        policy(compiler, "shop/meshed")
            .identity
            .service_account
            .to_string()
    };
    assert_eq!(identity(&compiler), "orders");
    let pod = objects(CLUSTER);
    let pod = pod
        .iter()
        .find(|object| object.key().name.as_str() == "meshed")
        .unwrap();
    let update = compiler.apply([Change::Delete(ObjectKey::clone(pod.key()))]);
    let mut removed = update.removed.iter();
    assert!(removed.all(|name| name.to_string() != "shop/meshed"));
    assert_eq!(identity(&compiler), "other");
    compiler.apply([Change::Upsert(pod.clone())]);
    assert_eq!(identity(&compiler), "orders");
}
