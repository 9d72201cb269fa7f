//! Signing requests (RFC 2986), of which only the public key counts (SECURITY-NOTES rule 8).
//!
//! The signature is checked, because it proves that the sender holds the private key: without it
//! a workload could get a certificate over somebody else's key. Subject, names and every other
//! thing the request asks for are not read at all.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rcgen::SubjectPublicKeyInfo;
use x509_parser::{
    certification_request::X509CertificationRequest,
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256},
    prelude::FromDer,
};

/// Largest request read. A P-256 request is about 300 bytes.
pub const CSR_BYTES_MAX: usize = 16 * 1024;

/// Why a signing request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Larger than [`CSR_BYTES_MAX`].
    #[error("the signing request has {bytes} bytes; at most {CSR_BYTES_MAX} are read")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not a PKCS #10 request in DER, or bytes follow it.
    #[error("the signing request is not one PKCS #10 request in DER (RFC 2986)")]
    Malformed,
    /// The key is of another kind.
    #[error("the key of the signing request is not ECDSA P-256 with SHA-256; make one")]
    UnsupportedKey,
    /// The sender does not hold the private key, or the request was changed.
    #[error("the signature of the signing request does not fit its public key")]
    BadSignature,
}

/// The public key of a request whose signature holds.
pub(crate) fn public_key(csr_der: &[u8]) -> Result<SubjectPublicKeyInfo, CsrError> {
    if csr_der.len() > CSR_BYTES_MAX {
        return Err(CsrError::TooLarge {
            bytes: csr_der.len(),
        });
    }
    let (rest, csr) =
        X509CertificationRequest::from_der(csr_der).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() || csr.signature_value.unused_bits != 0 {
        return Err(CsrError::Malformed);
    }
    let info = &csr.certification_request_info;
    let key = &info.subject_pki;
    let curve = key.algorithm.parameters.as_ref().map(|any| any.as_oid());
    let is_p256 = key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
        && curve.is_some_and(|oid| oid.is_ok_and(|oid| oid == OID_EC_P256))
        && key.subject_public_key.unused_bits == 0
        // Uncompressed: one encoding of a key, not two (RFC 5480 §2.2).
        && key.subject_public_key.data.len() == 65
        && key.subject_public_key.data.first() == Some(&4);
    if !is_p256 || csr.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256 {
        return Err(CsrError::UnsupportedKey);
    }
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &key.subject_public_key.data)
        .verify(info.raw, &csr.signature_value.data)
        .map_err(|_| CsrError::BadSignature)?;
    SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| CsrError::UnsupportedKey)
}
