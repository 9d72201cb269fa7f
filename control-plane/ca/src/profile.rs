//! What our certificates say: root, issuer and leaf profiles (DEF-26 to DEF-28).

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use outrigger_model::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType, SerialNumber,
};
use time::OffsetDateTime;

/// How far before its making a certificate begins to hold, for clocks that are behind (DEF-26).
pub(crate) const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// Life of a root that we make (DEF-28).
pub(crate) const ROOT_TTL: Duration = Duration::from_secs(365 * 24 * 3600);
/// Life of an issuer (DEF-28); it is renewed after half of it, so that no leaf is cut short.
pub(crate) const ISSUER_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// From when to when a certificate holds, in whole seconds, as certificates count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl Validity {
    /// `ttl` from `now`, not beyond `end`; `None` when nothing of it is left.
    pub(crate) fn new(now: SystemTime, ttl: Duration, end: SystemTime) -> Option<Self> {
        let now = whole_seconds(now)?;
        let not_after = whole_seconds(now.checked_add(ttl)?.min(end))?;
        (not_after > now).then_some(Self {
            not_before: now.checked_sub(BACKDATE)?,
            not_after,
        })
    }
}

fn whole_seconds(time: SystemTime) -> Option<SystemTime> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(since.as_secs()))
}

/// 127 random bits: positive, of one length, unique for every certificate ever made.
fn serial() -> Result<SerialNumber, rcgen::Error> {
    let mut bytes = [0_u8; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| rcgen::Error::RingUnspecified)?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn base(validity: Validity) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(serial()?);
    params.not_before = OffsetDateTime::from(validity.not_before);
    params.not_after = OffsetDateTime::from(validity.not_after);
    Ok(params)
}

fn authority(
    role: &str,
    trust_domain: &TrustDomain,
    constraint: BasicConstraints,
    validity: Validity,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = base(validity)?;
    // A name of its own for each one: chains are found by name, and old and new roots coexist.
    let serial = params.serial_number.as_ref().map(SerialNumber::to_bytes);
    let tag: String = serial
        .iter()
        .flatten()
        .take(6)
        .map(|b| format!("{b:02x}"))
        .collect();
    let name = format!("Outrigger {role} {tag}");
    params
        .distinguished_name
        .push(DnType::OrganizationName, trust_domain.as_str());
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(constraint);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// A root: it may sign issuers and nothing deeper.
pub(crate) fn root(
    trust_domain: &TrustDomain,
    validity: Validity,
) -> Result<CertificateParams, rcgen::Error> {
    authority(
        "root",
        trust_domain,
        BasicConstraints::Constrained(1),
        validity,
    )
}

/// An issuer: it may sign leaves alone.
pub(crate) fn issuer(
    trust_domain: &TrustDomain,
    validity: Validity,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = authority(
        "issuer",
        trust_domain,
        BasicConstraints::Constrained(0),
        validity,
    )?;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// A leaf (X.509-SVID §4 and §5.2): no subject, so the names are critical (RFC 5280 §4.2.1.6);
/// one URI; DNS names and addresses only for the control plane's own server.
pub(crate) fn leaf(
    identity: &SpiffeId,
    dns: &[String],
    addresses: &[IpAddr],
    validity: Validity,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = base(validity)?;
    params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
    for name in dns {
        let name = name.as_str().try_into()?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    let addresses = addresses.iter().copied().map(SanType::IpAddress);
    params.subject_alt_names.extend(addresses);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}
