//! A whole control plane beside a fake API server, over real sockets.

use std::net::Ipv4Addr;

use outrigger_model::TrustDomain;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep},
};

use super::*;
use crate::cluster::fake::{Fake, Outage};

/// Nothing here takes longer than a fraction of this on an idle machine.
const DEADLINE: Duration = Duration::from_secs(30);

fn options() -> KubernetesOptions {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    KubernetesOptions {
        namespace: Namespace::parse("outrigger-system").unwrap(),
        service_account: ServiceAccount::parse("outrigger").unwrap(),
        replica: "outrigger-1".to_owned(),
        listen: any,
        metrics: any,
        leaf_lifetime: Duration::from_secs(3_600),
        settings: MeshSettings::defaults(TrustDomain::parse("cluster.local").unwrap()),
        webhook_configuration: Some("outrigger-injector".to_owned()),
        owner: Some("outrigger-mesh".to_owned()),
    }
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (code, answer)
}

/// Waits until something is so.
async fn until(mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < DEADLINE, "it never came to that");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn it_waits_for_the_api_server_serves_and_gives_back_what_it_held() {
    let fake = Fake::new();
    fake.world().outage = Outage::Cut;
    fake.world().put(
        "/api/v1/namespaces",
        json!({"metadata": {"name": "shop", "uid": "u"}}),
    );
    fake.world().put(
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        json!({"metadata": {"name": "outrigger-mesh", "uid": "the-role"}}),
    );
    let (api, other) = (fake.api(), fake.clone());
    let starting = start(options(), api);
    tokio::pin!(starting);
    assert!(
        timeout(Duration::from_millis(300), &mut starting)
            .await
            .is_err()
    );
    other.world().outage = Outage::None;
    let mut running = timeout(DEADLINE, starting).await.unwrap().unwrap();

    assert_eq!(get(running.metrics(), "/ready").await.0, 200);
    assert_eq!(get(running.metrics(), "/live").await.0, 200);
    let (_, page) = get(running.metrics(), "/metrics").await;
    assert!(
        page.contains("outrigger_source_objects{kind=\"Namespace\"} 1"),
        "{page}"
    );
    let labels = running.cluster().namespace_labels("shop");
    assert!(labels.is_some_and(|labels| labels.is_empty()));

    // The root: in its Secret, and as leader in the namespace.
    assert_eq!(fake.world().all("/api/v1/secrets").len(), 1);
    let mut leads = running.leads();
    timeout(DEADLINE, leads.wait_for(|leads| *leads))
        .await
        .unwrap()
        .unwrap();
    until(|| fake.world().all("/api/v1/configmaps").len() == 1).await;
    let map = fake.world().all("/api/v1/configmaps").remove(0);
    assert_eq!(map["data"]["ca.crt"], running.root_pem());

    // All that was made goes when the chart's role goes.
    for collection in [
        "/api/v1/secrets",
        "/api/v1/configmaps",
        "/apis/coordination.k8s.io/v1/leases",
    ] {
        let made = fake.world().all(collection).remove(0);
        let owner = &made["metadata"]["ownerReferences"][0];
        assert_eq!(
            (&owner["uid"], &owner["kind"]),
            (&json!("the-role"), &json!("ClusterRole")),
            "{collection}"
        );
    }

    // A webhook answers under the Service's name to whoever trusts the root.
    let router = Router::new().route("/x", axum::routing::get(|| async { "seen" }));
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let webhook = running.serve_webhooks(any, router).await.unwrap();
    let answer = https(webhook, &running.root_pem()).await;
    assert!(answer.ends_with("seen"), "{answer}");

    running.shutdown().await;
    let lease = fake
        .world()
        .all("/apis/coordination.k8s.io/v1/leases")
        .remove(0);
    assert_eq!(lease["spec"]["holderIdentity"], "");
}

/// As the API server asks: the Service's name, the root, HTTP/1.1, no certificate.
async fn https(address: SocketAddr, root_pem: &str) -> String {
    use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(root_pem.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(transport::mesh_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("outrigger.outrigger-system.svc").unwrap();
    let tcp = TcpStream::connect(address).await.unwrap();
    let mut stream = connector.connect(name, tcp).await.unwrap();
    let request = "GET /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
