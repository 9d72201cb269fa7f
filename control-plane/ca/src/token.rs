//! Workload tokens: proof of identity outside Kubernetes (DESIGN §6).
//!
//! A token is a JWT (RFC 7519) signed with ES256 by a key that the control plane keeps in its
//! state folder. Who starts a workload hands it its token; the sidecar shows it when it asks for a
//! certificate. The algorithm is fixed here and never taken from the token, every claim below is
//! required with its exact type, and the times are checked with a leeway of 60 s.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use outrigger_model::{
    InvalidValue, Namespace, ServiceAccount, SpiffeId, TrustDomain, WorkloadName,
};
use rcgen::PublicKeyData;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    RootError,
    signer::Signer,
    state::{KeyAccess, StateFolder, read_secret},
};

/// Audience of every token that proves an identity to us (DEF-29).
pub const AUDIENCE: &str = "outrigger-ca";
/// Life of a token unless the caller says otherwise (DEF-29).
pub const TOKEN_TTL_DEFAULT: Duration = Duration::from_secs(3600);
/// Longest life of a token.
pub const TOKEN_TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// Largest token read (SECURITY-NOTES E7).
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// How far the clocks of minter and verifier may be apart.
const LEEWAY_SECONDS: u64 = 60;
const KEY: &str = "token.key";

/// Why a token was refused or not minted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Larger than [`TOKEN_BYTES_MAX`].
    #[error("the token has {bytes} bytes; at most {TOKEN_BYTES_MAX} are read")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not a JWT, or a claim is missing or of another type.
    #[error("the token is not a workload token of this mesh")]
    Malformed,
    /// Signed with something else than ES256.
    #[error("the token is not signed with ES256")]
    Algorithm,
    /// Not signed by our key.
    #[error("the signature of the token does not hold")]
    Signature,
    /// Made by another control plane.
    #[error("the token was issued by another mesh")]
    Issuer,
    /// Made for another purpose.
    #[error("the audience of the token is not {AUDIENCE}")]
    Audience,
    /// Its time is over.
    #[error("the token expired")]
    Expired,
    /// Its time has not come.
    #[error("the token does not hold yet; check the clocks")]
    NotYetValid,
    /// The identity to mint for is not ours, or workload and identity differ in namespace.
    #[error(
        "no token for {identity} and workload {workload}: not of this trust domain, or not of one namespace"
    )]
    WrongIdentity {
        /// The identity asked for.
        identity: SpiffeId,
        /// The workload asked for.
        workload: WorkloadName,
    },
    /// Signing failed inside the cryptographic library.
    #[error("cannot sign the token")]
    Crypto,
}

impl TokenError {
    /// A label for metrics: one of a fixed set.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "token_too_large",
            Self::Malformed => "token_malformed",
            Self::Algorithm => "token_algorithm",
            Self::Signature => "token_signature",
            Self::Issuer => "token_issuer",
            Self::Audience => "token_audience",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::WrongIdentity { .. } => "wrong_identity",
            Self::Crypto => "crypto",
        }
    }
}

/// A token: whoever holds it is the workload. Wiped on drop.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "the token is a secret")]
pub struct WorkloadToken(Zeroizing<String>);

impl WorkloadToken {
    /// The text, to hand to the sidecar. Keep it out of logs and command lines.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Whom a good token belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedWorkload {
    /// The identity.
    pub identity: SpiffeId,
    /// The workload, of the same namespace.
    pub workload: WorkloadName,
    /// When the token ends.
    pub expires: SystemTime,
}

/// Mints and verifies the tokens of one trust domain.
#[expect(missing_debug_implementations, reason = "holds a private key")]
pub struct TokenAuthority {
    trust_domain: TrustDomain,
    issuer: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
}

/// The claims (RFC 7519 §4.1), all required.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    /// `spiffe://<trust-domain>`.
    iss: String,
    /// `namespace/service-account`.
    sub: String,
    /// `namespace/name` of the workload.
    workload: String,
    aud: String,
    iat: u64,
    nbf: u64,
    exp: u64,
}

impl TokenAuthority {
    /// Loads the key (`token.key`) of a state folder, or makes folder and key.
    ///
    /// # Errors
    /// When the folder or the key cannot be used; each says what to do.
    pub fn open_or_create(folder: &Path, trust_domain: TrustDomain) -> Result<Self, RootError> {
        let state = StateFolder::open(folder)?;
        let path = state.path_of(KEY);
        let signer = if state.exists(KEY)? {
            Signer::from_pem(&read_secret(&path, KeyAccess::Owner)?, &path)?
        } else {
            let signer = Signer::generate()?;
            state.write(KEY, signer.to_pem().as_bytes())?;
            signer
        };
        if !signer.is_p256() {
            return Err(RootError::KeyUnsupported { key: path });
        }
        Ok(Self {
            issuer: format!("spiffe://{trust_domain}"),
            trust_domain,
            encoding: EncodingKey::from_ec_der(&signer.to_der()),
            decoding: DecodingKey::from_ec_der(signer.der_bytes()),
        })
    }

    /// A token for a workload; `ttl` is cut to [`TOKEN_TTL_MAX`].
    ///
    /// # Errors
    /// When the identity is of another trust domain or the workload of another namespace.
    pub fn mint(
        &self,
        identity: &SpiffeId,
        workload: &WorkloadName,
        ttl: Duration,
    ) -> Result<WorkloadToken, TokenError> {
        self.mint_at(identity, workload, ttl, SystemTime::now())
    }

    /// [`Self::mint`] at a given time.
    ///
    /// # Errors
    /// As there.
    pub fn mint_at(
        &self,
        identity: &SpiffeId,
        workload: &WorkloadName,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<WorkloadToken, TokenError> {
        if identity.trust_domain != self.trust_domain || identity.namespace != workload.namespace {
            return Err(TokenError::WrongIdentity {
                identity: identity.clone(),
                workload: workload.clone(),
            });
        }
        let now = unix_seconds(now);
        let claims = Claims {
            iss: self.issuer.clone(),
            sub: format!("{}/{}", identity.namespace, identity.service_account),
            workload: workload.to_string(),
            aud: AUDIENCE.to_owned(),
            iat: now,
            nbf: now,
            exp: now.saturating_add(ttl.min(TOKEN_TTL_MAX).as_secs()),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.encoding)
            .map(|text| WorkloadToken(Zeroizing::new(text)))
            .map_err(|_| TokenError::Crypto)
    }

    /// Checks a token and says whom it belongs to.
    ///
    /// # Errors
    /// When anything about it is not as [`Self::mint`] makes it, or it does not hold now.
    pub fn verify(&self, token: &str) -> Result<VerifiedWorkload, TokenError> {
        self.verify_at(token, SystemTime::now())
    }

    /// [`Self::verify`] at a given time.
    ///
    /// # Errors
    /// As there.
    pub fn verify_at(&self, token: &str, now: SystemTime) -> Result<VerifiedWorkload, TokenError> {
        let claims = self.authentic_claims(token)?;
        if claims.iss != self.issuer {
            return Err(TokenError::Issuer);
        }
        if claims.aud != AUDIENCE {
            return Err(TokenError::Audience);
        }
        let now = unix_seconds(now);
        if claims.exp.saturating_add(LEEWAY_SECONDS) <= now {
            return Err(TokenError::Expired);
        }
        if claims.nbf.max(claims.iat) > now.saturating_add(LEEWAY_SECONDS) {
            return Err(TokenError::NotYetValid);
        }
        let (identity, workload) = self.subject(&claims).map_err(|_| TokenError::Malformed)?;
        if workload.namespace != identity.namespace {
            return Err(TokenError::Malformed);
        }
        let expires = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp));
        Ok(VerifiedWorkload {
            identity,
            workload,
            expires: expires.ok_or(TokenError::Malformed)?,
        })
    }

    /// The claims of a token that our key signed; what they say is not judged yet.
    fn authentic_claims(&self, token: &str) -> Result<Claims, TokenError> {
        use jsonwebtoken::errors::ErrorKind;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLarge { bytes: token.len() });
        }
        // Times, issuer and audience are judged by `verify_at`: strictly typed, and by its clock.
        let mut validation = Validation::new(Algorithm::ES256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation);
        let decoded = decoded.map_err(|error| match error.kind() {
            ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => TokenError::Algorithm,
            ErrorKind::InvalidSignature => TokenError::Signature,
            _ => TokenError::Malformed,
        })?;
        // RFC 7515 §4.1.11: extensions that must be understood, and we know none.
        if decoded.header.crit.is_some() || decoded.header.typ.as_deref() != Some("JWT") {
            return Err(TokenError::Malformed);
        }
        Ok(decoded.claims)
    }

    fn subject(&self, claims: &Claims) -> Result<(SpiffeId, WorkloadName), InvalidValue> {
        let (namespace, service_account) = claims.sub.split_once('/').unwrap_or_default();
        let identity = SpiffeId {
            trust_domain: self.trust_domain.clone(),
            namespace: Namespace::parse(namespace)?,
            service_account: ServiceAccount::parse(service_account)?,
        };
        Ok((identity, claims.workload.parse()?))
    }
}

/// Zero for a clock before 1970: then nothing holds yet.
fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
