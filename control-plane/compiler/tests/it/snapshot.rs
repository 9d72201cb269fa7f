//! YAML in; resources, diagnostics and ledger out, as text. One file a case under `cases`.

use std::fmt::Write as _;

use outrigger_compiler::{Compiler, FieldState, Membership, ObjectStatus, Options, Variants};
use outrigger_model::{
    Destination, EjectionThreshold, EndpointShard, Filters, HostRewrite, HttpAction, HttpBackend,
    HttpTarget, InboundPolicy, PathRewrite, Resource, RetryConditions, RetryPolicy, RouteTable,
    TrafficPolicy, WeightedBackend,
};

use crate::yaml::{compile, compile_with, options};

/// Everything that a compiler made, but for the settings.
pub(crate) fn render(compiler: &Compiler) -> String {
    let mut out = String::new();
    for variants in compiler.resources().values() {
        let Variants {
            default,
            per_namespace,
        } = variants;
        resource(&mut out, default);
        for (namespace, variant) in per_namespace {
            writeln!(out, "for clients in {namespace}:").unwrap();
            resource(&mut out, variant);
        }
    }
    writeln!(out, "---").unwrap();
    for diagnostic in compiler.diagnostics() {
        writeln!(out, "{diagnostic}").unwrap();
    }
    writeln!(out, "---").unwrap();
    for (object, entries) in compiler.ledger() {
        for entry in entries {
            match &entry.state {
                FieldState::Active => continue,
                FieldState::Shadowed { by } => {
                    write!(out, "{object} {} shadowed by {by}", entry.path)
                }
                FieldState::Unreachable { reason } => {
                    write!(out, "{object} {} unreachable: {reason}", entry.path)
                }
                FieldState::Unsupported | FieldState::Invalid | FieldState::Unknown => {
                    write!(out, "{object} {} {:?}", entry.path, entry.state)
                }
            }
            .unwrap();
            writeln!(out).unwrap();
        }
    }
    statuses(&mut out, compiler);
    out
}

/// Of routes only: the summaries of other kinds are the ledger again.
fn statuses(out: &mut String, compiler: &Compiler) {
    for (object, status) in compiler.statuses() {
        let ObjectStatus::Route(parents) = status else {
            continue;
        };
        writeln!(out, "status {object}").unwrap();
        for parent in parents {
            let reference = &parent.parent;
            let namespace = reference.namespace.as_deref().unwrap_or("-");
            writeln!(out, "  {namespace}/{} {:?}", reference.name, reference.port).unwrap();
            for condition in parent.conditions {
                writeln!(
                    out,
                    "    {} {} {}: {}",
                    condition.kind, condition.is_true, condition.reason, condition.message
                )
                .unwrap();
            }
        }
    }
}

fn resource(out: &mut String, resource: &Resource) {
    match resource {
        Resource::Destination(value) => destination(out, value),
        Resource::EndpointShard(value) => shard(out, value),
        Resource::RouteTable(value) => table(out, value),
        Resource::InboundPolicy(value) => inbound(out, value),
        Resource::TrustBundle(_) | Resource::MeshSettings(_) => {}
    }
}

fn destination(out: &mut String, value: &Destination) {
    writeln!(
        out,
        "Destination {} {:?} shards {} vips {:?}",
        value.name, value.protocol, value.shards, value.vips
    )
    .unwrap();
    writeln!(out, "  hosts {:?}", value.hosts).unwrap();
    policy(out, "  ", &value.policy);
    for subset in &value.subsets {
        writeln!(out, "  subset {}", subset.name).unwrap();
        policy(out, "    ", &subset.policy);
    }
}

fn policy(out: &mut String, indent: &str, value: &TrafficPolicy) {
    writeln!(out, "{indent}{:?} by {}", value.balancer, value.origin).unwrap();
    let limits = &value.limits;
    let count = |count: u32| match count {
        u32::MAX => "unlimited".to_owned(),
        count => count.to_string(),
    };
    writeln!(
        out,
        "{indent}connections {} pending {} in {:?} requests {} per connection {:?} retries {}",
        count(limits.connections_max),
        count(limits.pending_max),
        limits.pending_timeout,
        count(limits.requests_max),
        limits.requests_per_connection,
        count(limits.retries_max),
    )
    .unwrap();
    writeln!(
        out,
        "{indent}connect {:?} idle {:?} age {:?}",
        limits.connect_timeout, limits.idle_timeout, limits.connection_age
    )
    .unwrap();
    let outlier = &value.outlier;
    let is_off = outlier.consecutive_5xx == EjectionThreshold::Never
        && outlier.consecutive_gateway == EjectionThreshold::Never;
    if !is_off {
        writeln!(
            out,
            "{indent}eject 5xx {:?} gateway {:?} every {:?} for {:?} to {:?}, {} % at most, {} % healthy",
            outlier.consecutive_5xx,
            outlier.consecutive_gateway,
            outlier.interval,
            outlier.base_ejection,
            outlier.max_ejection,
            outlier.max_ejection_percent.get(),
            outlier.min_health_percent.get(),
        )
        .unwrap();
    }
}

fn shard(out: &mut String, value: &EndpointShard) {
    writeln!(out, "EndpointShard {}", value.name).unwrap();
    for endpoint in &value.endpoints {
        let locality = &endpoint.locality;
        writeln!(
            out,
            "  {} weight {} {:?} {:?} [{}/{}/{}] subsets {:?}",
            endpoint.address,
            endpoint.weight.get(),
            endpoint.state,
            endpoint.peer,
            locality.region,
            locality.zone,
            locality.subzone,
            endpoint.subsets
        )
        .unwrap();
    }
}

fn table(out: &mut String, value: &RouteTable) {
    writeln!(out, "RouteTable {}", value.name).unwrap();
    for rule in &value.http {
        writeln!(out, "  http by {}", rule.origin).unwrap();
        for condition in &rule.matches {
            write!(
                out,
                "    if {:?} {:?} {:?}",
                condition.path, condition.method, condition.headers
            )
            .unwrap();
            for parameter in &condition.query {
                write!(out, " {parameter:?}").unwrap();
            }
            writeln!(out).unwrap();
        }
        match &rule.action {
            HttpAction::Forward(shares) => self::shares(out, shares),
            HttpAction::Redirect(redirect) => writeln!(out, "    {redirect:?}").unwrap(),
            HttpAction::Invalid { reason } => writeln!(out, "    500 {reason}").unwrap(),
        }
        filters(out, "    ", &rule.filters);
        writeln!(out, "    timeout {:?}", rule.timeout).unwrap();
        retry(out, &rule.retry);
    }
    for rule in &value.tcp {
        writeln!(out, "  tcp by {}", rule.origin).unwrap();
        backends(out, &rule.backends);
    }
}

fn shares(out: &mut String, shares: &[HttpBackend]) {
    for share in shares {
        let weight = share.weight.get();
        match &share.target {
            HttpTarget::Backend(backend) => {
                let weighted = WeightedBackend {
                    weight: share.weight,
                    backend: backend.clone(),
                };
                backends(out, &[weighted]);
            }
            HttpTarget::Invalid { reason } => writeln!(out, "    {weight} 500 {reason}").unwrap(),
        }
        filters(out, "      ", &share.filters);
    }
}

fn filters(out: &mut String, indent: &str, filters: &Filters) {
    for (what, edit) in [
        ("request", &filters.request),
        ("response", &filters.response),
    ] {
        for (how, fields) in [("set", &edit.set), ("add", &edit.add)] {
            for field in fields {
                let (name, value) = (field.name.as_str(), field.value.as_str());
                writeln!(out, "{indent}{what} {how} {name}: {value}").unwrap();
            }
        }
        for name in &edit.remove {
            writeln!(out, "{indent}{what} remove {}", name.as_str()).unwrap();
        }
    }
    if filters.path != PathRewrite::Keep {
        writeln!(out, "{indent}path {:?}", filters.path).unwrap();
    }
    if filters.host != HostRewrite::Keep {
        writeln!(out, "{indent}host {:?}", filters.host).unwrap();
    }
}

fn backends(out: &mut String, backends: &[WeightedBackend]) {
    for backend in backends {
        let subset = backend.backend.subset.as_ref();
        let subset = subset.map_or(String::new(), |subset| format!(" subset {subset}"));
        let (weight, to) = (backend.weight.get(), &backend.backend.destination);
        writeln!(out, "    {weight} to {to}{subset}").unwrap();
    }
}

fn retry(out: &mut String, value: &RetryPolicy) {
    writeln!(
        out,
        "    retries {} per try {:?} on [{}] on idempotent [{}] pause {:?} to {:?}",
        value.attempts,
        value.per_try_timeout,
        conditions(&value.on),
        conditions(&value.on_idempotent),
        value.backoff.base,
        value.backoff.max,
    )
    .unwrap();
}

fn conditions(on: &RetryConditions) -> String {
    let mut names: Vec<String> = [
        (on.any_5xx, "5xx"),
        (on.gateway_error, "gateway-error"),
        (on.reset, "reset"),
        (on.connect_failure, "connect-failure"),
        (on.refused_stream, "refused-stream"),
        (on.retriable_4xx, "retriable-4xx"),
        (on.per_try_timeout, "per-try-timeout"),
    ]
    .into_iter()
    .filter(|(is_set, _)| *is_set)
    .map(|(_, name)| name.to_owned())
    .collect();
    names.extend(on.statuses.iter().map(ToString::to_string));
    names.extend(on.grpc_statuses.iter().map(|code| format!("grpc {code}")));
    names.join(", ")
}

fn inbound(out: &mut String, value: &InboundPolicy) {
    writeln!(
        out,
        "InboundPolicy {} {} {:?}",
        value.name, value.identity, value.default_mtls
    )
    .unwrap();
    for port in &value.ports {
        writeln!(out, "  {} {:?} {:?}", port.port, port.protocol, port.mtls).unwrap();
    }
}

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                let text = include_str!(concat!("cases/", stringify!($name), ".yaml"));
                insta::assert_snapshot!(stringify!($name), render(&compile(text)));
            }
        )*
    };
}

cases![
    order_service,
    product_service,
    defaults,
    matching,
    retries,
    invalid,
    unsupported,
    merging,
    policy_lookup,
    policy_levels,
    ports,
    slices,
    service_entry,
    tcp,
    http_route,
    http_filters,
    http_invalid,
    http_bounds,
    grpc_route,
];

/// As `outrigger up` compiles: a sidecar for each WorkloadEntry, and none for an address in a list.
#[test]
fn local_mesh() {
    let options = Options {
        membership: Membership::All,
        ..options()
    };
    let compiler = compile_with(options, include_str!("cases/local_mesh.yaml"));
    insta::assert_snapshot!("local_mesh", render(&compiler));
}
