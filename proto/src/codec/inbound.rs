//! InboundPolicy.

use outrigger_model::{InboundPolicy, InboundPort, MtlsMode, Port};

use super::{
    destination::{decode_protocol, encode_protocol},
    error::FieldError,
    field::{Result, ascending, enumeration, list, text},
    limit::INBOUND_PORTS_MAX,
    wire,
};

pub(super) fn encode(policy: &InboundPolicy) -> wire::InboundPolicy {
    let mut ports: Vec<&InboundPort> = policy.ports.iter().collect();
    ports.sort_by_key(|port| port.port);
    wire::InboundPolicy {
        name: policy.name.to_string(),
        identity: policy.identity.to_string(),
        default_mtls: encode_mode(policy.default_mtls).into(),
        ports: ports
            .into_iter()
            .map(|port| wire::InboundPort {
                port: port.port.get().into(),
                protocol: encode_protocol(port.protocol).into(),
                mtls: encode_mode(port.mtls).into(),
            })
            .collect(),
    }
}

pub(super) fn decode(policy: &wire::InboundPolicy) -> Result<InboundPolicy> {
    let ports = list("ports", &policy.ports, INBOUND_PORTS_MAX, |port| {
        Ok(InboundPort {
            port: Port::new(port.port).map_err(|error| FieldError::new("port", error))?,
            protocol: decode_protocol("protocol", port.protocol)?,
            mtls: decode_mode("mtls", port.mtls)?,
        })
    })?;
    ascending("ports", &ports, |port| &port.port)?;
    Ok(InboundPolicy {
        name: text("name", &policy.name)?,
        identity: text("identity", &policy.identity)?,
        default_mtls: decode_mode("default_mtls", policy.default_mtls)?,
        ports,
    })
}

fn encode_mode(mode: MtlsMode) -> wire::MtlsMode {
    match mode {
        MtlsMode::Strict => wire::MtlsMode::Strict,
        MtlsMode::Permissive => wire::MtlsMode::Permissive,
    }
}

fn decode_mode(field: &str, value: i32) -> Result<MtlsMode> {
    let known = match wire::MtlsMode::try_from(value) {
        Ok(wire::MtlsMode::Strict) => Some(MtlsMode::Strict),
        Ok(wire::MtlsMode::Permissive) => Some(MtlsMode::Permissive),
        Ok(wire::MtlsMode::Unspecified) | Err(_) => None,
    };
    enumeration(field, value, known)
}
