//! Against applications that answer well, ill, late and not at all.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};

use super::*;
use crate::bootstrap::TcpProbe;

/// Answers every connection with these bytes once it has read a head. Ends with the set.
async fn answering(answer: &'static [u8], tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap_or(0) > 0
            {
            }
            if answer.is_empty() {
                std::future::pending::<()>().await;
            }
            stream.write_all(answer).await.ok();
        }
    });
    address
}

fn application(action: Action) -> Application {
    let probe = Probe {
        name: "app/readyz".into(),
        action,
        timeout_seconds: 1,
    };
    Application {
        address: [127, 0, 0, 1].into(),
        probes: [(probe.name.clone(), probe)].into(),
        metrics: None,
    }
}

fn http(port: u16, scheme: Scheme) -> Action {
    Action::Http(HttpProbe {
        port,
        path: "/ready?deep=1".into(),
        scheme,
        headers: vec![],
    })
}

#[tokio::test]
async fn http_probes_succeed_from_200_to_399() {
    let mut tasks = JoinSet::new();
    for (answer, expected) in [
        (
            &b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"[..],
            Ok(()),
        ),
        (
            b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n",
            Ok(()),
        ),
        (
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            Err("404"),
        ),
        (
            b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n",
            Err("503"),
        ),
        (b"SSH-2.0\r\n", Err("127.0.0.1")),
        (b"", Err("no answer within 1 s")),
    ] {
        let address = answering(answer, &mut tasks).await;
        let probe = application(http(address.port(), Scheme::Http));
        let result = probe.probe("app/readyz").await.unwrap();
        match expected {
            Ok(()) => assert_eq!(result, Ok(())),
            Err(text) => assert!(
                result.as_ref().is_err_and(|e| e.contains(text)),
                "{result:?}"
            ),
        }
    }
    let none = application(http(1, Scheme::Http)).probe("app/livez").await;
    assert_eq!(none, None);
    let https = application(http(1, Scheme::Https))
        .probe("app/readyz")
        .await;
    assert!(https.unwrap().unwrap_err().contains("HTTPS probes"));
}

#[tokio::test]
async fn tcp_probes_succeed_where_something_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let probe = application(Action::Tcp(TcpProbe { port }));
    assert_eq!(probe.probe("app/readyz").await, Some(Ok(())));
    drop(listener);
    assert!(probe.probe("app/readyz").await.unwrap().is_err());
}

/// Serves one health check of `status`, or only a gRPC status.
async fn health(status: Option<i32>) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        let head = http::Response::builder().header("content-type", "application/grpc");
        match status {
            Some(status) => {
                let head = head.body(()).unwrap();
                let mut body = respond.send_response(head, false).unwrap();
                body.send_data(framed(&Told { status }), false).unwrap();
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                body.send_trailers(trailers).unwrap();
            }
            None => {
                let head = head.header("grpc-status", "12").body(()).unwrap();
                respond.send_response(head, true).unwrap();
            }
        }
        while connection.accept().await.is_some() {}
    };
    let probe = application(Action::Grpc(GrpcProbe {
        port,
        service: "shop".into(),
    }));
    let mut tasks = JoinSet::new();
    tasks.spawn(serving);
    probe.probe("app/readyz").await.unwrap()
}

#[tokio::test]
async fn grpc_probes_succeed_when_serving() {
    assert_eq!(health(Some(1)).await, Ok(()));
    assert!(health(Some(2)).await.unwrap_err().contains("not SERVING"));
    assert!(
        health(None)
            .await
            .unwrap_err()
            .contains("gRPC status Some(12)")
    );
}

#[tokio::test]
async fn the_applications_page_comes_behind_the_sidecars() {
    let mut tasks = JoinSet::new();
    let page = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n\
        # TYPE process_open_fds gauge\nprocess_open_fds 7\nmine 1\n# EOF";
    let address = answering(page, &mut tasks).await;
    let mut application = application(http(1, Scheme::Http));
    let own = "# TYPE process_open_fds gauge\nprocess_open_fds 3\nours{a=\"b\"} 2\n";
    assert_eq!(application.merged(own.into()).await, own);
    application.metrics = Some(ApplicationMetrics {
        port: address.port(),
        path: "/metrics".into(),
    });
    assert_eq!(
        application.merged(own.into()).await,
        "ours{a=\"b\"} 2\n# TYPE process_open_fds gauge\nprocess_open_fds 7\nmine 1\n"
    );
    let gone = answering(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", &mut tasks).await;
    application.metrics = Some(ApplicationMetrics {
        port: gone.port(),
        path: "/metrics".into(),
    });
    let page = application.merged(own.into()).await;
    assert!(
        page.starts_with(own) && page.contains("are missing: HTTP status 500"),
        "{page}"
    );
}
