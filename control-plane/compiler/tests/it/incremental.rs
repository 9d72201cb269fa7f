//! Whatever order changes come in, the result is that of a compile from scratch.

use std::{collections::BTreeMap, sync::Arc};

use outrigger_compiler::{Change, Compiler, Object, ObjectKey, Update};
use outrigger_model::{Namespace, ResourceName};
use proptest::{prelude::*, sample::select};

use crate::yaml::{compile, objects, options};

type Texts = prop::sample::Select<&'static str>;

// A small world, so that objects meet: few names, few labels, every kind.

fn namespace() -> Texts {
    select(vec!["a", "b", "outrigger-system"])
}

fn name() -> Texts {
    select(vec!["x", "w", "z"])
}

fn label() -> Texts {
    select(vec!["v1", "v2"])
}

/// A host as routes and policies name it.
fn host() -> Texts {
    select(vec![
        "x",
        "w",
        "x.a.svc.cluster.local",
        "w.b.svc.cluster.local",
        "ext.example",
        "*.a.svc.cluster.local",
        "*",
    ])
}

/// A host without wildcard.
fn plain() -> Texts {
    select(vec![
        "x",
        "w",
        "x.a.svc.cluster.local",
        "ext.example",
        "x.b.svc.cluster.local",
    ])
}

fn object(version: &str, kind: &str, name: &str, namespace: &str, rest: &str) -> String {
    format!(
        "{{apiVersion: {version}, kind: {kind}, \
         metadata: {{name: {name}, namespace: {namespace}}}, {rest}}}"
    )
}

fn istio(kind: &str, name: &str, namespace: &str, spec: &str) -> String {
    let rest = format!("spec: {{{spec}}}");
    object("networking.istio.io/v1", kind, name, namespace, &rest)
}

fn service() -> impl Strategy<Value = String> {
    let port = select(vec![80_u16, 81]);
    (namespace(), name(), label(), port, any::<bool>()).prop_map(
        |(namespace, name, label, port, named)| {
            let target = if named { "named" } else { "8080" };
            let spec = format!(
                "spec: {{selector: {{version: {label}}}, clusterIP: 10.0.9.{port}, \
                 ports: [{{name: http, port: {port}, targetPort: {target}}}, \
                 {{name: tcp-b, port: 90}}]}}"
            );
            object("v1", "Service", name, namespace, &spec)
        },
    )
}

fn workload() -> impl Strategy<Value = String> {
    (namespace(), name(), label(), 1..4_u8, any::<bool>()).prop_map(
        |(namespace, name, label, address, meshed)| {
            let mode = if meshed { "istio" } else { "disabled" };
            let spec = format!(
                "address: 10.0.0.{address}, ports: {{named: 9000}}, \
                 labels: {{version: {label}, security.istio.io/tlsMode: {mode}}}"
            );
            istio("WorkloadEntry", name, namespace, &spec)
        },
    )
}

fn pod() -> impl Strategy<Value = String> {
    let shape = (namespace(), name(), label(), 1..4_u8, any::<bool>());
    shape.prop_map(|(namespace, name, label, address, meshed)| {
        let status = if meshed { "injected" } else { "none" };
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}, \
             labels: {{version: {label}}}, annotations: {{outrigger.dev/status: {status}}}}}, \
             spec: {{serviceAccountName: {name}, \
             containers: [{{name: a, ports: [{{name: named, containerPort: 9000}}]}}]}}, \
             status: {{podIP: 10.0.0.{address}}}}}"
        )
    })
}

fn node() -> impl Strategy<Value = String> {
    (name(), label()).prop_map(|(name, zone)| {
        format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: {name}, \
             labels: {{topology.kubernetes.io/zone: {zone}}}}}}}"
        )
    })
}

fn namespace_object() -> impl Strategy<Value = String> {
    (namespace(), any::<bool>()).prop_map(|(name, permissive)| {
        let mode = if permissive { "permissive" } else { "strict" };
        format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, \
             annotations: {{outrigger.dev/mtls: {mode}}}}}}}"
        )
    })
}

fn slice() -> impl Strategy<Value = String> {
    let target = prop_oneof![
        Just(String::new()),
        (name(), name()).prop_map(|(pod, node)| {
            format!(", nodeName: {node}, targetRef: {{kind: Pod, name: {pod}}}")
        }),
    ];
    let shape = (namespace(), name(), name(), 1..4_u8, target);
    shape.prop_map(|(namespace, name, service, address, target)| {
        format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
             metadata: {{name: {name}, namespace: {namespace}, \
             labels: {{kubernetes.io/service-name: {service}}}}}, \
             ports: [{{name: http, port: 8080}}], endpoints: [{{addresses: [10.0.0.{address}]{target}}}]}}"
        )
    })
}

fn entry() -> impl Strategy<Value = String> {
    (namespace(), name(), plain(), label(), any::<bool>()).prop_map(
        |(namespace, name, host, label, selects)| {
            let from = if selects {
                format!("workloadSelector: {{labels: {{version: {label}}}}}")
            } else {
                "endpoints: [{address: 10.0.1.1}]".to_owned()
            };
            let spec = format!(
                "hosts: [{host}], ports: [{{number: 80, name: http}}], resolution: STATIC, {from}"
            );
            istio("ServiceEntry", name, namespace, &spec)
        },
    )
}

fn route() -> impl Strategy<Value = String> {
    let shape = (namespace(), name(), host(), plain(), label(), any::<bool>());
    shape.prop_map(|(namespace, name, host, target, subset, catch_all)| {
        let condition = if catch_all {
            ""
        } else {
            "match: [{uri: {prefix: /p}}], "
        };
        let spec = format!(
            "hosts: ['{host}'], \
             tcp: [{{match: [{{port: 90}}], route: [{{destination: {{host: {target}}}}}]}}], \
             http: [{{{condition}route: [{{destination: {{host: {target}, subset: {subset}}}}}]}}]"
        );
        istio("VirtualService", name, namespace, &spec)
    })
}

fn policy() -> impl Strategy<Value = String> {
    (namespace(), name(), host(), label(), any::<bool>()).prop_map(
        |(namespace, name, host, subset, random)| {
            let simple = if random { "RANDOM" } else { "ROUND_ROBIN" };
            let spec = format!(
                "host: '{host}', trafficPolicy: {{loadBalancer: {{simple: {simple}}}}}, \
                 subsets: [{{name: {subset}, labels: {{version: {subset}}}}}]"
            );
            istio("DestinationRule", name, namespace, &spec)
        },
    )
}

fn gateway(kind: &str, name: &str, namespace: &str, spec: &str) -> String {
    let rest = format!("spec: {{{spec}}}");
    object("gateway.networking.k8s.io/v1", kind, name, namespace, &rest)
}

fn attached() -> impl Strategy<Value = String> {
    let kind = select(vec!["HTTPRoute", "HTTPRoute", "GRPCRoute"]);
    let port = select(vec!["", ", port: 80", ", port: 81", ", sectionName: tcp-b"]);
    let parent = (namespace(), name(), port);
    let backend = (namespace(), name(), select(vec![80_u16, 81, 90]));
    let shape = (kind, namespace(), name(), parent, backend, label());
    shape.prop_map(|(kind, namespace, name, parent, backend, header)| {
        let spec = format!(
            "parentRefs: [{{group: '', kind: Service, namespace: {}, name: {}{}}}], \
             rules: [{{backendRefs: [{{namespace: {}, name: {}, port: {}}}]}}, \
             {{matches: [{{headers: [{{name: x, value: {header}}}]}}], \
             backendRefs: [{{name: {name}, port: 80, weight: 1}}]}}]",
            parent.0, parent.1, parent.2, backend.0, backend.1, backend.2,
        );
        gateway(kind, name, namespace, &spec)
    })
}

fn grant() -> impl Strategy<Value = String> {
    let kind = select(vec!["HTTPRoute", "GRPCRoute"]);
    let to = select(vec!["", ", name: x", ", name: w"]);
    (namespace(), name(), namespace(), kind, to).prop_map(|(namespace, name, from, kind, to)| {
        let spec = format!(
            "from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: {from}}}], \
             to: [{{group: '', kind: Service{to}}}]"
        );
        gateway("ReferenceGrant", name, namespace, &spec)
    })
}

fn document() -> impl Strategy<Value = String> {
    prop_oneof![
        service(),
        workload(),
        slice(),
        entry(),
        route(),
        policy(),
        attached(),
        attached(),
        grant(),
        pod(),
        node(),
        namespace_object(),
    ]
}

#[derive(Debug, Clone)]
enum Event {
    Put(String),
    /// Takes away the object of that number, if there are so many.
    Take(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => document().prop_map(Event::Put),
        1 => (0..20_usize).prop_map(Event::Take),
    ]
}

fn change(present: &mut BTreeMap<ObjectKey, Arc<Object>>, event: Event) -> Option<Change> {
    match event {
        Event::Put(text) => {
            let object = objects(&text).remove(0);
            present.insert(object.key().clone(), Arc::clone(&object));
            Some(Change::Upsert(object))
        }
        Event::Take(number) => {
            let key = present.keys().nth(number).cloned()?;
            present.remove(&key);
            Some(Change::Delete(key))
        }
    }
}

fn from_scratch(present: &BTreeMap<ObjectKey, Arc<Object>>) -> Compiler {
    let mut compiler = Compiler::new(options());
    compiler.apply(
        present
            .values()
            .map(|object| Change::Upsert(Arc::clone(object))),
    );
    compiler
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn incremental_equals_from_scratch(
        batches in prop::collection::vec(prop::collection::vec(event(), 1..4), 1..12)
    ) {
        let mut compiler = Compiler::new(options());
        let mut present = BTreeMap::new();
        for batch in batches {
            let before = compiler.resources().clone();
            let aliases = compiler.aliases().clone();
            let changes: Vec<Change> =
                batch.into_iter().filter_map(|event| change(&mut present, event)).collect();
            let update = compiler.apply(changes);
            let fresh = from_scratch(&present);
            prop_assert_eq!(compiler.resources(), fresh.resources());
            prop_assert_eq!(compiler.aliases(), fresh.aliases());
            prop_assert_eq!(compiler.diagnostics(), fresh.diagnostics());
            prop_assert_eq!(compiler.ledger(), fresh.ledger());
            prop_assert_eq!(compiler.statuses(), fresh.statuses());
            prop_assert!(compiler.workloads().eq(fresh.workloads()));
            // And the update says exactly what changed.
            let after = compiler.resources();
            let changed: Vec<&ResourceName> =
                after.iter().filter(|(name, value)| before.get(name) != Some(value))
                    .map(|(name, _)| name).collect();
            let removed: Vec<&ResourceName> =
                before.keys().filter(|name| !after.contains_key(name)).collect();
            prop_assert_eq!(update.changed.iter().collect::<Vec<_>>(), changed);
            prop_assert_eq!(update.removed.iter().collect::<Vec<_>>(), removed);
            prop_assert_eq!(update.aliases, &aliases != compiler.aliases());
        }
        // With nothing left, nothing is left behind.
        compiler.apply(present.into_keys().map(Change::Delete));
        let empty = Compiler::new(options());
        prop_assert_eq!(format!("{compiler:?}"), format!("{empty:?}"));
    }
}

const WEB: &str = "
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: a}, spec: {selector: {app: web}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: other, namespace: a}, spec: {ports: [{port: 80}]}}
";

#[test]
fn an_endpoint_changes_its_shard_alone() {
    let mut compiler = compile(WEB);
    let workload = |address: u8| {
        let text = format!(
            "{{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {{name: w, namespace: a}}, \
             spec: {{address: 10.0.0.{address}, labels: {{app: web}}}}}}"
        );
        objects(&text).into_iter().map(Change::Upsert)
    };
    let names = |update: &Update| -> Vec<String> {
        update
            .changed
            .iter()
            .map(|name| format!("{} {name}", name.kind().as_str()))
            .collect()
    };
    let first = compiler.apply(workload(1));
    assert_eq!(
        names(&first),
        [
            "Destination a/web:80",
            "EndpointShard a/web:80/0",
            "InboundPolicy a/w"
        ]
    );
    assert!(!first.aliases);
    let second = compiler.apply(workload(2));
    assert_eq!(names(&second), ["EndpointShard a/web:80/0"]);
    assert!(second.workloads);
    assert_eq!(compiler.apply(workload(2)), Update::default());
}

#[test]
fn clients_of_one_namespace_may_see_another_policy() {
    let mut compiler = compile(WEB);
    let text = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: w, namespace: client}, \
        spec: {host: web.a.svc.cluster.local, trafficPolicy: {loadBalancer: {simple: RANDOM}}}}";
    let update = compiler.apply(objects(text).into_iter().map(Change::Upsert));
    let [name] = update.changed.iter().collect::<Vec<_>>()[..] else {
        panic!("{update:?}");
    };
    let variants = &compiler.resources()[name];
    let client = Namespace::parse("client").unwrap();
    let other = Namespace::parse("a").unwrap();
    assert_ne!(variants.of(&client), variants.of(&other));
    assert_eq!(variants.of(&other), &variants.default);
}
