//! TrustBundle and MeshSettings.

use std::sync::Arc;

use bytes::Bytes;
use outrigger_model::{AccessLog, MeshSettings, Tracing, TrustBundle};

use super::{
    bound,
    error::{FieldError, Problem},
    field::{Result, ascending, enumeration, list, not_empty, ratio, text},
    limit::ROOTS_MAX,
    wire::{self, mesh_settings},
};

pub(super) fn encode_bundle(bundle: &TrustBundle) -> wire::TrustBundle {
    let mut roots: Vec<&Arc<[u8]>> = bundle.roots.iter().collect();
    roots.sort();
    wire::TrustBundle {
        trust_domain: bundle.trust_domain.to_string(),
        roots: roots
            .into_iter()
            .map(|root| Bytes::copy_from_slice(root))
            .collect(),
    }
}

pub(super) fn decode_bundle(bundle: &wire::TrustBundle) -> Result<TrustBundle> {
    not_empty("roots", &bundle.roots)?;
    let roots = list("roots", &bundle.roots, ROOTS_MAX, |root| {
        not_empty("", root)?;
        Ok(Arc::<[u8]>::from(root.as_ref()))
    })?;
    ascending("roots", &roots, |root| root)?;
    Ok(TrustBundle {
        trust_domain: text("trust_domain", &bundle.trust_domain)?,
        roots,
    })
}

pub(super) fn encode_settings(settings: &MeshSettings) -> wire::MeshSettings {
    let access_log = match settings.access_log {
        AccessLog::Off => wire::AccessLog::Off,
        AccessLog::Failures => wire::AccessLog::Failures,
        AccessLog::All => wire::AccessLog::All,
    };
    let tracing = match &settings.tracing {
        Tracing::Off => mesh_settings::Tracing::TracingOff(wire::TracingOff {}),
        Tracing::Otlp { endpoint, sampling } => mesh_settings::Tracing::Otlp(wire::Otlp {
            endpoint: endpoint.clone(),
            sampling_ppm: sampling.parts_per_million(),
        }),
    };
    wire::MeshSettings {
        trust_domain: settings.trust_domain.to_string(),
        cluster_domain: settings.cluster_domain.to_string(),
        access_log: access_log.into(),
        tracing: Some(tracing),
        drain_timeout: bound::duration(settings.drain_timeout),
    }
}

pub(super) fn decode_settings(settings: &wire::MeshSettings) -> Result<MeshSettings> {
    let access_log = match wire::AccessLog::try_from(settings.access_log) {
        Ok(wire::AccessLog::Off) => Some(AccessLog::Off),
        Ok(wire::AccessLog::Failures) => Some(AccessLog::Failures),
        Ok(wire::AccessLog::All) => Some(AccessLog::All),
        Ok(wire::AccessLog::Unspecified) | Err(_) => None,
    };
    let tracing = match &settings.tracing {
        Some(mesh_settings::Tracing::TracingOff(_)) => Tracing::Off,
        Some(mesh_settings::Tracing::Otlp(otlp)) => {
            not_empty("otlp.endpoint", otlp.endpoint.as_bytes())?;
            Tracing::Otlp {
                endpoint: otlp.endpoint.clone(),
                sampling: ratio("otlp.sampling_ppm", otlp.sampling_ppm)?,
            }
        }
        None => return Err(FieldError::new("tracing", Problem::Missing)),
    };
    Ok(MeshSettings {
        trust_domain: text("trust_domain", &settings.trust_domain)?,
        cluster_domain: text("cluster_domain", &settings.cluster_domain)?,
        access_log: enumeration("access_log", settings.access_log, access_log)?,
        tracing,
        drain_timeout: bound::read_duration("drain_timeout", settings.drain_timeout.as_ref())?,
    })
}
