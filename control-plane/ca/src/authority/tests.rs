//! Leaves as a verifier sees them, clocks that jump, requests that are forged.

use std::sync::LazyLock;

use outrigger_model::{Namespace, ServiceAccount};
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls_pki_types::{ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::extensions::{GeneralName, ParsedExtension};

use super::*;
use crate::CSR_BYTES_MAX;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

fn orders() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/orders".parse().unwrap()
}

fn new_authority() -> CertificateAuthority {
    let folder = tempfile::tempdir().unwrap();
    CertificateAuthority::open_or_create(folder.path(), trust_domain()).unwrap()
}

static AUTHORITY: LazyLock<CertificateAuthority> = LazyLock::new(new_authority);

fn csr(key: &KeyPair) -> Vec<u8> {
    let params = CertificateParams::default();
    params.serialize_request(key).unwrap().der().to_vec()
}

/// Verifies a chain as a peer of the mesh does, and gives the URI names of its leaf.
fn verify(
    chain: &[CertificateDer<'static>],
    roots: &TrustBundle,
    usage: KeyUsage,
    at: SystemTime,
) -> Result<Vec<String>, webpki::Error> {
    let roots: Vec<_> = roots
        .roots
        .iter()
        .map(|root| CertificateDer::from(root.to_vec()))
        .collect();
    let anchors: Vec<_> = roots
        .iter()
        .map(|root| anchor_from_trusted_cert(root).unwrap())
        .collect();
    let leaf = EndEntityCert::try_from(&chain[0])?;
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        &chain[1..],
        UnixTime::since_unix_epoch(since),
        usage,
        None,
        None,
    )?;
    Ok(leaf.valid_uri_names().map(str::to_owned).collect())
}

#[test]
fn a_leaf_verifies_for_both_sides_until_its_end() {
    let now = SystemTime::now();
    let key = KeyPair::generate().unwrap();
    let issued = AUTHORITY
        .issue_at(&csr(&key), &orders(), HOUR, now)
        .unwrap();
    let bundle = AUTHORITY.trust_bundle();
    let at = |usage, time| verify(&issued.chain_der, &bundle, usage, time);
    for usage in [KeyUsage::client_auth, KeyUsage::server_auth] {
        assert_eq!(at(usage(), now).unwrap(), [orders().to_string()]);
        at(usage(), now - Duration::from_secs(299)).unwrap();
        at(usage(), now + HOUR - Duration::from_secs(1)).unwrap();
        at(usage(), now + HOUR + Duration::from_secs(1)).unwrap_err();
        at(usage(), now - Duration::from_secs(302)).unwrap_err();
    }
    assert_eq!(issued.chain_der.len(), 2, "leaf and issuer, no root");
    let stranger = new_authority().trust_bundle();
    verify(&issued.chain_der, &stranger, KeyUsage::client_auth(), now).unwrap_err();
    // The issuer must come along: a peer holds the root alone.
    verify(
        &issued.chain_der[..1],
        &bundle,
        KeyUsage::client_auth(),
        now,
    )
    .unwrap_err();
}

#[test]
fn a_leaf_says_just_what_the_profile_says() {
    let key = KeyPair::generate().unwrap();
    let issued = AUTHORITY.issue(&csr(&key), &orders(), HOUR).unwrap();
    let leaf = root::parse(&issued.chain_der[0]).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0);
    assert_eq!(leaf.public_key().raw, key.subject_public_key_info());
    assert!(!leaf.is_ca());
    let usage = leaf.key_usage().unwrap().unwrap();
    assert_eq!(usage.value.flags, 1, "digitalSignature alone");
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.client_auth && extended.server_auth && !extended.any);
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "the subject is empty");
    let uri = orders().to_string();
    assert!(matches!(&names.value.general_names[..], [GeneralName::URI(text)] if *text == uri));
    let identified = |extension: &ParsedExtension<'_>| {
        matches!(extension, ParsedExtension::AuthorityKeyIdentifier(_))
    };
    assert!(
        leaf.extensions()
            .iter()
            .any(|e| identified(e.parsed_extension()))
    );

    let issuer = root::parse(&issued.chain_der[1]).unwrap();
    let constraints = issuer.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    let life = issuer.validity().not_after.timestamp() - issuer.validity().not_before.timestamp();
    assert_eq!(life, 30 * 24 * 3600 + 300);

    let again = AUTHORITY.issue(&csr(&key), &orders(), HOUR).unwrap();
    let again = root::parse(&again.chain_der[0]).unwrap();
    assert_ne!(leaf.raw_serial(), again.raw_serial());
    assert_eq!(leaf.raw_serial().len(), 16);
}

#[test]
fn lifetimes_are_cut_to_a_day_and_to_the_root() {
    let now = SystemTime::now();
    let key = KeyPair::generate().unwrap();
    let life = |ttl, now| {
        let issued = AUTHORITY.issue_at(&csr(&key), &orders(), ttl, now)?;
        Ok::<_, IssueError>(issued.not_after.duration_since(now).unwrap().as_secs())
    };
    let near = |got: u64, want: u64| assert!(want - got <= 1, "{got} instead of {want}");
    near(life(Duration::from_secs(10), now).unwrap(), 10);
    near(life(Duration::from_secs(86_400), now).unwrap(), 86_400);
    near(life(Duration::MAX, now).unwrap(), 86_400);
    assert_eq!(
        life(Duration::ZERO, now).unwrap_err().reason(),
        "ttl_too_short"
    );
    let end = AUTHORITY.root_not_after();
    near(life(DAY, end - HOUR).unwrap(), 3600);
    assert_eq!(life(DAY, end).unwrap_err().reason(), "root_expired");
    assert_eq!(life(DAY, end + DAY).unwrap_err().reason(), "root_expired");
}

#[test]
fn the_issuer_is_renewed_long_before_it_cuts_a_leaf_short() {
    let ca = new_authority();
    let start = SystemTime::now();
    let key = KeyPair::generate().unwrap();
    let request = csr(&key);
    let mut issuers = std::collections::BTreeSet::new();
    for day in 0..364 {
        let now = start + DAY * day;
        let issued = ca.issue_at(&request, &orders(), DAY, now).unwrap();
        let left = issued.not_after.duration_since(now).unwrap();
        assert!(left + Duration::from_secs(1) >= DAY, "day {day}: {left:?}");
        verify(
            &issued.chain_der,
            &ca.trust_bundle(),
            KeyUsage::server_auth(),
            now,
        )
        .unwrap();
        issuers.insert(issued.chain_der[1].to_vec());
    }
    assert!(
        (23..=26).contains(&issuers.len()),
        "{} issuers",
        issuers.len()
    );
}

#[test]
fn a_clock_that_ran_ahead_does_no_lasting_harm() {
    let ca = new_authority();
    let now = SystemTime::now();
    let key = KeyPair::generate().unwrap();
    for at in [
        now,
        now + DAY * 300,
        now,
        now + HOUR,
        now - Duration::from_secs(200),
        now,
    ] {
        let issued = ca.issue_at(&csr(&key), &orders(), HOUR, at).unwrap();
        let bundle = ca.trust_bundle();
        verify(&issued.chain_der, &bundle, KeyUsage::server_auth(), at).unwrap();
    }
}

#[test]
fn an_identity_of_another_mesh_is_not_ours_to_issue() {
    let key = KeyPair::generate().unwrap();
    let other = "spiffe://other.example/ns/shop/sa/orders".parse().unwrap();
    let error = AUTHORITY.issue(&csr(&key), &other, HOUR).unwrap_err();
    assert_eq!(error.reason(), "wrong_trust_domain");
}

#[test]
fn the_control_plane_gets_names_that_clients_know() {
    let names = ServerNames {
        identity: SpiffeId {
            trust_domain: trust_domain(),
            namespace: Namespace::parse("outrigger-system").unwrap(),
            service_account: ServiceAccount::parse("outrigger").unwrap(),
        },
        dns: vec!["outrigger.outrigger-system.svc".to_owned()],
        addresses: vec![[127, 0, 0, 1].into()],
    };
    let server = AUTHORITY.issue_server(&names, DAY).unwrap();
    let chain = &server.certificate.chain_der;
    let now = SystemTime::now();
    let uris = verify(
        chain,
        &AUTHORITY.trust_bundle(),
        KeyUsage::server_auth(),
        now,
    )
    .unwrap();
    assert_eq!(uris, [names.identity.to_string()]);
    let leaf = EndEntityCert::try_from(&chain[0]).unwrap();
    for name in ["outrigger.outrigger-system.svc", "127.0.0.1"] {
        let name = ServerName::try_from(name).unwrap();
        leaf.verify_is_valid_for_subject_name(&name).unwrap();
    }
    let other = ServerName::try_from("evil.example").unwrap();
    leaf.verify_is_valid_for_subject_name(&other).unwrap_err();
    let key = KeyPair::try_from(server.key_der.as_slice()).unwrap();
    let leaf = root::parse(&chain[0]).unwrap();
    assert_eq!(leaf.public_key().raw, key.subject_public_key_info());
}

#[test]
fn old_and_new_root_are_trusted_together() {
    let (old, new) = (new_authority(), new_authority());
    let next = new.trust_bundle().roots[0].clone();
    old.add_root(&next).unwrap();
    old.add_root(&next).unwrap();
    let bundle = old.trust_bundle();
    assert_eq!(bundle.roots.len(), 2);
    assert!(bundle.roots.is_sorted());
    let key = KeyPair::generate().unwrap();
    for ca in [&old, &new] {
        let chain = ca.issue(&csr(&key), &orders(), HOUR).unwrap().chain_der;
        verify(&chain, &bundle, KeyUsage::client_auth(), SystemTime::now()).unwrap();
    }
    let refused = |der: &[u8], word: &str| {
        let message = old.add_root(der).unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    };
    let issued = old.issue(&csr(&key), &orders(), HOUR).unwrap();
    refused(&issued.chain_der[0], "not a CA");
    refused(&issued.chain_der[1], "path length is 0");
    refused(b"garbage", "not a certificate");
    for _ in 2..ROOTS_MAX {
        old.add_root(&new_authority().trust_bundle().roots[0])
            .unwrap();
    }
    refused(&new_authority().trust_bundle().roots[0], "too many");
}

/// T15: of a request only the public key counts, whatever else it asks for.
#[test]
fn wishes_in_a_request_are_not_heard() {
    type Wish = fn(&mut CertificateParams);
    let wishes: [Wish; 6] = [
        |p| {
            let admin = "spiffe://cluster.local/ns/kube-system/sa/admin";
            p.subject_alt_names = vec![SanType::URI(admin.try_into().unwrap())];
        },
        |p| p.subject_alt_names = vec![SanType::DnsName("payments.shop.svc".try_into().unwrap())],
        |p| p.subject_alt_names = vec![SanType::IpAddress([10, 0, 0, 1].into())],
        |p| p.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained),
        |p| p.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign],
        |p| {
            p.distinguished_name
                .push(rcgen::DnType::CommonName, "admin")
        },
    ];
    for wish in wishes {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        wish(&mut params);
        let request = params.serialize_request(&key).unwrap();
        let issued = AUTHORITY.issue(request.der(), &orders(), HOUR).unwrap();
        let leaf = root::parse(&issued.chain_der[0]).unwrap();
        assert!(!leaf.is_ca());
        assert_eq!(leaf.subject().iter().count(), 0);
        assert_eq!(leaf.key_usage().unwrap().unwrap().value.flags, 1);
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names.len(), 1);
        let chain = &issued.chain_der;
        let now = SystemTime::now();
        let uris = verify(
            chain,
            &AUTHORITY.trust_bundle(),
            KeyUsage::client_auth(),
            now,
        );
        assert_eq!(uris.unwrap(), [orders().to_string()]);
    }
}

#[test]
fn other_keys_and_broken_requests_are_refused() {
    let check = |request: &[u8], reason: &str| {
        let error = AUTHORITY.issue(request, &orders(), HOUR).unwrap_err();
        assert_eq!(error.reason(), reason);
    };
    for algorithm in [
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA512,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
        &rcgen::PKCS_RSA_SHA512,
    ] {
        check(
            &csr(&KeyPair::generate_for(algorithm).unwrap()),
            "csr_unsupported_key",
        );
    }
    let good = csr(&KeyPair::generate().unwrap());
    check(b"", "csr_malformed");
    check(b"garbage", "csr_malformed");
    check(&[0x30; 300], "csr_malformed");
    check(&good[..good.len() - 1], "csr_malformed");
    check(&[good.as_slice(), b"\0"].concat(), "csr_malformed");
    check(&AUTHORITY.trust_bundle().roots[0], "csr_malformed");
    check(&[0; CSR_BYTES_MAX], "csr_malformed");
    check(&[0; CSR_BYTES_MAX + 1], "csr_too_large");
    check(&vec![0x30; 1 << 20], "csr_too_large");

    // Somebody else's key under one's own signature: the parts are of one length.
    let theirs = KeyPair::generate().unwrap();
    let mut stolen = good.clone();
    let at = |needle: &[u8], hay: &[u8]| hay.windows(65).position(|w| w == needle);
    let mine = csr_key(&good);
    let place = at(&mine, &good).unwrap();
    stolen[place..place + 65].copy_from_slice(theirs.public_key_raw());
    check(&stolen, "csr_bad_signature");
}

fn csr_key(request: &[u8]) -> Vec<u8> {
    crate::csr::public_key(request)
        .unwrap()
        .der_bytes()
        .to_vec()
}

/// Every single flipped bit: refused, or without effect on anything but the encoding.
#[test]
fn no_flipped_bit_changes_what_is_issued() {
    let key = KeyPair::generate().unwrap();
    let good = csr(&key);
    let mut refused = 0;
    for bit in 0..good.len() * 8 {
        let mut flipped = good.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match crate::csr::public_key(&flipped) {
            Err(_) => refused += 1,
            Ok(accepted) => assert_eq!(accepted.der_bytes(), key.public_key_raw(), "bit {bit}"),
        }
    }
    assert!(
        refused * 100 >= good.len() * 8 * 97,
        "{refused} of {}",
        good.len() * 8
    );
}

/// DEF-28.
#[test]
fn a_root_asks_to_be_replaced_sixty_days_before_its_end() {
    let end = AUTHORITY.root_not_after();
    let second = Duration::from_secs(1);
    let check = |now: SystemTime, expected: Option<Duration>| {
        assert_eq!(AUTHORITY.root_ends_soon(now), expected, "{now:?}");
    };
    check(end - ROOT_WARNING - second, None);
    check(end - ROOT_WARNING, Some(ROOT_WARNING));
    check(end - second, Some(second));
    check(end + second, Some(Duration::ZERO));
}
