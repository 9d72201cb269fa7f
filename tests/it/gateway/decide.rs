//! What a sidecar decides for a request, by what the compiler made of YAML.

use std::{collections::BTreeMap, sync::Arc};

use outrigger_compiler::{
    Change, Compiler, Condition, ConditionKind, Membership, Node, ObjectStatus, Options,
    Provenance, Reason, read,
};
use outrigger_model::{
    AccessLog, Hostname, HttpTarget, MeshSettings, Namespace, Resource, ResourceName, RouteTable,
    Tracing, TrustDomain,
};
use outrigger_policy::{
    RequestView,
    filter::{FieldOps, location},
    route::{HttpTable, RuleAction},
};
use outrigger_proto::codec;

use super::SERVICES;

/// A request, in few words.
#[derive(Debug, Clone)]
pub(super) struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
}

/// A GET of this path and query.
pub(super) fn get(target: &str) -> Request {
    Request {
        method: "GET".to_owned(),
        target: target.to_owned(),
        headers: Vec::new(),
    }
}

impl Request {
    pub(super) fn method(mut self, method: &str) -> Self {
        self.method = method.to_owned();
        self
    }

    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

impl RequestView for Request {
    fn method(&self) -> &str {
        &self.method
    }

    fn path(&self) -> &str {
        self.target
            .split_once('?')
            .map_or(&self.target, |(path, _)| path)
    }

    fn query(&self) -> Option<&str> {
        Some(self.target.split_once('?')?.1)
    }

    fn visit_header(&self, name_lowercase: &str, visit: &mut dyn FnMut(&[u8])) {
        for (name, value) in &self.headers {
            if name.eq_ignore_ascii_case(name_lowercase) {
                visit(value.as_bytes());
            }
        }
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// Shares of the traffic, `echo-v1` of the namespace `mesh` without it, `500` for none.
    Split(Vec<(u64, String)>),
    /// Status and location.
    Redirect(u16, String),
    /// The rule answers 500.
    Invalid,
    /// 404.
    NoRoute,
}

/// All of it to one service.
pub(super) fn to(service: &str) -> Decision {
    Decision::Split(vec![(1, service.to_owned())])
}

/// The world of a test: the services of [`SERVICES`] and what it adds.
pub(super) struct World(Compiler);

impl World {
    pub(super) fn new(yaml: &str) -> Self {
        let mut compiler = Compiler::new(Options {
            settings: MeshSettings {
                trust_domain: TrustDomain::parse("cluster.local").unwrap(),
                cluster_domain: Hostname::parse("cluster.local").unwrap(),
                access_log: AccessLog::Off,
                tracing: Tracing::Off,
                drain_timeout: std::time::Duration::from_secs(5),
            },
            root_namespace: Namespace::parse("outrigger-system").unwrap(),
            membership: Membership::All,
        });
        let text = format!("{SERVICES}\n---\n{yaml}");
        let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&text).unwrap();
        let provenance = Provenance::Api { uid: "test".into() };
        let objects = documents
            .iter()
            .flat_map(|document| read(&Node::from_json(document), &provenance).objects);
        compiler.apply(objects.map(|object| Change::Upsert(Arc::new(object))));
        Self(compiler)
    }

    /// The table of `echo:80` and the like, as a client in `namespace` gets it over the wire.
    fn table(&self, service: &str, namespace: &str) -> RouteTable {
        let name = ResourceName::RouteTable(format!("mesh/{service}").parse().unwrap());
        let client = Namespace::parse(namespace).unwrap();
        let resource = self.0.get(&name, &client).unwrap();
        let bytes = codec::encode(resource);
        match codec::decode(name.kind(), &bytes).unwrap() {
            Resource::RouteTable(table) => table,
            other => panic!("{other:?}"),
        }
    }

    /// The decision for a client in the services' own namespace.
    #[track_caller]
    pub(super) fn check(&self, service: &str, request: &Request, expected: &Decision) {
        self.check_from("mesh", service, request, expected);
    }

    #[track_caller]
    pub(super) fn check_from(
        &self,
        namespace: &str,
        service: &str,
        request: &Request,
        expected: &Decision,
    ) {
        let table = HttpTable::compile(&self.table(service, namespace)).unwrap();
        let host = service.split(':').next().unwrap();
        let decision = match table.find(request).map(|rule| &rule.action) {
            None => Decision::NoRoute,
            Some(RuleAction::Invalid { .. }) => Decision::Invalid,
            Some(RuleAction::Redirect(redirect)) => {
                Decision::Redirect(redirect.status.get(), location(redirect, host, request))
            }
            Some(RuleAction::Forward(split)) => {
                let share = |target: &HttpTarget| match target {
                    HttpTarget::Invalid { .. } => "500".to_owned(),
                    HttpTarget::Backend(backend) => {
                        let name = backend.destination.to_string();
                        name.strip_prefix("mesh/").unwrap_or(&name).to_owned()
                    }
                };
                let shares = split.weighted();
                Decision::Split(
                    shares
                        .map(|(w, choice)| (w, share(&choice.target)))
                        .collect(),
                )
            }
        };
        assert_eq!(decision, *expected, "{request:?}");
    }

    /// Object and field that decide.
    pub(super) fn deciding(&self, service: &str, request: &Request) -> Option<String> {
        let table = HttpTable::compile(&self.table(service, "mesh")).unwrap();
        table.find(request).map(|rule| rule.origin.to_string())
    }

    /// What the application sees: the target, and every field by name in lower case, several
    /// values joined by commas.
    pub(super) fn seen(&self, service: &str, request: &Request) -> Seen {
        let table = HttpTable::compile(&self.table(service, "mesh")).unwrap();
        let Some(RuleAction::Forward(split)) = table.find(request).map(|rule| &rule.action) else {
            panic!("{request:?} is not sent anywhere");
        };
        let changes = split.items()[0].changes.clone();
        let ops = changes.as_ref().map(|changes| &changes.request);
        Seen {
            target: changes
                .as_ref()
                .and_then(|changes| changes.target(request))
                .map_or_else(|| request.target.clone(), String::from),
            authority: changes
                .as_ref()
                .and_then(|changes| changes.authority().map(str::to_owned)),
            fields: changed(&request.headers, ops),
        }
    }

    /// What the client sees of an answer without fields.
    pub(super) fn answered(&self, namespace: &str, service: &str) -> BTreeMap<String, String> {
        let table = HttpTable::compile(&self.table(service, namespace)).unwrap();
        let Some(RuleAction::Forward(split)) = table.find(&get("/")).map(|rule| &rule.action)
        else {
            panic!("not sent anywhere");
        };
        let changes = split.items()[0].changes.clone();
        changed(&[], changes.as_ref().map(|changes| &changes.response))
    }

    /// A condition of the first parent of a route, `HTTPRoute/mesh/x`.
    pub(super) fn condition(&self, route: &str, kind: ConditionKind) -> Option<Condition> {
        let statuses = self.0.statuses();
        let found = statuses.iter().find(|(key, _)| key.to_string() == route);
        let Some((_, ObjectStatus::Route(parents))) = found else {
            panic!("no status of {route}: {statuses:?}");
        };
        let mut conditions = parents[0].conditions.iter();
        conditions.find(|condition| condition.kind == kind).cloned()
    }

    #[track_caller]
    pub(super) fn check_condition(
        &self,
        route: &str,
        kind: ConditionKind,
        is_true: bool,
        reason: Reason,
    ) {
        let condition = self.condition(route, kind).unwrap();
        assert_eq!(
            (condition.is_true, condition.reason),
            (is_true, reason),
            "{condition:?}"
        );
    }
}

/// A request as the application gets it.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) target: String,
    pub(super) authority: Option<String>,
    pub(super) fields: BTreeMap<String, String>,
}

fn changed(fields: &[(String, String)], ops: Option<&FieldOps>) -> BTreeMap<String, String> {
    let kept = fields
        .iter()
        .filter(|(name, _)| ops.is_none_or(|ops| !ops.drops(name.as_bytes())))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
    let put = ops.into_iter().flat_map(FieldOps::put);
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in kept.chain(put.map(|(n, v)| (n.to_owned(), v.to_owned()))) {
        all.entry(name)
            .and_modify(|present| *present = format!("{present},{value}"))
            .or_insert(value);
    }
    all
}

/// A route of the namespace `mesh` with the service `parent` as its parent, and these rules.
pub(super) fn route(kind: &str, name: &str, parent: &str, rules: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, \
         metadata: {{name: {name}, namespace: mesh}}, \
         spec: {{parentRefs: [{{group: '', kind: Service, {parent}}}], rules: [{rules}]}}}}\n---\n"
    )
}

/// Where to.
pub(super) const V1: &str = "backendRefs: [{name: echo-v1, port: 8080}]";
/// Where to.
pub(super) const V2: &str = "backendRefs: [{name: echo-v2, port: 8080}]";
