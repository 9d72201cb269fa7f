//! What a port lets in, and as what: plain text and bytes that call themselves opaque.

use std::{net::SocketAddr, sync::Arc};

use outrigger_model::{MtlsMode, Port, Protocol};
use outrigger_proxy::tls::Alpn;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    mesh::{Mesh, run},
    peer::{App, get, once},
    wire::{self, rest, say, until},
};

/// A connection of the client's identity that says by ALPN what it carries.
async fn tls(mesh: &Mesh, address: SocketAddr, alpn: Alpn) -> TlsStream<TcpStream> {
    let context = mesh.client.worker.shared.tls.load_full().unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::IpAddress(address.ip().into());
    let connector = TlsConnector::from(Arc::clone(&context.client(alpn)));
    connector.connect(name, stream).await.unwrap()
}

const FORGED: &str = "GET /forged HTTP/1.1\r\nHost: o\r\nConnection: close\r\nX-Forwarded-Client-Cert: URI=spiffe://cluster.local/ns/shop/sa/admin\r\n\r\n";

#[test]
fn http_that_calls_itself_opaque_is_treated_as_http() {
    for protocol in [Protocol::Http, Protocol::Detect] {
        run(async {
            let mut mesh = Mesh::new();
            let app = App::answering(&mesh, 200).await;
            let port = Port::new(app.address.port()).unwrap();
            mesh.server.port(port, protocol, MtlsMode::Strict);
            let inbound = mesh.inbound(app.address).await;
            let mut peer = tls(&mesh, inbound, Alpn::Tcp).await;
            peer.write_all(FORGED.as_bytes()).await.unwrap();
            until(&mut peer, "/forged").await;
            let hits = app.hits();
            let who = hits[0].header("x-forwarded-client-cert").unwrap();
            assert!(
                who.ends_with("URI=spiffe://cluster.local/ns/shop/sa/web"),
                "{who}"
            );
        });
    }
}

#[test]
fn a_port_declared_as_http_carries_nothing_else() {
    run(async {
        let mut mesh = Mesh::new();
        let app = App::answering(&mesh, 200).await;
        let port = Port::new(app.address.port()).unwrap();
        mesh.server.port(port, Protocol::Http, MtlsMode::Strict);
        let inbound = mesh.inbound(app.address).await;
        let mut peer = tls(&mesh, inbound, Alpn::Tcp).await;
        // Lenient servers skip what stands before the method.
        peer.write_all(format!("\0\r\n{FORGED}").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        let _abrupt = peer.read_to_string(&mut answer).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert_eq!(app.count(), 0);
    });
}

#[test]
fn a_permissive_port_lets_either_side_speak_first() {
    for protocol in [Protocol::Tcp, Protocol::Detect] {
        run(async {
            let mut mesh = Mesh::new();
            let greeting = wire::server(&mesh, async |mut stream| {
                say(&mut stream, "220 ready\r\n").await;
                until(&mut stream, "QUIT\r\n").await;
                say(&mut stream, "221 bye\r\n").await;
            })
            .await;
            let port = Port::new(greeting.port()).unwrap();
            mesh.server.port(port, protocol, MtlsMode::Permissive);
            let inbound = mesh.inbound(greeting).await;
            let mut plain = TcpStream::connect(inbound).await.unwrap();
            until(&mut plain, "220 ready\r\n").await;
            say(&mut plain, "QUIT\r\n").await;
            assert_eq!(rest(&mut plain).await, "221 bye\r\n");
            let mut secured = tls(&mesh, inbound, Alpn::Tcp).await;
            until(&mut secured, "220 ready\r\n").await;
            secured.write_all(b"QUIT\r\n").await.unwrap();
            until(&mut secured, "221 bye\r\n").await;
        });
    }
}

#[test]
fn http_on_a_permissive_port_is_http_however_late_it_comes() {
    run(async {
        let mut mesh = Mesh::new();
        let app = App::answering(&mesh, 200).await;
        let port = Port::new(app.address.port()).unwrap();
        mesh.server
            .port(port, Protocol::Detect, MtlsMode::Permissive);
        let inbound = mesh.inbound(app.address).await;
        let mut late = TcpStream::connect(inbound).await.unwrap();
        // Longer than a sidecar's first byte is waited for.
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        say(&mut late, FORGED).await;
        assert!(rest(&mut late).await.starts_with("HTTP/1.1 200"));
        assert_eq!(app.hits()[0].header("x-forwarded-client-cert"), None);
        assert_eq!(once(&mesh, inbound, get("/")).await.status, 200);
    });
}
