//! T15, the tokens' half: every forgery below is refused, each for its own reason.

use std::{fs, os::unix::fs::PermissionsExt};

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const NOW_SECONDS: u64 = 1_800_000_000;
const HEADER: &str = r#"{"typ":"JWT","alg":"ES256"}"#;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_SECONDS)
}

fn orders() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/orders".parse().unwrap()
}

fn workload() -> WorkloadName {
    "shop/orders-1".parse().unwrap()
}

/// An authority whose signing key a forger has got hold of.
struct Forge {
    folder: TempDir,
    authority: TokenAuthority,
    key: EcdsaKeyPair,
}

impl Forge {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let trust_domain = TrustDomain::parse("cluster.local").unwrap();
        let authority = TokenAuthority::open_or_create(folder.path(), trust_domain).unwrap();
        let der = PrivatePkcs8KeyDer::from_pem_file(folder.path().join(KEY)).unwrap();
        let der = der.secret_pkcs8_der();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).unwrap();
        Self {
            folder,
            authority,
            key,
        }
    }

    /// A token with any header and claims under the true key.
    fn signed(&self, header: &str, claims: &str) -> String {
        let message = format!(
            "{}.{}",
            base64url(header.as_bytes()),
            base64url(claims.as_bytes())
        );
        let signature = self
            .key
            .sign(&SystemRandom::new(), message.as_bytes())
            .unwrap();
        format!("{message}.{}", base64url(signature.as_ref()))
    }

    #[track_caller]
    fn refused(&self, token: &str, reason: &str) {
        let error = self.authority.verify_at(token, now()).unwrap_err();
        assert_eq!(error.reason(), reason, "{token}");
    }

    /// The claims of a good token, changed.
    #[track_caller]
    fn refused_with(&self, change: impl FnOnce(&mut serde_json::Map<String, Value>), reason: &str) {
        let mut claims = good_claims();
        change(claims.as_object_mut().unwrap());
        self.refused(&self.signed(HEADER, &claims.to_string()), reason);
    }
}

fn good_claims() -> Value {
    json!({
        "iss": "spiffe://cluster.local", "sub": "shop/orders", "workload": "shop/orders-1",
        "aud": "outrigger-ca", "iat": NOW_SECONDS, "nbf": NOW_SECONDS, "exp": NOW_SECONDS + 3600,
    })
}

/// RFC 4648 §5 without padding.
fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..=chunk.len() {
            let index = usize::try_from(word >> (18 - 6 * i) & 63).unwrap();
            text.push(char::from(ALPHABET[index]));
        }
    }
    text
}

#[test]
fn a_minted_token_names_its_workload() {
    let forge = Forge::new();
    let ttl = TOKEN_TTL_DEFAULT;
    let token = forge
        .authority
        .mint_at(&orders(), &workload(), ttl, now())
        .unwrap();
    let verified = forge.authority.verify_at(token.expose(), now()).unwrap();
    assert_eq!(
        verified,
        VerifiedWorkload {
            identity: orders(),
            workload: workload(),
            expires: now() + ttl
        }
    );
    let live = forge.authority.mint(&orders(), &workload(), ttl).unwrap();
    forge.authority.verify(live.expose()).unwrap();
    // The forger's own means make a good token, so that each refusal below has its own cause.
    let forged = forge.signed(HEADER, &good_claims().to_string());
    assert_eq!(forge.authority.verify_at(&forged, now()).unwrap(), verified);
}

#[test]
fn a_token_holds_for_its_time_and_a_minute_around_it() {
    let forge = Forge::new();
    let token = forge
        .authority
        .mint_at(&orders(), &workload(), Duration::from_secs(600), now());
    let token = token.unwrap();
    let at = |seconds: u64| {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        forge
            .authority
            .verify_at(token.expose(), at)
            .map_err(|e| e.reason())
    };
    assert_eq!(at(NOW_SECONDS - 61), Err("token_not_yet_valid"));
    assert!(at(NOW_SECONDS - 60).is_ok());
    assert!(at(NOW_SECONDS + 659).is_ok());
    assert_eq!(at(NOW_SECONDS + 660), Err("token_expired"));
    let long = forge
        .authority
        .mint_at(&orders(), &workload(), Duration::MAX, now())
        .unwrap();
    let long = forge.authority.verify_at(long.expose(), now()).unwrap();
    assert_eq!(long.expires, now() + TOKEN_TTL_MAX);
}

#[test]
fn the_key_is_private_and_survives_a_restart() {
    let forge = Forge::new();
    let path = forge.folder.path().join("token.key");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let trust_domain = || TrustDomain::parse("cluster.local").unwrap();
    let again = TokenAuthority::open_or_create(forge.folder.path(), trust_domain()).unwrap();
    let token = forge
        .authority
        .mint(&orders(), &workload(), TOKEN_TTL_DEFAULT)
        .unwrap();
    again.verify(token.expose()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = TokenAuthority::open_or_create(forge.folder.path(), trust_domain());
    let message = refused.err().expect("others may read it").to_string();
    assert!(message.contains("chmod 600"), "{message}");

    let folder = tempfile::tempdir().unwrap();
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let path = folder.path().join("token.key");
    fs::write(&path, other.serialize_pem()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let refused = TokenAuthority::open_or_create(folder.path(), trust_domain());
    assert!(matches!(
        refused.err(),
        Some(RootError::KeyUnsupported { .. })
    ));
}

#[test]
fn no_token_is_minted_for_a_stranger() {
    let forge = Forge::new();
    let mint = |identity: &str, workload: &str| {
        let (identity, workload) = (identity.parse().unwrap(), workload.parse().unwrap());
        let minted = forge
            .authority
            .mint(&identity, &workload, TOKEN_TTL_DEFAULT);
        minted.map(|_| ()).map_err(|error| error.reason())
    };
    let ours = "spiffe://cluster.local/ns/shop/sa/orders";
    assert_eq!(mint(ours, "shop/orders-1"), Ok(()));
    assert_eq!(mint(ours, "bank/orders-1"), Err("wrong_identity"));
    let theirs = "spiffe://other.example/ns/shop/sa/orders";
    assert_eq!(mint(theirs, "shop/orders-1"), Err("wrong_identity"));
}

#[test]
fn forged_claims_are_refused() {
    let forge = Forge::new();
    for claim in ["iss", "sub", "workload", "aud", "iat", "nbf", "exp"] {
        forge.refused_with(|claims| drop(claims.remove(claim)), "token_malformed");
        for wrong in [
            json!(null),
            json!([]),
            json!({}),
            json!(true),
            json!(-1),
            json!(1.5),
        ] {
            forge.refused_with(|claims| claims[claim] = wrong, "token_malformed");
        }
    }
    for (claim, wrong, reason) in [
        ("iss", json!("spiffe://other.example"), "token_issuer"),
        ("iss", json!(""), "token_issuer"),
        ("iss", json!("spiffe://cluster.local/"), "token_issuer"),
        ("aud", json!("kubernetes.default.svc"), "token_audience"),
        ("aud", json!("outrigger-ca "), "token_audience"),
        ("aud", json!(["outrigger-ca"]), "token_malformed"),
        ("exp", json!(NOW_SECONDS - 60), "token_expired"),
        ("exp", json!(0), "token_expired"),
        ("exp", json!(u64::MAX), "token_malformed"),
        ("exp", json!("4102444800"), "token_malformed"),
        ("nbf", json!(NOW_SECONDS + 61), "token_not_yet_valid"),
        ("nbf", json!(u64::MAX), "token_not_yet_valid"),
        ("iat", json!(NOW_SECONDS + 61), "token_not_yet_valid"),
        ("sub", json!("orders"), "token_malformed"),
        ("sub", json!("shop/"), "token_malformed"),
        ("sub", json!("/orders"), "token_malformed"),
        ("sub", json!("shop/orders/admin"), "token_malformed"),
        ("sub", json!("shop/sa/orders"), "token_malformed"),
        ("sub", json!("SHOP/orders"), "token_malformed"),
        ("sub", json!("../kube-system/admin"), "token_malformed"),
        ("sub", json!("shop/orders\u{0}"), "token_malformed"),
        ("workload", json!("bank/orders-1"), "token_malformed"),
        ("workload", json!("orders-1"), "token_malformed"),
        ("workload", json!("shop/a b"), "token_malformed"),
    ] {
        forge.refused_with(|claims| claims[claim] = wrong, reason);
    }
    let good = good_claims().to_string();
    let twice = good.replacen('{', r#"{"sub":"kube-system/admin","#, 1);
    forge.refused(&forge.signed(HEADER, &twice), "token_malformed");
    forge.refused(&forge.signed(HEADER, "[]"), "token_malformed");
    forge.refused(&forge.signed(HEADER, "not JSON"), "token_malformed");
    forge.refused(&forge.signed(HEADER, ""), "token_malformed");
}

#[test]
fn forged_headers_and_keys_are_refused() {
    let forge = Forge::new();
    let claims = good_claims().to_string();
    for (header, reason) in [
        (r#"{"typ":"JWT","alg":"none"}"#, "token_malformed"),
        (r#"{"typ":"JWT","alg":"None"}"#, "token_malformed"),
        (r#"{"typ":"JWT","alg":"es256"}"#, "token_malformed"),
        (r#"{"typ":"JWT"}"#, "token_malformed"),
        (r#"{"typ":"JWT","alg":"ES384"}"#, "token_algorithm"),
        (r#"{"typ":"JWT","alg":"RS256"}"#, "token_algorithm"),
        (r#"{"typ":"JWT","alg":"PS256"}"#, "token_algorithm"),
        (r#"{"typ":"JWT","alg":"EdDSA"}"#, "token_algorithm"),
        (r#"{"typ":"JWT","alg":"HS256"}"#, "token_algorithm"),
        (r#"{"typ":"at+jwt","alg":"ES256"}"#, "token_malformed"),
        (r#"{"alg":"ES256"}"#, "token_malformed"),
        (
            r#"{"typ":"JWT","alg":"ES256","crit":["b64"],"b64":false}"#,
            "token_malformed",
        ),
        ("[]", "token_malformed"),
        ("", "token_malformed"),
    ] {
        forge.refused(&forge.signed(header, &claims), reason);
    }
    // A key that the token brings along, and one that is not ours at all.
    let stranger = Forge::new();
    let jwk = r#"{"typ":"JWT","alg":"ES256","jku":"https://evil.example/keys","kid":"1"}"#;
    forge.refused(&stranger.signed(jwk, &claims), "token_signature");
    forge.refused(&stranger.signed(HEADER, &claims), "token_signature");
    // The public key as an HMAC secret.
    let header = base64url(br#"{"typ":"JWT","alg":"HS256"}"#);
    let message = format!("{header}.{}", base64url(claims.as_bytes()));
    let public = forge.authority.decoding.try_get_as_bytes().unwrap();
    let secret = hmac::Key::new(hmac::HMAC_SHA256, public);
    let tag = hmac::sign(&secret, message.as_bytes());
    let confused = format!("{message}.{}", base64url(tag.as_ref()));
    forge.refused(&confused, "token_algorithm");
    let unsigned = format!(
        "{}.{}.",
        base64url(br#"{"typ":"JWT","alg":"none"}"#),
        base64url(claims.as_bytes())
    );
    forge.refused(&unsigned, "token_malformed");
}

#[test]
fn tampered_and_malformed_tokens_are_refused() {
    let forge = Forge::new();
    let good = forge.signed(HEADER, &good_claims().to_string());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, claims) = message.split_once('.').unwrap();
    let raised = good_claims()
        .to_string()
        .replace("shop/orders\"", "shop/payments\"");
    let raised = base64url(raised.as_bytes());
    forge.refused(&format!("{header}.{raised}.{signature}"), "token_signature");
    forge.refused(&format!("{header}.{claims}."), "token_signature");
    forge.refused(
        &format!("{header}.{claims}.{}", base64url(&[0; 64])),
        "token_signature",
    );
    let other = forge.signed(HEADER, "{}");
    let (_, swapped) = other.rsplit_once('.').unwrap();
    forge.refused(&format!("{message}.{swapped}"), "token_signature");
    for malformed in [
        "",
        ".",
        "..",
        "...",
        header,
        message,
        "\u{0}.\u{0}.\u{0}",
        "Bearer x",
        "é.é.é",
    ] {
        forge.refused(malformed, "token_malformed");
    }
    forge.refused(&format!("{good}."), "token_malformed");
    forge.refused(&format!("{header}.{claims}={signature}"), "token_malformed");
    forge.refused(&"a".repeat(TOKEN_BYTES_MAX), "token_malformed");
    forge.refused(&"a".repeat(TOKEN_BYTES_MAX + 1), "token_too_large");
    // Any one character changed.
    for index in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert!(
            forge.authority.verify_at(&changed, now()).is_err(),
            "character {index}"
        );
    }
}
