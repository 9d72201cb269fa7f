//! Addresses and ports: distinct, and stable under edits.

use outrigger_compiler::Membership;
use outrigger_controller::{
    controller::{Options, Root},
    source::{Directory, Transform},
};
use outrigger_model::{MeshSettings, TrustDomain};

use super::{super::address::AddressBook, *};

/// The objects of a text, addresses given, and what they compile to.
fn in_force(text: &str) -> InForce {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("m.yaml"), text).unwrap();
    let book: Box<dyn Transform> = Box::new(AddressBook::default());
    let (_, update) = Directory::open(folder.path(), Some(book)).unwrap();
    assert_eq!(update.diagnostics, []);
    let options = Options {
        state_dir: folder.path().to_owned(),
        root: Root::State,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        metrics: None,
        leaf_lifetime: std::time::Duration::from_secs(60),
        settings: MeshSettings::defaults(TrustDomain::parse("cluster.local").unwrap()),
        membership: Membership::All,
    };
    options.in_force(&update).unwrap()
}

fn plan_of(text: &str, ports: &mut OutboundPorts) -> Plan {
    let domain = Hostname::parse("cluster.local").unwrap();
    plan(&in_force(text), &domain, ports)
}

fn service(name: &str, ports: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{selector: {{app: {name}}}, ports: [{ports}]}}\n"
    )
}

fn entry(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n"
    )
}

#[test]
fn a_workload_gets_listeners_and_environment() {
    let text = [
        service("order-service", "{name: http-web, port: 80}, {name: admin, port: 81}"),
        service("a", "{port: 7}, {name: dns, port: 53, protocol: UDP}"),
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: x, namespace: shop}\nspec: {hosts: [api.example.com, '*.example.org'], ports: [{number: 443, name: tls}]}\n".to_owned(),
        entry("one", "address: 127.1.0.9, ports: {http: 9001}, serviceAccount: orders"),
    ]
    .concat();
    let plan = plan_of(&text, &mut OutboundPorts::default());
    assert_eq!(plan.problems, []);
    let one = &plan.workloads[&"shop/one".parse().unwrap()];
    let at = |port: u16| SocketAddr::from(([127, 1, 0, 9], port));
    assert_eq!(one.inbound().collect::<Vec<_>>(), [at(9001)]);
    assert_eq!(one.forward_proxy(), at(15_001));
    assert_eq!(one.admin(), at(15_020));
    let outbound: Vec<_> = one
        .outbound
        .iter()
        .map(|(name, at)| (name.as_str(), *at))
        .collect();
    assert_eq!(
        outbound,
        [
            ("a.shop.svc.cluster.local:7", at(20_001)),
            ("api.example.com:443", at(20_002)),
            ("order-service.shop.svc.cluster.local:80", at(20_003)),
            ("order-service.shop.svc.cluster.local:81", at(20_004)),
        ]
    );
    let environment: Vec<_> = one
        .environment
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    assert_eq!(
        environment,
        [
            "A_SERVICE_HOST=127.1.0.9",
            "A_SERVICE_PORT=20001",
            "ORDER_SERVICE_SERVICE_HOST=127.1.0.9",
            "ORDER_SERVICE_SERVICE_PORT=20003",
            "ORDER_SERVICE_SERVICE_PORT_ADMIN=20004",
            "ORDER_SERVICE_SERVICE_PORT_HTTP_WEB=20003",
        ]
    );
    assert_eq!(one.service_account.as_str(), "orders");
    assert_eq!(one.exec, None);
}

#[test]
fn ports_come_from_services_when_the_entry_names_none() {
    let text = service("a", "{port: 80, targetPort: 8080}, {port: 81}")
        + &entry("one", "labels: {app: a, version: v1}")
        + &entry("two", "labels: {app: b}");
    let plan = plan_of(&text, &mut OutboundPorts::default());
    let ports = |name: &str| {
        let workload = &plan.workloads[&name.parse().unwrap()];
        workload
            .ports
            .iter()
            .map(|port| port.get())
            .collect::<Vec<_>>()
    };
    assert_eq!(ports("shop/one"), [81, 8080]);
    assert_eq!(ports("shop/two"), [0_u16; 0]);
}

/// What clients are led to, a sidecar listens on: also a number that the entry does not name.
#[test]
fn ports_come_from_services_beside_those_that_the_entry_names() {
    let text = service(
        "a",
        "{name: http, port: 80}, {name: admin, port: 81, targetPort: 9090}",
    ) + &entry("one", "labels: {app: a}, ports: {http: 9001}")
        + &entry("two", "labels: {app: a}, ports: {http: 9002, admin: 9003}")
        + &entry("three", "labels: {app: a}, ports: {http: 9004}");
    let plan = plan_of(&text, &mut OutboundPorts::default());
    assert_eq!(plan.problems, []);
    let check = |name: &str, inbound: &[u16], awaited: &[u16]| {
        let workload = &plan.workloads[&name.parse().unwrap()];
        let numbers = |ports: &BTreeSet<Port>| ports.iter().map(|port| port.get()).collect();
        let (found, waited): (Vec<_>, Vec<_>) =
            (numbers(&workload.ports), numbers(&workload.awaited));
        assert_eq!((&found[..], &waited[..]), (inbound, awaited), "{name}");
    };
    check("shop/one", &[9001, 9090], &[9001]);
    check("shop/two", &[9002, 9003], &[9002, 9003]);
    // Only one application can have 9090 of 127.0.0.1.
    check("shop/three", &[9004], &[9004]);
    assert_eq!(plan.warnings.len(), 1);
    let warning = plan.warnings[0].to_string();
    assert!(warning.contains("port 9090"), "{warning}");
    assert!(warning.contains("shop/one has"), "{warning}");
}

#[test]
fn ports_of_applications_are_not_given_to_listeners() {
    let mut ports = OutboundPorts::default();
    let services = service("a", "{name: x, port: 80}") + &service("b", "{name: x, port: 80}");
    let outbound = |ports: &mut OutboundPorts, entries: &str| {
        let plan = plan_of(&(services.clone() + entries), ports);
        let one = &plan.workloads[&"shop/one".parse().unwrap()];
        one.outbound
            .values()
            .map(SocketAddr::port)
            .collect::<Vec<_>>()
    };
    let one = entry("one", "ports: {x: 20001}");
    assert_eq!(outbound(&mut ports, &one), [20_002, 20_003]);
    // One that comes later: what had its number gets another, and all others stay.
    let two = one + &entry("two", "ports: {x: 20002}");
    assert_eq!(outbound(&mut ports, &two), [20_004, 20_003]);
}

#[test]
fn outbound_ports_stay_under_edits() {
    let mut ports = OutboundPorts::default();
    let one = entry("one", "ports: {http: 9001}");
    let mut check = |services: &[&str], expected: &[(&str, u16)]| {
        let services: String = services
            .iter()
            .map(|name| service(name, "{port: 80}"))
            .collect();
        let plan = plan_of(&(services + &one), &mut ports);
        let outbound: Vec<_> = plan.workloads[&"shop/one".parse().unwrap()]
            .outbound
            .iter()
            .map(|(name, at)| (name.split('.').next().unwrap(), at.port()))
            .collect();
        assert_eq!(outbound, expected);
    };
    check(&["b", "c"], &[("b", 20_001), ("c", 20_002)]);
    check(
        &["a", "b", "c"],
        &[("a", 20_003), ("b", 20_001), ("c", 20_002)],
    );
    check(&["a", "c"], &[("a", 20_003), ("c", 20_002)]);
    check(
        &["a", "b", "c"],
        &[("a", 20_003), ("b", 20_001), ("c", 20_002)],
    );
}

#[test]
fn numbers_of_gone_services_are_used_when_all_are_taken() {
    let mut ports = OutboundPorts::default();
    let none = BTreeSet::new();
    let count = u32::from(OUTBOUND_LAST - OUTBOUND_FIRST) + 1;
    let names =
        |range: std::ops::Range<u32>| range.map(|n| format!("s{n:06}:1")).collect::<BTreeSet<_>>();
    assert_eq!(ports.assign(&names(0..count), &none).len(), 12_000);
    let next = ports.assign(&names(1..count + 1), &none);
    assert_eq!(next.len(), 12_000);
    assert_eq!(next[&format!("s{count:06}:1")], OUTBOUND_FIRST);
    assert_eq!(ports.assign(&names(0..count + 5), &none).len(), 12_000);
}

#[test]
fn commands_are_split_without_a_shell() {
    let exec = |command: &str| {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: one, annotations: {{outrigger.dev/exec: {command:?}}}}}\nspec: {{}}\n"
        );
        let plan = plan_of(&text, &mut OutboundPorts::default());
        match plan.problems.first() {
            Some(problem) => Err(problem.to_string()),
            None => Ok(plan.workloads.into_values().next().unwrap().exec.unwrap()),
        }
    };
    assert_eq!(
        exec("a 'b c' \"d e\" $F | g").unwrap(),
        ["a", "b c", "d e", "$F", "|", "g"]
    );
    for broken in ["a 'b", " ", ""] {
        assert!(
            exec(broken).unwrap_err().contains("holds no command"),
            "{broken}"
        );
    }
}

#[test]
fn what_two_workloads_cannot_share_is_said() {
    let check = |first: &str, second: &str, expected: &str| {
        let text = entry("a", first) + &entry("b", second);
        let plan = plan_of(&text, &mut OutboundPorts::default());
        let problems: Vec<_> = plan.problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            problems.len(),
            usize::from(!expected.is_empty()),
            "{problems:?}"
        );
        if let Some(problem) = problems.first() {
            assert!(problem.starts_with("m.yaml:"), "{problem}");
            assert!(problem.contains(expected), "{problem}");
        }
    };
    check(
        "ports: {x: 9001}",
        "ports: {x: 9001}",
        "port 9001 on 127.0.0.1 is that of shop/a",
    );
    check("ports: {x: 9001}", "ports: {x: 9002}", "");
    check("ports: {x: 9001, y: 9001}", "ports: {x: 9002}", "");
    check("address: 127.2.0.1", "address: 127.2.0.1", "that of shop/a");
    check("address: 127.0.0.1", "address: 127.0.0.1", "");
    check("address: 127.1.0.1", "", "");
    check("", "ports: {x: 15020}", "15020 is the sidecar's own");
}
