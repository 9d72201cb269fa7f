//! What a client means by a host.

use outrigger_model::{Authority, Namespace};

use crate::yaml::compile;

const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{port: 8080}, {port: 81}]}
---
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: other}
spec: {ports: [{port: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a, namespace: shop}
spec:
  {hosts: [api.example, orders, orders.shop], addresses: [192.0.2.1], ports: [{number: 8080, name: http}], resolution: STATIC}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: b, namespace: other}
spec: {hosts: [api.example], ports: [{number: 8080, name: http}], resolution: STATIC}
";

#[test]
fn hosts_are_resolved_as_in_kubernetes() {
    let compiler = compile(OBJECTS);
    let check = |namespace: &str, authority: &str, expected: Option<&str>| {
        let namespace = Namespace::parse(namespace).unwrap();
        let parsed = Authority::parse(authority, None).unwrap();
        let found = compiler.aliases().resolve(&namespace, &parsed);
        let found = found.map(|name| name.to_string());
        assert_eq!(found.as_deref(), expected, "{authority} in {namespace}");
    };
    check("shop", "orders:8080", Some("shop/orders:8080"));
    check("shop", "orders:81", Some("shop/orders:81"));
    check("shop", "orders:82", None);
    check("other", "orders:8080", Some("other/orders:8080"));
    check("other", "orders:81", None);
    check("third", "orders:8080", None);
    check("third", "orders.shop:8080", Some("shop/orders:8080"));
    check("third", "orders.shop.svc:8080", Some("shop/orders:8080"));
    check(
        "third",
        "ORDERS.shop.svc.cluster.local:8080",
        Some("shop/orders:8080"),
    );
    check("third", "orders.shop.svc.cluster:8080", None);
    check("third", "10.96.0.1:8080", Some("shop/orders:8080"));
    check("third", "192.0.2.1:8080", Some("shop/api.example:8080"));
    check("shop", "api.example:8080", Some("shop/api.example:8080"));
    // Of equal age: by namespace.
    check("third", "api.example:8080", Some("other/api.example:8080"));
    check("other", "api.example:8080", Some("other/api.example:8080"));
}
