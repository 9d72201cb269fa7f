//! A private key that signs certificates. It is wiped when dropped and cannot be printed.

use std::path::Path;

use rcgen::{PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use zeroize::{Zeroize, Zeroizing};

use crate::root::RootError;

/// Wraps rcgen's key pair, which keeps its PKCS #8 form and does not wipe it by itself.
pub(crate) struct Signer(rcgen::KeyPair);

impl Drop for Signer {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Signer {
    /// A new P-256 key.
    pub(crate) fn generate() -> Result<Self, rcgen::Error> {
        rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map(Self)
    }

    /// The key of a PEM file: PKCS #8, SEC 1 or PKCS #1; P-256, P-384, RSA from 2,048 bits, Ed25519.
    pub(crate) fn from_pem(pem: &[u8], path: &Path) -> Result<Self, RootError> {
        if is_encrypted(pem) {
            return Err(RootError::EncryptedKey {
                key: path.to_owned(),
            });
        }
        let unreadable = |_| RootError::KeyUnreadable {
            key: path.to_owned(),
        };
        let mut der = PrivateKeyDer::from_pem_slice(pem).map_err(unreadable)?;
        let pair = rcgen::KeyPair::try_from(&der);
        der.zeroize();
        pair.map(Self).map_err(|_| RootError::KeyUnsupported {
            key: path.to_owned(),
        })
    }

    /// PKCS #8 as PEM.
    pub(crate) fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.serialize_pem())
    }

    /// PKCS #8.
    pub(crate) fn to_der(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.serialize_der())
    }

    /// Whether it is a P-256 key.
    pub(crate) fn is_p256(&self) -> bool {
        self.0.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256)
    }
}

/// PKCS #8 (RFC 5958 §3) and the older form with PEM headers (RFC 1421 §4.6.1.1).
fn is_encrypted(pem: &[u8]) -> bool {
    let has = |text: &[u8]| pem.windows(text.len()).any(|window| window == text);
    has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED")
}

impl PublicKeyData for Signer {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        PublicKeyData::algorithm(&self.0)
    }
}

impl SigningKey for Signer {
    fn sign(&self, msg: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(msg)
    }
}
