//! Destination.

use std::net::IpAddr;

use bytes::Bytes;
use outrigger_model::{
    Balancer, ConnectionLimits, Destination, Origin, OutlierDetection, Protocol, Subset,
    TrafficPolicy,
};

use super::{
    bound,
    error::{FieldError, Problem},
    field::{Result, ascending, enumeration, list, message, narrow, percent, text, texts},
    limit::{HOSTS_MAX, SUBSETS_MAX, VIPS_MAX},
    wire,
};

pub(super) fn encode(value: &Destination) -> wire::Destination {
    let mut subsets: Vec<&Subset> = value.subsets.iter().collect();
    subsets.sort_by(|a, b| a.name.cmp(&b.name));
    wire::Destination {
        name: value.name.to_string(),
        hosts: value.hosts.iter().map(ToString::to_string).collect(),
        vips: value.vips.iter().map(encode_address).collect(),
        protocol: encode_protocol(value.protocol).into(),
        policy: Some(encode_policy(&value.policy)),
        subsets: subsets
            .into_iter()
            .map(|subset| wire::Subset {
                name: subset.name.to_string(),
                policy: Some(encode_policy(&subset.policy)),
            })
            .collect(),
        shards: value.shards.into(),
    }
}

pub(super) fn decode(value: &wire::Destination) -> Result<Destination> {
    let subsets = list("subsets", &value.subsets, SUBSETS_MAX, |subset| {
        Ok(Subset {
            name: text("name", &subset.name)?,
            policy: message("policy", subset.policy.as_ref(), decode_policy)?,
        })
    })?;
    ascending("subsets", &subsets, |subset| &subset.name)?;
    Ok(Destination {
        name: text("name", &value.name)?,
        hosts: texts("hosts", &value.hosts, HOSTS_MAX)?,
        vips: list("vips", &value.vips, VIPS_MAX, decode_address)?,
        protocol: decode_protocol("protocol", value.protocol)?,
        policy: message("policy", value.policy.as_ref(), decode_policy)?,
        subsets,
        shards: narrow("shards", value.shards, u16::MAX)?,
    })
}

fn encode_address(address: &IpAddr) -> Bytes {
    match address {
        IpAddr::V4(v4) => Bytes::copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => Bytes::copy_from_slice(&v6.octets()),
    }
}

fn decode_address(bytes: &Bytes) -> Result<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes.as_ref()).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes.as_ref()).map(IpAddr::from))
        .map_err(|_| {
            let (found, expected) = (bytes.len(), 4);
            FieldError::new("", Problem::Length { found, expected })
        })
}

pub(super) fn encode_protocol(protocol: Protocol) -> wire::Protocol {
    match protocol {
        Protocol::Detect => wire::Protocol::Detect,
        Protocol::Http => wire::Protocol::Http,
        Protocol::Http2 => wire::Protocol::Http2,
        Protocol::Grpc => wire::Protocol::Grpc,
        Protocol::Tcp => wire::Protocol::Tcp,
    }
}

pub(super) fn decode_protocol(field: &str, value: i32) -> Result<Protocol> {
    let known = match wire::Protocol::try_from(value) {
        Ok(wire::Protocol::Detect) => Some(Protocol::Detect),
        Ok(wire::Protocol::Http) => Some(Protocol::Http),
        Ok(wire::Protocol::Http2) => Some(Protocol::Http2),
        Ok(wire::Protocol::Grpc) => Some(Protocol::Grpc),
        Ok(wire::Protocol::Tcp) => Some(Protocol::Tcp),
        Ok(wire::Protocol::Unspecified) | Err(_) => None,
    };
    enumeration(field, value, known)
}

fn encode_policy(policy: &TrafficPolicy) -> wire::TrafficPolicy {
    let balancer = match policy.balancer {
        Balancer::PeakEwma => wire::Balancer::PeakEwma,
        Balancer::RoundRobin => wire::Balancer::RoundRobin,
        Balancer::Random => wire::Balancer::Random,
        Balancer::LeastRequest => wire::Balancer::LeastRequest,
    };
    wire::TrafficPolicy {
        origin: policy.origin.to_string(),
        balancer: balancer.into(),
        limits: Some(encode_limits(&policy.limits)),
        outlier: Some(encode_outlier(&policy.outlier)),
    }
}

fn decode_policy(policy: &wire::TrafficPolicy) -> Result<TrafficPolicy> {
    let balancer = match wire::Balancer::try_from(policy.balancer) {
        Ok(wire::Balancer::PeakEwma) => Some(Balancer::PeakEwma),
        Ok(wire::Balancer::RoundRobin) => Some(Balancer::RoundRobin),
        Ok(wire::Balancer::Random) => Some(Balancer::Random),
        Ok(wire::Balancer::LeastRequest) => Some(Balancer::LeastRequest),
        Ok(wire::Balancer::Unspecified) | Err(_) => None,
    };
    Ok(TrafficPolicy {
        origin: Origin::new(&policy.origin),
        balancer: enumeration("balancer", policy.balancer, balancer)?,
        limits: message("limits", policy.limits.as_ref(), decode_limits)?,
        outlier: message("outlier", policy.outlier.as_ref(), decode_outlier)?,
    })
}

fn encode_limits(limits: &ConnectionLimits) -> wire::ConnectionLimits {
    wire::ConnectionLimits {
        connections_max: limits.connections_max,
        pending_max: limits.pending_max,
        pending_timeout: bound::duration(limits.pending_timeout),
        requests_max: limits.requests_max,
        requests_per_connection: bound::requests(limits.requests_per_connection),
        retries_max: limits.retries_max,
        connect_timeout: bound::duration(limits.connect_timeout),
        idle_timeout: bound::lifetime(limits.idle_timeout),
        connection_age: bound::lifetime(limits.connection_age),
    }
}

fn decode_limits(limits: &wire::ConnectionLimits) -> Result<ConnectionLimits> {
    Ok(ConnectionLimits {
        connections_max: limits.connections_max,
        pending_max: limits.pending_max,
        pending_timeout: bound::read_duration("pending_timeout", limits.pending_timeout.as_ref())?,
        requests_max: limits.requests_max,
        requests_per_connection: bound::read_requests(
            "requests_per_connection",
            limits.requests_per_connection.as_ref(),
        )?,
        retries_max: limits.retries_max,
        connect_timeout: bound::read_duration("connect_timeout", limits.connect_timeout.as_ref())?,
        idle_timeout: bound::read_lifetime("idle_timeout", limits.idle_timeout.as_ref())?,
        connection_age: bound::read_lifetime("connection_age", limits.connection_age.as_ref())?,
    })
}

fn encode_outlier(outlier: &OutlierDetection) -> wire::OutlierDetection {
    wire::OutlierDetection {
        consecutive_5xx: bound::threshold(outlier.consecutive_5xx),
        consecutive_gateway: bound::threshold(outlier.consecutive_gateway),
        interval: bound::duration(outlier.interval),
        base_ejection: bound::duration(outlier.base_ejection),
        max_ejection: bound::duration(outlier.max_ejection),
        max_ejection_percent: outlier.max_ejection_percent.get().into(),
        min_health_percent: outlier.min_health_percent.get().into(),
    }
}

fn decode_outlier(outlier: &wire::OutlierDetection) -> Result<OutlierDetection> {
    Ok(OutlierDetection {
        consecutive_5xx: bound::read_threshold(
            "consecutive_5xx",
            outlier.consecutive_5xx.as_ref(),
        )?,
        consecutive_gateway: bound::read_threshold(
            "consecutive_gateway",
            outlier.consecutive_gateway.as_ref(),
        )?,
        interval: bound::read_duration("interval", outlier.interval.as_ref())?,
        base_ejection: bound::read_duration("base_ejection", outlier.base_ejection.as_ref())?,
        max_ejection: bound::read_duration("max_ejection", outlier.max_ejection.as_ref())?,
        max_ejection_percent: percent("max_ejection_percent", outlier.max_ejection_percent)?,
        min_health_percent: percent("min_health_percent", outlier.min_health_percent)?,
    })
}
