//! Who may reach an application: workloads of the mesh, and nobody else.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use outrigger_tests::{PATIENCE, eventually, http1::call};
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
};

use super::bed::Bed;

const PATH: &str = "/api/v1/products";

#[test]
fn strangers_and_plain_text_are_refused_at_an_inbound_port() {
    let mut bed = Bed::new();
    bed.service("products", "products", "http");
    let app = bed.app("products-v1", "products", "product", "v1");
    bed.start(&[]);
    assert_eq!(call(bed.outbound("products"), "GET", PATH, &[]).status, 200);
    assert_eq!(app.requests(), 1);
    let inbound = bed.sidecar("products-v1").inbound[0];

    let reply = call(inbound, "GET", PATH, &[]);
    assert_eq!(reply.status, 403);
    assert!(
        reply.reason().starts_with("plaintext-refused"),
        "{}",
        reply.reason()
    );

    // A certificate with the very identity that may come in, of somebody else's root.
    let stranger = stranger(&bed.sidecar("client").identity);
    for alpn in ["outrigger/h1", "outrigger/h2", "outrigger/tcp"] {
        for presented in [Some(&stranger), None] {
            let answer = speak(inbound, presented, alpn);
            assert!(answer.is_err(), "{alpn}: {answer:?}");
        }
    }
    let untrusted = ["direction=\"inbound\"", "result=\"untrusted\""];
    // It is counted after the stranger was told.
    eventually("six strangers are counted", || {
        bed.metric("products-v1", "outrigger_tls_handshakes_total", &untrusted) == 6
    });
    assert_eq!(app.requests(), 1);
    assert_eq!(call(bed.outbound("products"), "GET", PATH, &[]).status, 200);
    assert_eq!(app.requests(), 2);
    bed.end();
}

type Presented = (CertificateDer<'static>, Vec<u8>);

fn stranger(identity: &str) -> Presented {
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::new(Vec::new()).unwrap();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = Issuer::new(root, root_key);
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::new(Vec::new()).unwrap();
    leaf.subject_alt_names = vec![SanType::URI(identity.try_into().unwrap())];
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    (leaf.der().clone(), key.serialize_der())
}

/// Sends a request within TLS, and returns what came back.
fn speak(
    address: SocketAddr,
    presented: Option<&Presented>,
    alpn: &str,
) -> std::io::Result<String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let anybody = Arc::new(Anybody(Arc::clone(&provider)));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(anybody);
    let mut config = match presented {
        Some((leaf, key)) => {
            let key = PrivateKeyDer::try_from(key.clone()).unwrap();
            config
                .with_client_auth_cert(vec![leaf.clone()], key)
                .unwrap()
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let name = ServerName::IpAddress(address.ip().into());
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut stream = StreamOwned::new(connection, stream);
    write!(stream, "GET {PATH} HTTP/1.1\r\nhost: products\r\n\r\n")?;
    let mut answer = [0; 1024];
    // An end without an answer is a refusal as well.
    match stream.read(&mut answer)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        length => Ok(String::from_utf8_lossy(&answer[..length]).into_owned()),
    }
}

/// Trusts every server: who is refused here is refused by the other side.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 alone".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
