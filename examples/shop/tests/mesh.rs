//! The YAML in `mesh/` holds together: it parses, names resolve, ports agree, and the commands are
//! ones that the shop takes.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where it fails"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use outrigger_shop::args::Args;
use serde_json::{Value, json};

fn objects() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("mesh");
    let mut objects = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let parsed: Vec<Value> =
            serde_saphyr::from_multiple(&text).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        assert!(!parsed.is_empty(), "{path:?}");
        objects.extend(parsed);
    }
    objects
}

fn kind<'a>(objects: &'a [Value], kind: &str) -> BTreeMap<&'a str, &'a Value> {
    let found = objects.iter().filter(|object| object["kind"] == kind);
    let mut named = BTreeMap::new();
    for object in found {
        let name = object["metadata"]["name"].as_str().unwrap();
        assert!(named.insert(name, object).is_none(), "two {kind} {name}");
    }
    assert!(!named.is_empty(), "no {kind}");
    named
}

/// Whether `labels` has everything in `wanted`.
fn selects(wanted: &Value, labels: &Value) -> bool {
    let wanted = wanted.as_object().unwrap();
    wanted.iter().all(|(key, value)| labels[key] == *value)
}

#[test]
fn every_object_is_in_the_namespace() {
    let objects = objects();
    assert_eq!(
        kind(&objects, "Namespace").keys().collect::<Vec<_>>(),
        [&"shop"]
    );
    for object in &objects {
        if object["kind"] != "Namespace" {
            assert_eq!(object["metadata"]["namespace"], "shop", "{object}");
        }
    }
}

#[test]
fn workloads_have_an_account_ports_of_their_own_and_a_command_that_parses() {
    let objects = objects();
    let accounts = kind(&objects, "ServiceAccount");
    let mut ports = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    for (name, workload) in kind(&objects, "WorkloadEntry") {
        let spec = &workload["spec"];
        assert!(
            accounts.contains_key(spec["serviceAccount"].as_str().unwrap()),
            "{name}"
        );
        assert!(
            addresses.insert(spec["address"].as_str().unwrap()),
            "{name}"
        );
        let command = workload["metadata"]["annotations"]["outrigger.dev/exec"].as_str();
        if name == "loadgen" {
            assert!(spec.get("ports").is_none() && command.is_none());
            continue;
        }
        let own: Vec<&Value> = spec["ports"].as_object().unwrap().values().collect();
        assert_eq!(own.len(), 1, "{name}");
        let port = own[0].as_u64().unwrap();
        assert!(ports.insert(port), "{name} shares port {port}");

        let mut words = command.unwrap().split_whitespace().map(str::to_owned);
        assert_eq!(words.next().as_deref(), Some("outrigger"));
        assert_eq!(words.next().as_deref(), Some("shop"));
        let args = Args::read(words).unwrap();
        assert_eq!(u64::from(args.port), port, "{name}");
        assert_eq!(spec["labels"]["version"], args.version, "{name}");
    }
}

#[test]
fn services_select_workloads_and_name_their_port() {
    let objects = objects();
    let workloads = kind(&objects, "WorkloadEntry");
    for (name, service) in kind(&objects, "Service") {
        let port = &service["spec"]["ports"][0];
        let port_name = port["name"].as_str().unwrap();
        assert!(port_name.starts_with("http-") || port_name.starts_with("grpc-"));
        assert!(port_name.len() <= 15, "{port_name}");
        assert_eq!(port["targetPort"], port_name);
        let selected: Vec<_> = workloads
            .values()
            .filter(|w| selects(&service["spec"]["selector"], &w["spec"]["labels"]))
            .collect();
        assert!(!selected.is_empty(), "{name}");
        for workload in selected {
            assert!(workload["spec"]["ports"][port_name].is_u64(), "{workload}");
        }
    }
    for service in outrigger_shop::Service::ALL {
        assert!(kind(&objects, "Service").contains_key(service.name()));
    }
}

#[test]
fn routes_lead_to_subsets_that_have_a_workload() {
    let objects = objects();
    let services = kind(&objects, "Service");
    let workloads = kind(&objects, "WorkloadEntry");
    let rules = kind(&objects, "DestinationRule");
    for (name, route) in kind(&objects, "VirtualService") {
        let backends = route["spec"]["http"][0]["route"].as_array().unwrap();
        if let [all] = &backends[..] {
            assert_eq!(
                all["destination"]["host"], *name,
                "{name}: all to the service"
            );
            continue;
        }
        let weights: u64 = backends.iter().map(|b| b["weight"].as_u64().unwrap()).sum();
        assert_eq!(weights, 100, "{name}");
        for backend in backends {
            let host = backend["destination"]["host"].as_str().unwrap();
            let subsets = rules[host]["spec"]["subsets"].as_array().unwrap();
            let subset = subsets
                .iter()
                .find(|subset| subset["name"] == backend["destination"]["subset"])
                .unwrap();
            assert!(workloads.values().any(|workload| {
                let labels = &workload["spec"]["labels"];
                selects(&services[host]["spec"]["selector"], labels)
                    && selects(&subset["labels"], labels)
            }));
        }
    }
}

#[test]
fn the_order_service_has_timeout_and_retries_under_spec() {
    let objects = objects();
    let route = kind(&objects, "VirtualService")["order-service"];
    assert_eq!(route["apiVersion"], "networking.istio.io/v1beta1");
    let backend = |subset: &str, weight: u8| json!({"destination": {"host": "order-service", "subset": subset}, "weight": weight});
    assert_eq!(
        route["spec"],
        json!({
            "hosts": ["order-service"],
            "http": [{"route": [backend("v2", 10), backend("v1", 90)]}],
            "timeout": "5s",
            "retries": {"attempts": 3, "perTryTimeout": "2s"},
        })
    );
}

#[test]
fn the_product_service_has_limits_and_outlier_detection() {
    let objects = objects();
    let route = kind(&objects, "VirtualService")["product-service"];
    let backend = |subset: &str, weight: u8| json!({"destination": {"host": "product-service", "subset": subset}, "weight": weight});
    assert_eq!(
        route["spec"]["http"],
        json!([{
            "match": [{"uri": {"prefix": "/api/v1"}}],
            "route": [backend("v1", 90), backend("v2", 10)],
            "retries": {"attempts": 3, "perTryTimeout": "2s"},
            "timeout": "10s",
        }])
    );
    let rule = kind(&objects, "DestinationRule")["product-service"];
    assert_eq!(
        rule["spec"]["trafficPolicy"],
        json!({
            "connectionPool": {
                "tcp": {"maxConnections": 100},
                "http": {
                    "http1MaxPendingRequests": 50,
                    "http2MaxRequests": 100,
                    "maxRequestsPerConnection": 2,
                },
            },
            "loadBalancer": {"simple": "ROUND_ROBIN"},
            "outlierDetection": {
                "consecutive5xxErrors": 5,
                "interval": "30s",
                "baseEjectionTime": "30s",
                "maxEjectionPercent": 50,
            },
        })
    );
}
