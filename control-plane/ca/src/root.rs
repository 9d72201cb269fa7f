//! The root: made at first start and kept, or brought by the user; checked before it is used.
//!
//! `ca.crt` holds the certificate of `ca.key` first. Other certificates may follow, as in the
//! files cert-manager writes: issuers above it up to a root, when it is not a root itself; and
//! further roots, which is how a root is changed by hand: add the new one behind the old, later
//! swap them together with the key, last remove the old. Every self-signed one is trusted.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use outrigger_model::TrustDomain;
use rcgen::{Issuer, PublicKeyData};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::certificate::X509Certificate;
use zeroize::Zeroizing;

use crate::{
    profile::{self, Validity},
    signer::Signer,
    state::{KeyAccess, StateError, StateFolder, read_public, read_secret},
};

/// Most roots trusted at once, and most certificates in one file: old, new and room for mistakes.
pub const ROOTS_MAX: usize = 8;

const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";

/// A root that cannot be used: which file, why, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// A file could not be read or written, or others may read it.
    #[error(transparent)]
    State(#[from] StateError),
    /// One of the two files is missing.
    #[error(
        "{} is there but {} is not; restore it, or remove the first to begin with a new root \
         (every sidecar then needs the new one)", present.display(), missing.display()
    )]
    HalfMissing {
        /// The file found.
        present: PathBuf,
        /// The file missing.
        missing: PathBuf,
    },
    /// Not PEM certificates.
    #[error("{} holds no readable PEM certificate (`BEGIN CERTIFICATE`)", certificate.display())]
    CertificateUnreadable {
        /// The certificate file.
        certificate: PathBuf,
    },
    /// More certificates than [`ROOTS_MAX`].
    #[error("{} holds more than {ROOTS_MAX} certificates; remove old roots", certificate.display())]
    TooManyCertificates {
        /// The certificate file.
        certificate: PathBuf,
    },
    /// Not a PEM key.
    #[error("{} holds no readable PEM private key (`BEGIN PRIVATE KEY`)", key.display())]
    KeyUnreadable {
        /// The key file.
        key: PathBuf,
    },
    /// The key needs a pass phrase.
    #[error(
        "{} is encrypted; decrypt it: openssl pkey -in {} -out ca.key", key.display(), key.display()
    )]
    EncryptedKey {
        /// The key file.
        key: PathBuf,
    },
    /// The key is of a kind that cannot sign here.
    #[error(
        "the key in {} is of no supported kind; use ECDSA P-256 or P-384, RSA from 2,048 bits, or \
         Ed25519", key.display()
    )]
    KeyUnsupported {
        /// The key file.
        key: PathBuf,
    },
    /// The two files do not belong together.
    #[error(
        "the key in {} is not that of the first certificate in {}; give the pair that belongs \
         together", key.display(), certificate.display()
    )]
    KeyMismatch {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// The certificate may not sign an issuer.
    #[error(
        "the first certificate in {} cannot sign certificates of the mesh: {problem}; make one \
         with CA:TRUE, keyCertSign, no name constraints and no path length below 1",
        certificate.display()
    )]
    NotAnAuthority {
        /// The certificate file.
        certificate: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// It no longer holds, or not yet.
    #[error(
        "a certificate in {} holds from {not_before} to {not_after} (Unix seconds), not now; \
         renew it, or check this machine's clock", certificate.display()
    )]
    OutsideValidity {
        /// The certificate file.
        certificate: PathBuf,
        /// Unix seconds.
        not_before: i64,
        /// Unix seconds.
        not_after: i64,
    },
    /// The way up from the first certificate does not end at a root.
    #[error(
        "{} does not lead to a self-signed root: append the certificate of `{issuer}`",
        certificate.display()
    )]
    NoRoot {
        /// The certificate file.
        certificate: PathBuf,
        /// Subject of the missing certificate.
        issuer: String,
    },
    /// Its name has parts that cannot be written again exactly, and peers compare names byte by byte.
    #[error(
        "the subject `{subject}` of the root is of an unusual form; make a root whose subject is \
         one plain CN"
    )]
    SubjectUnsupported {
        /// The subject.
        subject: String,
    },
    /// Making or signing failed inside the cryptographic library.
    #[error("cannot make the root or its issuer")]
    Crypto(#[from] rcgen::Error),
    /// The clock is before 1970, or so far ahead that a year later does not exist.
    #[error("this machine's clock is unusable; set it")]
    Clock,
}

/// A usable root, with its key.
pub(crate) struct Root {
    /// Signs issuers.
    pub(crate) issuer: Issuer<'static, Signer>,
    /// What a peer needs between our issuer and a root, nearest first; empty under a root itself.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// Every root trusted, at least one.
    pub(crate) roots: Vec<Arc<[u8]>>,
    /// When the certificate that signs issuers, or one above it, ends.
    pub(crate) not_after: SystemTime,
    /// Subject of the certificate that signs issuers, as encoded.
    pub(crate) subject_der: Vec<u8>,
}

impl Root {
    /// Loads the root in `folder`, or makes one.
    pub(crate) fn open_or_create(
        folder: &Path,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, RootError> {
        let state = StateFolder::open(folder)?;
        let (certificate, key) = (state.path_of(CERTIFICATE), state.path_of(KEY));
        if !state.exists(CERTIFICATE)? {
            create(&state, trust_domain, now)?;
        } else if !state.exists(KEY)? {
            return Err(RootError::HalfMissing {
                present: certificate,
                missing: key,
            });
        }
        Self::load(&certificate, &key, KeyAccess::Owner, now)
    }

    /// Loads a root from its two files.
    pub(crate) fn load(
        certificate: &Path,
        key: &Path,
        access: KeyAccess,
        now: SystemTime,
    ) -> Result<Self, RootError> {
        let pem = read_public(certificate)?;
        let signer = Signer::from_pem(&read_secret(key, access)?, key)?;
        Self::check(&pem, signer, certificate, key, now)
    }

    /// A root from the contents of two files, wherever they stand: the paths are for messages.
    pub(crate) fn from_pem(
        pem: &[u8],
        key_pem: &[u8],
        certificate: &Path,
        key: &Path,
        now: SystemTime,
    ) -> Result<Self, RootError> {
        let signer = Signer::from_pem(key_pem, key)?;
        Self::check(pem, signer, certificate, key, now)
    }

    fn check(
        pem: &[u8],
        signer: Signer,
        certificate: &Path,
        key: &Path,
        now: SystemTime,
    ) -> Result<Self, RootError> {
        let unreadable = || RootError::CertificateUnreadable {
            certificate: certificate.to_owned(),
        };
        let ders = CertificateDer::pem_slice_iter(pem)
            .take(ROOTS_MAX + 1)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| unreadable())?;
        if ders.len() > ROOTS_MAX {
            return Err(RootError::TooManyCertificates {
                certificate: certificate.to_owned(),
            });
        }
        let parsed = ders
            .iter()
            .map(|der| parse(der))
            .collect::<Option<Vec<_>>>();
        let parsed = parsed.ok_or_else(unreadable)?;
        let first = parsed.first().ok_or_else(unreadable)?;

        if signer.subject_public_key_info() != first.public_key().raw {
            return Err(RootError::KeyMismatch {
                certificate: certificate.to_owned(),
                key: key.to_owned(),
            });
        }
        check_authority(first).map_err(|problem| RootError::NotAnAuthority {
            certificate: certificate.to_owned(),
            problem,
        })?;
        let way_up = way_up(&parsed).map_err(|issuer| RootError::NoRoot {
            certificate: certificate.to_owned(),
            issuer,
        })?;
        let mut not_after = None::<SystemTime>;
        for index in &way_up {
            let end = holds_until(&parsed[*index], now).ok_or_else(|| {
                let validity = parsed[*index].validity();
                RootError::OutsideValidity {
                    certificate: certificate.to_owned(),
                    not_before: validity.not_before.timestamp(),
                    not_after: validity.not_after.timestamp(),
                }
            })?;
            not_after = Some(not_after.map_or(end, |known| known.min(end)));
        }
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&ders[0], signer)?,
            chain: way_up
                .iter()
                .filter(|index| !is_self_signed(&parsed[**index]))
                .map(|index| ders[*index].clone())
                .collect(),
            roots: ders
                .iter()
                .zip(&parsed)
                .filter(|(_, parsed)| is_self_signed(parsed))
                .map(|(der, _)| Arc::from(der.as_ref()))
                .collect(),
            not_after: not_after.ok_or_else(unreadable)?,
            subject_der: first.subject().as_raw().to_vec(),
        })
    }
}

/// A new root as PEM, certificate and key.
pub(crate) fn generate(
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<(String, Zeroizing<String>), RootError> {
    let signer = Signer::generate()?;
    let certificate = self_signed(&signer, trust_domain, now)?;
    Ok((certificate, signer.to_pem()))
}

fn self_signed(
    signer: &Signer,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<String, RootError> {
    let end = now.checked_add(profile::ROOT_TTL).ok_or(RootError::Clock)?;
    let validity = Validity::new(now, profile::ROOT_TTL, end).ok_or(RootError::Clock)?;
    let certificate = profile::root(trust_domain, validity)?.self_signed(signer)?;
    Ok(certificate.pem())
}

/// Makes key and certificate. The key comes first: a crash in between leaves a key that no
/// certificate names, and the next start goes on with it.
fn create(
    state: &StateFolder,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<(), RootError> {
    let key_path = state.path_of(KEY);
    let signer = if state.exists(KEY)? {
        Signer::from_pem(&read_secret(&key_path, KeyAccess::Owner)?, &key_path)?
    } else {
        let signer = Signer::generate()?;
        state.write(KEY, signer.to_pem().as_bytes())?;
        signer
    };
    let certificate = self_signed(&signer, trust_domain, now)?;
    state.write(CERTIFICATE, certificate.as_bytes())?;
    Ok(())
}

pub(crate) fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    let (rest, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    rest.is_empty().then_some(certificate)
}

pub(crate) fn is_self_signed(certificate: &X509Certificate<'_>) -> bool {
    certificate.subject().as_raw() == certificate.issuer().as_raw()
}

/// Whether a certificate may sign an issuer, or what is wrong.
pub(crate) fn check_authority(certificate: &X509Certificate<'_>) -> Result<(), &'static str> {
    match certificate.basic_constraints() {
        Ok(Some(extension)) if extension.value.ca => {
            if extension.value.path_len_constraint == Some(0) {
                return Err("its path length is 0");
            }
        }
        Ok(_) => return Err("it is not a CA"),
        Err(_) => return Err("its basic constraints are given twice or malformed"),
    }
    match certificate.key_usage() {
        Ok(Some(extension)) if !extension.value.key_cert_sign() => {
            return Err("its key usage does not have keyCertSign");
        }
        Ok(_) => {}
        Err(_) => return Err("its key usage is given twice or malformed"),
    }
    match certificate.name_constraints() {
        Ok(None) => Ok(()),
        Ok(Some(_)) | Err(_) => Err("it has name constraints"),
    }
}

/// Indices of the certificates from the first up to its root, or the subject that is missing.
fn way_up(certificates: &[X509Certificate<'_>]) -> Result<Vec<usize>, String> {
    let mut way = vec![0];
    let mut current = &certificates[0];
    while !is_self_signed(current) {
        let above = certificates
            .iter()
            .position(|other| other.subject().as_raw() == current.issuer().as_raw())
            // A ring of certificates has no root; each may be passed once.
            .filter(|index| !way.contains(index))
            .ok_or_else(|| current.issuer().to_string())?;
        way.push(above);
        current = &certificates[above];
    }
    Ok(way)
}

/// When the certificate ends, if it holds now.
pub(crate) fn holds_until(
    certificate: &X509Certificate<'_>,
    now: SystemTime,
) -> Option<SystemTime> {
    let at = |seconds: i64| {
        let seconds = Duration::from_secs(u64::try_from(seconds).ok()?);
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    let validity = certificate.validity();
    let end = at(validity.not_after.timestamp())?;
    (at(validity.not_before.timestamp())? <= now && now < end).then_some(end)
}

#[cfg(test)]
mod tests;
