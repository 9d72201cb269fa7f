//! Who may talk to whom: certificates, identities, plain text.

use std::sync::Arc;

use outrigger_model::{MtlsMode, Port, Protocol, SpiffeId};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    mesh::{Issuer, Mesh, run},
    peer::{App, Client, Http, get, once},
    plan::{meshed, on_5xx, retry, service},
    wire::{rest, say},
};

#[test]
fn a_strangers_certificate_is_refused_by_both_sides() {
    run(async {
        let mesh = Mesh::new();
        let app = App::answering(&mesh, 200).await;
        let outbound = mesh.through(app.address, |plan| plan).await;
        let stranger = Issuer::new();
        let set = |context| mesh.client.worker.shared.tls.store(Some(context));
        // It knows our roots, we do not know its own: the server refuses.
        set(stranger.context(&mesh.client.identity, &mesh.issuer.roots()));
        let reply = once(&mesh, outbound, get("/")).await;
        assert_eq!(reply.status, 503, "{}", reply.reason());
        let refused = mesh
            .server
            .metric("outrigger_tls_handshakes_total", &[r#"result="untrusted""#]);
        assert_eq!(refused, 1, "{}", mesh.server.telemetry.page());
        // It does not know our roots: the client refuses.
        set(mesh
            .issuer
            .context(&mesh.client.identity, &stranger.roots()));
        let reply = once(&mesh, outbound, get("/")).await;
        reply.assert_refused(503, "handshake-failed; ");
        assert_eq!(app.count(), 0);
        set(mesh
            .issuer
            .context(&mesh.client.identity, &mesh.issuer.roots()));
        assert_eq!(once(&mesh, outbound, get("/")).await.status, 200);
    });
}

#[test]
fn an_endpoint_that_proves_another_identity_gets_no_request() {
    run(async {
        let mesh = Mesh::new();
        let app = App::answering(&mesh, 200).await;
        let inbound = mesh.inbound(app.address).await;
        let other: SpiffeId = "spiffe://cluster.local/ns/shop/sa/payments"
            .parse()
            .unwrap();
        let plan = service("orders:80", vec![meshed(inbound, &other)])
            .rule(|rule| rule.retry = retry(1, on_5xx()));
        let outbound = mesh.known(plan).await;
        let reply = once(&mesh, outbound, get("/")).await;
        assert_eq!(reply.status, 503);
        let reason = reply.reason();
        assert!(reason.contains("handshake-failed"), "{reason}");
        assert!(reason.contains("is spiffe://cluster.local/ns/shop/sa/orders, expected spiffe://cluster.local/ns/shop/sa/payments"), "{reason}");
        assert_eq!(app.count(), 0);
    });
}

#[test]
fn a_meshed_endpoint_never_gets_plain_text() {
    run(async {
        let mesh = Mesh::new();
        let app = App::answering(&mesh, 200).await;
        // No sidecar is there: the application would answer plain text.
        let plan = service(
            "orders:80",
            vec![meshed(app.address, &mesh.server.identity)],
        );
        let outbound = mesh.known(plan).await;
        let reply = once(&mesh, outbound, get("/")).await;
        reply.assert_refused(503, "handshake-failed; ");
        mesh.client.worker.shared.tls.store(None);
        let reply = once(&mesh, outbound, get("/")).await;
        reply.assert_refused(503, "no-certificate; ");
        assert_eq!(app.count(), 0);
    });
}

#[test]
fn plain_text_to_a_strict_port_is_told_why() {
    run(async {
        let mut mesh = Mesh::new();
        let app = App::answering(&mesh, 200).await;
        let inbound = mesh.inbound(app.address).await;
        let reply = once(&mesh, inbound, get("/")).await;
        reply.assert_refused(403, "plaintext-refused; ");
        let mut two = Client::connect(&mesh, inbound, Http::Two).await;
        let reply = two.get("/").await;
        reply.assert_refused(403, "plaintext-refused; ");
        let mut opaque = TcpStream::connect(inbound).await.unwrap();
        say(&mut opaque, "*1\r\n$4\r\nPING\r\n").await;
        assert_eq!(rest(&mut opaque).await, "");
        assert_eq!(app.count(), 0);
        let port = Port::new(app.address.port()).unwrap();
        mesh.server.port(port, Protocol::Http, MtlsMode::Permissive);
        let mut request = get("/");
        let forged = "URI=spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
        request
            .headers_mut()
            .insert("x-forwarded-client-cert", forged);
        assert_eq!(once(&mesh, inbound, request).await.status, 200);
        assert_eq!(app.hits()[0].header("x-forwarded-client-cert"), None);
    });
}

#[test]
fn a_sidecar_without_a_certificate_takes_nothing() {
    run(async {
        let mesh = Mesh::new();
        let app = App::answering(&mesh, 200).await;
        mesh.server.worker.shared.tls.store(None);
        let outbound = mesh.through(app.address, |plan| plan).await;
        let reply = once(&mesh, outbound, get("/")).await;
        reply.assert_refused(503, "handshake-failed; ");
        assert_eq!(app.count(), 0);
    });
}

#[test]
fn certificates_and_roots_change_under_load_without_a_failed_request() {
    run(async {
        let mesh = Mesh::new();
        let app = App::answering(&mesh, 200).await;
        let inbound = mesh.inbound(app.address).await;
        let plan = || service("orders:80", vec![meshed(inbound, &mesh.server.identity)]);
        let outbound = mesh.known(plan()).await;
        let next = Issuer::new();
        let mut both = mesh.issuer.roots();
        both.extend(next.roots());
        let load = async {
            for _ in 0..30 {
                // Half of them on connections of their own, so that handshakes happen all along.
                let mut client = Client::connect(&mesh, outbound, Http::One).await;
                for _ in 0..3 {
                    assert_eq!(client.get("/").await.status, 200);
                }
                mesh.client.knows(&[plan()]);
                mesh.client.worker.application(inbound).retire();
            }
        };
        let rotate = async {
            let set = |side: &super::mesh::Side, issuer: &Issuer, roots: &[Arc<[u8]>]| {
                let context = issuer.context(&side.identity, roots);
                side.worker.shared.tls.store(Some(context));
            };
            // Overlap first, then new leaves, then the old root goes.
            for (issuer, roots) in [
                (&mesh.issuer, both.clone()),
                (&next, both.clone()),
                (&next, next.roots()),
            ] {
                for side in [&mesh.client, &mesh.server] {
                    set(side, issuer, &roots);
                    tokio::task::yield_now().await;
                }
            }
        };
        tokio::join!(load, rotate);
        assert_eq!(app.count(), 90);
        let _closed = TcpStream::connect(inbound).await.unwrap().shutdown().await;
    });
}
