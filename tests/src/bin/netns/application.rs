//! The application of a pod: one thread that serves several protocols and knows nothing of a mesh.
//!
//! | port | speaks |
//! | --- | --- |
//! | 8080 | HTTP/1: answers with the head it received |
//! | 8082 | HTTP/2 with prior knowledge, gRPC trailers |
//! | 5432 | a banner first, then an echo |
//! | 9090 | undeclared: reads to the end, then sends as many bytes back |
//! | 2222 | as 5432 |
//! | 7000 | as 5432, on loopback alone |

use std::{net::SocketAddr, path::Path, sync::mpsc, thread, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::ground::{Namespace, enter};

pub(crate) const BANNER: &[u8] = b"220 outrigger-banner ready\r\n";

/// Serves until dropped.
#[derive(Debug)]
pub(crate) struct Application {
    _stop: DropGuard,
}

impl Application {
    /// Returns once every port is bound.
    pub(crate) fn start(namespace: &Namespace) -> anyhow::Result<Self> {
        let path = namespace.path();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (report, bound) = mpsc::sync_channel(1);
        thread::spawn(move || {
            let result = run(&path, &stopped, &report);
            if let Err(error) = result {
                report.send(Err(error)).ok();
            }
        });
        bound.recv_timeout(Duration::from_secs(10))??;
        Ok(Self {
            _stop: stop.drop_guard(),
        })
    }
}

fn run(
    path: &Path,
    stop: &CancellationToken,
    report: &mpsc::SyncSender<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    enter(path)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for port in [8080, 8082, 5432, 9090, 2222] {
            let address = SocketAddr::from(([0_u16; 8], port));
            let listener = TcpListener::bind(address).await;
            tasks.spawn(accept(listener.context(address)?, port));
        }
        let local = TcpListener::bind("127.0.0.1:7000").await?;
        tasks.spawn(accept(local, 7000));
        report.send(Ok(())).ok();
        stop.cancelled().await;
        Ok(())
    })
}

async fn accept(listener: TcpListener, port: u16) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(async move {
            // A client that breaks off is the test's affair.
            let served = match port {
                8080 => http1(stream).await,
                8082 => grpc(stream).await,
                9090 => mirror(stream).await,
                _ => banner(stream).await,
            };
            served.ok();
        });
    }
}

async fn http1(mut stream: TcpStream) -> anyhow::Result<()> {
    let mut head = Vec::new();
    loop {
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", head.len());
        stream.write_all(answer.as_bytes()).await?;
        stream.write_all(&head).await?;
        if head.windows(17).any(|part| part == b"connection: close") {
            return Ok(());
        }
        head.clear();
    }
}

async fn grpc(stream: TcpStream) -> anyhow::Result<()> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        let security = request.headers().get("x-forwarded-client-cert");
        let mut head = http::Response::builder().header("content-type", "application/grpc");
        if let Some(security) = security {
            head = head.header("x-seen-client-cert", security);
        }
        let mut body = respond.send_response(head.body(())?, false)?;
        body.send_data(Bytes::from_static(b"\0\0\0\0\0"), false)?;
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        body.send_trailers(trailers)?;
    }
    Ok(())
}

async fn banner(mut stream: TcpStream) -> anyhow::Result<()> {
    stream.write_all(BANNER).await?;
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await?;
    Ok(())
}

async fn mirror(mut stream: TcpStream) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    stream.write_all(&bytes).await?;
    stream.shutdown().await?;
    Ok(())
}
