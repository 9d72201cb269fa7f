//! Verification of a peer's chain and reading of its identity, the same for both directions.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use outrigger_model::{SpiffeId, TrustDomain};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use tokio::time::Instant;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::TlsError;

/// A verified chain whose leaf is no identity of this mesh.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Not an X.509 certificate.
    #[error("the peer's certificate does not parse")]
    Certificate(#[source] webpki::Error),
    /// Exactly one URI SAN is required (rule 7).
    #[error("the peer's certificate has {count} URI names, exactly one is required")]
    Names {
        /// How many there are.
        count: usize,
    },
    /// Not of the one shape.
    #[error("the peer's URI name is no identity")]
    Identity(#[source] outrigger_model::InvalidValue),
    /// Of another mesh.
    #[error("the peer {peer} is not of trust domain {expected}")]
    TrustDomain {
        /// Who it is.
        peer: Box<SpiffeId>,
        /// Our trust domain.
        expected: TrustDomain,
    },
}

/// The identity in a leaf certificate: exactly one URI SAN, parsed as a structure.
///
/// # Errors
/// When there is none, more than one, or it has another shape.
pub fn identity_of(leaf: &CertificateDer<'_>) -> Result<SpiffeId, IdentityError> {
    let certificate = EndEntityCert::try_from(leaf).map_err(IdentityError::Certificate)?;
    let mut names = certificate.valid_uri_names();
    match (names.next(), names.count()) {
        (Some(name), 0) => name.parse().map_err(IdentityError::Identity),
        (None, _) => Err(IdentityError::Names { count: 0 }),
        (Some(_), more) => Err(IdentityError::Names { count: more + 1 }),
    }
}

/// When a certificate ends, on the clock that timers follow; `None` when it cannot be read or
/// never does. One that has ended is over now.
#[must_use]
pub fn ends_at(leaf: &CertificateDer<'_>) -> Option<Instant> {
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    let end = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
    let left = end.duration_since(SystemTime::now()).unwrap_or_default();
    Instant::now().checked_add(left)
}

/// Verifies chains against the mesh's roots.
pub(super) struct MeshVerifier {
    roots: Vec<TrustAnchor<'static>>,
    trust_domain: TrustDomain,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for MeshVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "MeshVerifier({}, {} roots)",
            self.trust_domain,
            self.roots.len()
        )
    }
}

impl MeshVerifier {
    pub(super) fn new(
        roots: &[Arc<[u8]>],
        trust_domain: TrustDomain,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        if roots.is_empty() {
            return Err(TlsError::NoRoots);
        }
        let anchor = |der: &Arc<[u8]>| {
            anchor_from_trusted_cert(&CertificateDer::from(der.to_vec()))
                .map(|anchor| anchor.to_owned())
                .map_err(TlsError::Root)
        };
        Ok(Self {
            roots: roots.iter().map(anchor).collect::<Result<_, _>>()?,
            trust_domain,
            provider,
        })
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let certificate = EndEntityCert::try_from(leaf).map_err(refused)?;
        certificate
            .verify_for_usage(
                self.provider.signature_verification_algorithms.all,
                &self.roots,
                intermediates,
                now,
                usage,
                None,
                None,
            )
            .map_err(refused)?;
        let peer = identity_of(leaf).map_err(other)?;
        if peer.trust_domain == self.trust_domain {
            Ok(())
        } else {
            let expected = self.trust_domain.clone();
            Err(other(IdentityError::TrustDomain {
                peer: Box::new(peer),
                expected,
            }))
        }
    }
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

fn refused(error: webpki::Error) -> rustls::Error {
    use webpki::Error as E;
    match error {
        E::BadDer | E::BadDerTime | E::TrailingData(_) => CertificateError::BadEncoding.into(),
        E::CertNotValidYet { .. } => CertificateError::NotValidYet.into(),
        E::CertExpired { .. } => CertificateError::Expired.into(),
        E::UnknownIssuer => CertificateError::UnknownIssuer.into(),
        E::InvalidSignatureForPublicKey => CertificateError::BadSignature.into(),
        error => other(error),
    }
}

/// The checks of a peer's handshake signature: the same methods of two traits.
macro_rules! verifies_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            verify_tls12_signature(message, certificate, signature, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            verify_tls13_signature(message, certificate, signature, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider
                .signature_verification_algorithms
                .supported_schemes()
        }
    };
}

impl ServerCertVerifier for MeshVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(leaf, intermediates, KeyUsage::server_auth(), now)
            .map(|()| ServerCertVerified::assertion())
    }

    verifies_signatures!();
}

impl ClientCertVerifier for MeshVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(leaf, intermediates, KeyUsage::client_auth(), now)
            .map(|()| ClientCertVerified::assertion())
    }

    verifies_signatures!();
}
