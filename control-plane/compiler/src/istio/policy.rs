//! DestinationRule to policy.

use std::{num::NonZeroU32, sync::Arc};

use outrigger_model::{
    Balancer, EjectionThreshold, Lifetime, OutlierDetection, Percent, Port, SubsetName,
};

use super::{
    Reader, host,
    reader::{items, number, time},
};
use crate::{
    Code, Node, Severity,
    defaults::{BALANCER, outlier_off},
    ir::{Groups, Labels, Policy, Pool, Settings, Sourced, SubsetPolicy},
    object::text_map,
    schema::join,
};

/// Subsets of one destination (model: at most 256).
pub(crate) const SUBSETS_MAX: usize = 256;

/// Reads a DestinationRule; `None` if it names no host, for then it is for nothing.
pub(crate) fn read(reader: &mut Reader, object: &Node) -> Option<Policy> {
    let spec = object.get("spec")?;
    let written = spec.get("host")?;
    let host = match host::parse(written.text()?) {
        Ok(value) => Sourced {
            value,
            path: "spec.host".into(),
        },
        Err(error) => {
            let message = error.to_string();
            reader.refuse("spec.host", written, message);
            return None;
        }
    };
    let settings = spec
        .get("trafficPolicy")
        .map(|node| settings(reader, node, "spec.trafficPolicy"));
    let mut subsets: Vec<SubsetPolicy> = Vec::new();
    for item in items(spec, "spec", "subsets") {
        let Some(subset) = subset(reader, item.value, &item.path) else {
            continue;
        };
        if subsets.iter().any(|other| other.name == subset.name) {
            let message = format!("subset {} is there already: the first counts", subset.name);
            reader.refuse(&item.path, item.value, message);
        } else if subsets.len() == SUBSETS_MAX {
            let message = format!("more than {SUBSETS_MAX} subsets: this one is left out");
            reader.refuse(&item.path, item.value, message);
        } else {
            subsets.push(subset);
        }
    }
    Some(Policy {
        host,
        settings,
        subsets,
    })
}

fn subset(reader: &mut Reader, node: &Node, path: &Arc<str>) -> Option<SubsetPolicy> {
    let written = node.get("name")?;
    let name = match SubsetName::parse(written.text()?) {
        Ok(name) => name,
        Err(error) => {
            let message = error.to_string();
            let at = join(path, "name");
            reader.refuse(&at, written, message);
            return None;
        }
    };
    let labels_path = join(path, "labels");
    if reader.invalid(&labels_path).is_some() {
        // Without its labels the subset would hold every endpoint.
        return None;
    }
    Some(SubsetPolicy {
        path: Arc::clone(path),
        name,
        labels: node.get("labels").map_or_else(Labels::new, text_map),
        settings: node
            .get("trafficPolicy")
            .map(|policy| settings(reader, policy, &join(path, "trafficPolicy"))),
    })
}

fn settings(reader: &mut Reader, node: &Node, path: &str) -> Settings {
    let mut ports: Vec<(Port, Groups)> = Vec::new();
    for item in items(node, path, "portLevelSettings") {
        let number = item.value.get("port").and_then(|port| port.get("number"));
        let Some(port) = number.and_then(|number| Port::new(number.integer()?).ok()) else {
            continue;
        };
        if ports.iter().any(|(other, _)| *other == port) {
            let message = format!("port {port} is there already: the first counts");
            reader.refuse(&item.path, item.value, message);
            continue;
        }
        ports.push((port, groups(reader, item.value, &item.path)));
    }
    Settings {
        all: groups(reader, node, path),
        ports,
    }
}

fn groups(reader: &mut Reader, node: &Node, path: &str) -> Groups {
    let part = |key: &str| node.get(key).map(|value| (value, join(path, key)));
    Groups {
        path: path.into(),
        balancer: part("loadBalancer").and_then(|(value, at)| {
            Some(Sourced {
                value: balancer(reader, value, &at)?,
                path: at.into(),
            })
        }),
        pool: part("connectionPool").map(|(value, at)| Sourced {
            value: pool(value),
            path: at.into(),
        }),
        outlier: part("outlierDetection").map(|(value, at)| Sourced {
            value: outlier(reader, value, &at),
            path: at.into(),
        }),
    }
}

fn balancer(reader: &mut Reader, node: &Node, path: &str) -> Option<Balancer> {
    let simple = node.get("simple")?;
    Some(match simple.text()? {
        "ROUND_ROBIN" => Balancer::RoundRobin,
        "RANDOM" => Balancer::Random,
        "LEAST_REQUEST" | "LEAST_CONN" => Balancer::LeastRequest,
        "PASSTHROUGH" => {
            reader.find(
                Severity::Warning,
                Code::Unsupported,
                &join(path, "simple"),
                simple,
                "PASSTHROUGH is not supported yet: the default balancer is in force",
            );
            BALANCER
        }
        // UNSPECIFIED, or a value that the schema refused.
        _ => BALANCER,
    })
}

fn pool(node: &Node) -> Pool {
    let empty = Node::map(node.position, []);
    let tcp = node.get("tcp").unwrap_or(&empty);
    let http = node.get("http").unwrap_or(&empty);
    // Istio: 0 is the same as not written.
    let count = |node: &Node, key: &str| number(node, key).and_then(NonZeroU32::new);
    let idle = |node: &Node| {
        time(node, "idleTimeout").map(|value| {
            if value.is_zero() {
                Lifetime::Unlimited
            } else {
                Lifetime::AtMost(value)
            }
        })
    };
    Pool {
        connections_max: count(tcp, "maxConnections"),
        connect_timeout: time(tcp, "connectTimeout").filter(|value| !value.is_zero()),
        connection_age: time(tcp, "maxConnectionDuration").filter(|value| !value.is_zero()),
        idle_tcp: idle(tcp),
        idle_http: idle(http),
        pending_max: count(http, "http1MaxPendingRequests"),
        requests_max: count(http, "http2MaxRequests"),
        requests_per_connection: count(http, "maxRequestsPerConnection"),
        retries_max: count(http, "maxRetries"),
    }
}

/// Consecutive 5xx that eject where `outlierDetection` is written without a number.
const CONSECUTIVE_5XX: u32 = 5;

fn outlier(reader: &mut Reader, node: &Node, path: &str) -> OutlierDetection {
    let off = outlier_off();
    let percent = |key: &str| number(node, key).and_then(|value| Percent::new(value).ok());
    let period = |key: &str| time(node, key).filter(|value| !value.is_zero());
    let threshold = |count: u32| match NonZeroU32::new(count) {
        Some(count) => EjectionThreshold::After(count),
        None => EjectionThreshold::Never,
    };
    if let Some(deprecated) = node.get("consecutiveErrors") {
        reader.find(
            Severity::Warning,
            Code::Deprecated,
            &join(path, "consecutiveErrors"),
            deprecated,
            "consecutiveErrors is deprecated: write consecutiveGatewayErrors, or \
             consecutive5xxErrors",
        );
    }
    let gateway = number(node, "consecutiveGatewayErrors")
        .or_else(|| number(node, "consecutiveErrors"))
        .unwrap_or(0);
    let base_ejection = period("baseEjectionTime").unwrap_or(off.base_ejection);
    OutlierDetection {
        consecutive_5xx: threshold(number(node, "consecutive5xxErrors").unwrap_or(CONSECUTIVE_5XX)),
        consecutive_gateway: threshold(gateway),
        interval: period("interval").unwrap_or(off.interval),
        base_ejection,
        // Envoy: 300 s, or the base if that is longer.
        max_ejection: off.max_ejection.max(base_ejection),
        max_ejection_percent: percent("maxEjectionPercent").unwrap_or(off.max_ejection_percent),
        min_health_percent: percent("minHealthPercent").unwrap_or(off.min_health_percent),
    }
}
