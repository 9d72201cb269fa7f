//! The table against the CRDs of Istio and of the Gateway API: a field that they gain, lose or
//! change shows here.

use std::{collections::BTreeSet, path::PathBuf};

use serde_json::Value;

use super::{Shape, Support, gateway, istio};

/// A file of CRDs, if it is there: in `$OUTRIGGER_SHARED` or `shared` beside the workspace.
fn crds(name: &str) -> Option<Vec<Value>> {
    #[expect(
        clippy::disallowed_methods,
        reason = "where the CRDs are, and whether it is CI"
    )]
    let (folder, is_ci) = (
        std::env::var("OUTRIGGER_SHARED").ok(),
        std::env::var("CI").is_ok(),
    );
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let folder = folder.map_or(beside, PathBuf::from);
    let file = folder.join("crds").join(name);
    #[expect(
        clippy::disallowed_methods,
        reason = "the one test of this crate that reads a file"
    )]
    let text = std::fs::read_to_string(&file);
    match text {
        Ok(text) => {
            let options = serde_saphyr::options! { budget: None };
            Some(serde_saphyr::from_multiple_with_options(&text, options).unwrap())
        }
        Err(error) if is_ci => panic!("{}: {error}: CI has it", file.display()),
        Err(_) => None,
    }
}

#[test]
fn every_field_of_the_crds_is_in_the_table() {
    let istio = [
        ("VirtualService", &istio::VIRTUAL_SERVICE),
        ("DestinationRule", &istio::DESTINATION_RULE),
        ("ServiceEntry", &istio::SERVICE_ENTRY),
        ("WorkloadEntry", &istio::WORKLOAD_ENTRY),
    ];
    let gateway = [
        ("HTTPRoute", &gateway::HTTP_ROUTE),
        ("GRPCRoute", &gateway::GRPC_ROUTE),
        ("ReferenceGrant", &gateway::REFERENCE_GRANT),
    ];
    check_file("istio-crds-1.31.1.yaml", &istio, 12);
    check_file("gateway-api-1.7.0-experimental.yaml", &gateway, 5);
}

fn check_file(name: &str, kinds: &[(&str, &Shape)], expected: usize) {
    let Some(crds) = crds(name) else { return };
    let mut versions = 0;
    for (kind, shape) in kinds {
        let crd = crds
            .iter()
            .find(|crd| crd["spec"]["names"]["kind"] == **kind)
            .unwrap();
        for version in crd["spec"]["versions"].as_array().unwrap() {
            let schema = &version["schema"]["openAPIV3Schema"]["properties"]["spec"];
            let Shape::Object(fields) = shape else {
                panic!()
            };
            let spec = fields.iter().find(|field| field.name == "spec").unwrap();
            let mut wrong = Vec::new();
            compare("spec", schema, &spec.shape, &mut wrong);
            assert_eq!(wrong, [""; 0], "{kind} {}", version["name"]);
            versions += 1;
        }
    }
    assert_eq!(versions, expected, "versions of all kinds in {name}");
}

fn compare(path: &str, crd: &Value, shape: &Shape, wrong: &mut Vec<String>) {
    let text = crd["type"].as_str().unwrap_or_default();
    let free = &crd["additionalProperties"];
    let fits = match shape {
        Shape::Object(_) => text == "object" && free.is_null(),
        Shape::List(_) | Shape::Bulk(_) => text == "array",
        Shape::Map(_) => text == "object" && !free.is_null(),
        Shape::Labels => text == "object" && free["type"] == "string",
        Shape::Text | Shape::Duration | Shape::DurationOrZero | Shape::Regex => text == "string",
        Shape::Enum(values) => {
            let listed = crd["enum"].as_array().cloned().unwrap_or_default();
            let listed: BTreeSet<&str> = listed.iter().filter_map(Value::as_str).collect();
            listed == values.iter().copied().collect()
        }
        Shape::Bool => text == "boolean",
        Shape::Integer(..) => text == "integer",
        Shape::Number => text == "number",
        Shape::PortOrName | Shape::Any => true,
    };
    if !fits {
        wrong.push(format!("{path}: {shape:?} is {text} in the CRD"));
        return;
    }
    match shape {
        Shape::Object(fields) => {
            let empty = serde_json::Map::new();
            let known = crd["properties"].as_object().unwrap_or(&empty);
            for name in known.keys() {
                if !fields.iter().any(|field| field.name == name) {
                    wrong.push(format!("{path}.{name} is not in the table"));
                }
            }
            for field in *fields {
                let path = format!("{path}.{}", field.name);
                match (known.get(field.name), field.support) {
                    (None, Support::Extension) => {}
                    (None, _) => wrong.push(format!("{path} is not in the CRD")),
                    (Some(crd), _) => compare(&path, crd, &field.shape, wrong),
                }
            }
        }
        Shape::List(item) | Shape::Bulk(item) => compare(path, &crd["items"], item, wrong),
        Shape::Map(value) => compare(path, free, value, wrong),
        Shape::Labels
        | Shape::Text
        | Shape::Enum(_)
        | Shape::Duration
        | Shape::DurationOrZero
        | Shape::Regex
        | Shape::Bool
        | Shape::Integer(..)
        | Shape::Number
        | Shape::PortOrName
        | Shape::Any => {}
    }
}

/// Lines `path | what` of a shape's leaves; a field that is not used yet stands for all below it.
fn page(prefix: &str, shape: &Shape, lines: &mut Vec<String>) {
    let fields = match shape {
        Shape::Object(fields) => *fields,
        Shape::List(inner) | Shape::Bulk(inner) => {
            return page(&format!("{prefix}[]"), inner, lines);
        }
        Shape::Map(inner) => return page(&format!("{prefix}.*"), inner, lines),
        Shape::Labels
        | Shape::Text
        | Shape::Enum(_)
        | Shape::Duration
        | Shape::DurationOrZero
        | Shape::Regex
        | Shape::Bool
        | Shape::Integer(..)
        | Shape::Number
        | Shape::PortOrName
        | Shape::Any => return lines.push(format!("| `{prefix}` | yes |")),
    };
    for field in fields {
        let path = if prefix.is_empty() {
            field.name.to_owned()
        } else {
            format!("{prefix}.{}", field.name)
        };
        match field.support {
            Support::Used => page(&path, &field.shape, lines),
            Support::NotYet => lines.push(format!("| `{path}` | not yet: reported by path |")),
            Support::Ignored => {}
            Support::Extension => lines.push(format!("| `{path}` | yes, Outrigger alone |")),
        }
    }
}

#[test]
fn docs_fields_is_the_table() {
    use crate::Kind;
    let kinds = [
        ("Service", Kind::Service),
        ("EndpointSlice", Kind::EndpointSlice),
        ("WorkloadEntry", Kind::WorkloadEntry),
        ("ServiceEntry", Kind::ServiceEntry),
        ("VirtualService", Kind::VirtualService),
        ("DestinationRule", Kind::DestinationRule),
        ("HTTPRoute", Kind::HttpRoute),
        ("GRPCRoute", Kind::GrpcRoute),
        ("ReferenceGrant", Kind::ReferenceGrant),
    ];
    let mut text = String::from(
        "# What is read\n\nMade from the compiler's table of fields, which is compared with the CRDs of Istio and of the Gateway API. A field that is\nnot here is unknown: it is reported with the nearest known name. Of Namespace, Node, Pod and\nServiceAccount a few fields are read, whatever else they hold.\n",
    );
    for (name, kind) in kinds {
        let mut lines = Vec::new();
        page("", super::of(kind), &mut lines);
        text.push_str(&format!(
            "\n## {name}\n\n| field | works |\n| --- | --- |\n"
        ));
        text.push_str(&lines.join("\n"));
        text.push('\n');
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/fields.md");
    #[expect(
        clippy::disallowed_methods,
        reason = "a page of docs is compared, or written when asked for"
    )]
    let (update, kept) = (
        std::env::var("UPDATE_DOCS").is_ok(),
        std::fs::read_to_string(&path).unwrap_or_default(),
    );
    if update {
        std::fs::write(&path, &text).unwrap();
        return;
    }
    assert_eq!(kept, text, "run UPDATE_DOCS=1 cargo test docs_");
}
