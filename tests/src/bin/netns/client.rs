//! What a pod's application does as a client: blocking, on a thread in its namespace.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, ensure};

use super::{application::BANNER, ground::Namespace};

const PATIENCE: Duration = Duration::from_secs(10);

fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// One request over HTTP/1; the whole answer as text.
pub(crate) fn get(
    from: &Namespace,
    to: SocketAddr,
    host: &str,
    path: &str,
) -> anyhow::Result<String> {
    from.run(|| {
        let mut stream = connect(to)?;
        let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })
}

/// Waits for the banner, then says `line` and reads it back.
pub(crate) fn banner(from: &Namespace, to: SocketAddr, line: &str) -> anyhow::Result<()> {
    from.run(|| {
        let mut stream = connect(to)?;
        let mut greeting = vec![0; BANNER.len()];
        stream.read_exact(&mut greeting).context("no banner")?;
        ensure!(greeting == BANNER, "another banner");
        stream.write_all(line.as_bytes())?;
        let mut echo = vec![0; line.len()];
        stream.read_exact(&mut echo)?;
        ensure!(echo == line.as_bytes(), "another echo");
        Ok(())
    })
}

/// Sends `length` bytes, closes its side, and reads as many back.
pub(crate) fn mirror(from: &Namespace, to: SocketAddr, length: usize) -> anyhow::Result<()> {
    from.run(|| {
        let stream = connect(to)?;
        // Bytes that no part of them repeats soon.
        let bytes: Vec<u8> = (0..length)
            .map(|at| (at ^ (at >> 8) ^ (at >> 16)).to_le_bytes()[0])
            .collect();
        let mut writer = stream.try_clone()?;
        let mut reader = stream;
        let back = std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                writer.write_all(&bytes)?;
                writer.shutdown(Shutdown::Write)
            });
            let mut back = Vec::with_capacity(length);
            reader.read_to_end(&mut back)?;
            let written = writing.join();
            written.map_err(|_| anyhow::anyhow!("panicked"))??;
            anyhow::Ok(back)
        })?;
        ensure!(back == bytes, "{} of {length} bytes came back", back.len());
        Ok(())
    })
}

/// One gRPC call over HTTP/2 with prior knowledge; its status and the identity that the server saw.
pub(crate) fn grpc(
    from: &Namespace,
    to: SocketAddr,
    host: &str,
) -> anyhow::Result<(String, String)> {
    from.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let call = call(to, host);
        runtime.block_on(async { tokio::time::timeout(PATIENCE, call).await })?
    })
}

async fn call(to: SocketAddr, host: &str) -> anyhow::Result<(String, String)> {
    let stream = tokio::net::TcpStream::connect(to).await?;
    let (sender, connection) = h2::client::handshake(stream).await?;
    let mut connections = tokio::task::JoinSet::new();
    connections.spawn(async { connection.await.ok() });
    let request = http::Request::post(format!("http://{host}/shop.Orders/List"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (answer, mut body) = sender.ready().await?.send_request(request, false)?;
    body.send_data(bytes::Bytes::from_static(b"\0\0\0\0\0"), true)?;
    let answer = answer.await?;
    let text = |headers: &http::HeaderMap, name: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let seen = text(answer.headers(), "x-seen-client-cert");
    let early = text(answer.headers(), "grpc-status");
    let mut body = answer.into_body();
    while let Some(data) = body.data().await {
        let length = data?.len();
        body.flow_control().release_capacity(length)?;
    }
    let trailers = body.trailers().await?;
    let late = trailers.map(|trailers| text(&trailers, "grpc-status"));
    Ok((late.unwrap_or(early), seen))
}

/// Whether a connection is refused at once.
pub(crate) fn is_refused(from: &Namespace, to: SocketAddr) -> anyhow::Result<bool> {
    from.run(|| match TcpStream::connect_timeout(&to, PATIENCE) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(true),
        Err(error) => Err(error.into()),
    })
}

/// The bytes that come after saying `line`, until the other side closes or breaks off.
pub(crate) fn says(from: &Namespace, to: SocketAddr, line: &str) -> anyhow::Result<Vec<u8>> {
    from.run(|| {
        let mut stream = connect(to)?;
        // It may be closed already.
        stream.write_all(line.as_bytes()).ok();
        let mut bytes = Vec::new();
        match stream.read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(bytes),
            Err(error) => Err(error.into()),
        }
    })
}
