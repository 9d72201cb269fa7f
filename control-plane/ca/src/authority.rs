//! The authority itself: signs leaves with an issuer that lives in memory.
//!
//! Why an issuer between root and leaf: the root's key signs once in a fortnight instead of once a
//! leaf, each replica of the control plane has an issuer of its own, and one that leaks with a
//! core dump is worth 30 days at most. It costs some 450 bytes and one more signature check in a
//! handshake. Chains sent to workloads include it. It has path length 0 and is renewed after half
//! its life; certificates of the former issuer carry it along and stay good.
//!
//! State: the issuer, replaced by whichever call finds it due, and the roots trusted; each behind
//! its own lock, held for a clone or a push (the renewal itself holds the first one for one
//! signature, so that two calls do not both renew).
//!
//! Longer than most, because what may be signed, by whom and until when is one decision, and a part
//! of it elsewhere would have to be trusted to be asked.

use std::{
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use outrigger_model::{SpiffeId, TrustBundle, TrustDomain};
use rcgen::{Issuer, PublicKeyData};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::{
    csr::{self, CsrError},
    profile::{self, Validity},
    root::{self, ROOTS_MAX, Root, RootError},
    signer::Signer,
    state::KeyAccess,
};

/// Longest life of a leaf (DEF-26).
pub const LEAF_TTL_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long before its end a root asks to be replaced (DEF-28).
pub const ROOT_WARNING: Duration = Duration::from_secs(60 * 24 * 3600);

/// A new root as PEM, certificate and key: ECDSA P-256, one year.
///
/// # Errors
/// When signing fails inside the cryptographic library, or the clock is unusable.
pub fn generate_root(trust_domain: &TrustDomain) -> Result<(String, Zeroizing<String>), RootError> {
    root::generate(trust_domain, SystemTime::now())
}

/// Why no certificate was issued, or no root added.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The signing request is not acceptable.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// The identity belongs to another mesh.
    #[error("identity {identity} is not of trust domain {trust_domain}, whose authority this is")]
    WrongTrustDomain {
        /// The identity asked for.
        identity: SpiffeId,
        /// Ours.
        trust_domain: TrustDomain,
    },
    /// A lifetime of less than a second.
    #[error("the lifetime asked for, {ttl:?}, is below one second")]
    TtlTooShort {
        /// The lifetime.
        ttl: Duration,
    },
    /// The root is at its end, or the clock is wrong.
    #[error("the root certificate does not hold at this time; renew it, or check the clock")]
    RootExpired,
    /// A root to be trusted is not one.
    #[error("the certificate cannot be trusted as a root: {problem}")]
    BadRoot {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Signing failed inside the cryptographic library, or a name cannot stand in a certificate.
    #[error("cannot make the certificate")]
    Crypto(#[from] rcgen::Error),
}

impl IssueError {
    /// A label for metrics: one of a fixed set.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Csr(CsrError::TooLarge { .. }) => "csr_too_large",
            Self::Csr(CsrError::Malformed) => "csr_malformed",
            Self::Csr(CsrError::UnsupportedKey) => "csr_unsupported_key",
            Self::Csr(CsrError::BadSignature) => "csr_bad_signature",
            Self::WrongTrustDomain { .. } => "wrong_trust_domain",
            Self::TtlTooShort { .. } => "ttl_too_short",
            Self::RootExpired => "root_expired",
            Self::BadRoot { .. } => "bad_root",
            Self::Crypto(_) => "crypto",
        }
    }
}

/// A certificate for a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// DER: leaf, issuer, and what else leads to a root, which itself is not among them.
    pub chain_der: Vec<CertificateDer<'static>>,
    /// Holds from here: five minutes before it was made.
    pub not_before: SystemTime,
    /// Holds until here.
    pub not_after: SystemTime,
}

/// Names of a server of the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerNames {
    /// Its SPIFFE ID, the only URI in the certificate.
    pub identity: SpiffeId,
    /// DNS names that clients know it by.
    pub dns: Vec<String>,
    /// Addresses that clients know it by.
    pub addresses: Vec<IpAddr>,
}

/// A certificate with its private key, for the control plane's own server. The key is wiped on drop.
#[expect(missing_debug_implementations, reason = "holds a private key")]
pub struct ServerCredentials {
    /// The certificate.
    pub certificate: IssuedCertificate,
    /// PKCS #8.
    pub key_der: Zeroizing<Vec<u8>>,
}

/// Issues the certificates of one trust domain. Shared by reference; every method is short and
/// blocks on CPU alone.
#[expect(missing_debug_implementations, reason = "holds private keys")]
pub struct CertificateAuthority {
    trust_domain: TrustDomain,
    root: Root,
    issuing: Mutex<Arc<Issuing>>,
    roots: Mutex<Vec<Arc<[u8]>>>,
}

/// One issuer.
struct Issuing {
    issuer: Issuer<'static, Signer>,
    /// Issuer first, without leaf and root.
    chain: Vec<CertificateDer<'static>>,
    validity: Validity,
    renew_at: SystemTime,
}

impl CertificateAuthority {
    /// Loads the root (`ca.crt`, `ca.key`) of a state folder, or makes folder and root: ECDSA
    /// P-256, one year. Several processes may do so at once: all end with the same root.
    ///
    /// # Errors
    /// When the folder or its files cannot be used; each says what to do.
    pub fn open_or_create(folder: &Path, trust_domain: TrustDomain) -> Result<Self, RootError> {
        Self::open_or_create_at(folder, trust_domain, SystemTime::now())
    }

    /// [`Self::open_or_create`] at a given time.
    ///
    /// # Errors
    /// As there.
    pub fn open_or_create_at(
        folder: &Path,
        trust_domain: TrustDomain,
        now: SystemTime,
    ) -> Result<Self, RootError> {
        let root = Root::open_or_create(folder, &trust_domain, now)?;
        Self::new(root, trust_domain, now)
    }

    /// Loads a root that the user brought: PEM, the certificate of the key first, above it its
    /// issuers if it is not a root itself, then any further roots to trust. The key may be
    /// readable for its group, not for others.
    ///
    /// # Errors
    /// When the files cannot be used; each says what to do.
    pub fn from_files(
        certificate: &Path,
        key: &Path,
        trust_domain: TrustDomain,
    ) -> Result<Self, RootError> {
        Self::from_files_at(certificate, key, trust_domain, SystemTime::now())
    }

    /// [`Self::from_files`] at a given time.
    ///
    /// # Errors
    /// As there.
    pub fn from_files_at(
        certificate: &Path,
        key: &Path,
        trust_domain: TrustDomain,
        now: SystemTime,
    ) -> Result<Self, RootError> {
        let root = Root::load(certificate, key, KeyAccess::OwnerAndGroup, now)?;
        Self::new(root, trust_domain, now)
    }

    /// Uses a root that stands in no file, such as in a Secret: PEM as for [`Self::from_files`].
    /// `certificate` and `key` say where they stand, for messages.
    ///
    /// # Errors
    /// When they cannot be used; each says what to do.
    pub fn from_pem(
        certificate_pem: &[u8],
        key_pem: &[u8],
        (certificate, key): (&Path, &Path),
        trust_domain: TrustDomain,
    ) -> Result<Self, RootError> {
        let now = SystemTime::now();
        let root = Root::from_pem(certificate_pem, key_pem, certificate, key, now)?;
        Self::new(root, trust_domain, now)
    }

    fn new(root: Root, trust_domain: TrustDomain, now: SystemTime) -> Result<Self, RootError> {
        let issuing = Issuing::new(&root, &trust_domain, now)?.ok_or(RootError::Clock)?;
        issuing.check_names(&root)?;
        Ok(Self {
            roots: Mutex::new(root.roots.clone()),
            issuing: Mutex::new(Arc::new(issuing)),
            trust_domain,
            root,
        })
    }

    /// The trust domain of every identity issued here.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// When the root ends, and with it the mesh: warn 60 days before (DEF-28).
    #[must_use]
    pub fn root_not_after(&self) -> SystemTime {
        self.root.not_after
    }

    /// Time left to the root, once it is [`ROOT_WARNING`] or less: zero when it has ended.
    #[must_use]
    pub fn root_ends_soon(&self, now: SystemTime) -> Option<Duration> {
        let left = self.root.not_after.duration_since(now).unwrap_or_default();
        (left <= ROOT_WARNING).then_some(left)
    }

    /// Issues a certificate for `identity` over the public key of a signing request; nothing else
    /// of the request counts. `ttl` is cut to [`LEAF_TTL_MAX`] and to the life of the root.
    ///
    /// # Errors
    /// When request, identity or time is not acceptable.
    pub fn issue(
        &self,
        csr_der: &[u8],
        identity: &SpiffeId,
        ttl: Duration,
    ) -> Result<IssuedCertificate, IssueError> {
        self.issue_at(csr_der, identity, ttl, SystemTime::now())
    }

    /// [`Self::issue`] at a given time.
    ///
    /// # Errors
    /// As there.
    pub fn issue_at(
        &self,
        csr_der: &[u8],
        identity: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<IssuedCertificate, IssueError> {
        let public_key = csr::public_key(csr_der)?;
        self.sign(&public_key, identity, (&[], &[]), ttl, now)
    }

    /// Makes a key and a certificate for the control plane's own server.
    ///
    /// # Errors
    /// When a name cannot stand in a certificate, or identity or time is not acceptable.
    pub fn issue_server(
        &self,
        names: &ServerNames,
        ttl: Duration,
    ) -> Result<ServerCredentials, IssueError> {
        let key = Signer::generate()?;
        let subject = (names.dns.as_slice(), names.addresses.as_slice());
        let certificate = self.sign(&key, &names.identity, subject, ttl, SystemTime::now())?;
        Ok(ServerCredentials {
            certificate,
            key_der: key.to_der(),
        })
    }

    /// Every root to trust, sorted: several while a root is being replaced.
    #[must_use]
    pub fn trust_bundle(&self) -> TrustBundle {
        let mut roots = lock(&self.roots).clone();
        roots.sort();
        roots.dedup();
        TrustBundle {
            trust_domain: self.trust_domain.clone(),
            roots,
        }
    }

    /// Trusts one more root (DER), for instance the next one, before it signs anything. Adding
    /// one that is there already changes nothing.
    ///
    /// # Errors
    /// When it is not a self-signed CA that holds now, or [`ROOTS_MAX`] are trusted already.
    pub fn add_root(&self, certificate_der: &[u8]) -> Result<(), IssueError> {
        let refuse = |problem| IssueError::BadRoot { problem };
        let parsed =
            root::parse(certificate_der).ok_or(refuse("it is not a certificate in DER"))?;
        root::check_authority(&parsed).map_err(refuse)?;
        if !root::is_self_signed(&parsed) {
            return Err(refuse("it is not self-signed"));
        }
        root::holds_until(&parsed, SystemTime::now()).ok_or(refuse("it does not hold now"))?;
        let mut roots = lock(&self.roots);
        if roots.iter().any(|root| root.as_ref() == certificate_der) {
            return Ok(());
        }
        if roots.len() >= ROOTS_MAX {
            return Err(refuse(
                "too many roots are trusted already; remove old ones",
            ));
        }
        roots.push(certificate_der.into());
        Ok(())
    }

    fn sign(
        &self,
        public_key: &impl PublicKeyData,
        identity: &SpiffeId,
        (dns, addresses): (&[String], &[IpAddr]),
        ttl: Duration,
        now: SystemTime,
    ) -> Result<IssuedCertificate, IssueError> {
        if identity.trust_domain != self.trust_domain {
            return Err(IssueError::WrongTrustDomain {
                identity: identity.clone(),
                trust_domain: self.trust_domain.clone(),
            });
        }
        if ttl < Duration::from_secs(1) {
            return Err(IssueError::TtlTooShort { ttl });
        }
        let issuing = self.issuing(now)?;
        let validity = Validity::new(now, ttl.min(LEAF_TTL_MAX), issuing.validity.not_after)
            .ok_or(IssueError::RootExpired)?;
        let params = profile::leaf(identity, dns, addresses, validity)?;
        let leaf = params.signed_by(public_key, &issuing.issuer)?;
        let mut chain_der = Vec::with_capacity(1 + issuing.chain.len());
        chain_der.push(leaf.into());
        chain_der.extend(issuing.chain.iter().cloned());
        Ok(IssuedCertificate {
            chain_der,
            not_before: validity.not_before,
            not_after: validity.not_after,
        })
    }

    /// The issuer, renewed if it is due.
    fn issuing(&self, now: SystemTime) -> Result<Arc<Issuing>, IssueError> {
        let mut issuing = lock(&self.issuing);
        // Not valid yet: the clock was ahead when it was made and has been set right since.
        if now >= issuing.renew_at || now < issuing.validity.not_before {
            let renewed = Issuing::new(&self.root, &self.trust_domain, now)?;
            *issuing = Arc::new(renewed.ok_or(IssueError::RootExpired)?);
        }
        Ok(Arc::clone(&issuing))
    }
}

impl Issuing {
    /// A new key and its certificate; `None` when the root does not hold at `now`.
    fn new(
        root: &Root,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Option<Self>, rcgen::Error> {
        let Some(validity) = Validity::new(now, profile::ISSUER_TTL, root.not_after) else {
            return Ok(None);
        };
        let params = profile::issuer(trust_domain, validity)?;
        let key = Signer::generate()?;
        let certificate = params.signed_by(&key, &root.issuer)?;
        let mut chain = vec![CertificateDer::from(certificate)];
        chain.extend(root.chain.iter().cloned());
        let life = validity.not_after.duration_since(now).unwrap_or_default();
        let renew_at = if validity.not_after < root.not_after {
            now + life / 2
        } else {
            // The root ends first: a further issuer could not live longer than this one.
            validity.not_after
        };
        Ok(Some(Self {
            issuer: Issuer::new(params, key),
            chain,
            validity,
            renew_at,
        }))
    }

    /// Names are encoded anew on the way into our certificate: it must name its root exactly.
    fn check_names(&self, root: &Root) -> Result<(), RootError> {
        let certificate = self.chain.first().and_then(|der| root::parse(der));
        match certificate {
            Some(ours) if ours.issuer().as_raw() == root.subject_der => Ok(()),
            other => Err(RootError::SubjectUnsupported {
                subject: other.map_or_else(String::new, |ours| ours.issuer().to_string()),
            }),
        }
    }
}

/// A panic while a lock is held leaves a whole value: there is nothing to give up.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
