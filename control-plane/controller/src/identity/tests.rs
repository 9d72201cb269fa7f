//! T15: real tonic clients over TLS.

use std::sync::atomic::{AtomicUsize, Ordering};

use outrigger_ca::{TOKEN_TTL_DEFAULT, TokenAuthority};
use outrigger_model::WorkloadName;
use outrigger_proto::wire::identity::certificate_service_client::CertificateServiceClient;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};
use webpki::EndEntityCert;

use super::*;
use crate::transport::tests::{DEADLINE, Mesh, csr, identity, trust_domain};

const HOUR: Duration = Duration::from_secs(3600);

type Client = CertificateServiceClient<Channel>;

impl Mesh {
    async fn grpc(&self, config: ClientConfig) -> Client {
        let (config, address) = (Arc::new(config), self.address);
        let connector = tower::service_fn(move |_| {
            let config = Arc::clone(&config);
            async move {
                let tcp = tokio::net::TcpStream::connect(address).await?;
                let tls = tokio_rustls::TlsConnector::from(config);
                let stream = tls.connect(address.ip().into(), tcp).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        });
        let endpoint = Endpoint::from_static("http://outrigger").timeout(DEADLINE);
        Client::new(endpoint.connect_with_connector(connector).await.unwrap())
    }

    fn token(&self, account: &str) -> String {
        token(&self.tokens, account, TOKEN_TTL_DEFAULT)
    }
}

fn token(authority: &TokenAuthority, account: &str, ttl: Duration) -> String {
    let workload: WorkloadName = format!("shop/{account}-1").parse().unwrap();
    let token = authority.mint(&identity(account), &workload, ttl).unwrap();
    token.expose().to_owned()
}

fn request(csr_der: Vec<u8>, authorization: &[&str]) -> Request<IssueCertificateRequest> {
    let mut request = Request::new(IssueCertificateRequest {
        csr_der: csr_der.into(),
    });
    for value in authorization {
        request
            .metadata_mut()
            .append("authorization", value.parse().unwrap());
    }
    request
}

async fn ask(
    client: &mut Client,
    csr_der: Vec<u8>,
    token: &str,
) -> Result<IssueCertificateResponse, Status> {
    let request = request(csr_der, &[&format!("Bearer {token}")]);
    client
        .issue_certificate(request)
        .await
        .map(Response::into_inner)
}

fn new_csr() -> Vec<u8> {
    csr(&KeyPair::generate().unwrap())
}

fn chain(answer: &IssueCertificateResponse) -> Vec<CertificateDer<'static>> {
    let der = |der: &bytes::Bytes| CertificateDer::from(der.to_vec());
    answer.chain_der.iter().map(der).collect()
}

#[track_caller]
fn uri_of(answer: &IssueCertificateResponse) -> String {
    let chain = chain(answer);
    let leaf = EndEntityCert::try_from(&chain[0]).unwrap();
    let uris: Vec<_> = leaf.valid_uri_names().collect();
    assert_eq!(uris.len(), 1);
    uris[0].to_owned()
}

#[tokio::test]
async fn a_token_gets_a_certificate_and_that_certificate_a_connection() {
    let mesh = Mesh::start(HOUR).await;
    let key = KeyPair::generate().unwrap();
    let mut client = mesh.grpc(mesh.client(None)).await;
    let answer = ask(&mut client, csr(&key), &mesh.token("orders"))
        .await
        .unwrap();
    assert_eq!(uri_of(&answer), identity("orders").to_string());
    assert_eq!(answer.not_after - answer.not_before, 24 * 3600 + 300);
    let roots: Vec<_> = answer
        .roots_der
        .iter()
        .map(|root| Arc::from(root.as_ref()))
        .collect();
    assert_eq!(roots, mesh.authority.trust_bundle().roots);

    // Renewal: with the certificate, and a token again.
    let mut renewing = mesh.grpc(mesh.client(Some((&chain(&answer), &key)))).await;
    let renewed = ask(&mut renewing, new_csr(), &mesh.token("orders"))
        .await
        .unwrap();
    assert_eq!(uri_of(&renewed), identity("orders").to_string());
    let status = renewing
        .issue_certificate(request(new_csr(), &[]))
        .await
        .unwrap_err();
    assert_eq!(
        status.code(),
        Code::Unauthenticated,
        "a certificate alone renews nothing"
    );
    assert_eq!(mesh.identity_metrics.issued.get(), 2);
    assert_eq!(mesh.identity_metrics.refusals("no_token"), 1);
}

#[tokio::test]
async fn the_leaf_lives_as_long_as_the_options_say() {
    let options = IdentityOptions {
        leaf_ttl: Duration::from_secs(10),
        ..IdentityOptions::default()
    };
    let mesh = Mesh::start_with(HOUR, options, None).await;
    let mut client = mesh.grpc(mesh.client(None)).await;
    let answer = ask(&mut client, new_csr(), &mesh.token("orders"))
        .await
        .unwrap();
    assert_eq!(answer.not_after - answer.not_before, 310);
}

#[tokio::test]
async fn without_exactly_one_bearer_token_nothing_is_issued() {
    let mesh = Mesh::start(HOUR).await;
    let mut client = mesh.grpc(mesh.client(None)).await;
    let good = mesh.token("orders");
    let bearer = format!("Bearer {good}");
    let cases: [&[&str]; 8] = [
        &[],
        &[""],
        &["Bearer"],
        &["Bearer "],
        &[&good],
        &[&format!("Basic {good}")],
        &[&bearer, &bearer],
        &[&bearer, "Bearer other"],
    ];
    for (count, authorization) in (1..).zip(cases) {
        let call = client.issue_certificate(request(new_csr(), authorization));
        let status = call.await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{authorization:?}");
        assert!(!status.message().contains(&good), "the token comes back");
        assert_eq!(mesh.identity_metrics.refusals("no_token"), count);
    }
    let call = client.issue_certificate(request(new_csr(), &[&format!("bearer  {good} ")]));
    call.await.unwrap();
}

#[tokio::test]
async fn forged_tokens_are_refused_and_counted_by_reason() {
    let (mesh, other) = (Mesh::start(HOUR).await, Mesh::start(HOUR).await);
    let mut client = mesh.grpc(mesh.client(None)).await;
    let good = mesh.token("orders");
    let expired = {
        let workload = "shop/orders-1".parse().unwrap();
        let then = SystemTime::now() - 2 * HOUR;
        let token = mesh
            .tokens
            .mint_at(&identity("orders"), &workload, HOUR, then)
            .unwrap();
        token.expose().to_owned()
    };
    let cut = good.rsplit_once('.').unwrap().0;
    for (token, reason) in [
        (other.token("orders"), "token_signature"),
        (expired, "token_expired"),
        (format!("{cut}.AAAA"), "token_signature"),
        (format!("{cut}."), "token_signature"),
        (cut.to_owned(), "token_malformed"),
        ("x".repeat(9 * 1024), "token_too_large"),
    ] {
        let status = ask(&mut client, new_csr(), &token).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{reason}");
        assert!(status.message().contains(reason), "{}", status.message());
        assert!(mesh.identity_metrics.refusals(reason) >= 1, "{reason}");
    }
    assert_eq!(mesh.identity_metrics.issued.get(), 0);
}

#[tokio::test]
async fn wishes_in_the_request_are_not_heard() {
    let mesh = Mesh::start(HOUR).await;
    let mut client = mesh.grpc(mesh.client(None)).await;
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    let wish = identity("payments").to_string();
    params.subject_alt_names = vec![SanType::URI(wish.try_into().unwrap())];
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let wishful = params.serialize_request(&key).unwrap().der().to_vec();
    let answer = ask(&mut client, wishful, &mesh.token("orders"))
        .await
        .unwrap();
    assert_eq!(uri_of(&answer), identity("orders").to_string());
}

#[tokio::test]
async fn a_token_over_another_workloads_connection_is_refused() {
    let mesh = Mesh::start(HOUR).await;
    let mut client = mesh.grpc(mesh.client_of("payments")).await;
    let status = ask(&mut client, new_csr(), &mesh.token("orders"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(mesh.identity_metrics.refusals("identity_mismatch"), 1);
    ask(&mut client, new_csr(), &mesh.token("payments"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_strangers_certificate_gets_no_answer_at_all() {
    let (mesh, other) = (Mesh::start(HOUR).await, Mesh::start(HOUR).await);
    let key = KeyPair::generate().unwrap();
    let theirs = other
        .authority
        .issue(&csr(&key), &identity("orders"), HOUR)
        .unwrap();
    let mut client = mesh
        .grpc(mesh.client(Some((&theirs.chain_der, &key))))
        .await;
    ask(&mut client, new_csr(), &mesh.token("orders"))
        .await
        .unwrap_err();
    assert_eq!(mesh.identity_metrics.issued.get(), 0);
}

#[tokio::test]
async fn bad_requests_are_the_callers_fault() {
    let mesh = Mesh::start(HOUR).await;
    let mut client = mesh.grpc(mesh.client(None)).await;
    let p384 = csr(&KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap());
    let mut broken = new_csr();
    *broken.last_mut().unwrap() ^= 1;
    for (csr_der, reason) in [
        (vec![], "csr_malformed"),
        (b"garbage".to_vec(), "csr_malformed"),
        (p384, "csr_unsupported_key"),
        (broken, "csr_bad_signature"),
        (vec![0; 17 * 1024], "csr_too_large"),
    ] {
        let status = ask(&mut client, csr_der, &mesh.token("orders"))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{reason}");
        assert!(mesh.identity_metrics.refusals(reason) >= 1, "{reason}");
    }
    // Larger than a message may be: refused before it is read.
    let status = ask(&mut client, vec![0; 1 << 20], &mesh.token("orders"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
}

#[tokio::test]
async fn one_workload_cannot_take_all_the_time() {
    let mesh = Mesh::start(HOUR).await;
    let mut client = mesh.grpc(mesh.client(None)).await;
    let mut refused = 0;
    for _ in 0..30 {
        match ask(&mut client, new_csr(), &mesh.token("orders")).await {
            Ok(_) => {}
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted);
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
    assert_eq!(mesh.identity_metrics.refusals("too_often"), refused);
    ask(&mut client, new_csr(), &mesh.token("payments"))
        .await
        .unwrap();
}

/// A reviewer that is away, or never answers.
enum Absent {
    Failing,
    Silent(AtomicUsize),
}

#[tonic::async_trait]
impl TokenReviewer for Absent {
    async fn review(&self, _token: &str) -> Result<VerifiedWorkload, ReviewError> {
        match self {
            Self::Failing => Err(ReviewError::Unavailable {
                source: "the API server at 10.0.0.1 is away".into(),
            }),
            Self::Silent(asked) => {
                asked.fetch_add(1, Ordering::Relaxed);
                std::future::pending().await
            }
        }
    }
}

#[tokio::test]
async fn while_tokens_cannot_be_reviewed_nothing_is_issued() {
    let failing = Arc::new(Absent::Failing);
    let mesh = Mesh::start_with(HOUR, IdentityOptions::default(), Some(failing)).await;
    let mut client = mesh.grpc(mesh.client(None)).await;
    let status = ask(&mut client, new_csr(), &mesh.token("orders"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        !status.message().contains("10.0.0.1"),
        "internals stay in the log"
    );
    assert_eq!(mesh.identity_metrics.refusals("review_unavailable"), 1);
}

#[tokio::test]
async fn a_silent_reviewer_bounds_itself_and_the_queue() {
    let silent = Arc::new(Absent::Silent(AtomicUsize::new(0)));
    let options = IdentityOptions {
        concurrent_max: 1,
        ..IdentityOptions::default()
    };
    let reviewer = Arc::clone(&silent) as Arc<dyn TokenReviewer>;
    let mesh = Mesh::start_with(HOUR, options, Some(reviewer)).await;
    let (mut one, mut two) = (
        mesh.grpc(mesh.client(None)).await,
        mesh.grpc(mesh.client(None)).await,
    );
    let token = mesh.token("orders");
    let (one, two) = tokio::join!(
        ask(&mut one, new_csr(), &token),
        ask(&mut two, new_csr(), &token)
    );
    let mut codes = [one.unwrap_err().code(), two.unwrap_err().code()];
    codes.sort_by_key(|code| i32::from(*code));
    assert_eq!(codes, [Code::ResourceExhausted, Code::Unavailable]);
    assert_eq!(mesh.identity_metrics.refusals("busy"), 1);
    assert_eq!(mesh.identity_metrics.refusals("review_timeout"), 1);
    let Absent::Silent(asked) = silent.as_ref() else {
        unreachable!()
    };
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn calls_go_on_while_the_server_certificate_changes() {
    let mesh = Mesh::start(HOUR).await;
    let mut client = mesh.grpc(mesh.client_of("orders")).await;
    for _ in 0..5 {
        ask(&mut client, new_csr(), &mesh.token("orders"))
            .await
            .unwrap();
        mesh.tls.renew().unwrap();
        let mut fresh = mesh.grpc(mesh.client(None)).await;
        ask(&mut fresh, new_csr(), &mesh.token("payments"))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn where_the_peer_is_unknown_every_call_is_refused() {
    let mesh = Mesh::start(HOUR).await;
    let tokens = TokenAuthority::open_or_create(mesh.folder.path(), trust_domain()).unwrap();
    let service = IdentityService::new(
        Arc::clone(&mesh.authority),
        Arc::new(LocalTokens(Arc::new(tokens))),
        &IdentityOptions::default(),
        mesh.identity_metrics.clone(),
    );
    let bearer = format!("Bearer {}", mesh.token("orders"));
    let direct = request(new_csr(), &[&bearer]);
    let status = service.issue_certificate(direct).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(mesh.identity_metrics.refusals("no_peer"), 1);
}
