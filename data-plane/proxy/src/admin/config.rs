//! `/config`: the snapshot as JSON, as workers decide from it. It holds no secret; certificates
//! and keys are not part of it.

use std::{sync::atomic::Ordering, time::Duration};

use outrigger_model::{
    AccessLog, Backend, Balancer, Destination, EjectionThreshold, Endpoint, EndpointState,
    HttpTarget, InboundPolicy, Lifetime, Locality, MeshSettings, MtlsMode, Peer, Protocol,
    RequestsPerConnection, RetryPolicy, Timeout, Tracing, TrafficPolicy,
};
use outrigger_policy::{
    route::{Choice, CompiledRule, CompiledTcpRule, RuleAction},
    split::Split,
};
use serde_json::{Map, Value, json};

use crate::snapshot::{Lookup, Service, Snapshot, Target};

/// Everything.
pub(super) fn shown(snapshot: &Snapshot) -> Value {
    let mut services: Vec<_> = snapshot.services.iter().collect();
    services.sort_by_key(|(name, _)| *name);
    let services: Map<String, Value> = services
        .into_iter()
        .map(|(name, lookup)| {
            let shown = match lookup {
                Lookup::Found(found) => service(found),
                Lookup::Missing => json!({ "missing": "the control plane knows no such service" }),
            };
            (name.to_string(), shown)
        })
        .collect();
    json!({
        "number": snapshot.number,
        "settings": settings(&snapshot.settings),
        "inbound": snapshot.inbound.as_deref().map(inbound),
        "services": services,
    })
}

fn settings(settings: &MeshSettings) -> Value {
    json!({
        "trust_domain": settings.trust_domain.as_str(),
        "cluster_domain": settings.cluster_domain.as_str(),
        "access_log": match settings.access_log {
            AccessLog::Off => "off",
            AccessLog::Failures => "failures",
            AccessLog::All => "all",
        },
        "tracing": match &settings.tracing {
            Tracing::Off => Value::from("off"),
            Tracing::Otlp { endpoint, sampling } => {
                json!({ "endpoint": without_user(endpoint), "sampling": sampling.as_f64() })
            }
        },
        "drain_timeout": duration(settings.drain_timeout),
    })
}

/// A URL may carry a password (RFC 3986 §3.2.1).
fn without_user(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find('/').unwrap_or(rest.len());
            let (authority, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
            let host = authority
                .rsplit_once('@')
                .map_or(authority, |(_, host)| host);
            format!("{scheme}://{host}{path}")
        }
        None => url
            .rsplit_once('@')
            .map_or(url, |(_, host)| host)
            .to_owned(),
    }
}

fn inbound(policy: &InboundPolicy) -> Value {
    let ports: Vec<_> = policy
        .ports
        .iter()
        .map(|port| {
            json!({
                "port": port.port.get(),
                "protocol": protocol(port.protocol),
                "mtls": mtls(port.mtls),
            })
        })
        .collect();
    json!({
        "name": policy.name.to_string(),
        "identity": policy.identity.to_string(),
        "default_mtls": mtls(policy.default_mtls),
        "ports": ports,
    })
}

fn service(service: &Service) -> Value {
    let mut targets: Vec<_> = service.targets.values().collect();
    targets.sort_by_key(|target| &target.backend);
    let http: Vec<_> = service.http.rules().iter().map(http_rule).collect();
    let targets: Map<String, Value> = targets
        .into_iter()
        .map(|one| (one.backend.to_string(), target(one)))
        .collect();
    json!({
        "destination": destination(&service.destination),
        "http": http,
        "tcp": service.tcp.find().map(tcp_rule),
        "targets": targets,
        "used_at_second": service.used.load(Ordering::Relaxed),
    })
}

fn destination(destination: &Destination) -> Value {
    let hosts: Vec<_> = destination.hosts.iter().map(|host| host.as_str()).collect();
    let vips: Vec<_> = destination.vips.iter().map(ToString::to_string).collect();
    let subsets: Vec<_> = destination
        .subsets
        .iter()
        .map(|subset| subset.name.as_str())
        .collect();
    json!({
        "name": destination.name.to_string(),
        "hosts": hosts,
        "vips": vips,
        "protocol": protocol(destination.protocol),
        "subsets": subsets,
        "shards": destination.shards,
    })
}

fn http_rule(rule: &CompiledRule) -> Value {
    let action = match &rule.action {
        RuleAction::Forward(split) => {
            json!({ "forward": choices(split) })
        }
        RuleAction::Redirect(redirect) => json!({ "redirect": format!("{redirect:?}") }),
        RuleAction::Invalid { reason } => json!({ "invalid": reason.as_str() }),
    };
    json!({
        "origin": rule.origin.as_str(),
        "any_of": rule.conditions().map(|one| one.to_string()).collect::<Vec<_>>(),
        "action": action,
        "timeout": timeout(rule.timeout),
        "retry": retry(&rule.retry),
    })
}

fn choices(split: &Split<Choice>) -> Value {
    let share = |(weight, choice): (u64, &Choice)| {
        let mut share = match &choice.target {
            HttpTarget::Backend(backend) => json!({ "backend": backend.to_string() }),
            HttpTarget::Invalid { reason } => json!({ "invalid": reason.as_str() }),
        };
        share["weight"] = weight.into();
        if let Some(changes) = &choice.changes {
            share["changes"] = changes.to_string().into();
        }
        share
    };
    split.weighted().map(share).collect()
}

fn tcp_rule(rule: &CompiledTcpRule) -> Value {
    json!({ "origin": rule.origin.as_str(), "forward": shares(&rule.backends) })
}

fn shares(split: &Split<Backend>) -> Value {
    let share = |(weight, backend): (u64, &Backend)| json!({ "backend": backend.to_string(), "weight": weight });
    split.weighted().map(share).collect()
}

fn retry(retry: &RetryPolicy) -> Value {
    json!({
        "attempts": retry.attempts,
        "per_try_timeout": timeout(retry.per_try_timeout),
        "on": format!("{:?}", retry.on),
        "on_idempotent": format!("{:?}", retry.on_idempotent),
        "backoff": [duration(retry.backoff.base), duration(retry.backoff.max)],
        "budget_percent": retry.budget.percent.get(),
        "budget_min_per_second": retry.budget.min_per_second,
    })
}

fn target(target: &Target) -> Value {
    let endpoints: Vec<_> = target.endpoints.iter().map(endpoint).collect();
    json!({ "policy": policy(&target.policy), "endpoints": endpoints })
}

fn policy(policy: &TrafficPolicy) -> Value {
    let limits = &policy.limits;
    let outlier = &policy.outlier;
    json!({
        "origin": policy.origin.as_str(),
        "balancer": match policy.balancer {
            Balancer::PeakEwma => "peak-ewma",
            Balancer::RoundRobin => "round-robin",
            Balancer::Random => "random",
            Balancer::LeastRequest => "least-request",
        },
        "limits": {
            "connections_max": limits.connections_max,
            "pending_max": limits.pending_max,
            "pending_timeout": duration(limits.pending_timeout),
            "requests_max": limits.requests_max,
            "requests_per_connection": match limits.requests_per_connection {
                RequestsPerConnection::Unlimited => Value::from("unlimited"),
                RequestsPerConnection::AtMost(most) => Value::from(most.get()),
            },
            "retries_max": limits.retries_max,
            "connect_timeout": duration(limits.connect_timeout),
            "idle_timeout": lifetime(limits.idle_timeout),
            "connection_age": lifetime(limits.connection_age),
        },
        "outlier": {
            "consecutive_5xx": threshold(outlier.consecutive_5xx),
            "consecutive_gateway": threshold(outlier.consecutive_gateway),
            "interval": duration(outlier.interval),
            "base_ejection": duration(outlier.base_ejection),
            "max_ejection": duration(outlier.max_ejection),
            "max_ejection_percent": outlier.max_ejection_percent.get(),
            "min_health_percent": outlier.min_health_percent.get(),
        },
    })
}

fn endpoint(endpoint: &Endpoint) -> Value {
    let Locality {
        region,
        zone,
        subzone,
    } = &endpoint.locality;
    let place = format!("{region}/{zone}/{subzone}");
    json!({
        "address": endpoint.address.to_string(),
        "weight": endpoint.weight.get(),
        "locality": place,
        "peer": match &endpoint.peer {
            Peer::Meshed(identity) => Value::from(identity.to_string()),
            Peer::Plain => Value::from("plain"),
        },
        "state": match endpoint.state {
            EndpointState::Ready => "ready",
            EndpointState::Draining => "draining",
        },
    })
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Detect => "detect",
        Protocol::Http => "http",
        Protocol::Http2 => "http2",
        Protocol::Grpc => "grpc",
        Protocol::Tcp => "tcp",
    }
}

fn mtls(mode: MtlsMode) -> &'static str {
    match mode {
        MtlsMode::Strict => "strict",
        MtlsMode::Permissive => "permissive",
    }
}

fn threshold(threshold: EjectionThreshold) -> Value {
    match threshold {
        EjectionThreshold::Never => Value::from("never"),
        EjectionThreshold::After(number) => Value::from(number.get()),
    }
}

fn timeout(timeout: Timeout) -> String {
    match timeout {
        Timeout::Disabled => "disabled".to_owned(),
        Timeout::After(after) => duration(after),
    }
}

fn lifetime(lifetime: Lifetime) -> String {
    match lifetime {
        Lifetime::Unlimited => "unlimited".to_owned(),
        Lifetime::AtMost(most) => duration(most),
    }
}

fn duration(duration: Duration) -> String {
    format!("{duration:?}")
}
