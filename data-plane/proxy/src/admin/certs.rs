//! `/certs`: what the certificates in force say. Only public parts are within reach: the TLS
//! context gives its chain and roots, never its key.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time,
};

use crate::{telemetry::timestamp, tls::TlsContext, upstream::TlsReader};

/// Chain and roots in force.
pub(super) fn shown(tls: &TlsReader, now: SystemTime) -> Value {
    let Some(context) = tls.load_full() else {
        return json!({ "identity": null, "chain": [], "roots": [] });
    };
    let chain: Vec<_> = context
        .chain()
        .iter()
        .map(|der| certificate(der, now))
        .collect();
    let roots: Vec<_> = context
        .roots()
        .iter()
        .map(|der| certificate(der, now))
        .collect();
    json!({ "identity": context.identity.to_string(), "chain": chain, "roots": roots })
}

/// Whether the leaf's time is over; a leaf that cannot be read is as good as expired.
pub(super) fn expired(context: &TlsContext, now: SystemTime) -> bool {
    let end = context.chain().first().and_then(|der| {
        let (_, leaf) = X509Certificate::from_der(der).ok()?;
        time(leaf.validity().not_after)
    });
    end.is_none_or(|end| end <= now)
}

fn certificate(der: &[u8], now: SystemTime) -> Value {
    let Ok((_, parsed)) = X509Certificate::from_der(der) else {
        return json!({ "error": "not a certificate", "bytes": der.len() });
    };
    let names = parsed.subject_alternative_name().ok().flatten();
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    let validity = parsed.validity();
    let left = time(validity.not_after).and_then(|end| end.duration_since(now).ok());
    json!({
        "subject": parsed.subject().to_string(),
        "uris": uris,
        "issuer": parsed.issuer().to_string(),
        "serial": parsed.raw_serial_as_string(),
        "not_before": moment(validity.not_before),
        "not_after": moment(validity.not_after),
        "expires_in_seconds": left.unwrap_or_default().as_secs(),
    })
}

fn time(time: ASN1Time) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(time.timestamp()).ok()?))
}

fn moment(at: ASN1Time) -> Option<String> {
    time(at).map(timestamp)
}
