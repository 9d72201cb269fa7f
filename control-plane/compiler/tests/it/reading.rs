//! Documents to objects: keys, lists, kinds that are not used, positions.

use outrigger_compiler::{Kind, Node, Position, Provenance, Source, read};

use crate::yaml::{nodes, objects};

fn provenance() -> Provenance {
    Provenance::File(Source {
        file: "a.yaml".into(),
        document: 0,
        position: Position { line: 1, column: 1 },
    })
}

#[test]
fn a_list_holds_objects() {
    let text = "
apiVersion: v1
kind: List
items:
  - {apiVersion: v1, kind: Service, metadata: {name: a}, spec: {}}
  - {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}
  - {apiVersion: networking.istio.io/v2, kind: VirtualService, metadata: {name: c}}
  - {apiVersion: v1, kind: Namespace, metadata: {name: d, namespace: ignored}}
  - {apiVersion: v1, kind: Service, metadata: {}}
  - 5
";
    let reading = read(&nodes(text)[0], &provenance());
    let keys: Vec<String> = reading
        .objects
        .iter()
        .map(|o| o.key().to_string())
        .collect();
    assert_eq!(keys, ["Service/default/a", "Namespace/d"]);
    let not_used: Vec<String> = reading
        .not_used
        .iter()
        .map(|not_used| not_used.diagnostic().to_string())
        .collect();
    assert_eq!(
        not_used,
        [
            "a.yaml:6:5: info: v1 ConfigMap is not used [not-used]",
            "a.yaml:7:5: info: VirtualService of networking.istio.io/v2 is not used: its versions \
             are v1, v1beta1, v1alpha3 [not-used]",
        ]
    );
    let wrong: Vec<String> = reading
        .diagnostics
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        wrong,
        [
            "a.yaml:9:47: error: metadata: Service has no metadata.name: every object needs a \
             name [invalid-object]",
            "a.yaml:10:5: error: an object is a mapping with apiVersion and kind, not the number \
             5 [invalid-object]",
        ]
    );
}

#[test]
fn all_versions_of_istio_read_the_same() {
    let text = |version: &str| {
        format!(
            "{{apiVersion: networking.istio.io/{version}, kind: VirtualService, metadata: {{name: a}}, \
             spec: {{hosts: [a], http: [{{route: [{{destination: {{host: a}}}}]}}]}}}}"
        )
    };
    for version in ["v1", "v1beta1", "v1alpha3"] {
        let objects = objects(&text(version));
        assert_eq!(objects[0].key().kind, Kind::VirtualService);
        assert_eq!(objects[0].diagnostics(), []);
    }
}

#[test]
fn a_diagnostic_names_the_line_and_what_to_write() {
    let text = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a, namespace: shop}
spec:
  hosts: [a]
  http:
    - route:
        - destination:
            host: a
      timeout: 5
      timeoutt: 5s
";
    let found: Vec<String> = objects(text)[0]
        .diagnostics()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        found,
        [
            "case.yaml:10:16: error: VirtualService/shop/a spec.http[0].timeout: 5 has no unit: \
             write for example 5s or 5ms [invalid-value]",
            "case.yaml:11:7: warning: VirtualService/shop/a spec.http[0].timeoutt: there is no \
             field \"timeoutt\": did you mean timeout? [unknown-field]",
        ]
    );
}

#[test]
fn an_empty_document_holds_nothing() {
    let reading = read(&Node::from_json(&serde_json::Value::Null), &provenance());
    assert_eq!(reading, outrigger_compiler::Reading::default());
}

#[test]
fn names_that_kubernetes_refuses_are_refused() {
    for metadata in [
        "{name: Upper}",
        "{name: 'a b'}",
        "{name: a, namespace: a.b}",
    ] {
        let text = format!("{{apiVersion: v1, kind: Service, metadata: {metadata}, spec: {{}}}}");
        let reading = read(&nodes(&text)[0], &provenance());
        assert_eq!(reading.objects, [], "{metadata}");
        assert_eq!(reading.diagnostics.len(), 1, "{metadata}");
    }
}
