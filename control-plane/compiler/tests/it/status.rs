//! Statuses: what is written into objects, and that it is stable.

use outrigger_compiler::{
    CONTROLLER_NAME, ConditionKind, FieldSummary, ObjectStatus, ParentStatus, Reason,
};

use crate::yaml::{compile, objects};
use outrigger_compiler::{Change, Compiler};

const WEB: &str = "
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {ports: [{name: http, port: 80}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: web, namespace: shop, generation: 4},
 spec: {hosts: [web], http: [{route: [{destination: {host: web}}], mirrorPercent: 5, timeouts: 3s}]}}
";

const ROUTE: &str = "
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: web, namespace: shop, generation: 7},
 spec: {parentRefs: [{name: edge}, {group: '', kind: Service, name: web}, {group: '', kind: Service, name: web, namespace: shop, sectionName: grpc, port: 81}],
 rules: [{backendRefs: [{name: web, port: 80}]}]}}
";

fn parents(compiler: &Compiler, name: &str) -> Vec<ParentStatus> {
    let statuses = compiler.statuses();
    let found = statuses
        .into_iter()
        .find(|(key, _)| key.to_string() == name);
    match found {
        Some((_, ObjectStatus::Route(parents))) => parents,
        other => panic!("{other:?}"),
    }
}

fn fields(compiler: &Compiler, name: &str) -> FieldSummary {
    let statuses = compiler.statuses();
    let found = statuses
        .into_iter()
        .find(|(key, _)| key.to_string() == name);
    match found {
        Some((_, ObjectStatus::Fields(fields))) => fields,
        other => panic!("{other:?}"),
    }
}

fn apply(compiler: &mut Compiler, text: &str) {
    compiler.apply(objects(text).into_iter().map(Change::Upsert));
}

#[test]
fn each_service_among_the_parents_has_its_conditions() {
    let mut compiler = compile(WEB);
    apply(&mut compiler, ROUTE);
    let parents = parents(&compiler, "HTTPRoute/shop/web");
    // The gateway is another controller's.
    assert_eq!(parents.len(), 2);
    let [first, second] = &parents[..] else {
        panic!("{parents:?}");
    };
    assert_eq!(first.controller_name(), CONTROLLER_NAME);
    assert_eq!((&*first.parent.group, &*first.parent.kind), ("", "Service"));
    assert_eq!(first.parent.namespace, None, "as it is written");
    let shown = |parent: &ParentStatus| -> Vec<(ConditionKind, bool, Reason, i64)> {
        let conditions = parent.conditions.iter();
        conditions
            .map(|one| (one.kind, one.is_true, one.reason, one.observed_generation))
            .collect()
    };
    let resolved = (ConditionKind::ResolvedRefs, true, Reason::ResolvedRefs, 7);
    assert_eq!(
        shown(first),
        [
            (ConditionKind::Accepted, true, Reason::Accepted, 7),
            resolved
        ]
    );
    assert_eq!(second.parent.namespace.as_deref(), Some("shop"));
    assert_eq!(
        shown(second),
        [
            (ConditionKind::Accepted, false, Reason::NoMatchingParent, 7),
            resolved
        ]
    );
}

#[test]
fn a_virtual_service_says_what_decides_instead() {
    let mut compiler = compile(WEB);
    let alone = fields(&compiler, "VirtualService/shop/web");
    assert_eq!(alone.observed_generation, 4);
    assert_eq!(alone.unsupported, ["spec.http[0].mirrorPercent"]);
    assert_eq!(alone.invalid, ["spec.http[0].timeouts"]);
    assert!(alone.shadowed.is_empty());
    assert_eq!(alone.active, 2);
    apply(&mut compiler, ROUTE);
    let beside = fields(&compiler, "VirtualService/shop/web");
    assert_eq!(beside.active, 0);
    let shadowed: Vec<_> = beside
        .shadowed
        .iter()
        .map(|(path, by)| (path.as_str(), by.to_string()))
        .collect();
    let by = "HTTPRoute/shop/web".to_owned();
    assert_eq!(
        shadowed,
        [
            ("spec.hosts[0]", by.clone()),
            ("spec.http[0].route[0].destination.host", by)
        ]
    );
}

#[test]
fn statuses_depend_on_the_present_objects_alone() {
    let mut compiler = compile(WEB);
    let before = compiler.statuses();
    apply(&mut compiler, ROUTE);
    let with = compiler.statuses();
    assert_ne!(before, with);
    assert_eq!(with, compiler.statuses());
    let again = objects(ROUTE)
        .into_iter()
        .map(|object| object.key().clone());
    compiler.apply(again.map(Change::Delete));
    assert_eq!(compiler.statuses(), before);
}

#[test]
fn kinds_without_a_status_of_ours_have_none() {
    let mut compiler = compile(WEB);
    apply(&mut compiler, ROUTE);
    let kinds: Vec<String> = compiler
        .statuses()
        .keys()
        .map(|key| key.kind.to_string())
        .collect();
    assert_eq!(kinds, ["VirtualService", "HTTPRoute"]);
}
